"""A small web server for one output folder, for one person, on this machine only.

It listens on the loopback address. Scans are personal data and other users of the machine can reach that address too,
so every request needs the secret that stands in the printed address (a cookie from then on). Changes need, besides, the
page's own origin and a second secret that only this origin can read. Files are read from below the folder and nowhere
else; the one thing that is ever written is the table of decisions.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import secrets
import threading
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from neuralprep.engine.record import read_status, records_of
from neuralprep.errors import InputError
from neuralprep.report import viewer
from neuralprep.report.decisions import MAX_NOTE, VERDICTS, decide, read_decisions, write_decisions
from neuralprep.report.group_page import index_page
from neuralprep.review.layers import scan_viewer

HOST = "127.0.0.1"
DEFAULT_PORT = 8765
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_PORT = re.compile(r":\d{1,5}$")
_COOKIE = "neuralprep-review"
_MAX_BODY = 64 * 1024
_LOG = logging.getLogger(__name__)
_TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png", ".json": "application/json",
          ".gz": "application/gzip"}  # fmt: skip
#: a page of a scan runs its script but is a stranger to this server: it cannot read or decide anything
_SANDBOX = "sandbox allow-scripts allow-downloads"


class ReviewServer(ThreadingHTTPServer):
    """Serves an output folder.

    Parameters
    ----------
    out_dir : Path
        Folder of a finished or running batch.
    port : int
        Port on the loopback address; 0 takes any that is free.

    Raises
    ------
    InputError
        No batch in the folder, a table of decisions that cannot be read, or a port that is taken.
    """

    daemon_threads = True
    request_queue_size = 64  # a page asks for many pictures at once

    def __init__(self, out_dir: Path, port: int = DEFAULT_PORT) -> None:
        if not read_status(out_dir):
            raise InputError(f"{out_dir}: has no status.tsv with scans; give the output folder of neuralprep run")
        read_decisions(out_dir)
        self.out_dir = out_dir.resolve()
        self.secret, self.token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.lock = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            fault = error.strerror or str(error)
            raise InputError(f"port {port} cannot be used ({fault}); choose another with --port") from error

    @property
    def address(self) -> str:
        """Address to open, with the secret in it."""
        return f"http://{HOST}:{self.server_port}/?key={self.secret}"

    def page(self) -> str:
        """The index page as things stand now: a batch may still be running."""
        return index_page(self.out_dir, records_of(read_status(self.out_dir)))

    def decide(self, scan: str, decision: str, note: str) -> dict[str, str]:
        """Save one decision.

        Raises
        ------
        InputError
            Unknown scan or decision, or a table that cannot be read or written.
        """
        verdict = next((known for known in VERDICTS if known == decision), None)
        if verdict is None:
            raise InputError(f"the decision {decision!r} is unknown; there are accept, reject and none")
        with self.lock:
            if scan not in {row["scan"] for row in read_status(self.out_dir)}:
                raise InputError(f"there is no scan {scan!r} in this folder; reload the page")
            made = decide(scan, verdict, note)
            write_decisions(self.out_dir, {**read_decisions(self.out_dir), scan: made}.values())
        return {"scan": scan, "time": made.time}


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ReviewServer
    server_version, sys_version = "neuralprep", ""
    timeout = 30
    _HEADERS: ClassVar = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
                          "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
                          "X-Frame-Options": "DENY"}  # fmt: skip

    def do_GET(self) -> None:
        """Pages, pictures and files."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Decisions."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log of the program and not to the terminal, without the secret."""
        _LOG.debug("%s", (format % args).replace(self.server.secret, "..."))

    def _answer(self, work: Any) -> None:
        try:
            self._check_host()
            work()
        except _RefusedError as refused:
            self._send(refused.status, str(refused).encode(), "text/plain; charset=utf-8")
        except InputError as error:
            self._send(HTTPStatus.CONFLICT, str(error).encode("utf-8", "replace"), "text/plain; charset=utf-8")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser went away

    def _check_host(self) -> None:
        """Refuse other host names: a foreign page could point its own name at this machine."""
        host = self.headers.get("Host", "")
        if _PORT.sub("", host) not in _NAMES:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "this server answers to localhost only")

    def _check_key(self) -> None:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(_COOKIE)
        except CookieError:
            found = None
        if found is None or not hmac.compare_digest(found.value.encode(), self.server.secret.encode()):
            words = "open the address that 'neuralprep review' printed: it holds the key"
            raise _RefusedError(HTTPStatus.FORBIDDEN, words)

    def _get(self) -> None:
        url = urlsplit(self.path)
        given = parse_qs(url.query).get("key", [""])[0]
        if given and hmac.compare_digest(given.encode(), self.server.secret.encode()):
            cookie = f"{_COOKIE}={self.server.secret}; HttpOnly; SameSite=Lax; Path=/"
            self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})
            return
        self._check_key()
        if url.path in ("/", "/index.html"):
            self._send_page(self.server.page())
        elif url.path == "/.review/state":
            self._send_json({"token": self.server.token, "viewer": viewer.available()})
        elif url.path == "/.review/viewer":
            scan = parse_qs(url.query).get("scan", [""])[0]
            if scan not in {row["scan"] for row in read_status(self.server.out_dir)}:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such scan")
            self._send_page(scan_viewer(self.server.out_dir, scan), _SANDBOX)
        else:
            self._send_file(url.path)

    def _post(self) -> None:
        self._check_key()
        if self.headers.get("Origin") != f"http://{self.headers.get('Host')}":
            raise _RefusedError(HTTPStatus.FORBIDDEN, "requests from other pages are refused")
        if not hmac.compare_digest(self.headers.get("X-Review-Token", "").encode(), self.server.token.encode()):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "the page is of an earlier run of the server: reload it")
        if urlsplit(self.path).path != "/.review/decision":
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is nothing to post to here")
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_BODY:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
        try:
            content = json.loads(self.rfile.read(int(length)))
            scan, decision, note = (content[key] for key in ("scan", "decision", "note"))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "not a decision") from None
        if not all(isinstance(text, str) for text in (scan, decision, note)) or len(note) > MAX_NOTE:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"not a decision, or a note of more than {MAX_NOTE} letters")
        self._send_json(self.server.decide(scan, decision, note))

    def _send_file(self, address: str) -> None:
        """A file below the output folder; links that lead out of it do not exist."""
        parts = unquote(address, errors="surrogateescape").lstrip("/").split("/")
        if any(part in ("", ".", "..") or part.startswith(".") or set(part) & set("\\\0") for part in parts):
            raise _RefusedError(HTTPStatus.NOT_FOUND, "no such file")
        try:
            path = self.server.out_dir.joinpath(*parts).resolve(strict=True)
            if not path.is_relative_to(self.server.out_dir) or not path.is_file():
                raise _RefusedError(HTTPStatus.NOT_FOUND, "no such file")
            stream = path.open("rb")
        except (OSError, RuntimeError, ValueError):  # missing, not permitted, a loop of links, a name that cannot be
            raise _RefusedError(HTTPStatus.NOT_FOUND, "no such file") from None
        with stream:
            kind = _TYPES.get(path.suffix.lower(), "text/plain; charset=utf-8")
            length = str(os.fstat(stream.fileno()).st_size)
            self._head(HTTPStatus.OK, kind, {"Content-Length": length, "Content-Security-Policy": _SANDBOX})
            copyfileobj(stream, self.wfile)

    def _send_page(self, text: str, policy: str = "frame-ancestors 'none'") -> None:
        self._send(HTTPStatus.OK, text.encode(), _TYPES[".html"], {"Content-Security-Policy": policy})

    def _send_json(self, content: dict[str, Any]) -> None:
        self._send(HTTPStatus.OK, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self._head(status, kind, {"Content-Length": str(len(body)), **(more or {})})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**self._HEADERS, "Content-Type": kind, **more}.items():
            self.send_header(name, value)
        self.end_headers()
