"""The command line: one module per verb.

A verb is a module in this package with ``add_parser(subparsers)``, which describes its arguments without importing
anything heavy, and ``execute(args) -> int``, which does the work and returns the exit code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

import neuralprep

#: modules of this package, in the order of the help text
VERBS = (
    "run", "bids", "strip", "status", "review", "serve", "register", "template", "session", "apply", "normalize",
    "demo", "evaluate", "export", "synth", "train", "weights",
)  # fmt: skip

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = """\
exit codes:
  0    every scan is done (status ok or check)
  1    at least one scan failed
  2    wrong usage, or nothing to do
  130  interrupted; run the same command again to go on
"""


class _Parser(argparse.ArgumentParser):
    """Takes options by their whole names only.

    ``--mask`` is a mask to use in some verbs; as short for the ``--mask-out`` of others it would write over it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    parser = _Parser(  # the parsers of verbs are of the same class
        prog="neuralprep",
        description="From a raw head scan to a skull-stripped, intensity-normalised brain in standard space.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"neuralprep {neuralprep.__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        import_module(f"neuralprep.cli.{verb}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"{args.verb} takes no {' '.join(unknown)}. `neuralprep {args.verb} --help` lists what there is.")
    if args.verb != "train":  # whose products are large
        _one_thread_for_algebra()
    from neuralprep.errors import NeuralprepError

    try:
        with _terminate_as_interrupt():
            code: int = import_module(f"neuralprep.cli.{args.verb}").execute(args)
    except NeuralprepError as error:
        print(f"neuralprep: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("neuralprep: interrupted; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return code


def _one_thread_for_algebra() -> None:
    """Keep OpenBLAS, which reads this when NumPy is first imported, from starting a thread for every core.

    The matrices of pose and registration are small: its threads do nothing but wait actively, which took a third to a
    half of the processor time of a registration on two cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let a job scheduler's stop signal leave tidy folders, like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Turn a termination signal into an interrupt."""
    raise KeyboardInterrupt
