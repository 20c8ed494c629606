"""How well an affine brings brains of different people together: overlap of their regions in template space.

No truth is needed: where the affines are right, the same region of two people lies at the same place, as far as an
affine allows. Source: Klein et al., NeuroImage 46:786 (2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from neuralprep.evaluation.overlap import dice_by_label, label_sizes
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.transform import Transform
from neuralprep.volume import Volume


def pairwise_dice(
    labels: Mapping[str, Volume],
    transforms: Mapping[str, Transform],
    grid: Grid,
    regions: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Dice of every region between every two people, after carrying their label maps to one grid.

    Parameters
    ----------
    labels
        Person to integer label map; 0 is background.
    transforms
        Person to pull-back, grid mm -> label map mm.
    grid
        Where they meet.
    regions
        Labels to score; None takes those that every person has.

    Returns
    -------
    list of dict
        A row per pair of people: ``case``, ``mean_dice`` over the regions, and ``by_region``.

    Raises
    ------
    ValueError
        Fewer than two people, or a person without a transform.
    """
    missing = sorted(labels.keys() - transforms.keys())
    if len(labels) < 2 or missing:
        raise ValueError(f"at least two people and a transform for each are needed (none for {missing})")
    if regions is None:
        common = set.intersection(*(set(label_sizes(volume.data)) for volume in labels.values()))
        regions = sorted(common)
    carried = {name: resample(volume, grid, transforms[name], order=0).data for name, volume in labels.items()}
    rows = []
    for one, other in combinations(sorted(carried), 2):
        found = dice_by_label(carried[one], carried[other])
        by_region = {label: found[label] for label in regions if label in found}
        mean = float(np.mean(list(by_region.values()))) if by_region else float("nan")
        rows.append({"case": f"{one}-{other}", "mean_dice": mean, "by_region": by_region})
    return rows
