"""Point errors of transforms whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.evaluation.affine import mean_point_error, point_error, points_in_box, points_in_mask
from neuralprep.grid import Grid
from neuralprep.transform import Affine


def shift(x: float, y: float, z: float) -> Affine:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return Affine(matrix)


def test_translation_error_is_its_length() -> None:
    points = np.random.default_rng(0).normal(0, 50, (40, 3))
    got = point_error(shift(1, 2, 3), shift(4, 2, 7), points)
    assert got.mean == got.median == pytest.approx(5)
    assert got.largest == got.percentile95 == pytest.approx(5)


def test_rotation_error_grows_with_the_radius() -> None:
    angle = np.deg2rad(10)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    points = np.array([[r, 0, 30.0] for r in (0, 20, 100)])
    got = point_error(Affine(matrix), shift(0, 0, 0), points)
    assert got.largest == pytest.approx(2 * 100 * np.sin(angle / 2))
    assert got.median == pytest.approx(2 * 20 * np.sin(angle / 2))
    assert mean_point_error(Affine(matrix), shift(0, 0, 0), points) == pytest.approx(got.mean)


def test_points_of_a_mask() -> None:
    grid = Grid((4, 5, 6), np.array([[0, 0, 2.0, 1], [-3, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]))
    mask = np.random.default_rng(1).random(grid.shape) < 0.5
    expected = np.array([grid.affine[:3, :3] @ v + grid.affine[:3, 3] for v in np.argwhere(mask)])
    np.testing.assert_allclose(points_in_mask(mask, grid), expected)
    thinned = points_in_mask(mask, grid, limit=10)
    assert 5 <= len(thinned) <= 10
    with pytest.raises(ValueError, match="shape"):
        points_in_mask(mask[1:], grid)
    with pytest.raises(ValueError, match="no points"):
        point_error(shift(0, 0, 0), shift(0, 0, 0), points_in_mask(np.zeros(grid.shape), grid))


def test_points_of_a_box_reach_its_corners() -> None:
    grid = Grid((4, 5, 6), np.diag([2.0, 2, 2, 1]))
    points = points_in_box(grid, 3)
    assert points.shape == (27, 3)
    np.testing.assert_allclose(points.min(0), 0)
    np.testing.assert_allclose(points.max(0), [6, 8, 10])
