"""The addresses of `neuralprep serve`: one page, its state, uploads, and the files of finished scans."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote

from neuralprep.engine.inputs import IMAGE_ENDINGS
from neuralprep.errors import InputError
from neuralprep.report.page import render
from neuralprep.serve.scans import ScanQueue, describe, pack
from neuralprep.web import HOST, LocalHandler, LocalServer, RefusedError

DEFAULT_PORT = 8766
_BLOCK = 1 << 18
_MAX_SMALL = 4096


class ScanServer(LocalServer):
    """Serves a queue of scans.

    Parameters
    ----------
    queue : ScanQueue
        Takes the scans; whoever made it closes it.
    port : int
        0 takes any that is free.
    host : str
        Address to listen on.

    Raises
    ------
    InputError
        The port is taken, or the address is not one of this machine.
    """

    def __init__(self, queue: ScanQueue, port: int = DEFAULT_PORT, host: str = HOST) -> None:
        self.queue = queue
        super().__init__(_Handler, port, host)

    def service_actions(self) -> None:
        """Called between requests: old scans go."""
        self.queue.sweep()

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        shown, ahead = [], 0
        for scan in self.queue.scans():
            shown.append(describe(scan, ahead))
            ahead += scan.state in ("waiting", "running")
        limits = self.queue.limits
        return {"token": self.token, "scans": shown, "endings": IMAGE_ENDINGS, "most_bytes": limits.scan_bytes,
                "most_scans": limits.scans, "keep_hours": limits.keep_s / 3600}  # fmt: skip


class _Handler(LocalHandler):
    """One request."""

    server: ScanServer
    cookie, token_header, verb = "neuralprep-serve", "X-Neuralprep-Token", "serve"

    def get(self, url: SplitResult) -> None:
        """The page, its state, and files of a finished scan."""
        if url.path == "/":
            text = render("serve.html.j2", styles=("style.css", "serve.css"), scripts=("serve.js",),
                          policy=("img-src 'self' data:", "connect-src 'self'"))  # fmt: skip
            self.send_page(text)
        elif url.path == "/state":
            self.send_json(self.server.state())
        elif url.path.startswith(("/scans/", "/zip/")):
            self._result(url.path)
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _result(self, address: str) -> None:
        kind, key, rest = (*address.lstrip("/").split("/", 2), "", "")[:3]
        scan = self.server.queue.find(key)
        if scan is None or scan.record is None or scan.state not in ("ok", "check"):
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such scan, or it is not finished")
        if kind == "scans":
            self.send_below(scan.out_dir, rest)
            return
        if rest:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")
        with pack(scan) as stream:
            name = quote(describe(scan, 0)["outputs"])
            self.send_stream(stream, "application/zip",
                             {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"})  # fmt: skip

    def post(self, url: SplitResult) -> None:
        """An upload, or the removal of a scan."""
        if url.path == "/upload":
            self._upload(dict(parse_qsl(url.query, keep_blank_values=True)))
        elif url.path == "/remove":
            key = self.rfile.read(self.body_length(_MAX_SMALL)).decode("ascii", "replace")
            if not self.server.queue.remove(key):
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such scan")
            self.send_json(self.server.state())
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing to post to here")

    def _upload(self, given: dict[str, str]) -> None:
        """Store the body. Everything that can be refused is refused before any of it is read."""
        title = given.pop("name", "")
        if not title or len(title) > 400:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the file has no name, or a very long one")
        size = self.body_length(self.server.queue.limits.scan_bytes)
        if size == 0:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the file is empty")
        changes, frame = _choices(given)
        settings = self.server.queue.settings_for(changes)
        scan = self.server.queue.receive(title, self._blocks(size), size, settings, frame)
        self.send_json({"key": scan.key})

    def _blocks(self, size: int) -> Iterator[bytes]:
        """The body of a request, piece by piece."""
        while size > 0:
            try:
                block = self.rfile.read(min(size, _BLOCK))
            except TimeoutError:  # here, because further out it would look like a fault of the disk
                raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "the upload stood still for too long") from None
            if not block:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "the upload ended early")
            size -= len(block)
            yield block


def _choices(given: dict[str, str]) -> tuple[dict[str, Any], Any]:
    """Settings and frame that an upload asks for."""
    changes: dict[str, Any] = {}
    frame: Any = None
    for name, text in given.items():
        if name == "boundary" and text in ("skull", "brain"):
            changes["no_csf"] = text == "brain"
        elif name == "lambda":
            try:
                changes["lam"] = float(text)
            except ValueError:
                raise InputError(f"lambda is {text!r}; give a number from 0.0001 to 100") from None
        elif name == "frame" and text == "mean":
            frame = "mean"
        elif name == "frame" and text.isascii() and text.isdigit() and len(text) < 7:
            frame = int(text)
        else:
            raise InputError(f"{name} cannot be {text!r}; frames are counted from 0, or 'mean'")
    return changes, frame
