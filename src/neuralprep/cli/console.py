"""What a person sees while a batch runs: a bar with an estimate on a terminal, a line per scan elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

    from neuralprep.engine.record import ScanRecord

#: a longer table shows only what needs attention
_MAX_ROWS = 60


class Console:
    """Progress of a batch on standard error.

    Parameters
    ----------
    quiet : bool
        Failures only.
    verbose : bool
        Measures of each scan too.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._total = self._count = 0
        self._bar: tqdm[None] | None = None

    def begin(self, total: int) -> None:
        """Start the bar."""
        self._total = total
        if sys.stderr.isatty() and not self._quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="scan", file=sys.stderr, dynamic_ncols=True)

    def message(self, text: str) -> None:
        """Show a message."""
        if not self._quiet:
            self._line(f"neuralprep: {text}")

    def done(self, record: ScanRecord) -> None:
        """Count a scan; say how it went."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        if record.status == "failed" or self._verbose or (self._bar is None and not self._quiet):
            self._line(f"[{self._count}/{self._total}] {scan_line(record)}")
        if self._verbose:
            for name, value in record.measures.items():
                self._line(f"    {name} = {value:.6g}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def scan_line(record: ScanRecord) -> str:
    """One line on one scan."""
    time = "finished before" if record.reused else f"{record.seconds:.1f} s"
    reasons = f": {'; '.join(record.reasons)}" if record.reasons else ""
    return f"{record.scan} {record.status} ({time}){reasons}"


def status_table(records: Sequence[ScanRecord], width: int | None = None) -> str:
    """Table of all scans and a line of totals.

    Parameters
    ----------
    records : sequence of ScanRecord
        Of this run.
    width : int, optional
        Columns to fill; those of the terminal by default. Long tables list only scans that are not ok.
    """
    width = width or shutil.get_terminal_size((110, 24)).columns
    shown = [r for r in records if r.status != "ok"] if len(records) > _MAX_ROWS else list(records)
    name_width = min(40, max([len(r.scan) for r in shown], default=4))
    lines = [f"{'scan':{name_width}}  status  seconds  reasons"] if shown else []
    for record in shown:
        seconds = "before" if record.reused else f"{record.seconds:.1f}"
        line = f"{record.scan:{name_width}}  {record.status:6}  {seconds:>7}  {'; '.join(record.reasons)}"
        # reasons of a failure are never cut: they say what to do
        lines.append((line if record.status == "failed" else line[:width]).rstrip())
    counts = {status: sum(r.status == status for r in records) for status in ("ok", "check", "failed")}
    before = sum(r.reused for r in records)
    total = f"{len(records)} scans: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*lines, total + (f" ({before} finished before)" if before else "")])
