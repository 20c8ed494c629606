"""The cases of a cohort, one after the other or side by side."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from neuralprep.errors import InputError

Case = TypeVar("Case")
Score = TypeVar("Score")


def each(work: Callable[[Case], Score], cases: Sequence[Case], jobs: int) -> Iterator[Score]:
    """Results of `work` for all cases, in their order.

    Parameters
    ----------
    work
        A function that another process can import, or a partial of one; what it raises ends the cohort.
    cases
        Its arguments.
    jobs
        Processes; every one holds a case in memory.

    Raises
    ------
    InputError
        A process was ended from outside, most likely for want of memory.
    """
    if jobs <= 1 or len(cases) <= 1:
        yield from map(work, cases)
        return
    # Not forked: threads and open runtimes would be copied.
    with ProcessPoolExecutor(min(jobs, len(cases)), mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(work, cases)
        except BrokenProcessPool:
            fault = f"one of {jobs} processes was ended by the system, most likely for want of memory"
            raise InputError(f"{fault}; give a smaller --jobs") from None
