"""``neuralprep run INPUT... OUT``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuralprep.cli.arguments import fill_value, frame_number, names_among, number
from neuralprep.cli.batch import add_execution, conclude, watch_batch

if TYPE_CHECKING:
    from neuralprep.engine.worker import Job

LAMBDA_RANGE = (1e-4, 100.0)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    from neuralprep.cli import EXIT_CODES

    parser = subparsers.add_parser(
        "run",
        help="strip, normalise and register scans",
        description="Strip the skull, correct and normalise intensities, and register to standard space.",
        epilog=f"{outputs_text()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder, glob, or list (.txt .csv .tsv)")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder: one folder per scan, index.html")
    add_steps(parser)
    add_outputs(parser)
    add_execution(parser)


def outputs_text() -> str:
    """Names of all outputs and what they are, for the help of a verb."""
    from neuralprep.bids.derivatives import ON_REQUEST, TABLE

    outputs, on_request = (
        "\n".join(f"  {row.output:20} {row.description}" for row in rows) for rows in (TABLE, ON_REQUEST)
    )
    return f"outputs:\n{outputs}\noutputs made only where they are named:\n{on_request}"


def add_steps(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is computed."""
    group = parser.add_argument_group("steps")
    group.add_argument("--no-strip", action="store_true", help="keep the skull")
    group.add_argument("--no-normalize", action="store_true", help="keep the intensities")
    group.add_argument("--no-register", action="store_true", help="stay in the space of the scan")
    group.add_argument(
        "--lambda", dest="lam", type=_lambda, metavar="L",
        help="smoothness of the multiplier field, 0.0001 (follows local contrast) to 100 (almost flat); default 0.1",
    )  # fmt: skip
    group.add_argument("--border", type=number, metavar="MM", help="move the brain boundary out (or in, if negative)")
    group.add_argument("--no-csf", action="store_true", help="leave out the fluid around the brain")
    group.add_argument("--mask", type=Path, metavar="FILE", help="use this brain mask (or a folder, one per scan)")
    group.add_argument("--keep-label", type=Path, metavar="FILE",
                       help="never strip the voxels that this label marks (or a folder, one per scan); any grid")
    group.add_argument("--frame", type=frame_number, metavar="N|mean", help="which frame of a 4-D image (from 0)")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Flags that say what is written."""
    group = parser.add_argument_group("outputs")
    group.add_argument("--space", metavar="NAME", help="standard space; default MNI152NLin2009aSym")
    group.add_argument(
        "--res", type=resolution, metavar="native|MM", help="voxel size in standard space; default 1 mm"
    )
    group.add_argument("--outputs", type=_names, metavar="LIST", help="comma-separated names, see below; default all")
    group.add_argument("--fill", type=fill_value, metavar="zero|min|V", help="value outside of the brain; default zero")
    group.add_argument("--viewer", action="store_true", help="a 3-D viewer page for each scan (extra 'viewer')")


def _lambda(text: str) -> float:
    value = number(text)
    low, high = LAMBDA_RANGE
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text} is outside of {low:g} to {high:g}")
    return value


def resolution(text: str) -> float | Literal["native"]:
    """Voxel size in standard space."""
    if text == "native":
        return "native"
    value = number(text)
    if not 0.2 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} mm is outside of 0.2 to 10 mm")
    return value


def _names(text: str) -> tuple[str, ...]:
    from neuralprep.bids.derivatives import BY_OUTPUT

    return names_among(text, BY_OUTPUT)


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
        "--keep-label": args.keep_label is not None,
        "--space": args.space is not None,
        "--res": args.res is not None,
        "--fill": args.fill is not None,
    }
    ruled_out = [
        (args.no_strip, "--no-strip", ("--border", "--no-csf", "--mask", "--keep-label", "--fill")),
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
        strip=not args.no_strip, normalize=not args.no_normalize, register=not args.no_register, on_request=True
    )
    for name in args.outputs or ():
        if name not in possible:
            off = [f"--no-{step}" for step in BY_OUTPUT[name].needs if getattr(args, f"no_{step}")]
            return f"--outputs {name} cannot be made with {' '.join(off)}"
    for flag, path in (("--mask", args.mask), ("--keep-label", args.keep_label)):
        if path is not None and not path.exists():
            return f"{flag} {path}: no such file or folder"
    if args.viewer:
        from neuralprep.report import viewer

        if not viewer.available():
            return f"--viewer needs a package that is not installed: {viewer.INSTALL}"
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
        keep=args.keep_label,
        native_resolution=native,
        overwrite=args.overwrite,
    )


def execute(args: argparse.Namespace) -> int:
    """Process the scans, show progress, print the table, return the exit code."""
    from neuralprep.bids.derived import check_plain

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    check_plain(args.out.expanduser())
    records = watch_batch(args, job_from(args))
    if args.viewer:
        from neuralprep.review.layers import write_viewers

        for fault in write_viewers(args.out.expanduser(), records):
            print(f"neuralprep: {fault}", file=sys.stderr)
    return conclude(args, records)
