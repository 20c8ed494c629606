"""Fixtures that more than one part uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Workers share the cores: threads beyond them wait for each other, which makes single tests several times slower.
# The libraries read this when they are loaded, which is later.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, str(_share))

_SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans beside the checkout; tests that need it are skipped where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("the folder of real scans (../shared/data) is not here")
    return _SHARED


@pytest.fixture(scope="session")
def published_mindgrab(shared_data: Path) -> Path:
    """The published tensors of MindGrab."""
    path = shared_data / "weights" / "mindgrab" / "model.pth"
    if not path.is_file():
        pytest.skip(f"no published MindGrab tensors at {path}")
    return path
