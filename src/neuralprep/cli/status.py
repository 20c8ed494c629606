"""``neuralprep status OUT``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralprep.engine.overview import Overview, Run

#: longer lists end in a count
_SHOWN = 20


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    from neuralprep.cli import EXIT_CODES

    parser = subparsers.add_parser(
        "status",
        help="how a batch stands",
        description="Scans by status, what is being worked on, what failed and why, and the time left.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of a run")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--all", action="store_true", help=f"every failed and running scan, not the first {_SHOWN}")


def execute(args: argparse.Namespace) -> int:
    """Print how the batch stands; the exit code says whether a scan failed."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.engine.overview import look

    overview = look(args.out.expanduser())
    print(json.dumps(overview.as_json(), indent=2) if args.json else _text(args.out, overview, whole=args.all))
    return EXIT_FAILED if overview.failures else EXIT_OK


def _text(out: Path, overview: Overview, *, whole: bool) -> str:
    """The overview for a person."""
    counts = ", ".join(f"{count:,} {status}" for status, count in overview.scans.items())
    lines = [f"{out}: {sum(overview.scans.values()):,} scans: {counts}"]
    lines += [_run_line(run) for run in overview.runs]
    if any(not run.alive for run in overview.runs):
        lines.append("the same command again goes on where it stopped")
    running = sorted(overview.running, key=lambda held: -held.age_s)
    if running:
        lines.append(f"running ({len(running)}):")
        lines += _first([f"  {held.name}  {_duration(held.age_s)}  on {held}" for held in running], whole=whole)
    if overview.failures:
        lines.append(f"failed ({len(overview.failures)}):")
        lines += _first([f"  {name}  {why}" for name, why in overview.failures.items()], whole=whole)
    return "\n".join(lines)


def _run_line(run: Run) -> str:
    """A run in one line."""
    finished = run.done + run.reused
    who = f"on {run.host} (process {run.pid}), {run.where}"
    if not run.alive:
        return f"stopped: a run {who}, was ended with {finished:,} of {run.total:,} scans done"
    rate = f"{run.per_s:.2f} scans/s" if run.per_s >= 1 else f"{60 * run.per_s:.2f} scans/min"
    left = "time left not known yet" if run.left_s is None else f"about {_duration(run.left_s)} left"
    pace = f"{rate}, {left}" if run.done else left
    return f"running for {_duration(run.elapsed_s)} {who}: {finished:,} of {run.total:,} scans done, {pace}"


def _first(lines: list[str], *, whole: bool) -> list[str]:
    """The first lines of a list and how many more there are."""
    if whole or len(lines) <= _SHOWN:
        return lines
    return [*lines[:_SHOWN], f"  and {len(lines) - _SHOWN:,} more (--all)"]


def _duration(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
