"""How a batch stands: what a run says of itself while it works, and what can be told from the output folder alone."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neuralprep.bids.sidecars import write_text
from neuralprep.engine.claims import FOLDER, RUN, Claims, Held, beat, is_alive, owner, read_owner, stop_beating
from neuralprep.engine.record import STATUS_FILE, ScanRecord
from neuralprep.errors import InputError

_INTERVAL_S = 2.0
#: scans that the throughput is taken from, and the longest time to look back
_RECENT, _RECENT_S = 200, 900.0
_STATES = ("ok", "check", "failed")


class RunNote:
    """The file in which a run says how far it is; gone when the run has ended in an orderly way.

    Parameters
    ----------
    out_dir : Path
        Output folder.
    total : int
        Scans of the run.
    where : str
        On what it works, in words.
    """

    def __init__(self, out_dir: Path, total: int, where: str) -> None:
        claims = Claims(out_dir)
        self._since = claims.now()
        self._start = time.monotonic()
        self._path = claims.folder / f"{RUN}{secrets.token_hex(6)}.json"
        self._total, self._where = total, where
        self._counts: Counter[str] = Counter()
        self._recent: deque[float] = deque([self._start], maxlen=_RECENT)
        self._written = float("-inf")
        self._write()
        beat(self._path)

    def count(self, record: ScanRecord) -> None:
        """Count a scan that is done; the file follows every few seconds."""
        self._counts["reused" if record.reused else "done"] += 1
        self._counts["failed"] += record.status == "failed"
        if not record.reused:
            self._recent.append(time.monotonic())
        if time.monotonic() - self._written > _INTERVAL_S:
            self._write()

    def close(self) -> None:
        """Remove the file."""
        stop_beating(self._path)
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._written = time.monotonic()
        while len(self._recent) > 2 and self._written - self._recent[0] > _RECENT_S:
            self._recent.popleft()
        content: dict[str, Any] = owner() | {
            "since": self._since, "total": self._total, "where": self._where,
            "done": self._counts["done"], "reused": self._counts["reused"], "failed": self._counts["failed"],
            "recent": len(self._recent) - 1, "recent_since": self._since + self._recent[0] - self._start,
        }  # fmt: skip
        with suppress(InputError, OSError):  # on a full disk the batch goes on without it
            write_text(self._path, json.dumps(content))


@dataclass(frozen=True)
class Run:
    """A run as its note tells of it.

    Parameters
    ----------
    host, pid
        Who runs the command.
    where : str
        On what it works, in words.
    alive : bool
        Whether the command may still be there; a dead one was killed.
    total, done, reused, failed : int
        Scans: all of them, done by this run, finished before, failed.
    elapsed_s : float
        Since it began.
    per_s : float
        Scans per second of late, 0 while unknown.
    left_s : float or None
        Estimate of the time left.
    """

    host: str
    pid: int
    where: str
    alive: bool
    total: int
    done: int
    reused: int
    failed: int
    elapsed_s: float
    per_s: float
    left_s: float | None


@dataclass(frozen=True)
class Overview:
    """State of an output folder.

    Parameters
    ----------
    scans : mapping of str to int
        Scans in the table by status.
    runs : list of Run
        Those that are on, and those that were killed.
    running : list of Held
        Scans that are worked on.
    failures : mapping of str to str
        Name of a failed scan and why.
    """

    scans: Mapping[str, int]
    runs: list[Run] = field(default_factory=list)
    running: list[Held] = field(default_factory=list)
    failures: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same in the types of JSON."""
        return asdict(self)


def look(out_dir: Path) -> Overview:
    """Read how an output folder stands; reads the table and the claims, no scan folder.

    Raises
    ------
    InputError
        The folder is none of this program.
    """
    table = out_dir / STATUS_FILE
    if not table.is_file() and not (out_dir / FOLDER).is_dir():
        raise InputError(f"{out_dir}: no table {STATUS_FILE}, so this is no output folder of neuralprep.")
    counts: Counter[str] = Counter(dict.fromkeys(_STATES, 0))
    failures = {}
    for name, status, reasons in _rows(table):
        counts[status] += 1
        if status == "failed":
            failures[name] = reasons
    running = [held for held in Claims(out_dir).all() if held.alive]
    for held in running:
        failures.pop(held.name, None)
    return Overview(dict(counts), _runs(out_dir), running, failures)


def _rows(table: Path) -> list[tuple[str, str, str]]:
    """Name, status and reasons of each row; fields of this table hold no tabs and no quotes."""
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    columns = lines[0].split("\t") if lines else []
    if not {"scan", "status", "reasons"} <= set(columns):
        return []
    at = [columns.index(name) for name in ("scan", "status", "reasons")]
    rows = (line.split("\t", max(at) + 1) for line in lines[1:])
    return [(row[at[0]], row[at[1]], row[at[2]]) for row in rows if len(row) > max(at)]


def _runs(out_dir: Path) -> list[Run]:
    """Runs by their notes, the oldest first."""
    claims = Claims(out_dir)
    notes = sorted(claims.folder.glob(f"{RUN}*.json"))
    now = claims.now() if notes else 0.0
    found = []
    for path in notes:
        content = read_owner(path)
        if content is None or "total" not in content:
            continue
        rate = content["recent"] / max(1e-3, now - content["recent_since"])
        left = content["total"] - content["done"] - content["reused"]
        found.append((content["since"], Run(
            content["host"], content["pid"], content["where"], is_alive(content, path, now), content["total"],
            content["done"], content["reused"], content["failed"], now - content["since"], rate,
            left / rate if rate else None,
        )))  # fmt: skip
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]
