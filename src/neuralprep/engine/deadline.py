"""A time limit per scan that holds even where native code hangs: the process writes what it was doing and ends.

A thread in C watches the time, so that neither a lock nor a loop in a library can keep it from acting. The process of
a worker is started again by its keeper, and the file that it leaves tells the next one why.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_lock = threading.Lock()
_due: dict[Path, float] = {}
_file: IO[str] | None = None
_mine = threading.local()


@contextmanager
def time_limit(seconds: float | None, trace: Path) -> Iterator[None]:
    """End this process when the block takes longer.

    Parameters
    ----------
    seconds : float or None
        The limit; None for none.
    trace : Path
        Receives what every thread was doing.
    """
    if seconds is None:
        yield
        return
    try:
        _mine.limit = trace, seconds
        _set(trace, time.monotonic() + seconds)
        yield
    finally:
        _mine.limit = None
        _set(trace, None)
        trace.unlink(missing_ok=True)


@contextmanager
def standing() -> Iterator[None]:
    """Let the clock of this thread's block stand, for as long as it waits for another; it starts anew afterwards."""
    limit: tuple[Path, float] | None = getattr(_mine, "limit", None)
    if limit is None:
        yield
        return
    trace, seconds = limit
    _set(trace, None)
    try:
        yield
    finally:
        _set(trace, time.monotonic() + seconds)


def _set(trace: Path, due: float | None) -> None:
    """Add or remove a deadline and wait for the earliest one; the interpreter has one such clock."""
    global _file
    with _lock:
        _due.pop(trace, None)
        if due is not None:
            _due[trace] = due
        faulthandler.cancel_dump_traceback_later()
        if _file is not None:
            _file.close()
            _file = None
        if _due:
            first = min(_due, key=_due.__getitem__)
            _file = first.open("w", encoding="utf-8")
            faulthandler.dump_traceback_later(max(0.01, _due[first] - time.monotonic()), file=_file, exit=True)
