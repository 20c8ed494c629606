"""What is known about one scan after a run: the record in its quality JSON and its row in the status table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neuralprep.bids.derivatives import QUALITY, VISITS
from neuralprep.bids.layout import home_of
from neuralprep.bids.sidecars import write_text
from neuralprep.errors import InputError

Status = Literal["ok", "check", "failed"]
STATUS_FILE = "status.tsv"
#: the log: it is in every output folder and no process ever replaces it
_LOCK_FILE = "neuralprep.log"
_FIXED_COLUMNS = ("scan", "source", "status", "reasons", "seconds")
_STATUS: dict[str, Status] = {"ok": "ok", "check": "check", "failed": "failed"}


@dataclass(frozen=True)
class ScanRecord:
    """Outcome of one scan.

    Parameters
    ----------
    scan : str
        Name of the scan and of its folder.
    source : str
        Path of the input.
    status : {"ok", "check", "failed"}
        ``check``: finished, but a person should look (see reasons).
    reasons : tuple of str
        Why it is not ``ok``.
    seconds : float
        Wall time from reading to the finished folder.
    measures : dict of str to float
        Volumes and quality measures.
    reused : bool
        Finished in an earlier run and left as it is.
    """

    scan: str
    source: str
    status: Status
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    reused: bool = False


def quality_path(out_dir: Path, scan: str) -> Path:
    """Where the quality record of a scan lies."""
    return home_of(out_dir, scan).quality


@contextmanager
def tables_locked(out_dir: Path) -> Iterator[None]:
    """Keep other processes from changing the tables of an output folder meanwhile.

    Several runs may fill one folder, each with its own participants. A file system without locks is used without them.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        stream = (out_dir / _LOCK_FILE).open("ab")
    except OSError as error:
        raise InputError(f"{out_dir}: cannot be written ({error.strerror}); is it still there?") from error
    with stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def read_quality(path: Path) -> dict[str, Any] | None:
    """Content of the quality record of a finished scan; None when there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "status" in content else None


def from_quality(scan: str, content: dict[str, Any]) -> ScanRecord:
    """Record of a scan that an earlier run finished."""
    return ScanRecord(
        scan=scan,
        source=str(content.get("source", "")),
        status="check" if content["status"] == "check" else "ok",
        reasons=tuple(content.get("reasons", ())),
        seconds=float(content.get("seconds", 0.0)),
        measures={k: v for k, v in content.get("measures", {}).items() if v is not None},
        reused=True,
    )


def plain_numbers(values: dict[str, Any]) -> dict[str, float | None]:
    """Numbers as JSON knows them: NaN and infinity become None."""
    numbers = {key: float(value) for key, value in values.items()}
    return {key: round(value, 6) if math.isfinite(value) else None for key, value in numbers.items()}


def finished_scans(out_dir: Path) -> dict[str, str]:
    """Names of the scans that have a record in this folder, and the source of each."""
    found = {}
    if out_dir.is_dir():
        for folder in out_dir.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            content = read_quality(quality_path(out_dir, folder.name))
            if content is not None:
                found[folder.name] = str(content.get("source", ""))
        found |= {name: str(content.get("source", "")) for name, content in bids_records(out_dir).items()}
    return found


def bids_records(out_dir: Path) -> dict[str, dict[str, Any]]:
    """Contents of the records of all finished scans of BIDS data sets in an output folder, by name."""
    found = _records_at(out_dir, ("anat/*", "ses-*/anat/*"))
    return {name: content for name, content in found.items() if not is_visit(name)}


def visit_records(out_dir: Path) -> dict[str, dict[str, Any]]:
    """Contents of the records of all finished visits (`neuralprep.bids.visits`) in an output folder, by name."""
    return _records_at(out_dir, [f"{folder}*_{kind}" for folder in ("", "anat/", "ses-*/anat/") for kind in VISITS])


def is_visit(name: str) -> bool:
    """Whether this is the name of a visit and not of a scan."""
    return name.startswith("sub-") and name.rpartition("_")[2] in VISITS


def _records_at(out_dir: Path, patterns: Iterable[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for subject in sorted(out_dir.glob("sub-*")):
        for path in sorted(path for pattern in patterns for path in subject.glob(f"{pattern}_{QUALITY}")):
            content = read_quality(path)
            if content is not None:
                found[path.name.removesuffix(f"_{QUALITY}")] = content
    return found


def write_status(out_dir: Path, records: Iterable[ScanRecord]) -> None:
    """Rewrite the status table; rows of scans that are not part of this run stay, those of a run beside it too.

    Parameters
    ----------
    out_dir : Path
        Output folder.
    records : iterable of ScanRecord
        All records of this run so far.
    """
    with tables_locked(out_dir):
        before = read_status(out_dir)
        kept = [row for row in before if row.get("status") == "failed" or quality_path(out_dir, row["scan"]).is_file()]
        write_text(out_dir / STATUS_FILE, _status_text({row["scan"]: row for row in kept}, records))


def _status_text(rows: dict[str, dict[str, str]], records: Iterable[ScanRecord]) -> str:
    """The table of rows that are there and of new records."""
    for record in records:
        rows[record.scan] = {
            "scan": record.scan,
            "source": record.source,
            "status": record.status,
            "reasons": "; ".join(record.reasons),
            "seconds": f"{record.seconds:.2f}",
            **{key: f"{value:.6g}" for key, value in record.measures.items()},
        }
    measures = list(dict.fromkeys(key for row in rows.values() for key in row if key not in _FIXED_COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, (*_FIXED_COLUMNS, *measures), restval="n/a", delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE,
        quotechar=None, escapechar=None,
    )  # fmt: skip
    writer.writeheader()
    for _, row in sorted(rows.items()):
        writer.writerow({key: " ".join(str(value).split()) or "n/a" for key, value in row.items()})
    return text.getvalue()


def read_status(out_dir: Path) -> list[dict[str, str]]:
    """Rows of the status table of an output folder, ``n/a`` cells left out; empty when there is no table."""
    try:
        text = (out_dir / STATUS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    kept = [{k: v for k, v in row.items() if k and v not in (None, "n/a")} for row in rows]
    return [row for row in kept if "scan" in row]


def records_of(rows: Iterable[dict[str, str]]) -> list[ScanRecord]:
    """Rows of a status table as records."""
    return [
        ScanRecord(
            scan=row["scan"],
            source=row.get("source", ""),
            status=_STATUS.get(row.get("status", ""), "failed"),
            reasons=(row["reasons"],) if row.get("reasons") else (),
            seconds=float(row.get("seconds", 0.0)),
            measures={key: float(value) for key, value in row.items() if key not in _FIXED_COLUMNS},
        )
        for row in rows
    ]
