"""What the verbs that process scans share: the flags that say how, and a batch watched from the terminal."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from neuralprep.cli.arguments import positive_integer

if TYPE_CHECKING:
    from neuralprep.engine.record import ScanRecord
    from neuralprep.engine.worker import Job


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Flags that say how."""
    group = parser.add_argument_group("execution")
    redo = group.add_mutually_exclusive_group()
    redo.add_argument("--resume", action="store_true", help="skip scans that are finished (this is the default)")
    redo.add_argument("--overwrite", action="store_true", help="do finished scans again")
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default auto")
    group.add_argument("--threads", type=positive_integer, metavar="N", help="threads per scan; default all cores")
    group.add_argument("--jobs", type=positive_integer, default=1, metavar="N", help="scans side by side; default 1")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    loudness.add_argument("-v", "--verbose", action="store_true", help="print measures and tracebacks")


def watch_batch(args: argparse.Namespace, job: Job) -> list[ScanRecord]:
    """Process the scans of a verb and show progress on standard error."""
    from neuralprep.cli.console import Console
    from neuralprep.engine.run import run_batch

    if args.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s", stream=sys.stderr)
        for noisy in ("matplotlib", "PIL", "nibabel", "fontTools"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
    console = Console(quiet=args.quiet, verbose=args.verbose)
    logging.captureWarnings(capture=True)  # of libraries: they go to the log file, not between the lines
    try:
        return run_batch(args.inputs, job, jobs=args.jobs, progress=console)
    finally:
        logging.captureWarnings(capture=False)
        console.close()


def conclude(args: argparse.Namespace, records: list[ScanRecord], *, report: bool = True) -> int:
    """Print the table of a batch; the exit code."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.cli.console import status_table

    if not args.quiet:
        print(status_table(records))
        print(f"\nreport: {args.out / 'index.html'}" if report else f"\ntable: {args.out / 'status.tsv'}")
    return EXIT_FAILED if any(record.status == "failed" for record in records) else EXIT_OK
