from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuralprep.registration.rotations import (
    axis_rotations,
    quaternions_to_matrices,
    rotation_angle,
    search_rotations,
    spiral_rotations,
)


def test_axis_rotations_are_the_24_and_start_with_the_identity() -> None:
    found = axis_rotations()
    np.testing.assert_array_equal(found[0], np.eye(3))
    assert len({tuple(matrix.ravel()) for matrix in found}) == 24
    np.testing.assert_allclose(np.linalg.det(found), 1.0)


def test_matrices_agree_with_scipy() -> None:
    quaternions = np.random.default_rng(0).normal(size=(20, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    expected = Rotation.from_quat(np.roll(quaternions, -1, axis=1)).as_matrix()
    np.testing.assert_allclose(quaternions_to_matrices(quaternions), expected, atol=1e-12)


def test_spirals_leave_no_gap() -> None:
    tried = Rotation.from_matrix(spiral_rotations(1500))
    anywhere = Rotation.random(300, random_state=1)
    nearest = [np.degrees((tried.inv() * one).magnitude().min()) for one in anywhere]
    assert np.mean(nearest) < 14
    assert np.max(nearest) < 25


def test_seeds_turn_the_spirals_and_keep_the_axes() -> None:
    first, second = search_rotations(100), search_rotations(100, seed=7)
    assert len(first) == len(second) == 100
    np.testing.assert_array_equal(first[:24], second[:24])
    np.testing.assert_allclose(np.linalg.det(second), 1.0)
    assert rotation_angle(first[30], second[30]) > 1


@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0])
def test_angle(degrees: float) -> None:
    turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    assert rotation_angle(turn, np.eye(3)) == pytest.approx(degrees, abs=1e-5)
