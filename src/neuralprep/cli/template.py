"""``neuralprep template IMAGES... OUT``: an unbiased template of a group of heads."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuralprep.cli.arguments import add_registration, number


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "template",
        help="make an unbiased template of a group of heads",
        description=(
            "Bring all IMAGES into one common space in which the mean of their transforms is the identity, and average "
            "them. No image is the reference and the order does not matter. Images are averaged by contrast, as their "
            "names' last part says it (_T1w, _FLAIR, ...). Written are the template with and without skull, its brain "
            "mask, the transforms of every image in both directions, a picture and a JSON."
        ),
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGES", help="files, folders, globs or lists")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("--type", dest="kind", choices=("rigid", "similarity", "affine", "svf"), default="affine",
                        help="what may differ between the images; svf: everything (a dense, diffeomorphic warp for "
                             "each image, after the affine); default affine")
    parser.add_argument("--stiffness", type=number, metavar="S",
                        help="of svf: 0 bends freely, 10 is nearly affine; default 0.1")
    parser.add_argument("--average", choices=("mean", "robust", "median"), default="mean",
                        help="robust: mean of what lies within 2.5 standard deviations; default mean")
    parser.add_argument("--pose", choices=("standard", "native"), default="standard",
                        help="standard: upright as MNI152, whatever the scanner says; native: the mean of the images' "
                             "own spaces; default standard")
    parser.add_argument("--no-refine", action="store_true", help="trust the keypoints alone")
    parser.add_argument("--images", dest="carry", action="store_true", help="write every image in the template's space")
    parser.add_argument("--res", type=number, metavar="MM", help="voxel size; default 1 mm")
    add_registration(parser)


def execute(args: argparse.Namespace) -> int:
    """Look, align, average, write."""
    from neuralprep.cli.group_files import group_kind, run_group
    from neuralprep.groupwise.align import GroupSettings

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    linear, bend = group_kind(args.kind, args.stiffness)
    settings = GroupSettings(linear, args.pose, not args.no_refine)
    return run_group(args, args.images, settings, "template", carry=args.carry, how=args.average, bend=bend)


def conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can."""
    if args.kind != "svf" and args.stiffness is not None:
        return "--stiffness has no effect without --type svf"
    if args.kind == "svf" and args.also:
        return "--also has no effect with --type svf, whose warps are written for ITK"
    return ""
