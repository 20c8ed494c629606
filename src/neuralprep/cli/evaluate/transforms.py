"""``neuralprep evaluate transforms RESULT TRUTH``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.cli.evaluate.scoring import EXITS, add_pair_arguments, score

if TYPE_CHECKING:
    import numpy as np

    from neuralprep.evaluation.cases import Pair
    from neuralprep.evaluation.measures import CaseScores

_EPILOG = f"""\
Both transforms must go the same way: points of the fixed image (for example MNI space) to points of the moving one.
Files: ITK affine (.mat, .txt, .tfm), ITK composite (.h5), displacement field (.nii.gz), LTA, plain 4x4 text in RAS mm.

{EXITS}
"""
_ENDINGS = (".mat", ".txt", ".tfm", ".h5", ".lta", ".nii", ".nii.gz")
_COLUMNS = ("mean_mm", "median_mm", "p95_mm", "max_mm")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "transforms",
        help="distance in mm between where two transforms put the same points",
        description="Score transforms against true ones: two files, or two folders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser, "transform")
    group = parser.add_argument_group("where")
    where = group.add_mutually_exclusive_group(required=True)
    where.add_argument("--mask", type=Path, help="over the voxels of this mask (or folder of masks) of the fixed image")
    where.add_argument("--points", type=Path, metavar="FILE", help="at these points: text, x y z in RAS mm per line")
    where.add_argument("--image", type=Path, help="evenly over the field of view of this (fixed) image")
    group.add_argument("--invert-result", action="store_true", help="the results go the other way: take their inverses")


def execute(args: argparse.Namespace) -> int:
    """Score, print, write; 1 if a case could not be scored."""
    from functools import partial

    measure = partial(_measure, args.mask, args.points, args.image, args.key, args.invert_result)
    return score(args, measure, _COLUMNS, endings=_ENDINGS)[1]


def _measure(
    mask: Path | None, points: Path | None, image: Path | None, key: str | None, invert: bool, method: str, pair: Pair
) -> CaseScores:
    from neuralprep.evaluation.measures import CaseScores
    from neuralprep.evaluation.scores import score_transforms
    from neuralprep.formats import read_transform

    found, truth = read_transform(pair.prediction), read_transform(pair.truth)
    where = _points(mask, points, image, key, pair)
    return CaseScores(pair.name, method, score_transforms(found.inverse() if invert else found, truth, where))


def _points(mask: Path | None, points: Path | None, image: Path | None, key: str | None, pair: Pair) -> np.ndarray:
    from neuralprep.errors import InputError
    from neuralprep.evaluation.affine import points_in_box, points_in_mask, read_points
    from neuralprep.evaluation.cases import partner, read_mask
    from neuralprep.volume import load

    if points is not None:
        return read_points(points)
    if image is not None:
        return points_in_box(load(image, checks=False).grid)
    assert mask is not None
    path = partner(pair.name, mask, key)
    inside = read_mask(path)
    if not inside.data.any():
        raise InputError(f"{path}: the mask is empty; there are no points to compare the transforms on")
    return points_in_mask(inside.data, inside.grid)
