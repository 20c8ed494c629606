"""What the small web servers of the package share: who may ask, what may be asked for, and how files are given.

Scans are personal data, so every request needs the secret that stands in the printed address (a cookie from then on);
other users of a machine can reach its loopback address too. A request for another host name is refused, because a
foreign page could point its own name at this machine (DNS rebinding). Changes need, besides, the page's own origin and
a second secret that only this origin can read. Files are read from below one folder and nowhere else.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, ClassVar
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from neuralprep.errors import InputError

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_PORT = re.compile(r":\d{1,5}$")
_LOG = logging.getLogger(__name__)
_TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png", ".json": "application/json",
          ".gz": "application/gzip"}  # fmt: skip
_TEXT = "text/plain; charset=utf-8"
#: a page of a scan runs its script but is a stranger to this server: it cannot read or decide anything
SANDBOX = "sandbox allow-scripts allow-downloads"
#: after an error answer: longest time and most bytes that the rest of a request is read for, and longest silence in it
LINGER_S, LINGER_BYTES, SILENCE_S = 30.0, 1 << 28, 5.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def linger(connection: socket.socket) -> None:
    """Read what a browser still sends after its answer, and throw it away.

    A connection that is closed with bytes unread is reset, and a reset takes the answer with it: a browser in the midst
    of an upload would show a network error instead of the reason (RFC 9112, 9.6). So this end stops writing, and reads
    until the other end stops too; a stranger cannot hold it for longer than the bounds.

    Parameters
    ----------
    connection : socket
        The answer is on its way; the caller closes it.
    """
    end, left, block = time.monotonic() + LINGER_S, LINGER_BYTES, bytearray(1 << 16)
    with contextlib.suppress(OSError):  # the other end is gone or silent
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (time_left := end - time.monotonic()) > 0:
            connection.settimeout(min(time_left, SILENCE_S))
            count = connection.recv_into(block)
            if count == 0:
                return
            left -= count


class RefusedError(Exception):
    """A request that is answered with an error.

    Parameters
    ----------
    status : HTTPStatus
        Of the answer.
    words : str
        Its text.
    """

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class LocalServer(ThreadingHTTPServer):
    """A server for one person.

    Parameters
    ----------
    handler : class
        Answers one request.
    port : int
        0 takes any that is free.
    host : str
        Address to listen on; by default nothing but this machine can reach it.

    Raises
    ------
    InputError
        The port is taken, or the address is not one of this machine.
    """

    daemon_threads = True
    request_queue_size = 64  # a page asks for many pictures at once

    def __init__(self, handler: type[LocalHandler], port: int, host: str = HOST) -> None:
        self.secret, self.token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._open = not is_loopback(host)
        self._names = {*_NAMES, host.lower(), *([socket.gethostname().lower()] if self._open else [])}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except OSError as error:
            fault = error.strerror or str(error)
            ways = "--port or --host" if self._open else "--port"
            raise InputError(f"{host}, port {port} cannot be used ({fault}); choose another with {ways}") from error

    @property
    def address(self) -> str:
        """Address to open, with the secret in it."""
        host = str(self.server_address[0])
        if host in ("0.0.0.0", "::"):  # every address of this machine; its name is one that others know
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/?key={self.secret}"

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this server; a numeric address cannot be rebound by anybody's name server."""
        name = _PORT.sub("", host).lower()
        if name in self._names or not self._open:
            return name in self._names
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


class LocalHandler(BaseHTTPRequestHandler):
    """One request, answered by `get` or `post` of the subclass after the checks.

    Attributes
    ----------
    cookie, token_header : str
        Names of the cookie that holds the secret and of the header that holds the token.
    verb : str
        Command that printed the address.
    """

    server: LocalServer
    server_version, sys_version = "neuralprep", ""
    timeout = 30
    cookie: ClassVar[str]
    token_header: ClassVar[str]
    verb: ClassVar[str]
    _answered: int = HTTPStatus.OK
    _HEADERS: ClassVar = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
                          "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
                          "X-Frame-Options": "DENY"}  # fmt: skip

    def get(self, url: SplitResult) -> None:
        """Answer with a page, a state or a file."""
        raise NotImplementedError

    def post(self, url: SplitResult) -> None:
        """Change something."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Check who asks; the address with the key becomes a cookie."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Check who asks and from which page."""
        self._answer(self._post)

    def finish(self) -> None:
        """End the connection; after an error only when the browser has had time to read why."""
        super().finish()
        if self._answered >= HTTPStatus.BAD_REQUEST:
            linger(self.connection)

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begin an answer."""
        self._answered = code
        super().send_response(code, message)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log of the program and not to the terminal, without the secret."""
        _LOG.debug("%s", (format % args).replace(self.server.secret, "..."))

    def _answer(self, work: Callable[[], None]) -> None:
        try:
            if not self.server.answers_to(self.headers.get("Host", "")):
                raise RefusedError(HTTPStatus.FORBIDDEN, "this server answers to its own name only")
            work()
        except RefusedError as refused:
            self._send(refused.status, str(refused).encode(), _TEXT)
        except InputError as error:
            self._send(HTTPStatus.CONFLICT, str(error).encode("utf-8", "replace"), _TEXT)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser went away

    def _get(self) -> None:
        url = self._url()
        given = parse_qs(url.query).get("key", [""])[0]
        if given and hmac.compare_digest(given.encode("utf-8", "replace"), self.server.secret.encode()):
            cookie = f"{self.cookie}={self.server.secret}; HttpOnly; SameSite=Lax; Path=/"
            self._send(HTTPStatus.SEE_OTHER, b"", _TEXT, {"Location": "/", "Set-Cookie": cookie})
            return
        self._check_key()
        self.get(url)

    def _post(self) -> None:
        self._check_key()
        if self.headers.get("Origin") != f"http://{self.headers.get('Host')}":
            raise RefusedError(HTTPStatus.FORBIDDEN, "requests from other pages are refused")
        if not hmac.compare_digest(self.headers.get(self.token_header, "").encode(), self.server.token.encode()):
            raise RefusedError(HTTPStatus.FORBIDDEN, "the page is of an earlier run of the server: reload it")
        self.post(self._url())

    def _url(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError:  # brackets that are no address
            raise RefusedError(HTTPStatus.BAD_REQUEST, "not an address") from None

    def _check_key(self) -> None:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.cookie)
        except CookieError:
            found = None
        if found is None or not hmac.compare_digest(found.value.encode(), self.server.secret.encode()):
            words = f"open the address that 'neuralprep {self.verb}' printed: it holds the key"
            raise RefusedError(HTTPStatus.FORBIDDEN, words)

    def body_length(self, limit: int) -> int:
        """Bytes that the request says it carries.

        Raises
        ------
        RefusedError
            It does not say, or says more than `limit`; nothing of it has been read.
        """
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()) or int(text[:20]) > limit:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large or does not say its size")
        return int(text)

    def send_below(self, folder: Path, address: str) -> None:
        """Send a file below a folder (resolved); links that lead out of it do not exist."""
        parts = unquote(address, errors="surrogateescape").lstrip("/").split("/")
        if any(part in ("", ".", "..") or part.startswith(".") or set(part) & set("\\\0") for part in parts):
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such file")
        try:
            path = folder.joinpath(*parts).resolve(strict=True)
            if not path.is_relative_to(folder) or not path.is_file():
                raise RefusedError(HTTPStatus.NOT_FOUND, "no such file")
            stream = path.open("rb")
        except (OSError, RuntimeError, ValueError):  # missing, not permitted, a loop of links, a name that cannot be
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such file") from None
        with stream:
            self.send_stream(stream, _TYPES.get(path.suffix.lower(), _TEXT), {"Content-Security-Policy": SANDBOX})

    def send_stream(self, stream: BinaryIO, kind: str, more: dict[str, str]) -> None:
        """Send an open file."""
        self._head(HTTPStatus.OK, kind, {"Content-Length": str(os.fstat(stream.fileno()).st_size), **more})
        copyfileobj(stream, self.wfile)

    def send_page(self, text: str, policy: str = "frame-ancestors 'none'") -> None:
        """Send an HTML page."""
        self._send(HTTPStatus.OK, text.encode(), _TYPES[".html"], {"Content-Security-Policy": policy})

    def send_json(self, content: dict[str, Any]) -> None:
        """Send data for the script of a page."""
        self._send(HTTPStatus.OK, json.dumps(content).encode(), _TYPES[".json"])

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self._head(status, kind, {"Content-Length": str(len(body)), **(more or {})})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**self._HEADERS, "Content-Type": kind, **more}.items():
            self.send_header(name, value)
        self.end_headers()
