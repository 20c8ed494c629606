"""Published weights: fetched from a file, an address or a server, checked, and found again."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from neuralprep.cli import main
from neuralprep.errors import WeightsError
from neuralprep.weights import published
from neuralprep.weights.published import PUBLISHED, Published, cache_folder, read_published
from neuralprep.weights.registry import fetched, find_model, shipped

CONTENT = b"the tensors of a network" * 100


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "neuralprep" / "weights"


@pytest.fixture
def model(tmp_path: Path) -> Published:
    """A published file that lies on a server of this machine."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "model.pth").write_bytes(CONTENT)
    return Published("toy", "", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "MIT", "nobody")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_from_a_server_a_file_and_an_address(model: Published, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        online = replace(model, url=f"{address}/model.pth")
        assert read_published(online) == CONTENT
        gone = replace(model, url=f"{address}/nothing.pth")
        with pytest.raises(WeightsError, match=r"cannot be downloaded .*404.*weights get toy --from FILE"):
            read_published(gone)
    finally:
        server.shutdown()
        server.server_close()
    path = tmp_path / "www" / "model.pth"
    assert read_published(online, str(path)) == CONTENT
    assert read_published(online, path.as_uri()) == CONTENT
    with pytest.raises(WeightsError, match="cannot be downloaded"):  # nobody listens there any more
        read_published(online)


def test_another_file_is_refused(model: Published, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"other.pth: is not the published file of toy: its sha256 is"):
        read_published(model, str(path))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_published(model, str(tmp_path / "missing.pth"))
    with pytest.raises(WeightsError, match="starts with https"):
        read_published(model, "ftp://somewhere/model.pth")


def test_a_model_that_was_not_fetched_names_the_command(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights get mindgrab\. Without a network: save https://.* --from FILE"):
        find_model("mindgrab")
    with pytest.raises(WeightsError, match=r"converted once: neuralprep weights get NAME --from .*model.pth"):
        find_model("somewhere/model.pth")
    with pytest.raises(WeightsError, match=r"shipped are .*npp.*to be fetched are mindgrab"):
        find_model("nothing")
    assert cache_folder() == cache
    assert fetched() == []


def test_a_relative_cache_folder_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")  # the standard: relative paths are invalid
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "neuralprep" / "weights"


def test_get_list_and_path(cache: Path, published_mindgrab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    before = capsys.readouterr().out
    assert [line.split()[0] for line in before.splitlines()] == ["name", *shipped(), *PUBLISHED]
    assert "not here" in before
    assert main(["weights", "get", "mindgrab", "--from", str(published_mindgrab)]) == 0
    assert "MIT" in capsys.readouterr().out
    assert sorted(path.name for path in cache.iterdir()) == ["mindgrab.json", "mindgrab.safetensors"]
    found = find_model("mindgrab")
    assert found.layout == "meshnet-1"
    assert main(["weights", "get", "mindgrab-2mm", "--from", str(published_mindgrab)]) == 0
    assert find_model("mindgrab-2mm").card == {"size": 128, "spacing_mm": 2.0}
    assert find_model("mindgrab").card == {"size": 256, "spacing_mm": 1.0}
    capsys.readouterr()
    assert main(["weights", "path", "mindgrab"]) == 0
    assert capsys.readouterr().out.strip() == str(found.weights)
    assert main(["weights", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(cache)
    assert main(["weights", "list"]) == 0
    assert "fetched" in capsys.readouterr().out


def test_faults_of_get_are_usage_errors(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "get", "synthstrip"]) == 2
    assert "there are mindgrab" in capsys.readouterr().err
    (tmp_path / "wrong.pth").write_bytes(b"x")
    assert main(["weights", "get", "mindgrab", "--from", str(tmp_path / "wrong.pth")]) == 2
    assert "is not the published file" in capsys.readouterr().err
    assert not cache.exists()
    assert published.PUBLISHED["mindgrab"].url.startswith("https://")
