"""Freed memory that stays with a process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from neuralprep.engine.memory import KEPT_BYTES

COUNT = """
import resource
import numpy as np
from neuralprep.engine.memory import keep_freed_memory
assert {keep} == False or keep_freed_memory()
def fresh():
    array = np.ones(16 << 20, np.uint8)
    return int(array[::4096].sum())
fresh()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    fresh()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(keep: bool) -> int:
    """Pages that the system hands to twenty large arrays, made and freed one after the other."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", COUNT.format(keep=keep)], env=own, check=True, capture_output=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the C library of GNU has this setting")
def test_large_arrays_come_from_memory_that_was_freed_before() -> None:
    kept = pages(keep=True)
    assert kept < 200, kept  # 20 arrays of 4096 pages
    assert kept < 0.2 * pages(keep=False)
    assert KEPT_BYTES <= 2**31 - 1  # the C library's numbers are ints
