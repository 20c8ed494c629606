"""Pictures of groups: outlines are drawn from coarser masks, and lie where the fine ones do."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.report import registration_figure
from neuralprep.report.registration_figure import group_picture
from neuralprep.transform import Affine
from neuralprep.volume import Volume


def ball(grid: Grid, radius: float) -> Volume:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    distance = np.linalg.norm(grid.voxel_to_world(index) - (3.0, -4.0, 5.0), axis=-1)
    return Volume((distance < radius).astype(np.uint8), grid)


def test_outlines_of_a_group_lie_where_those_of_its_fine_masks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, native = Grid.centered((150, 160, 140), 1.0), Grid.centered((60, 55, 58), (2.6, 2.8, 2.7))
    brain = ball(fine, 50)
    mean = brain.with_data(100 * brain.data.astype(np.float32))
    members = [(ball(native, 60), Affine.identity())]
    quick = group_picture(mean, brain, members).index
    monkeypatch.setattr(registration_figure, "_coarse", lambda grid: grid)
    exact = group_picture(mean, brain, members).index
    plain = group_picture(mean, brain, []).index
    drawn = [picture != plain for picture in (quick, exact)]
    assert drawn[1].sum() > 400
    for one, other in (drawn, drawn[::-1]):  # every pixel of a line is within two of the other line
        near = np.zeros_like(other)
        for x in range(-2, 3):
            for y in range(-2, 3):
                near |= np.roll(other, (x, y), (0, 1))
        assert (one & ~near).sum() == 0


def test_grids_that_are_coarse_stay_as_they_are() -> None:
    grid = Grid.centered((40, 41, 42), (2.0, 1.9, 3.0))
    assert registration_figure._coarse(grid).same_as(grid)
    fine = Grid.centered((11, 12, 13), (1.0, 0.6, 2.0))
    coarse = registration_figure._coarse(fine)
    assert coarse.shape == (6, 4, 13)
    assert coarse.voxel_to_world([(1, 1, 1)]) == pytest.approx(fine.voxel_to_world([(2, 3, 1)]))
