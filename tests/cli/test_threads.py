"""Threads of the libraries below the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from neuralprep.cli import main
assert "numpy" not in sys.modules
code = main(["weights", "list"])
import numpy
from threadpoolctl import threadpool_info
found = [one["num_threads"] for one in threadpool_info() if one["internal_api"] == "openblas"]
print(json.dumps([code, found]))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="this machine has one core")
@pytest.mark.parametrize(("own", "expected"), [(None, 1), ("2", 2)])
def test_algebra_takes_one_thread_unless_told_otherwise(own: str | None, expected: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment |= {} if own is None else {"OPENBLAS_NUM_THREADS": own}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    if not found:
        pytest.skip("NumPy is not built with OpenBLAS here")
    assert set(found) == {expected}
