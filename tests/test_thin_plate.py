"""Thin-plate splines: exactness, the dial, invariances, and an independent solver."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator

from neuralprep.errors import GeometryError
from neuralprep.grid import Grid
from neuralprep.thin_plate import ThinPlateSpline
from neuralprep.transform import jacobian_determinant


@pytest.fixture
def landmarks() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    fixed = rng.uniform(-70, 70, (96, 3))
    return fixed, fixed @ np.diag([1.05, 0.95, 1.0]) + [4, -7, 2] + rng.normal(0, 3, fixed.shape)


def least_squares_affine(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    root = np.sqrt(np.ones(len(x)) if weights is None else weights)[:, None]
    design = np.column_stack([x, np.ones(len(x))])
    return np.asarray(np.linalg.lstsq(design * root, y * root, rcond=None)[0])


def test_passes_through_every_landmark_without_stiffness(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = landmarks
    assert np.abs(ThinPlateSpline.fit(fixed, moving).apply(fixed) - moving).max() < 1e-9


def test_agrees_with_scipys_linear_kernel(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = landmarks
    points = np.random.default_rng(4).uniform(-90, 90, (200, 3))
    oracle = RBFInterpolator(fixed, moving, kernel="linear", degree=1)(points)
    assert np.abs(ThinPlateSpline.fit(fixed, moving).apply(points) - oracle).max() < 1e-8


@pytest.mark.parametrize("weighted", [False, True])
def test_tends_to_the_weighted_affine_fit(landmarks: tuple[np.ndarray, np.ndarray], weighted: bool) -> None:
    fixed, moving = landmarks
    weights = np.random.default_rng(5).uniform(0.1, 1, len(fixed)) if weighted else None
    spline = ThinPlateSpline.fit(fixed, moving, 1e6, weights)
    wanted = np.column_stack([fixed, np.ones(len(fixed))]) @ least_squares_affine(fixed, moving, weights)
    assert np.abs(spline.apply(fixed) - wanted).max() < 1e-3


def test_dial_moves_monotonically_from_exact_to_affine(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = landmarks
    misses = [np.linalg.norm(ThinPlateSpline.fit(fixed, moving, s).apply(fixed) - moving) for s in (0, 1e-3, 0.01, 1)]
    assert misses == sorted(misses)
    assert misses[0] < 1e-8 < misses[1]


def test_unit_of_length_and_number_of_landmarks_leave_the_dial_alone(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = landmarks
    points = fixed[:10] + 3
    once = ThinPlateSpline.fit(fixed, moving, 0.01).apply(points)
    metres = ThinPlateSpline.fit(fixed / 1000, moving / 1000, 0.01).apply(points / 1000)
    assert np.abs(metres * 1000 - once).max() < 1e-8
    # every landmark twice with a hair between: the same map as once
    twice = ThinPlateSpline.fit(np.concatenate([fixed, fixed + 1e-4]), np.concatenate([moving, moving]), 0.01)
    assert np.abs(twice.apply(points) - once).max() < 1e-2


def test_an_affine_motion_is_found_exactly_at_any_stiffness(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, _ = landmarks
    matrix = np.array([[1.1, 0.2, 0, 3], [-0.1, 0.9, 0.1, -5], [0, 0.05, 1.0, 8], [0, 0, 0, 1.0]])
    moved = fixed @ matrix[:3, :3].T + matrix[:3, 3]
    for stiffness in (0.0, 0.1, 10.0):
        spline = ThinPlateSpline.fit(fixed, moved, stiffness)
        assert np.allclose(spline.affine.matrix, matrix, atol=1e-8)
        assert np.abs(spline.weights).max() < 1e-8


def test_inverse_is_the_splines_own(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    fixed, moving = landmarks
    spline = ThinPlateSpline.fit(fixed, moving, 0.001)
    points = np.random.default_rng(6).uniform(-100, 100, (300, 3))
    assert np.abs(spline.inverse().apply(spline.apply(points)) - points).max() < 1e-4
    assert spline.inverse().inverse() is spline


def test_gradient_is_the_derivative(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    spline = ThinPlateSpline.fit(*landmarks)
    points = np.random.default_rng(7).uniform(-60, 60, (20, 3))
    step = 1e-4
    numeric = np.stack([(spline.apply(points + step * e) - spline.apply(points - step * e)) / (2 * step)
                        for e in np.eye(3)], axis=-1)
    assert np.abs(numeric - spline.gradient(points)).max() < 1e-6


def test_the_three_dimensional_kernel_does_not_fold(landmarks: tuple[np.ndarray, np.ndarray]) -> None:
    # 3 mm of noise on landmarks 30 mm apart; the two-dimensional kernel comes near to folding here
    grid = Grid((30, 30, 30), np.array([[5, 0, 0, -72.5], [0, 5, 0, -72.5], [0, 0, 5, -72.5], [0, 0, 0, 1.0]]))
    assert jacobian_determinant(ThinPlateSpline.fit(*landmarks), grid).min() > 0.2


def test_a_fold_is_reported_not_hidden() -> None:
    fixed = np.array([[x, y, z] for x in (-20, 0, 20) for y in (-20, 20) for z in (-20, 20)], float)
    moving = fixed.copy()
    moving[4:8, 0] = 80.0  # the middle plane is thrown far beyond the outer one
    spline = ThinPlateSpline.fit(fixed, moving)
    # Along x the map turns back between 25.8 and 53.9 mm; just short of that Newton's method runs into the turn.
    short = np.c_[np.linspace(20, 25.8, 59), np.zeros((59, 2))]
    with pytest.raises(GeometryError, match="folds"):
        spline.inverse().apply(short)


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "message"),
    [
        (np.zeros((3, 3)), np.zeros((3, 3)), {}, "too few"),
        (np.ones((6, 3)), np.ones((6, 3)), {}, "same|plane"),
        (np.c_[np.random.default_rng(0).normal(size=(8, 2)), np.zeros(8)], np.zeros((8, 3)), {}, "plane"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), {}, "finite"),
        (np.eye(5, 3), np.eye(4, 3), {}, "K, 3"),
        (np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 3)), {"stiffness": -1.0}, "stiffness"),
        (np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 3)), {"weights": -np.ones(8)}, "negative"),
    ],
)
def test_bad_landmarks(fixed: np.ndarray, moving: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        ThinPlateSpline.fit(fixed, moving, **options)
