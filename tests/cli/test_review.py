"""``neuralprep review``: who may ask, what is answered, and that decisions outlive the server."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.engine.record import ScanRecord, write_status
from neuralprep.errors import InputError
from neuralprep.report.decisions import REVIEW_FILE, Decision, read_decisions
from neuralprep.review.server import HOST, ReviewServer
from report.test_group_page import make_batch
from web_client import request

JSON = "application/json"


def make_output(out: Path) -> Path:
    """A batch of four scans with its table, a secret beside it and links that lead out of it."""
    out.mkdir()
    for row in make_batch(out):
        record = ScanRecord(row["name"], row["source"], row["status"], tuple(row["reasons"]), row["seconds"],
                            {key: value for key, value in row["measures"].items() if np.isfinite(value)})
        write_status(out, [record])
    (out.parent / "secret.txt").write_text("secret")
    (out / "out.txt").symlink_to(out.parent / "secret.txt")
    (out / "outside").symlink_to(out.parent)
    (out / ".hidden").write_text("secret")
    return out


@contextmanager
def serving(out: Path) -> Iterator[ReviewServer]:
    with ReviewServer(out, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReviewServer]:
    with serving(make_output(tmp_path_factory.mktemp("review") / "out")) as server:
        yield server


def ask(server: ReviewServer, path: str, body: Any = None, **changes: str | None) -> tuple[int, bytes, dict[str, str]]:
    """One request with everything a page of this server sends; `changes` replaces headers (None leaves one out)."""
    headers: dict[str, str | None] = {"Host": f"{HOST}:{server.server_port}",
                                      "Cookie": f"neuralprep-review={server.secret}"}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    if data is not None:
        headers |= {"Origin": f"http://{HOST}:{server.server_port}", "X-Review-Token": server.token,
                    "Content-Type": JSON}  # fmt: skip
    return request(HOST, server.server_port, path, data, headers, changes)


def test_it_listens_to_this_machine_only(server: ReviewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {HOST}
    for address in others:
        with pytest.raises(OSError), socket.create_connection((address, server.server_port), timeout=2):
            pass


def test_the_key_of_the_printed_address_opens_the_page(server: ReviewServer) -> None:
    path = server.address.partition(str(server.server_port))[2]
    status, _, headers = ask(server, path, Cookie=None)
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    status, page, _ = ask(server, "/", Cookie=cookie)
    assert status == 200
    assert b"good%20one_report.html" in page


@pytest.mark.parametrize(
    "headers",
    [{"Cookie": None}, {"Cookie": "neuralprep-review=guess"}, {"Cookie": ";;=\x7f"}, {"Host": "evil.example"},
     {"Host": "127.0.0.1.evil.example:80"}, {"Host": "evil.example:8765@127.0.0.1:80"}, {"Host": None}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/.review/state", "/odd/odd_report.html", "/?key=guess", "/nothing"])
def test_strangers_see_nothing(server: ReviewServer, path: str, headers: dict[str, str | None]) -> None:
    status, body, _ = ask(server, path, **headers)
    assert status == 403
    assert b"odd" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:80"])
def test_a_tunnel_may_change_the_port(server: ReviewServer, host: str) -> None:
    assert ask(server, "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/odd/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "//etc/passwd",
     "/odd/%2e%2e/%2e%2e/secret.txt", "/etc/passwd", "/%2fetc/passwd", "/out.txt", "/outside/secret.txt", "/.hidden",
     "/.review/", "/.review/../status.tsv", "/odd", "/odd/", "/status.tsv/", "/status.tsv%00.html", "/..\\secret.txt",
     "/..%5csecret.txt", "/%c0%ae%c0%ae/secret.txt", "/" + "a" * 5000, "/odd//odd_report.html", "/missing", "*"],
)  # fmt: skip
def test_nothing_but_files_below_the_folder_is_given(server: ReviewServer, path: str) -> None:
    status, body, _ = ask(server, path)
    assert status == 404
    assert b"secret" not in body
    assert b"root:" not in body


def test_files_come_whole_and_cannot_act_for_the_page(server: ReviewServer) -> None:
    status, body, headers = ask(server, "/good%20one/good%20one_report.html")
    assert (status, body) == (200, (server.out_dir / "good one" / "good one_report.html").read_bytes())
    assert headers["content-type"].startswith("text/html")
    assert headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert ask(server, "/status.tsv?x=1")[1] == (server.out_dir / "status.tsv").read_bytes()
    assert ask(server, "/odd/odd_overview.png")[2]["content-type"] == "image/png"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_other_methods_do_not_exist(server: ReviewServer, method: str) -> None:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=120)
    connection.request(method, "/status.tsv", headers={"Cookie": f"neuralprep-review={server.secret}"})
    assert connection.getresponse().status == 501
    connection.close()
    assert (server.out_dir / "status.tsv").is_file()


GOOD = {"scan": "odd", "decision": "accept", "note": ""}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (GOOD, {"Cookie": None}, 403),
        (GOOD, {"Origin": None}, 403),
        (GOOD, {"Origin": "http://evil.example"}, 403),
        (GOOD, {"Origin": "null"}, 403),
        (GOOD, {"X_Review_Token": None}, 403),
        (GOOD, {"X_Review_Token": "guess"}, 403),
        (GOOD, {"Content_Length": "99999999"}, 413),
        (GOOD, {"Content_Length": "-1"}, 413),
        (GOOD, {"Content_Length": None}, 413),
        (b"{", {}, 400),
        (b"[" * 60000, {}, 400),
        (b"\xff", {}, 400),
        ([], {}, 400),
        ({"scan": "odd"}, {}, 400),
        ({**GOOD, "note": 5}, {}, 400),
        ({**GOOD, "note": "x" * 2001}, {}, 400),
        ({**GOOD, "decision": "maybe"}, {}, 409),
        ({**GOOD, "scan": "../odd"}, {}, 409),
        ({**GOOD, "scan": "unknown"}, {}, 409),
    ],
    ids=range(19),
)
def test_bad_decisions_change_nothing(
    server: ReviewServer, body: Any, headers: dict[str, str | None], status: int
) -> None:
    assert ask(server, "/.review/decision", body, **headers)[0] == status
    assert not (server.out_dir / REVIEW_FILE).exists()


def test_a_decision_is_for_one_address_only(server: ReviewServer) -> None:
    assert ask(server, "/status.tsv", GOOD)[0] == 404
    assert not (server.out_dir / REVIEW_FILE).exists()


def test_decisions_are_saved_at_once_and_outlive_the_server(tmp_path: Path) -> None:
    out = make_output(tmp_path / "out")
    with serving(out) as server:
        answer = ask(server, "/.review/decision", {"scan": "odd", "decision": "reject", "note": " cut \n\toff "})
        assert answer[0] == 200
        assert read_decisions(out)["odd"] == Decision("odd", "reject", "cut off", json.loads(answer[1])["time"])
        for scan in ("good one", "third"):
            assert ask(server, "/.review/decision", {"scan": scan, "decision": "accept", "note": ""})[0] == 200
        assert ask(server, "/.review/decision", {"scan": "third", "decision": "", "note": ""})[0] == 200
    with serving(out) as server:
        assert b'"decision":"reject"' in ask(server, "/")[1]
        assert ask(server, "/.review/decision", {"scan": "bad", "decision": "", "note": "rescan"})[0] == 200
    assert {scan: row.decision for scan, row in read_decisions(out).items()} == {"odd": "reject", "good one": "accept",
                                                                                 "bad": ""}
    assert not list(out.glob(".np-*"))


def test_many_decisions_at_a_time_are_all_kept(tmp_path: Path) -> None:
    out = make_output(tmp_path / "out")
    write_status(out, [ScanRecord(f"s{n}", "", "failed", ("x",)) for n in range(40)])
    with serving(out) as server:
        threads = [threading.Thread(target=ask, args=(server, "/.review/decision", {**GOOD, "scan": f"s{n}"}))
                   for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_decisions(out)) == 40


def test_a_table_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    out = make_output(tmp_path / "out")
    with serving(out) as server:
        (out / REVIEW_FILE).mkdir()
        status, words, _ = ask(server, "/.review/decision", GOOD)
    assert status == 409
    assert b"review.tsv" in words


def test_folders_that_are_no_batch_and_damaged_tables_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", str(tmp_path)]) == 2
    assert "has no status.tsv" in capsys.readouterr().err
    out = make_output(tmp_path / "out")
    (out / REVIEW_FILE).write_text("scan\tdecision\nodd\tmaybe\n")
    assert main(["review", str(out)]) == 2
    assert "maybe" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["review", str(out), "--port", "70000"])


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    out = make_output(tmp_path / "out")
    with socket.create_server((HOST, 0)) as taken, pytest.raises(InputError, match="--port"):
        ReviewServer(out, taken.getsockname()[1])


def hear_interrupts() -> None:
    """Tests that run in the background of a shell inherit that Ctrl-C is ignored; their children must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="no interrupt can be sent to a process there")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_the_command_serves_until_it_is_stopped(tmp_path: Path, stop: int) -> None:
    out = make_output(tmp_path / "out")
    process = subprocess.Popen([sys.executable, "-m", "neuralprep", "review", str(out), "--port", "0"],
                               stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    assert process.stdout
    address = process.stdout.readline().strip().removeprefix("review: ")
    assert address.startswith(f"http://{HOST}:")
    connection = http.client.HTTPConnection(address.partition("//")[2].partition("/")[0], timeout=120)
    connection.request("GET", "/" + address.rpartition("/")[2])
    assert connection.getresponse().status == 303
    connection.close()
    (out / REVIEW_FILE).write_text("scan\tdecision\tnote\ttime\nodd\taccept\tn/a\t2026-01-01T00:00:00Z\n")
    process.send_signal(stop)
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "1 accepted, 0 rejected of 4 scans" in rest
    assert '"decision":"accept"' in (out / "index.html").read_text()
