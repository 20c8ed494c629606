"""``neuralprep evaluate images RESULT TRUTH``."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuralprep.cli.evaluate.scoring import EXITS, add_pair_arguments, score

_EPILOG = f"""\
definitions:
  SSIM   Gaussian window of 5 voxels (sigma 1.5), as NPP has it; mean over the whole volume, background included, or
         over --mask
  PSNR   10 log10(range^2 / mean squared error), dB
  range  of SSIM and PSNR: that of the truth's values, or --range

{EXITS}
"""
_COLUMNS = ("ssim", "psnr", "mae", "correlation")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "images",
        help="SSIM, PSNR, absolute error and correlation of images",
        description="Score images against true ones: two files, or two folders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser, "image")
    group = parser.add_argument_group("what counts")
    group.add_argument("--mask", type=Path, help="average within this mask (or folder of masks) only")
    group.add_argument("--range", type=float, metavar="V", help="range of values, e.g. 255; default the truth's own")
    group.add_argument("--match-scale", action="store_true", help="first bring results to the truth's scale by one "
                       "factor each")
    group.add_argument("--resample", action="store_true", help="carry results to the truth's grid where grids differ")


def execute(args: argparse.Namespace) -> int:
    """Score, print, write; 1 if a case could not be scored."""
    from functools import partial

    from neuralprep.evaluation.measures import ImageSettings, measure_images

    if args.range is not None and not args.range > 0:
        args.error("--range must be positive")
    settings = ImageSettings(args.mask, args.key, args.range, args.match_scale, args.resample)
    columns = (*_COLUMNS, "factor") if args.match_scale else _COLUMNS
    return score(args, partial(measure_images, settings), columns)[1]
