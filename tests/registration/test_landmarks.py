"""Closed-form fits: exact recovery, symmetry, robustness, SciPy as the independent judge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from neuralprep.errors import GeometryError
from neuralprep.registration.landmarks import fit_landmarks, residual_mm
from neuralprep.transform import Affine


def scene(seed: int, noise_mm: float = 0.0, count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks in a box that is no cube, and the same moved by a rotation (any angle) and a shift."""
    rng = np.random.default_rng(seed)
    fixed = rng.uniform(-1, 1, (count, 3)) * [40, 90, 60]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = rng.uniform(-80, 80, 3)
    return fixed, Affine(matrix).apply(fixed) + rng.normal(0, noise_mm, fixed.shape), matrix


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_motions_of_each_kind_are_found_exactly(seed: int) -> None:
    fixed, moving, matrix = scene(seed)
    for kind in ("rigid", "similarity", "affine"):
        assert np.allclose(fit_landmarks(fixed, moving, kind).matrix, matrix, atol=1e-6)
    grown = moving * 1.2
    assert np.allclose(fit_landmarks(fixed, grown, "similarity").matrix[:3], 1.2 * matrix[:3], atol=1e-6)
    sheared = moving @ np.array([[1.1, 0.1, 0], [0, 0.9, 0.05], [0.1, 0, 1.0]])
    assert residual_mm(fit_landmarks(fixed, sheared, "affine"), fixed, sheared).max() < 1e-6


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_exchanging_the_images_gives_the_inverse(kind: str) -> None:
    fixed, moving, _ = scene(1, noise_mm=4.0)
    weights = np.random.default_rng(2).uniform(0.1, 1, len(fixed))
    there, back = (fit_landmarks(*pair, kind, weights) for pair in ((fixed, moving), (moving, fixed)))
    assert np.allclose((there.matrix @ back.matrix), np.eye(4), atol=1e-5)


def test_rigid_stays_rigid_and_agrees_with_scipy() -> None:
    fixed, moving, _ = scene(3, noise_mm=5.0)
    weights = np.random.default_rng(4).uniform(0.1, 1, len(fixed))
    found = fit_landmarks(fixed, moving, "rigid", weights, outlier_mm=None).matrix
    assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(found[:3, :3]) == pytest.approx(1)
    share = weights / weights.sum()
    oracle, _ = Rotation.align_vectors(moving - share @ moving, fixed - share @ fixed, weights=weights)
    assert np.allclose(found[:3, :3], oracle.as_matrix(), atol=1e-9)


def test_a_mirrored_set_never_gives_a_reflection() -> None:
    fixed, _, _ = scene(5)
    mirrored = fixed * [-1, 1, 1]
    assert np.linalg.det(fit_landmarks(fixed, mirrored, "rigid").matrix[:3, :3]) > 0
    with pytest.raises(GeometryError, match="mirrored"):
        fit_landmarks(fixed, mirrored, "affine")


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_gross_outliers_hardly_move_the_robust_fit(kind: str) -> None:
    fixed, moving, matrix = scene(6, noise_mm=0.5, count=60)
    moving[:6] += np.random.default_rng(7).uniform(30, 60, (6, 3))
    robust, plain = (fit_landmarks(fixed, moving, kind, outlier_mm=limit) for limit in (5.0, None))
    error, plain_error = (np.linalg.norm(f.apply(fixed) - Affine(matrix).apply(fixed), axis=1).mean()
                          for f in (robust, plain))
    assert error < 1.5 < plain_error


def test_landmarks_without_weight_do_not_count() -> None:
    fixed, moving, matrix = scene(8)
    moving[:10] += 50
    weights = np.r_[np.zeros(10), np.ones(30)]
    assert np.allclose(fit_landmarks(fixed, moving, "affine", weights).matrix, matrix, atol=1e-6)


def test_spline_is_the_dial_beyond_the_affine() -> None:
    fixed, moving, _ = scene(9, noise_mm=2.0)
    exact = fit_landmarks(fixed, moving, "tps", stiffness=0.0)
    stiff = fit_landmarks(fixed, moving, "tps", stiffness=1e5, outlier_mm=None)
    assert residual_mm(exact, fixed, moving).max() < 1e-8
    plain = np.linalg.lstsq(np.c_[fixed, np.ones(len(fixed))], moving, rcond=None)[0]
    assert np.allclose(stiff.apply(fixed), np.c_[fixed, np.ones(len(fixed))] @ plain, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "flatten", "kind", "message"),
    [(2, 0, "rigid", "too few"), (3, 0, "affine", "too few"), (8, 1, "affine", "plane"), (8, 2, "rigid", "line"),
     (8, 0, "bspline", "kind")],
)
def test_undetermined_fits_are_refused(count: int, flatten: int, kind: str, message: str) -> None:
    fixed, _, _ = scene(10, count=count)
    fixed[:, :flatten] = 0
    with pytest.raises(GeometryError, match=message):
        fit_landmarks(fixed, fixed + 1, kind)
