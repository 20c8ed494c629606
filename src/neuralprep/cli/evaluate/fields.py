"""``neuralprep evaluate fields RESULT TRUTH``."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuralprep.cli.evaluate.scoring import EXITS, add_pair_arguments, score

_EPILOG = f"""\
A field is known up to a global factor only, so every field is first brought to the truth's scale. Give two fields of
the same kind: both the multiplier (clean image over scan) or both the bias (scan over clean image), never logarithms.

definitions:
  gain error   standard deviation of log(field / truth): 0.1 is an error of about 10 %
  SSIM         windows see the mask only, so its edge counts neither as agreement nor as error
  PSNR         the peak is the truth's 99th percentile in the mask

{EXITS}
"""
_COLUMNS = ("gain_error", "field_ssim", "field_psnr", "factor")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "fields",
        help="gain error, SSIM and PSNR of bias or multiplier fields",
        description="Score bias fields against true ones, up to a global factor: two files, or two folders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser, "field")
    group = parser.add_argument_group("what counts")
    group.add_argument("--mask", type=Path, help="compare within this mask (or folder of masks) only; default: where "
                       "both fields are positive")
    group.add_argument("--resample", action="store_true", help="carry results to the truth's grid where grids differ")


def execute(args: argparse.Namespace) -> int:
    """Score, print, write; 1 if a case could not be scored."""
    from functools import partial

    from neuralprep.evaluation.measures import ImageSettings, measure_fields

    settings = ImageSettings(mask=args.mask, key=args.key, carry=args.resample)
    return score(args, partial(measure_fields, settings), _COLUMNS)[1]
