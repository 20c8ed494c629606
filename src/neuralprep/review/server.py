"""Serves the page of one output folder to one person; the one thing that is ever written is the table of decisions."""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from pathlib import Path
from urllib.parse import SplitResult, parse_qs

from neuralprep.engine.record import read_status, records_of
from neuralprep.errors import InputError
from neuralprep.report import viewer
from neuralprep.report.decisions import MAX_NOTE, VERDICTS, decide, read_decisions, write_decisions
from neuralprep.report.group_page import index_page
from neuralprep.review.layers import scan_viewer
from neuralprep.web import HOST, SANDBOX, LocalHandler, LocalServer, RefusedError

__all__ = ["DEFAULT_PORT", "HOST", "ReviewServer"]

DEFAULT_PORT = 8765
_MAX_BODY = 64 * 1024


class ReviewServer(LocalServer):
    """Serves an output folder on the loopback address.

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

    def __init__(self, out_dir: Path, port: int = DEFAULT_PORT) -> None:
        if not read_status(out_dir):
            raise InputError(f"{out_dir}: has no status.tsv with scans; give the output folder of neuralprep run")
        read_decisions(out_dir)
        self.out_dir = out_dir.resolve()
        self.lock = threading.Lock()
        super().__init__(_Handler, port)

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


class _Handler(LocalHandler):
    """One request."""

    server: ReviewServer
    cookie, token_header, verb = "neuralprep-review", "X-Review-Token", "review"

    def get(self, url: SplitResult) -> None:
        """Pages, pictures and files."""
        if url.path in ("/", "/index.html"):
            self.send_page(self.server.page())
        elif url.path == "/.review/state":
            self.send_json({"token": self.server.token, "viewer": viewer.available()})
        elif url.path == "/.review/viewer":
            scan = parse_qs(url.query).get("scan", [""])[0]
            if scan not in {row["scan"] for row in read_status(self.server.out_dir)}:
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such scan")
            self.send_page(scan_viewer(self.server.out_dir, scan), SANDBOX)
        else:
            self.send_below(self.server.out_dir, url.path)

    def post(self, url: SplitResult) -> None:
        """Decisions."""
        if url.path != "/.review/decision":
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing to post to here")
        try:
            content = json.loads(self.rfile.read(self.body_length(_MAX_BODY)))
            scan, decision, note = (content[key] for key in ("scan", "decision", "note"))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "not a decision") from None
        if not all(isinstance(text, str) for text in (scan, decision, note)) or len(note) > MAX_NOTE:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"not a decision, or a note of more than {MAX_NOTE} letters")
        self.send_json(self.server.decide(scan, decision, note))
