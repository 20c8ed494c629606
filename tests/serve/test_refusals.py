"""A browser that is refused in the midst of an upload reads why; what it goes on sending is bounded."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuralprep import web
from neuralprep.serve.scans import Limits
from neuralprep.serve.server import ScanServer
from serve.conftest import HOST, NAME, ask, serving

#: more than the two ends of a connection keep for each other (Linux: 4 MB to send and 6 MB received at most)
LARGE = bytes(24_000_000)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScanServer]:
    """A server that takes no scan: files of 25 MB by their size, but not one by their number."""
    with serving(tmp_path_factory.mktemp("serve"), Limits(scan_bytes=25_000_000, scans=0)) as server:
        yield server


@pytest.mark.parametrize(("path", "changes", "status", "words"), [
    (f"/upload?name={NAME}", {}, 409, "0 scans are here already"),
    ("/upload?name=scan.png", {}, 409, "not an image"),
    (f"/upload?name={NAME}&frame=x", {}, 409, "frames are counted"),
    ("/upload?name=", {}, 400, "no name"),
    (f"/upload?name={NAME}", {"Content_Length": "25000001"}, 413, "too large"),
    (f"/upload?name={NAME}", {"Content_Length": None, "Transfer_Encoding": "chunked"}, 413, "too large"),
    ("/remove", {}, 413, "too large"),
    ("/nowhere", {}, 404, "nothing to post to"),
    (f"/upload?name={NAME}", {"Cookie": None}, 403, "holds the key"),
    (f"/upload?name={NAME}", {"Origin": "http://evil.example"}, 403, "other pages"),
    (f"/upload?name={NAME}", {"Host": "evil.example"}, 403, "its own name"),
], ids=str)  # fmt: skip
def test_a_browser_that_still_sends_reads_why(
    small: ScanServer, path: str, changes: dict[str, str | None], status: int, words: str
) -> None:
    found, text, _ = ask(small, path, LARGE, **changes)
    assert (found, words in text.decode()) == (status, True), text
    assert [path.name for path in small.queue.folder.iterdir()] == ["alive"]


def test_a_method_that_does_not_exist_is_refused_in_words_too(small: ScanServer) -> None:
    connection = http.client.HTTPConnection(HOST, small.server_port, timeout=120)
    connection.request("PUT", "/", LARGE)
    assert connection.getresponse().status == 501
    connection.close()


def _begin(server: ScanServer, length: int) -> socket.socket:
    """An upload whose head is sent and whose refusal is on its way."""
    connection = socket.create_connection((HOST, server.server_port), timeout=120)
    lines = [f"POST /upload?name={NAME} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {length}", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def _rest(connection: socket.socket) -> bytes:
    """All of an answer."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_a_slow_upload_goes_on_after_its_refusal(small: ScanServer) -> None:
    with _begin(small, 1_000_000) as connection:
        for _ in range(10):
            connection.sendall(bytes(100_000))
            time.sleep(0.05)  # the refusal is out long before the last piece; a connection closed by then is reset
        answer = _rest(connection)
    assert answer.startswith(b"HTTP/1.0 403 ")
    assert answer.endswith(b"it holds the key")


def _cut_off(server: ScanServer, pause_s: float, most_s: float = 120.0) -> tuple[int, float]:
    """Bytes and seconds until an upload without an end is cut off."""
    sent, start = 0, time.monotonic()
    with _begin(server, 1 << 40) as connection:
        while time.monotonic() - start < most_s:
            try:
                sent += connection.send(bytes(1 << 16))
            except ConnectionError:
                return sent, time.monotonic() - start
            time.sleep(pause_s)
    raise AssertionError(f"still read after {sent} bytes and {most_s} s")


def test_an_upload_without_an_end_is_cut_off_by_its_size(small: ScanServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LINGER_BYTES", 1 << 20)
    sent, _ = _cut_off(small, 0.0)
    assert 1 << 20 <= sent < 1 << 25  # what was read, and what stood in the buffers


def test_an_upload_without_an_end_is_cut_off_by_its_time(small: ScanServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LINGER_S", 0.5)
    sent, seconds = _cut_off(small, 0.01)
    assert seconds >= 0.5
    assert sent < web.LINGER_BYTES


def test_a_silent_browser_is_not_waited_for(small: ScanServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENCE_S", 0.1)
    closed = []
    monkeypatch.setattr(small, "close_request", lambda request: (closed.append(time.monotonic()), request.close()))
    start = time.monotonic()
    with _begin(small, 1000) as connection:
        assert _rest(connection).startswith(b"HTTP/1.0 403 ")
        while not closed:
            assert time.monotonic() - start < 120
            time.sleep(0.01)
    assert closed[0] - start < web.LINGER_S


def test_an_upload_that_stands_still_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.LocalHandler, "timeout", 3.0)
    with serving(tmp_path) as server:
        status, words, _ = ask(server, f"/upload?name={NAME}", b"half", Content_Length="1000")
        assert (status, words) == (408, b"the upload stood still for too long")
        assert [path.name for path in server.queue.folder.iterdir()] == ["alive"]
