"""``neuralprep serve``: uploads become results, one after the other; strangers, attacks and faults change nothing."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel
import numpy as np
import pytest

from cli.test_review import hear_interrupts
from neuralprep.bids.derivatives import available_outputs, expected_files
from neuralprep.cli import main
from neuralprep.errors import InputError
from neuralprep.pipeline import Settings
from neuralprep.serve import scans as scans_module
from neuralprep.serve.scans import PREFIX, Limits, ScanQueue, sweep_abandoned
from neuralprep.serve.server import ScanServer
from neuralprep.web import is_loopback
from serve.conftest import HOST, NAME, ask, serving, upload


def state_of(server: ScanServer) -> list[dict[str, Any]]:
    return json.loads(ask(server, "/state")[1])["scans"]


def until(server: ScanServer, done: Callable[[list[dict[str, Any]]], bool], seconds: float = 300) -> list[dict]:
    """The state as soon as something is true of it."""
    end = time.monotonic() + seconds
    while not done(found := state_of(server)):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def all_done(found: list[dict[str, Any]]) -> bool:
    return all(scan["state"] not in ("waiting", "running") for scan in found)


class Gate:
    """A processor that waits until it is let go and then says that there is no brain; it counts who works at a time."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.working = self.most = 0
        self.order: list[str] = []

    def __call__(self, say: Any, settings: Settings) -> Gate:
        self.say = say
        return self

    def again(self, settings: Settings) -> Gate:
        return self

    def run(self, volume: Any) -> Any:
        self.working += 1
        self.most = max(self.most, self.working)
        self.order.append(volume.source.name)
        while not self.open.wait(0.02):
            self.say("step", 0, 2)
        self.working -= 1
        raise InputError("no brain was found")


@pytest.fixture(scope="module")
def head(head_file: Path) -> bytes:
    return head_file.read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, head: bytes) -> Iterator[tuple[ScanServer, dict[str, Any]]]:
    """A server that has processed the head with the real network."""
    with serving(tmp_path_factory.mktemp("serve")) as server:
        status, words = upload(server, head, "Müller <b>_T1w.nii.gz")
        assert status == 200, words
        yield server, until(server, all_done)[0]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(tmp_path: Path, gate: Gate) -> Iterator[ScanServer]:
    with serving(tmp_path, Limits(scan_bytes=3_000_000, scans=3), gate) as server:
        yield server


def test_a_head_comes_back_as_a_whole_result(finished: tuple[ScanServer, dict[str, Any]], tmp_path: Path) -> None:
    server, scan = finished
    assert scan["state"] in ("ok", "check"), scan
    assert scan["title"] == "Müller <b>_T1w.nii.gz"
    assert {row["label"] for row in scan["measures"]} >= {"Inside skull", "Template overlap"}
    _, page, headers = ask(server, f"/scans/{scan['key']}/{quote(scan['report'])}")
    assert page.startswith(b"<!doctype html>")
    assert headers["content-security-policy"].startswith("sandbox")
    _, picture, headers = ask(server, f"/scans/{scan['key']}/{quote(scan['picture'])}")
    assert (picture[:4], headers["content-type"]) == (b"\x89PNG", "image/png")

    status, packed, headers = ask(server, f"/zip/{scan['key']}")
    assert (status, headers["content-type"]) == (200, "application/zip")
    assert "attachment" in headers["content-disposition"]
    archive = zipfile.ZipFile(io.BytesIO(packed))
    assert archive.testzip() is None
    folder = scan["report"].partition("/")[0]
    outputs = available_outputs(strip=True, normalize=True, register=True)
    wanted = {f"neuralprep/{folder}/{file}" for file in expected_files(folder, outputs, "MNI152NLin2009aSym")}
    assert wanted | {"neuralprep/status.tsv", "neuralprep/index.html"} <= set(archive.namelist())
    mask = next(name for name in archive.namelist() if name.endswith("_desc-brain_mask.nii.gz") and "space" not in name)
    (tmp_path / "mask.nii.gz").write_bytes(archive.read(mask))
    volume_ml = np.asanyarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj).sum() * 2.5**3 / 1000
    assert 1200 < volume_ml < 2100


def test_the_uploaded_scan_itself_is_not_kept(finished: tuple[ScanServer, dict[str, Any]]) -> None:
    server, scan = finished
    assert list((server.queue.folder / scan["key"] / "upload").iterdir()) == []
    assert server.queue.folder.stat().st_mode & 0o077 == 0  # nobody else may look in


@pytest.mark.parametrize("path", [
    "/../../upload", "/%2e%2e/%2e%2e/alive", "/..%2f..%2falive", "/%2e%2e/upload", "//etc/passwd", "/etc/passwd", "/",
    "", "/..\\alive", "/status.tsv%00", "/.hidden", "/%c0%ae%c0%ae/alive", "/" + "a" * 5000,
])  # fmt: skip
def test_nothing_but_results_is_given(finished: tuple[ScanServer, dict[str, Any]], path: str) -> None:
    server, scan = finished
    assert ask(server, f"/scans/{scan['key']}/status.tsv")[0] == 200
    assert ask(server, f"/scans/{scan['key']}{path}")[0] == 404
    for key in ("..", ".", "", "%2e%2e", "alive", scan["key"][:-1], scan["key"] + "/.."):
        for kind in ("scans", "zip", "upload", "results"):
            assert ask(server, f"/{kind}/{key}{path}")[0] == 404, (kind, key)


STRANGERS = [{"Cookie": None}, {"Cookie": "neuralprep-serve=guess"}, {"Host": "evil.example"}, {"Host": None},
             {"Host": "127.0.0.1.evil.example"}, {"Host": "192.168.1.2"}, {"Host": "localhost@evil.example"}]


@pytest.mark.parametrize("headers", STRANGERS, ids=str)
def test_strangers_see_and_do_nothing(
    finished: tuple[ScanServer, dict[str, Any]], headers: dict[str, str | None], head: bytes
) -> None:
    server, scan = finished
    for path in ("/", "/state", f"/scans/{scan['key']}/status.tsv", f"/zip/{scan['key']}", "/?key=guess"):
        status, body, _ = ask(server, path, **headers)
        assert (status, scan["key"].encode() in body) == (403, False)
    assert upload(server, head[:1000], **headers)[0] == 403
    assert ask(server, "/remove", scan["key"].encode(), **headers)[0] == 403
    assert len(state_of(server)) == 1


@pytest.mark.parametrize("headers", [{"Origin": None}, {"Origin": "http://evil.example"}, {"Origin": "null"},
                                     {"Origin": "https://127.0.0.1"}, {"X_Neuralprep_Token": None},
                                     {"X_Neuralprep_Token": "guess"}], ids=str)  # fmt: skip
def test_posts_of_other_pages_are_refused(
    finished: tuple[ScanServer, dict[str, Any]], headers: dict[str, str | None], head: bytes
) -> None:
    server, scan = finished
    assert upload(server, head[:1000], **headers)[0] == 403
    assert ask(server, "/remove", scan["key"].encode(), **headers)[0] == 403
    assert len(state_of(server)) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_other_methods_do_not_exist(gated: ScanServer, method: str) -> None:
    connection = http.client.HTTPConnection(HOST, gated.server_port, timeout=120)
    connection.request(method, "/", headers={"Cookie": f"neuralprep-serve={gated.secret}"})
    assert connection.getresponse().status == 501
    connection.close()


@pytest.mark.parametrize("length", ["3000001", "9" * 30, "-1", "1e3", "²", None])
def test_too_much_is_refused_before_it_is_read(gated: ScanServer, length: str | None) -> None:
    encoded = None if length is None else length.encode("latin-1").decode("latin-1")
    assert ask(gated, f"/upload?name={NAME}", b"", Content_Length=encoded)[0] == 413
    assert state_of(gated) == []
    assert [path.name for path in gated.queue.folder.iterdir()] == ["alive"]


@pytest.mark.parametrize(("name", "more", "status"), [
    ("scan.png", "", 409), ("scan.nii.gz.exe", "", 409), (".nii.gz", "", 409), ("", "", 400), ("a" * 500, "", 400),
    (NAME, "&frame=-1", 409), (NAME, "&frame=x", 409), (NAME, "&lambda=1e9", 409), (NAME, "&lambda=nan", 409),
    (NAME, "&lambda=x", 409), (NAME, "&boundary=x", 409), (NAME, "&device=cuda", 409), (NAME, "&mask=/etc/passwd", 409),
])  # fmt: skip
def test_uploads_that_cannot_be_are_refused_whole(gated: ScanServer, name: str, more: str, status: int) -> None:
    assert upload(gated, b"x", name, more)[0] == status
    assert state_of(gated) == []
    assert [path.name for path in gated.queue.folder.iterdir()] == ["alive"]


def test_an_upload_that_breaks_off_leaves_nothing(gated: ScanServer) -> None:
    connection = socket.create_connection((HOST, gated.server_port), timeout=120)
    lines = [f"POST /upload?name={NAME} HTTP/1.1", f"Host: {HOST}", f"Origin: http://{HOST}", "Content-Length: 1000",
             f"X-Neuralprep-Token: {gated.token}", f"Cookie: neuralprep-serve={gated.secret}", "", "half"]
    connection.sendall("\r\n".join(lines).encode())
    connection.shutdown(socket.SHUT_WR)
    assert b" 400 " in connection.recv(1000)
    connection.close()
    assert [path.name for path in gated.queue.folder.iterdir()] == ["alive"]


@pytest.mark.parametrize("name", [
    "../../evil_T1w.nii.gz", "..\\evil_T1w.nii.gz", "/etc/evil_T1w.nii.gz", "evil\0_T1w.nii.gz", "-rf_T1w.NII.GZ",
    "evil $(touch x);_T1w.nii.gz", "é" * 150 + "_T1w.nii.gz", "漢" * 300 + "_T1w.nii.gz",
])  # fmt: skip
def test_names_are_titles_and_never_paths(
    gated: ScanServer, gate: Gate, head: bytes, name: str, tmp_path: Path
) -> None:
    assert upload(gated, head, name)[0] == 200
    until(gated, lambda found: gate.order != [])
    assert [path.name[: len(PREFIX)] for path in tmp_path.iterdir()] == [PREFIX]
    assert {path.name for path in gated.queue.folder.iterdir()} == {"alive", state_of(gated)[0]["key"]}
    files = list(gated.queue.folder.glob("*/upload/*"))
    assert len(files) == 1
    assert files[0].name.endswith("_T1w.nii.gz")
    assert len(files[0].name.encode()) <= 100 + len(".nii.gz")
    assert not set(files[0].name) & set("/\\\0$;() ")
    assert state_of(gated)[0]["title"] == name
    gate.open.set()
    assert until(gated, all_done)[0]["state"] == "failed"


@pytest.mark.parametrize(("body", "words"), [
    (b"<html>not an image</html>" * 40, "small_T1w.nii.gz"), (b"\x1f\x8b\x08\x00broken", "small_T1w.nii.gz"),
    (None, "truncated"),
], ids=["text", "gzip", "cut"])  # fmt: skip
def test_a_broken_image_fails_alone_and_says_why(gated: ScanServer, gate: Gate, head: bytes, body: bytes | None,
                                                 words: str) -> None:
    gate.open.set()
    assert upload(gated, head[: len(head) // 2] if body is None else body)[0] == 200
    scan = until(gated, all_done)[0]
    assert scan["state"] == "failed"
    assert words in scan["reasons"][0]
    assert str(gated.queue.folder) not in scan["reasons"][0]
    assert ask(gated, f"/zip/{scan['key']}")[0] == 404
    assert upload(gated, head)[0] == 200
    assert "no brain was found" in until(gated, all_done)[1]["reasons"][0]


def test_uploads_at_the_same_time_are_processed_one_after_the_other(gated: ScanServer, gate: Gate, head: bytes) -> None:
    threads = [threading.Thread(target=upload, args=(gated, head, f"{letter}_T1w.nii.gz")) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = until(gated, lambda found: {scan["state"] for scan in found} == {"waiting", "running"})
    assert [scan["ahead"] for scan in found] == [0, 1]
    assert upload(gated, head, "c_T1w.nii.gz")[0] == 200
    status, words = upload(gated, head, "d_T1w.nii.gz")
    assert (status, "3 scans are here already" in words) == (409, True)
    gate.open.set()
    found = until(gated, all_done)
    assert gate.most == 1
    assert gate.order == [scan["title"] for scan in found]


def test_removed_scans_are_gone_and_a_running_one_stops(gated: ScanServer, gate: Gate, head: bytes) -> None:
    for letter in "ab":
        assert upload(gated, head, f"{letter}_T1w.nii.gz")[0] == 200
    first, second = until(gated, lambda found: found[0]["state"] == "running")
    for scan in (second, first):
        assert ask(gated, "/remove", scan["key"].encode())[0] == 200
        assert ask(gated, "/remove", scan["key"].encode())[0] == 404
    assert state_of(gated) == []
    end = time.monotonic() + 300
    while [path.name for path in gated.queue.folder.iterdir()] != ["alive"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert gate.order == ["a_T1w.nii.gz"]
    assert not gate.open.is_set()


def test_old_scans_go_and_nothing_is_left_at_the_end(tmp_path: Path, gate: Gate, head: bytes) -> None:
    gate.open.set()
    with serving(tmp_path, Limits(keep_s=0.2), gate) as server:
        assert upload(server, head)[0] == 200
        until(server, all_done)
        time.sleep(0.25)
        server.queue.sweep(every_s=0.0)
        assert state_of(server) == []
        assert [path.name for path in server.queue.folder.iterdir()] == ["alive"]
        assert upload(server, head)[0] == 200
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_servers_are_swept(tmp_path: Path) -> None:
    old, fresh, foreign = (tmp_path / f"{PREFIX}{name}" for name in ("old", "fresh", "foreign"))
    for folder in (old, fresh, foreign):
        folder.mkdir()
        (folder / "scan.nii.gz").touch()
    for folder in (old, fresh):
        (folder / "alive").touch()
    os.utime(old / "alive", (1e9, 1e9))
    sweep_abandoned(tmp_path)
    assert not old.exists()
    assert (fresh / "scan.nii.gz").exists()
    assert (foreign / "scan.nii.gz").exists()  # not one of ours


def test_a_full_disk_is_said_before_the_upload(gated: ScanServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = scans_module.shutil.disk_usage("/")
    monkeypatch.setattr(scans_module.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000_000))
    status, words = upload(gated, b"x" * 100)
    assert (status, "no room" in words) == (409, True)


def test_only_this_machine_is_served_unless_told_otherwise(
    tmp_path: Path, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.1", "evil.example")] == [
        True, True, True, False, False, False]
    with serving(tmp_path, None, gate) as server:
        assert server.server_address[0] == HOST
    with serving(tmp_path, None, gate, host="0.0.0.0") as server:
        assert ask(server, "/state", Host="192.168.1.2:80")[0] == 200  # a numeric address cannot be rebound
        assert ask(server, "/state", Host=socket.gethostname())[0] == 200
        assert ask(server, "/state", Host="evil.example")[0] == 403
        assert "0.0.0.0" not in server.address
    with pytest.raises(InputError, match="cannot be used"):
        ScanServer(ScanQueue(Settings(), Limits(), tmp_path), 0, "203.0.113.1")
    assert main(["serve", "--port", "0", "--host", "203.0.113.1", "--work-dir", str(tmp_path)]) == 2
    assert "unencrypted" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["--keep", "-1"], ["--max-mb", "0"], ["--port", "x"],
                                       ["--max-scans", "1.5"]])  # fmt: skip
def test_numbers_that_cannot_be_are_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *arguments])
    assert stopped.value.code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no interrupt can be sent to a process there")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_the_command_serves_until_it_is_stopped_and_cleans_up(tmp_path: Path, stop: int) -> None:
    command = [sys.executable, "-m", "neuralprep", "serve", "--port", "0", "--work-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    assert process.stdout
    address = process.stdout.readline().strip().removeprefix("serve: ")
    connection = http.client.HTTPConnection(address.partition("//")[2].partition("/")[0], timeout=120)
    connection.request("GET", "/" + address.rpartition("/")[2])
    answer = connection.getresponse()
    assert (answer.status, "HttpOnly" in answer.headers["Set-Cookie"]) == (303, True)
    connection.close()
    assert len(list(tmp_path.glob(f"{PREFIX}*/alive"))) == 1
    process.send_signal(stop)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
