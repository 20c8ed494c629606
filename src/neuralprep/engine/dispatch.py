"""Hand out scans: in this process one after the other, or to the workers of a cluster."""

from __future__ import annotations

import os
import queue
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from neuralprep.engine.attempt import Attempt, Task, attempt
from neuralprep.engine.claims import Claims, Held
from neuralprep.engine.cluster import QUEUES, Execution, open_client
from neuralprep.engine.inputs import Scan
from neuralprep.engine.record import ScanRecord
from neuralprep.engine.worker import explain
from neuralprep.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

_POLL_S = 0.5
#: seconds between two looks at scans that another run works on
_BUSY_POLL_S = 1.0
#: scans given to the scheduler beyond those that can be worked on at once
_AHEAD = 32
#: seconds without a worker after which somebody is told
_PATIENCE_S = 60.0
#: the same for workers of this machine, after which the run ends: a busy machine takes minutes to start one
_START_PATIENCE_S = 300.0
#: longest time to wait for the record of a scan that is done
_FETCH_S = 2.0
#: times that a scan is given to the scheduler again
_RESUBMIT = 10


_Key: TypeAlias = tuple[str, str, int]


class Tell(Protocol):
    """Receives what a user should know."""

    def __call__(self, text: str) -> None:
        """Say it."""


class _Hands(Protocol):
    """Whoever does the work."""

    def has_room(self) -> bool:
        """Whether another scan should be given now."""

    def give(self, scan: Scan) -> None:
        """Start a scan."""

    def taken(self) -> list[tuple[Scan, ScanRecord | Held]]:
        """Outcomes that have arrived; waits a moment for one."""

    def idle(self) -> bool:
        """Whether nothing is under way."""


def process(task: Task, scans: Sequence[Scan], execution: Execution, tell: Tell) -> Iterator[ScanRecord]:
    """Process scans, in order of completion.

    A scan that another run has claimed is looked at again until that run has finished it or has died.

    Parameters
    ----------
    task : Task
        What to do.
    scans : sequence of Scan
        What to do it to.
    execution : Execution
        Where.
    tell : callable
        Receives messages.

    Raises
    ------
    InputError
        The cluster cannot be used.
    """
    claims = Claims(task.job.out_dir)
    waiting, busy = deque(scans), deque[Scan]()
    looked = 0.0
    with _hands(task, execution, len(scans), tell) as hands:
        while waiting or busy or not hands.idle():
            while waiting and hands.has_room():
                hands.give(waiting.popleft())
            for scan, outcome in hands.taken():
                if isinstance(outcome, ScanRecord):
                    yield outcome
                    continue
                if not busy:
                    tell(f"another run works in this folder, on {outcome}: its scans are waited for")
                busy.append(scan)
            if busy and time.monotonic() - looked > _BUSY_POLL_S:
                free = [scan for scan in busy if claims.free(scan.name)]
                waiting.extend(free)
                busy = deque(scan for scan in busy if scan not in free)
                looked = time.monotonic()


@contextmanager
def _hands(task: Task, execution: Execution, count: int, tell: Tell) -> Iterator[_Hands]:
    """The workers, for as long as there is work."""
    if not count or replace(execution, jobs=min(execution.jobs, count)).in_process:
        yield _InProcess(task)
        return
    jobs = execution.jobs if execution.cluster in QUEUES else min(execution.jobs, count)
    threads = task.job.settings.threads or (max(1, (os.cpu_count() or 1) // jobs) if execution.own_machine else 2)
    if execution.own_machine:
        task = replace(task, job=replace(task.job, settings=replace(task.job.settings, threads=threads)))
    with open_client(replace(execution, jobs=jobs), task.job.out_dir, threads) as client:
        hands = _OnCluster(task, client, replace(execution, jobs=jobs), tell)
        try:
            yield hands
        finally:
            hands.stop()


class _InProcess:
    """Works in the process of the command."""

    def __init__(self, task: Task) -> None:
        self._attempt = Attempt(task)
        self._given: list[Scan] = []

    def has_room(self) -> bool:
        return not self._given

    def give(self, scan: Scan) -> None:
        self._given.append(scan)

    def taken(self) -> list[tuple[Scan, ScanRecord | Held]]:
        if not self._given:
            time.sleep(_POLL_S)
        return [(self._given[0], self._attempt(self._given.pop()))] if self._given else []

    def idle(self) -> bool:
        return not self._given


class _OnCluster:
    """Lets the workers of a Dask scheduler work.

    The scheduler gets a window of the scans, so that its memory does not grow with their number.
    """

    def __init__(self, task: Task, client: Client, execution: Execution, tell: Tell) -> None:
        self._task, self._client, self._execution, self._tell = task, client, execution, tell
        self._flying: dict[_Key, tuple[Scan, Future]] = {}
        self._done: queue.SimpleQueue[_Key] = queue.SimpleQueue()
        self._given: Counter[str] = Counter()
        self._room = _AHEAD
        self._counted = 0.0
        self._seen = time.monotonic()

    def has_room(self) -> bool:
        return len(self._flying) < self._room

    def give(self, scan: Scan) -> None:
        # one group of tasks per run: the scheduler never forgets the name of a group
        key = (f"scan-{self._task.run}", scan.name, self._given[scan.name])
        self._given[scan.name] += 1
        future = self._client.submit(attempt, self._task, scan, key=key, pure=False)
        self._flying[key] = scan, future
        future.add_done_callback(lambda future: self._done.put(future.key))

    def taken(self) -> list[tuple[Scan, ScanRecord | Held]]:
        self._count_workers()
        keys = []
        try:
            keys.append(self._done.get(timeout=_POLL_S))
            while not self._done.empty():
                keys.append(self._done.get_nowait())
        except queue.Empty:
            pass
        found = (self._outcome(key) for key in keys if key in self._flying)
        return [outcome for outcome in found if outcome is not None]

    def idle(self) -> bool:
        return not self._flying

    def stop(self) -> None:
        """Take back what nobody waits for any more."""
        self._client.cancel([future for _, future in self._flying.values()], force=True)

    def _outcome(self, key: _Key) -> tuple[Scan, ScanRecord | Held] | None:
        """What came of a scan; None when the scheduler has lost it and gets it again."""
        from distributed import KilledWorker

        scan, future = self._flying[key]
        if future.status in ("finished", "pending"):
            try:
                outcome = future.result(timeout=_FETCH_S)
            except (TimeoutError, KilledWorker):  # its worker has died with it: it is being asked again
                self._done.put(key)
                return None
            del self._flying[key]
            return scan, outcome
        del self._flying[key]
        fault = None if future.cancelled() else future.exception()
        if fault is not None and not isinstance(fault, KilledWorker):
            raise InputError(f"the workers cannot process scans: {explain(fault, self._task.job.out_dir)}") from fault
        if self._client.status != "running" or self._given[scan.name] > _RESUBMIT:
            raise InputError(f"{self._execution.cluster or 'this machine'}: the scheduler is gone. Run again to go on.")
        self.give(scan)
        return None

    def _count_workers(self) -> None:
        """Size the window by the number of workers; say so when there is none."""
        now = time.monotonic()
        if now - self._counted < _PATIENCE_S / 12:
            return
        self._counted = now
        try:
            workers = self._client.nthreads()
        except OSError:  # the scheduler is gone, which the scans will tell
            return
        places = sum(workers.values())
        if self._execution.own_machine and len(workers) < self._execution.jobs:
            cluster: Any = self._client.cluster
            cluster.scale(self._execution.jobs)  # brings back a worker whose keeper has given up
        self._room = 2 * places + _AHEAD
        if places:
            self._seen = now
        elif now - self._seen > (_START_PATIENCE_S if self._execution.own_machine else _PATIENCE_S):
            self._seen = now
            if self._execution.own_machine:
                raise InputError("the worker processes of this machine do not start; try --jobs 1 to see why")
            self._tell(f"{self._execution.cluster}: no worker for {_PATIENCE_S:.0f} s; waiting for one")
