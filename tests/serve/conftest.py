"""A small head with known anatomy, a server that takes it, and requests to that server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from neuralprep.demo import random_pose, render
from neuralprep.grid import Grid
from neuralprep.pipeline import Settings
from neuralprep.serve.scans import Limits, MakeProcessor, ScanQueue
from neuralprep.serve.server import ScanServer
from neuralprep.templates import load_template
from neuralprep.volume import save
from web_client import request

HOST = "127.0.0.1"
NAME = "small_T1w.nii.gz"


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
            host: str = HOST) -> Iterator[ScanServer]:
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


def ask(server: ScanServer, path: str, body: bytes | None = None, *, host: str = HOST,
        **changes: str | None) -> tuple[int, bytes, dict[str, str]]:
    """One request with everything a page of this server sends; `changes` replaces headers (None leaves one out)."""
    headers: dict[str, str | None] = {"Host": f"{HOST}:{server.server_port}",
                                      "Cookie": f"neuralprep-serve={server.secret}"}
    if body is not None:
        headers |= {"Origin": f"http://{HOST}:{server.server_port}", "X-Neuralprep-Token": server.token}
    return request(host, server.server_port, path, body, headers, changes)


def upload(server: ScanServer, body: bytes, name: str = NAME, more: str = "", **changes: str | None) -> tuple[int, str]:
    status, words, _ = ask(server, f"/upload?name={quote(name)}{more}", body, **changes)
    return status, words.decode()
