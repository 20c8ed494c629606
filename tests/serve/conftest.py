"""A small head with known anatomy, and a server that takes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from neuralprep.demo import random_pose, render
from neuralprep.grid import Grid
from neuralprep.pipeline import Settings
from neuralprep.serve.scans import Limits, MakeProcessor, ScanQueue
from neuralprep.serve.server import ScanServer
from neuralprep.templates import load_template
from neuralprep.volume import save


@pytest.fixture(scope="session")
def head_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration head with voxels of 2.5 mm."""
    rng = np.random.default_rng(0)
    truth = random_pose(rng)
    grid = Grid.centered((96, 100, 90), 2.5, truth.apply(np.array([[0.0, -8.0, -22.0]]))[0], codes="PSR")
    image, _ = render(load_template(), grid, truth, rng)
    path = tmp_path_factory.mktemp("head") / "small_T1w.nii.gz"
    save(image, path, dtype="int16", space="native")
    return path


@contextmanager
def serving(parent: Path, limits: Limits | None = None, make: MakeProcessor | None = None,
            host: str = "127.0.0.1") -> Iterator[ScanServer]:
    settings = Settings(device="cpu", threads=1)
    with (
        closing(ScanQueue(settings, limits or Limits(), parent, make)) as queue,
        ScanServer(queue, 0, host) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
