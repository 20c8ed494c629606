"""``neuralprep run INPUT... OUT``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from neuralprep.engine.worker import Job

LAMBDA_RANGE = (1e-4, 100.0)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    from neuralprep.bids.derivatives import TABLE
    from neuralprep.cli import EXIT_CODES

    outputs = "\n".join(f"  {row.output:20} {row.description}" for row in TABLE)
    parser = subparsers.add_parser(
        "run",
        help="strip, normalise and register scans",
        description="Strip the skull, correct and normalise intensities, and register to standard space.",
        epilog=f"outputs:\n{outputs}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder, glob, or list (.txt .csv .tsv)")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder: one folder per scan, index.html")
    _add_steps(parser)
    _add_outputs(parser)
    _add_execution(parser)


def _add_steps(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is computed."""
    group = parser.add_argument_group("steps")
    group.add_argument("--no-strip", action="store_true", help="keep the skull")
    group.add_argument("--no-normalize", action="store_true", help="keep the intensities")
    group.add_argument("--no-register", action="store_true", help="stay in the space of the scan")
    group.add_argument(
        "--lambda", dest="lam", type=_lambda, metavar="L",
        help="smoothness of the multiplier field, 0.0001 (follows local contrast) to 100 (almost flat); default 0.1",
    )  # fmt: skip
    group.add_argument("--border", type=_number, metavar="MM", help="move the brain boundary out (or in, if negative)")
    group.add_argument("--no-csf", action="store_true", help="leave out the fluid around the brain")
    group.add_argument("--mask", type=Path, metavar="FILE", help="use this brain mask (or a folder, one per scan)")
    group.add_argument("--frame", type=_frame, metavar="N|mean", help="which frame of a 4-D image (0 is the first)")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is written."""
    group = parser.add_argument_group("outputs")
    group.add_argument("--space", metavar="NAME", help="standard space; default MNI152NLin2009aSym")
    group.add_argument(
        "--res", type=_resolution, metavar="native|MM", help="voxel size in standard space; default 1 mm"
    )
    group.add_argument("--outputs", type=_names, metavar="LIST", help="comma-separated names, see below; default all")
    group.add_argument("--fill", type=_fill, metavar="zero|min|V", help="value outside of the brain; default zero")


def _add_execution(parser: argparse.ArgumentParser) -> None:
    """Flags that say how."""
    group = parser.add_argument_group("execution")
    redo = group.add_mutually_exclusive_group()
    redo.add_argument("--resume", action="store_true", help="skip scans that are finished (this is the default)")
    redo.add_argument("--overwrite", action="store_true", help="do finished scans again")
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default auto")
    group.add_argument("--threads", type=_positive, metavar="N", help="threads per scan; default all cores")
    group.add_argument("--jobs", type=_positive, default=1, metavar="N", help="scans side by side; default 1")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    loudness.add_argument("-v", "--verbose", action="store_true", help="print measures and tracebacks")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _lambda(text: str) -> float:
    value = _number(text)
    low, high = LAMBDA_RANGE
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text} is outside of {low:g} to {high:g}")
    return value


def _frame(text: str) -> int | Literal["mean"]:
    if text == "mean":
        return "mean"
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a frame number nor 'mean'")
    return int(text)


def _resolution(text: str) -> float | Literal["native"]:
    if text == "native":
        return "native"
    value = _number(text)
    if not 0.2 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} mm is outside of 0.2 to 10 mm")
    return value


def _fill(text: str) -> float | Literal["zero", "min"]:
    if text == "zero":
        return "zero"
    if text == "min":
        return "min"
    return _number(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    from neuralprep.bids.derivatives import BY_OUTPUT

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in BY_OUTPUT]
    if unknown or not names:
        fault = f"unknown: {', '.join(unknown)}" if unknown else "the list is empty"
        raise argparse.ArgumentTypeError(f"{fault}. Known are {', '.join(BY_OUTPUT)}")
    return names


def conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can.

    Parameters
    ----------
    args : argparse.Namespace
        Of this verb.
    """
    from neuralprep.bids.derivatives import BY_OUTPUT, available_outputs

    given = {
        "--lambda": args.lam is not None,
        "--border": args.border is not None,
        "--no-csf": args.no_csf,
        "--mask": args.mask is not None,
        "--space": args.space is not None,
        "--res": args.res is not None,
        "--fill": args.fill is not None,
    }
    ruled_out = [
        (args.no_strip, "--no-strip", ("--border", "--no-csf", "--mask", "--fill")),
        (args.no_normalize, "--no-normalize", ("--lambda",)),
        (args.no_register, "--no-register", ("--space", "--res")),
        (args.mask is not None, "--mask", ("--border", "--no-csf")),
    ]
    for active, switch, flags in ruled_out:
        for flag in flags:
            if active and given[flag]:
                return f"{flag} has no effect with {switch}: leave one of them out"
    if args.no_strip and args.no_normalize and args.no_register:
        return "--no-strip --no-normalize --no-register leave nothing to do"
    possible = available_outputs(
        strip=not args.no_strip, normalize=not args.no_normalize, register=not args.no_register
    )
    for name in args.outputs or ():
        if name not in possible:
            off = [f"--no-{step}" for step in BY_OUTPUT[name].needs if getattr(args, f"no_{step}")]
            return f"--outputs {name} cannot be made with {' '.join(off)}"
    if args.mask is not None and not args.mask.exists():
        return f"--mask {args.mask}: no such file or folder"
    return ""


def job_from(args: argparse.Namespace) -> Job:
    """Settings and output folder that the arguments stand for."""
    from neuralprep.engine.worker import Job
    from neuralprep.pipeline import Settings
    from neuralprep.templates import space_grid

    native = args.res == "native"
    chosen: dict[str, Any] = {
        "lam": args.lam, "border_mm": args.border, "space": args.space, "resolution": None if native else args.res,
        "fill": args.fill, "outputs": args.outputs, "threads": args.threads,
    }  # fmt: skip
    settings = Settings(
        strip=not args.no_strip,
        normalize=not args.no_normalize,
        register=not args.no_register,
        no_csf=args.no_csf,
        device=args.device,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    space_grid(settings.space, settings.resolution or 1.0)  # an unknown space stops here, not at every scan
    return Job(
        settings,
        args.out.expanduser(),
        frame=args.frame,
        mask=args.mask,
        native_resolution=native,
        overwrite=args.overwrite,
    )


def execute(args: argparse.Namespace) -> int:
    """Process the scans, show progress, print the table, return the exit code."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.cli.console import Console, status_table
    from neuralprep.engine.run import run_batch

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    if args.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s", stream=sys.stderr)
        for noisy in ("matplotlib", "PIL", "nibabel", "fontTools"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
    console = Console(quiet=args.quiet, verbose=args.verbose)
    logging.captureWarnings(capture=True)  # of libraries: they go to the log file, not between the lines
    try:
        records = run_batch(args.inputs, job_from(args), jobs=args.jobs, progress=console)
    finally:
        logging.captureWarnings(capture=False)
        console.close()
    if not args.quiet:
        print(status_table(records))
        print(f"\nreport: {args.out / 'index.html'}")
    return EXIT_FAILED if any(record.status == "failed" for record in records) else EXIT_OK
