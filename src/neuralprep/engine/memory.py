"""Memory that a process has freed stays with it, up to a limit, instead of going back to the system each time."""

from __future__ import annotations

import ctypes
import logging
import sys

_LOG = logging.getLogger(__name__)
# mallopt(3), glibc
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
KEPT_BYTES = 1 << 30
"""What may stay unused at the end of the heap."""


def keep_freed_memory() -> bool:
    """Ask the C library to take large arrays from its heap.

    By default every large array is mapped from the system and given back when it is freed. In a process with several
    threads each of these steps stops the others: two scans in one worker lost a third of their time to it.

    Returns
    -------
    bool
        Whether the C library took it; others than glibc have no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    taken = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
    _LOG.debug("freed memory is kept: %s", taken)
    return taken
