"""One page for many scans: pictures, filters, every measure with its distribution, and review by keyboard.

The page holds its data as JSON and draws the rows it needs, so that thousands of scans stay quick. Pictures are files
beside it that load as they scroll into view. The batch page and the group page are the same page.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from neuralprep.bids.derivatives import OVERVIEW, REPORT, VIEWER, ScanName
from neuralprep.bids.layout import Home, home_of
from neuralprep.bids.sidecars import write_text
from neuralprep.errors import InputError
from neuralprep.report import measures
from neuralprep.report.decisions import Decision, read_decisions
from neuralprep.report.page import render

INDEX = "index.html"
#: what needs a person comes first
_ORDER = {"failed": 0, "check": 1, "ok": 2}


def write_index(out_dir: Path, records: Iterable[Any]) -> Path:
    """Write the index page of an output folder.

    Parameters
    ----------
    out_dir : where the folders of the scans are.
    records : one per scan, a mapping or a dataclass with name (or scan), source, status, reasons, seconds and
        measures; folder (relative to `out_dir`) is the name unless given.
    """
    path = out_dir / INDEX
    write_text(path, index_page(out_dir, records))
    return path


def index_page(out_dir: Path, records: Iterable[Any]) -> str:
    """Text of the index page; see `write_index`. A table of decisions that cannot be read is said on it."""
    entries, notice = entries_of(out_dir, records)
    return group_page(out_dir.resolve().name, entries, notice=notice)


def entries_of(out_dir: Path, records: Iterable[Any]) -> tuple[list[dict[str, Any]], str]:
    """Entries for `group_page` from records (see `write_index`), and what a reader must know of the decisions."""
    decisions, notice = {}, ""
    try:
        decisions = read_decisions(out_dir)
    except InputError as error:
        notice = f"Decisions are not shown: {error}"
    entries = [_entry(out_dir, record if isinstance(record, Mapping) else asdict(record), decisions)
               for record in records]
    return entries, notice


def write_group(path: Path, entries: Iterable[Mapping[str, Any]], title: str, *,
                links: Sequence[tuple[str, str]] = (), notice: str = "") -> Path:
    """Write a page with a sortable table of all measures and their distributions.

    Parameters
    ----------
    path : file to write.
    entries : see `group_page`.
    title : heading.
    links, notice : see `group_page`.
    """
    write_text(path, group_page(title, entries, review=False, notice=notice, links=links))
    return path


def group_page(title: str, entries: Iterable[Mapping[str, Any]], *, review: bool = True, notice: str = "",
               links: Sequence[tuple[str, str]] = ()) -> str:
    """Text of a page on any group of scans.

    Parameters
    ----------
    title : heading.
    entries : one mapping per scan with name and measures and, where known, status ("ok" if not given), source,
        reasons, seconds, page, picture, viewer and error (URLs relative to the page), decision, note, time and stale.
    review : offer decisions and notes.
    notice : something a reader must know, above everything.
    links : other pages: words and address.
    """
    rows = sorted(entries, key=_urgency)
    columns = measures.columns(name for row in rows for name in row.get("measures", ()))
    names = [column["name"] for column in columns]
    counts = {status: sum(row.get("status", "ok") == status for row in rows) for status in _ORDER}
    data = {"review": review, "columns": columns, "scans": [_compact(row, names) for row in rows]}
    return render("group.html.j2", styles=("style.css", "group.css"), title=title, notice=notice, links=links,
                  scripts=("group.js", "group_plots.js", "group_review.js"), review=review, data=_json(data),
                  counts=counts, count=len(rows),
                  seconds=sum(float(row.get("seconds") or 0.0) for row in rows),
                  policy=("img-src 'self' data:", "connect-src 'self'"))


def _urgency(row: Mapping[str, Any]) -> tuple[int, bool, str]:
    """Order of the rows: by status, of one status first those with something to say."""
    return _ORDER[row.get("status", "ok")], not row.get("reasons"), str(row["name"]).casefold()


def _entry(out_dir: Path, record: Mapping[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
    """The record of a scan with links to the files that exist and with what a person decided."""
    name = str(record.get("name") or record["scan"])
    home = _home(out_dir, name, record)

    def link(path: Path) -> str | None:
        return quote(os.fsencode(path.relative_to(out_dir).as_posix())) if path.is_file() else None

    def own(ending: str) -> str | None:
        return None if home is None else link(home.folder / home.files.file(ending))

    # The status table keeps the sentences of a scan in one cell; here each gets its own line.
    reasons = [part for text in record.get("reasons") or () for part in str(text).replace(".; ", ".\n").split("\n")]
    decided = decisions.get(name, Decision(name, ""))
    return {"name": name, "source": str(record.get("source") or ""), "status": record["status"], "reasons": reasons,
            "seconds": float(record.get("seconds") or 0.0), "measures": dict(record.get("measures") or {}),
            "page": own(REPORT), "picture": own(OVERVIEW), "viewer": own(VIEWER),
            "error": link(out_dir / f"{name}.error.txt") if record["status"] == "failed" else None,
            "decision": decided.decision, "note": decided.note, "time": decided.time,
            "stale": home is not None and _changed_since(home.quality, decided.time)}


def _home(out_dir: Path, name: str, record: Mapping[str, Any]) -> Home | None:
    """Where the files of a scan lie, None for one that says it has none."""
    if "folder" not in record:
        return home_of(out_dir, name)
    return None if record["folder"] is None else Home(out_dir / record["folder"], ScanName.of(name))


def _changed_since(path: Path, time: str) -> bool:
    """Whether a scan was processed again after a decision on it."""
    try:
        return bool(time) and path.stat().st_mtime > datetime.fromisoformat(time).timestamp() + 1
    except (OSError, ValueError):
        return False


def _compact(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """A row as the page stores it: measures in the order of the columns, empty fields left out."""
    found = row.get("measures", {})
    values = [found.get(name) for name in names]
    kept = {key: row.get(key) for key in ("source", "reasons", "seconds", "page", "picture", "viewer", "error",
                                          "decision", "note", "time", "stale")}
    return {"name": str(row["name"]), "status": row.get("status", "ok"),
            "values": [float(f"{v:.6g}") if v is not None and math.isfinite(v) else None for v in values],
            **{key: value for key, value in kept.items() if value}}


def _json(data: Any) -> Any:
    """JSON that cannot end the element it stands in: what could open a tag is written as an escape."""
    from markupsafe import Markup

    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
