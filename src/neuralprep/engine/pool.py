"""Scans in several processes, in a way that survives the death of a process."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from neuralprep.engine.inputs import Scan
from neuralprep.engine.record import ScanRecord
from neuralprep.engine.worker import Job, Worker

_KILLED = (
    "the process that worked on this scan was killed, most likely for want of memory. "
    "Use fewer --jobs or a machine with more memory."
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_worker: Worker | None = None


def _start(job: Job) -> None:
    """Keep one worker, and so one network, per process."""
    global _worker
    _worker = Worker(job)


def _call(scan: Scan) -> ScanRecord:
    """Process a scan in the process of a pool."""
    if _worker is None:
        raise RuntimeError("the pool was started without its initializer")
    return _worker(scan)


def process_in_pool(job: Job, scans: Iterable[Scan], jobs: int) -> Iterator[ScanRecord]:
    """Process scans in `jobs` processes, in order of completion.

    When a process dies all scans in flight are lost, and which one was to blame is unknown: each of them is tried
    again alone, and only one that kills its process again is recorded as failed.

    Parameters
    ----------
    job : Job
        What to do.
    scans : iterable of Scan
        What to do it to.
    jobs : int
        Number of processes.
    """
    waiting = deque(scans)
    with _limited_threads(job.settings.threads or 1):
        while waiting:
            for scan in (yield from _until_broken(job, waiting, jobs)):
                if (yield from _until_broken(job, deque([scan]), 1)):
                    yield ScanRecord(scan.name, str(scan.path), "failed", (_KILLED,))


def _until_broken(job: Job, waiting: deque[Scan], jobs: int) -> Generator[ScanRecord, None, list[Scan]]:
    """Work through `waiting`; stop when the pool breaks and return the scans that were in flight."""
    context = multiprocessing.get_context("spawn")  # fork would copy threads and open runtimes
    flying: dict[Future[ScanRecord], Scan] = {}
    lost: list[Scan] = []
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(job,))
    try:
        while (waiting and not lost) or flying:
            while waiting and not lost and len(flying) < jobs:
                scan = waiting.popleft()
                try:
                    flying[pool.submit(_call, scan)] = scan
                except BrokenProcessPool:
                    lost.append(scan)
            if not flying:
                break
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                scan = flying.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(scan)
                else:
                    yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return lost


@contextmanager
def _limited_threads(threads: int) -> Iterator[None]:
    """Let the processes of a pool start with few threads for matrix products, unless the user chose."""
    added = [name for name in _THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(added, str(threads)))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
