"""One attempt at one scan in one process: claim it, see what became of earlier attempts, process it, let it go.

The same code runs in the process of the command and in the workers of a cluster.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import neuralprep
from neuralprep.engine import staging
from neuralprep.engine.claims import Claim, Claims, Held
from neuralprep.engine.deadline import standing, time_limit
from neuralprep.engine.inputs import Scan
from neuralprep.engine.memory import keep_freed_memory
from neuralprep.engine.record import ScanRecord
from neuralprep.engine.worker import Job, Processor, Worker, error_file, explain
from neuralprep.errors import InputError

if TYPE_CHECKING:
    from neuralprep.pipeline import Result, Settings
    from neuralprep.volume import Volume

#: scans at a time in one process: one computes while the other is read or written
IN_FLIGHT = 2
#: what every scan loads at its first use
_NEEDED = ("neuralprep.volume", "neuralprep.engine.writer", "neuralprep.pipeline")


@dataclass(frozen=True)
class Task:
    """What a run asks of every process; travels with each scan.

    Parameters
    ----------
    run : str
        Name of the run; a process keeps its network as long as it does not change.
    job : Job
        What to do.
    since : float
        When the run began, by the clock of the output folder's file system.
    time_limit_s : float or None
        Longest time for one scan.
    deaths : int
        A scan that so many processes died of is given up.
    version : str
        Of the program that asks; a worker of another version must not answer.
    """

    run: str
    job: Job
    since: float
    time_limit_s: float | None = None
    deaths: int = 3
    version: str = neuralprep.__version__


class Attempt:
    """Processes scans for one run; safe to call from several threads.

    Parameters
    ----------
    task : Task
        What to do.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.claims = Claims(task.job.out_dir)
        self._gate = Gate(IN_FLIGHT)
        self._job = replace(task.job, make_processor=_Shared(task.job.make_processor))
        self._mine = threading.local()

    def __call__(self, scan: Scan) -> ScanRecord | Held:
        """Process one scan, or say who is at it. Never raises for a fault of the scan or of the disk."""
        start = time.perf_counter()
        try:
            with self._gate.enter(alone=self.claims.deaths(scan.name) > 0):
                claim = self.claims.take(scan.name)
                if isinstance(claim, Held):
                    return claim
                try:
                    return self._claimed(scan, claim)
                finally:
                    self.claims.release(claim)
        except OSError as error:  # the claim itself: a full disk, a folder that may not be written any more
            reason = explain(error, self.task.job.out_dir)
            return ScanRecord(scan.name, str(scan.path), "failed", (reason,), time.perf_counter() - start)

    def _claimed(self, scan: Scan, claim: Claim) -> ScanRecord:
        """What became of it before, or the work itself."""
        worker = self._worker()
        settled = self._settled(scan)
        if settled is not None:
            return settled
        fault = self._given_up(claim)
        if fault:
            return worker(replace(scan, fault=f"{scan.path}: {fault}"))
        if claim.deaths:
            staging.discard_all(self._job.out_dir, scan.name)
        with time_limit(self.task.time_limit_s, claim.trace_path):
            return worker(scan)

    def _worker(self) -> Worker:
        """The worker of this thread."""
        if not hasattr(self._mine, "worker"):
            self._mine.worker = self._job.worker()
        worker: Worker = self._mine.worker
        return worker

    def _settled(self, scan: Scan) -> ScanRecord | None:
        """Outcome that another run, or a process that died right afterwards, has left since this run began."""
        job = self._job
        quality, failed = scan.home(job.out_dir).quality, error_file(job.out_dir, scan)
        if not job.overwrite or _time(quality) > self.task.since:
            worker = replace(job, overwrite=False).worker() if job.overwrite else self._worker()
            record, _ = worker.finished(scan)
            if record is not None:
                return record
        if _time(failed) <= self.task.since:
            return None
        lines = failed.read_text(encoding="utf-8", errors="replace").splitlines()
        same = len(lines) > 1 and lines[0] == str(scan.path)
        return ScanRecord(scan.name, str(scan.path), "failed", (lines[1],)) if same else None

    def _given_up(self, claim: Claim) -> str:
        """Why a scan is not tried again, "" when it is."""
        limit = self.task.time_limit_s
        # of two scans in a process the one that waits may be blamed: only one that was alone is to blame for certain
        if claim.trace and claim.deaths > 1:
            own = (line.strip() for line in claim.trace.splitlines() if "neuralprep" in line and "engine" not in line)
            doing = next(own, "")
            at = f" It was at: {doing}." if doing else ""
            return f"took longer than the time limit of {limit or 0:g} s, so its process was ended.{at}"
        if claim.deaths >= self.task.deaths:
            return (
                f"the process that worked on this scan was killed {claim.deaths} times, most likely for want of "
                "memory. Use fewer --jobs or machines with more memory."
            )
        return ""


class Gate:
    """Lets few scans into a process at a time, and a scan that a process has died of only alone.

    Parameters
    ----------
    room : int
        Scans at a time.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        """Wait for a place; `alone` waits until all others are out, and keeps them out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed and self._inside < (1 if alone else self._room))
            self._inside += 1
            self._closed = alone
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._closed = self._closed and not alone
                self._changed.notify_all()


class _Shared:
    """One network for all threads of a process, used by one at a time.

    Parameters
    ----------
    make : callable
        Makes the real processor.
    """

    def __init__(self, make: Callable[[Settings], Processor]) -> None:
        self._make = make
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._kept: Processor | None = None

    def __call__(self, settings: Settings) -> Processor:
        with standing(), self._lock:  # loading the network is not the scan's time
            self._kept = self._make(settings) if self._kept is None else self._kept.again(settings)
            return _Locked(self._kept, self._turn)


class _Locked:
    """A processor that waits for its turn."""

    def __init__(self, processor: Processor, turn: threading.Lock) -> None:
        self._processor, self._turn = processor, turn

    def run(self, volume: Volume) -> Result:
        """Process one volume when no other thread does."""
        with standing():
            self._turn.acquire()
        try:
            return self._processor.run(volume)
        finally:
            self._turn.release()

    def again(self, settings: Settings) -> Processor:
        """A processor for other settings, with the same turn; loads nothing."""
        return _Locked(self._processor.again(settings), self._turn)


def _time(path: Path) -> float:
    """Time of change of a file, 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


_lock = threading.Lock()
_attempt: Attempt | None = None


def attempt(task: Task, scan: Scan) -> ScanRecord | Held:
    """Process a scan in a worker of a cluster; the network of a run is loaded once.

    Raises
    ------
    InputError
        This worker has another version of the program.
    """
    global _attempt
    if task.version != neuralprep.__version__:
        host = socket.gethostname()
        raise InputError(f"{host} has neuralprep {neuralprep.__version__}, the command {task.version}: install one")
    with _lock:
        if _attempt is None or _attempt.task.run != task.run:
            keep_freed_memory()
            for module in _NEEDED:  # loading them is not the first scan's time
                import_module(module)
            _attempt = Attempt(_with_threads(task))
        current = _attempt
    return current(scan)


def _with_threads(task: Task) -> Task:
    """Give a scan as many threads as whoever started this worker meant it to have, unless the user has said."""
    from distributed import get_worker

    if task.job.settings.threads is not None:
        return task
    settings = replace(task.job.settings, threads=get_worker().state.nthreads)
    return replace(task, job=replace(task.job, settings=settings))
