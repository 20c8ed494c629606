"""What a person decided about each scan: ``review.tsv`` in the output folder, one row per scan."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from neuralprep.bids.sidecars import write_text
from neuralprep.errors import InputError

REVIEW_FILE = "review.tsv"
COLUMNS = ("scan", "decision", "note", "time")
MAX_NOTE = 2000

Verdict = Literal["accept", "reject", ""]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Decision:
    """One row.

    Attributes
    ----------
    scan : name of the scan.
    decision : "accept", "reject", or "" for a note without a decision.
    note : free text on one line.
    time : when, UTC, ISO 8601 to the second.
    """

    scan: str
    decision: Verdict
    note: str = ""
    time: str = ""

    @property
    def empty(self) -> bool:
        """Neither a decision nor a note: the scan counts as not reviewed."""
        return not self.decision and not self.note


def decide(scan: str, decision: Verdict, note: str) -> Decision:
    """A decision made now."""
    return Decision(scan, decision, " ".join(note.split())[:MAX_NOTE], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def read_decisions(out_dir: Path) -> dict[str, Decision]:
    """Decisions of an output folder by scan; empty when there is no file.

    Raises
    ------
    InputError
        The file exists but is not a table of decisions, or cannot be read. It holds a person's work, so it is not
        passed over.
    """
    path = out_dir / REVIEW_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); repair it or move it away") from error
    reader = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    if not {"scan", "decision"} <= set(reader.fieldnames or ()):
        raise InputError(f"{path}: has no columns scan and decision; repair it or move it away")
    found = {}
    for row in reader:
        cells = {key: "" if value in (None, "n/a") else value for key, value in row.items() if key in COLUMNS}
        verdict = next((known for known in VERDICTS if known == cells["decision"]), None)
        if verdict is None or not cells["scan"]:
            raise InputError(f"{path}: line {reader.line_num} has the decision {cells['decision']!r} for the scan "
                             f"{cells['scan']!r}; write accept, reject or n/a")
        found[cells["scan"]] = Decision(cells["scan"], verdict, cells.get("note", ""), cells.get("time", ""))
    return found


def write_decisions(out_dir: Path, decisions: Iterable[Decision]) -> Path:
    """Write the table, all or nothing, sorted by scan; rows without decision and note are left out.

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    rows = sorted((row for row in decisions if not row.empty), key=lambda row: row.scan)
    lines = [COLUMNS, *((row.scan, row.decision, row.note, row.time) for row in rows)]
    text = "".join("\t".join(" ".join(cell.split()) or "n/a" for cell in line) + "\n" for line in lines)
    path = out_dir / REVIEW_FILE
    write_text(path, text)
    return path
