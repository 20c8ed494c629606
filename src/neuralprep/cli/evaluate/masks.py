"""``neuralprep evaluate masks RESULT TRUTH``."""

from __future__ import annotations

import argparse

from neuralprep.cli.evaluate.scoring import EXITS, add_pair_arguments, score

_EPILOG = f"""\
definitions:
  sensitivity, specificity   of voxels; specificity depends on how much air the field of view holds
  surface distances          mm, over the area of both surfaces together (as DeepMind's surface-distance has them), or
                             over their voxels (as MONAI has them; thick slices then count too little). The Hausdorff
                             distances are the larger of the two directed ones. An empty result has Dice 0 and
                             infinite distances, which the summary counts apart

{EXITS}
"""
_COLUMNS = ("dice", "jaccard", "sensitivity", "specificity", "msd", "rmsd", "hd95", "hd", "volume", "volume_error")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "masks",
        help="overlap, surface distances and volumes of masks",
        description="Score brain masks (or any masks) against true ones: two files, or two folders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser, "mask")
    group = parser.add_argument_group("reading")
    group.add_argument("--threshold", type=float, metavar="V", help="a mask is what is above this; default: not zero")
    group.add_argument("--resample", action="store_true", help="carry results to the truth's grid where grids differ")
    group = parser.add_argument_group("what counts")
    group.add_argument("--surface", choices=("elements", "voxels"), default="elements", help="what a surface is made "
                       "of: elements weighted by their area (default), or voxels that count alike")
    group.add_argument("--tolerance", type=float, metavar="MM", help="also give the surface Dice at this distance")


def execute(args: argparse.Namespace) -> int:
    """Score, print, write; 1 if a case could not be scored."""
    from functools import partial

    from neuralprep.evaluation.measures import MaskSettings, measure_masks

    if args.tolerance is not None and (args.tolerance < 0 or args.surface == "voxels"):
        args.error("--tolerance must not be negative and needs --surface elements")
    settings = MaskSettings(args.threshold, args.resample, args.surface, args.tolerance)
    columns = _COLUMNS if args.tolerance is None else ("dice", "surface_dice", *_COLUMNS[1:])
    return score(args, partial(measure_masks, settings), columns)[1]
