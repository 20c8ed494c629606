"""``neuralprep strip INPUT... OUT``: skull stripping alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuralprep.cli.arguments import fill_value, frame_number, names_among, number
from neuralprep.cli.batch import add_execution, conclude, watch_batch

if TYPE_CHECKING:
    from neuralprep.pipeline import Settings

#: names of --outputs -> what they are with the inner skull and, after the bar, with --no-csf
_NAMES = {
    "image": ("brain_image", "brain_image"),
    "mask": ("brain_mask", "nocsf_mask"),
    "icv": ("brain_mask", "brain_mask"),
    "nocsf": ("nocsf_mask", "nocsf_mask"),
    "distance": ("brain_distance", "nocsf_distance"),
    "uncertainty": ("uncertainty", "uncertainty"),
}
_EXPLAINED = """\
outputs (--outputs image,mask,... ; default image,mask):
  image        the scan without skull: values, data type and header as they were
  mask         what was cut out: the inside of the skull, or with --no-csf the brain
  icv, nocsf   the inside of the skull; brain tissue and ventricles
  distance     signed distance to the surface of the mask, mm, negative inside
  uncertainty  how far three looks at the head disagree about that surface, mm (model npp)

one scan to files of your own choice, nothing else is written:
  neuralprep strip scan.nii.gz brain.nii.gz [--mask-out FILE] [--distance-out FILE] [--uncertainty-out FILE]

models: npp (default; any contrast, CT included, seconds), mindgrab (the published network, minutes), mindgrab-2mm (its
tensors on a coarser grid, a sixth of the time; fetch either once with 'neuralprep weights get NAME'), or a
.safetensors file.

"""
_SINGLE_ONLY = {"mask_out": "mask", "distance_out": "distance", "uncertainty_out": "uncertainty"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    from neuralprep.cli import EXIT_CODES

    parser = subparsers.add_parser(
        "strip",
        help="strip the skull, and nothing else",
        description="Strip the skull from heads of any contrast, CT included, in 3-D or frame by frame.",
        epilog=f"{_EXPLAINED}{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder, glob, or list (.txt .csv .tsv)")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder; for one scan also the image to write")
    group = parser.add_argument_group("stripping")
    group.add_argument("--model", metavar="NAME|FILE", help="npp (default), mindgrab, mindgrab-2mm, or a weights file")
    group.add_argument("--border", type=number, metavar="MM", help="move the boundary out (or in, if negative)")
    group.add_argument("--no-csf", action="store_true", help="cut at the surface of the brain, not of the skull")
    group.add_argument("--keep-label", type=Path, metavar="FILE",
                       help="never strip the voxels that this label marks (or a folder, one per scan); any grid")
    group.add_argument("--frame", type=_frame, metavar="N|mean|each", help="which frame of a 4-D image (from 0), their "
                       "mean, or each of them, which gives 4-D outputs")  # fmt: skip
    group = parser.add_argument_group("outputs")
    group.add_argument("--outputs", type=_outputs, metavar="LIST", help="comma-separated names, see below")
    group.add_argument("--fill", type=fill_value, metavar="zero|min|V", help="value outside of the brain; default zero")
    group.add_argument("--no-report", action="store_true", help="no HTML pages, only images, records and the table")
    for flag, what in _SINGLE_ONLY.items():
        group.add_argument(f"--{flag.replace('_', '-')}", type=Path, metavar="FILE",
                           help=f"for one scan: also write the {what} to this file")
    add_execution(parser)


def _frame(text: str) -> int | Literal["mean", "each"]:
    return "each" if text == "each" else frame_number(text)


def _outputs(text: str) -> tuple[str, ...]:
    return names_among(text, _NAMES)


def conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can.

    Parameters
    ----------
    args : argparse.Namespace
        Of this verb.
    """
    if is_single(args):
        given = {"--outputs": args.outputs is not None, "--jobs": args.jobs > 1, "--overwrite": args.overwrite,
                 "--resume": args.resume, "--no-report": args.no_report, "--cluster": bool(args.cluster),
                 "--cluster-option": bool(args.cluster_option), "--time-limit": args.time_limit is not None,
                 }  # fmt: skip
        for flag, used in given.items():
            if used:
                return f"{flag} has no effect when OUT is a file: leave it out, or give a folder as OUT"
        from neuralprep.engine.single import may_be_scan

        if len(args.inputs) > 1 or not may_be_scan(Path(args.inputs[0]).expanduser()):
            return f"OUT is the file {args.out}, so INPUT must be one image; give a folder as OUT for more"
        if args.keep_label is not None and args.keep_label.is_dir():
            return "--keep-label is a folder, but OUT is one file: give the label of this scan"
    else:
        for name in _SINGLE_ONLY:
            if getattr(args, name) is not None:
                return f"--{name.replace('_', '-')} goes with a file as OUT; with a folder use --outputs"
        if args.fill is not None and args.outputs is not None and "image" not in args.outputs:
            return "--fill has no effect without the output 'image'"
    if args.keep_label is not None and not args.keep_label.exists():
        return f"--keep-label {args.keep_label}: no such file or folder"
    return ""


def is_single(args: argparse.Namespace) -> bool:
    """Whether OUT names one image instead of a folder."""
    from neuralprep.engine.inputs import image_stem

    return image_stem(args.out) is not None and not args.out.is_dir()


def settings_from(args: argparse.Namespace) -> Settings:
    """Settings that the arguments stand for."""
    from neuralprep.pipeline import Settings, check

    names = args.outputs or ("image", "mask")
    if is_single(args):
        names = ("image", *(kind for flag, kind in _SINGLE_ONLY.items() if getattr(args, flag) is not None))
    outputs = tuple(dict.fromkeys(_NAMES[name][args.no_csf] for name in names))
    chosen: dict[str, Any] = {"border_mm": args.border, "fill": args.fill, "threads": args.threads, "model": args.model}
    settings = Settings(
        normalize=False, register=False, quick=True, no_csf=args.no_csf, device=args.device, outputs=outputs,
        **{name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    check(settings)
    return settings


def execute(args: argparse.Namespace) -> int:
    """Strip the scans, show progress, print the table, return the exit code."""
    from neuralprep.engine.worker import Job

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    settings = settings_from(args)
    if is_single(args):
        return _single(args, settings)
    job = Job(settings, args.out.expanduser(), frame=args.frame, keep=args.keep_label, overwrite=args.overwrite,
              write_report=not args.no_report)
    return conclude(args, watch_batch(args, job), report=not args.no_report)


def _single(args: argparse.Namespace, settings: Settings) -> int:
    """One scan to the files that were named."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.cli.console import scan_line
    from neuralprep.engine.single import check_targets, strip_file
    from neuralprep.errors import NeuralprepError

    scan = Path(args.inputs[0]).expanduser()
    targets = {"brain_image": args.out.expanduser()}
    for flag, kind in _SINGLE_ONLY.items():
        if getattr(args, flag) is not None:
            targets[_NAMES[kind][args.no_csf]] = getattr(args, flag).expanduser()
    check_targets(scan, targets, args.keep_label)
    try:
        record = strip_file(scan, targets, settings, args.frame, args.keep_label)
    except NeuralprepError as error:
        print(f"neuralprep: {scan.name} failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    if not args.quiet:
        print(scan_line(record), file=sys.stderr)
    if args.verbose:
        for name, value in record.measures.items():
            print(f"    {name} = {value:.6g}", file=sys.stderr)
    return EXIT_OK
