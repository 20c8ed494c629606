"""What the verbs that process scans share: the flags that say how, and a batch watched from the terminal."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from neuralprep.cli.arguments import add_machine, number, positive_integer

if TYPE_CHECKING:
    from neuralprep.engine.cluster import Execution
    from neuralprep.engine.record import ScanRecord
    from neuralprep.engine.worker import Job


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Flags that say how."""
    group = parser.add_argument_group("execution")
    redo = group.add_mutually_exclusive_group()
    redo.add_argument("--resume", action="store_true", help="skip scans that are finished (this is the default)")
    redo.add_argument("--overwrite", action="store_true", help="do finished scans again")
    add_machine(group, "threads per scan")
    group.add_argument("--jobs", type=positive_integer, default=1, metavar="N",
                       help="scans side by side: processes of this machine, or jobs of a queue; default 1")
    group.add_argument("--cluster", default="", metavar="WHERE",
                       help="slurm, pbs, lsf, sge, tcp://HOST:PORT, a scheduler file (.json), or local (default)")
    group.add_argument("--cluster-option", type=_option, action="append", default=[], metavar="KEY=VALUE",
                       help="of the jobs of a queue, for example queue=short, walltime=04:00:00, memory=8GB")
    group.add_argument("--time-limit", type=_seconds, metavar="S",
                       help="longest time for one scan; one that takes longer is recorded as failed")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    loudness.add_argument("-v", "--verbose", action="store_true", help="print measures and tracebacks")


def _option(text: str) -> tuple[str, str]:
    """A setting of the jobs of a queue."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier() or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _seconds(text: str) -> float:
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def execution_from(args: argparse.Namespace) -> Execution:
    """Where and under which limits the scans are processed.

    Raises
    ------
    InputError
        A cluster that cannot be used, or a flag without effect.
    """
    from neuralprep.engine.cluster import Execution, check

    execution = Execution(args.jobs, args.cluster, dict(args.cluster_option), args.time_limit)
    check(execution)
    return execution


def watch_batch(args: argparse.Namespace, job: Job) -> list[ScanRecord]:
    """Process the scans of a verb and show progress on standard error."""
    from neuralprep.cli.console import Console
    from neuralprep.engine.run import run_batch

    execution = execution_from(args)
    if args.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s", stream=sys.stderr)
        for noisy in ("matplotlib", "PIL", "nibabel", "fontTools"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
    console = Console(quiet=args.quiet, verbose=args.verbose)
    logging.captureWarnings(capture=True)  # of libraries: they go to the log file, not between the lines
    try:
        return run_batch(args.inputs, job, progress=console, execution=execution)
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
