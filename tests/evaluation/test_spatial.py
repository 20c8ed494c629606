"""Regions of several people in one space, with transforms that are right, and wrong by a known amount."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.evaluation.spatial import pairwise_dice
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume


def people() -> tuple[dict[str, Volume], dict[str, Affine], Grid]:
    """One label map seen by three scanners: the transforms bring them back together exactly."""
    labels = np.zeros((20, 20, 20), np.int16)
    labels[4:10, 4:16, 4:16], labels[10:16, 4:16, 4:16] = 1, 2
    grid = Grid(labels.shape, np.diag([2.0, 2, 2, 1]))
    volumes, transforms = {}, {}
    for k, name in enumerate("abc"):
        move = np.eye(4)
        move[:3, 3] = 10 * k, -4 * k, 6
        volumes[name], transforms[name] = Volume(labels, Grid(grid.shape, move @ grid.affine)), Affine(move)
    return volumes, transforms, grid


def test_right_transforms_bring_everyone_together() -> None:
    rows = pairwise_dice(*people())
    assert [row["case"] for row in rows] == ["a-b", "a-c", "b-c"]
    assert all(row["mean_dice"] == 1 and row["by_region"] == {1: 1.0, 2: 1.0} for row in rows)


def test_a_shift_costs_what_it_must() -> None:
    volumes, transforms, grid = people()
    shift = np.eye(4)
    shift[0, 3] = 4.0  # two voxels of regions that are six wide
    transforms["b"] = Affine(shift @ transforms["b"].matrix)
    rows = {row["case"]: row for row in pairwise_dice(volumes, transforms, grid)}
    assert rows["a-b"]["by_region"][1] == pytest.approx(4 / 6)
    assert rows["a-c"]["mean_dice"] == 1
    assert pairwise_dice(volumes, transforms, grid, [2])[0]["by_region"].keys() == {2}
    odd = volumes["c"].data.copy()
    odd[odd == 2] = 3  # not everyone has a region 2 or 3
    rows = pairwise_dice(volumes | {"c": volumes["c"].with_data(odd)}, transforms, grid)
    assert all(row["by_region"].keys() == {1} for row in rows)
    del transforms["c"]
    with pytest.raises(ValueError, match="none for"):
        pairwise_dice(volumes, transforms, grid)
