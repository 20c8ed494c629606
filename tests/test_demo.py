from __future__ import annotations

import numpy as np
import pytest

from neuralprep.demo import random_pose, render
from neuralprep.grid import Grid
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume


@pytest.fixture(scope="module")
def head() -> tuple[Volume, Volume]:
    grid = Grid.centered((52, 60, 60), 4.0, (0, -8, -22), codes="RAS")
    return render(load_template(), grid, Affine.identity(), np.random.default_rng(0))


def test_pose_is_a_moderate_tilt() -> None:
    for seed in range(5):
        matrix = random_pose(np.random.default_rng(seed)).matrix[:3, :3]
        u, _, v = np.linalg.svd(matrix)
        angle = np.degrees(np.arccos((np.trace(u @ v) - 1) / 2))
        assert 8 < angle < 16
        assert 0.75 < np.linalg.det(matrix) < 1


def test_the_head_has_a_skull_between_brain_and_scalp(head: tuple[Volume, Volume]) -> None:
    image, mask = head
    inside = image.data[mask.data > 0]
    assert 1700 < (mask.data > 0).sum() * 64 / 1000 < 2500
    assert np.median(inside) > 350
    corner = image.data[:4, :4, :4]
    assert corner.mean() < 40
    # up from the vertex: brain, dark bone, bright scalp, air
    column = image.grid.world_to_voxel(np.array([[-30.0, -20.0, 0.0]]))[0].round().astype(int)
    top = int(np.flatnonzero(mask.data[column[0], column[1]])[-1])
    above = image.data[column[0], column[1], top + 1 : top + 9]
    assert above.max() > 400
    assert above[-1] < 60


def test_rendering_is_repeatable() -> None:
    grid = Grid.centered((26, 30, 30), 8.0, (0, -8, -22), codes="RAS")
    first, second = (render(load_template(), grid, Affine.identity(), np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(first.data, second.data)
