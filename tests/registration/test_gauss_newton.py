from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from scipy.spatial.transform import Rotation

from neuralprep.registration.exhaustive import score_matrices
from neuralprep.registration.gauss_newton import (
    BRAIN_RADIUS_MM,
    KINDS,
    Criterion,
    Kind,
    core_score,
    evaluate,
    fit_level,
    generators,
    project_to_kind,
    regressors,
)
from neuralprep.registration.pyramid import FixedLevel, MovingLevel, fixed_level, moving_level, sample_with_gradient
from samples import affine_matrix

CENTER = np.array([30.0, 32.0, 28.0])


def blobs(channels: int = 1, seed: int = 0) -> list[np.ndarray]:
    """Smooth random channels inside an ellipsoid, 2 mm voxels."""
    rng = np.random.default_rng(seed)
    index = np.moveaxis(np.indices((32, 32, 28)), 0, -1)
    ball = (((index - (15, 16, 14)) / (12, 12.5, 10)) ** 2).sum(axis=-1) < 1
    return [
        np.where(ball, 1 + 8 * ndi.gaussian_filter(rng.normal(size=ball.shape), 2.0), 0).astype(np.float32)
        for _ in range(channels)
    ]


def levels(channels: list[np.ndarray], moving: list[np.ndarray] | None = None) -> tuple[FixedLevel, MovingLevel]:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return fixed_level(channels, affine, 4.0), moving_level(moving or channels, affine, 4.0)


def near_identity(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.uniform(-0.06, 0.06, (3, 3))
    matrix[:3, 3] = rng.uniform(-3, 3, 3) + CENTER - matrix[:3, :3] @ CENTER
    return matrix


@pytest.mark.parametrize("criterion", ["ncc", "tissue"])
def test_score_is_the_multiple_correlation(criterion: Criterion) -> None:
    fractions = blobs(3)
    moving = [fractions[0] - 2 * fractions[2]] if criterion == "tissue" else blobs(3, seed=1)
    fixed, image = levels(fractions, moving)
    matrix = near_identity(0)
    points = fixed.points @ matrix[:3, :3].T + matrix[:3, 3]
    values = sample_with_gradient(image, points.astype(np.float32))[0].astype(float)
    expected = []
    for design, value in zip(regressors(fixed.values, criterion), values, strict=True):
        fitted = design @ np.linalg.lstsq(design, value, rcond=None)[0]
        expected.append(np.corrcoef(fitted, value)[0, 1] * (np.sign(np.corrcoef(design[:, 1], value)[0, 1]) or 1)
                        if criterion == "ncc" else np.corrcoef(fitted, value)[0, 1])  # fmt: skip
    found = evaluate(fixed, regressors(fixed.values, criterion), image, matrix, CENTER).score
    assert found == pytest.approx(np.mean(expected), abs=1e-5)
    assert score_matrices(fixed, image, matrix[None], criterion)[0] == pytest.approx(found, abs=2e-3)


@pytest.mark.parametrize("criterion", ["ncc", "tissue"])
def test_gradient_against_differences(criterion: Criterion) -> None:
    fractions = blobs(2)
    fixed, image = levels(fractions, [fractions[0] - fractions[1]] if criterion == "tissue" else None)
    designs, matrix = regressors(fixed.values, criterion), near_identity(1)
    found = evaluate(fixed, designs, image, matrix, CENTER).gradient

    def loss(step: np.ndarray) -> float:
        motion = np.eye(4)
        motion[:3, :3] += step[3:].reshape(3, 3) / BRAIN_RADIUS_MM
        motion[:3, 3] = step[:3] + CENTER - motion[:3, :3] @ CENTER
        if criterion == "tissue":
            return 1 - evaluate(fixed, designs, image, matrix @ motion, CENTER).score ** 2
        scores = [
            evaluate(FixedLevel(fixed.points, fixed.values[[c]], fixed.depth, 4.0), [designs[c]],
                     MovingLevel(image.channels[[c]], image.voxel_from_world, image.cut_faces),
                     matrix @ motion, CENTER).score
            for c in range(2)
        ]  # fmt: skip
        return sum(1 - score**2 for score in scores)

    differences = np.array([(loss(0.05 * unit) - loss(-0.05 * unit)) / 0.1 for unit in np.eye(12)])
    # The evaluated gradient is half of d(1 - R^2): a common factor does not matter to the step.
    np.testing.assert_allclose(2 * found, differences, atol=0.02 * np.abs(differences).max())


@pytest.mark.parametrize("kind", KINDS)
def test_fits_stay_of_their_kind_and_find_the_truth(kind: Kind) -> None:
    fixed, image = levels(blobs(2))
    start = project_to_kind(near_identity(2), kind, CENTER)
    matrix, score = fit_level(fixed, image, start, CENTER, kind)
    assert score > 0.99
    moved = fixed.points @ (matrix - np.eye(4))[:3, :3].T + matrix[:3, 3]
    assert np.linalg.norm(moved, axis=1).mean() < 0.2
    gram = matrix[:3, :3].T @ matrix[:3, :3]
    if kind == "rigid":
        np.testing.assert_allclose(gram, np.eye(3), atol=1e-9)
    if kind == "similarity":
        np.testing.assert_allclose(gram, np.eye(3) * gram[0, 0], atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("contrast", [(0.2, 1.0), (1.0, 0.2)])
def test_the_tissue_criterion_takes_either_contrast(contrast: tuple[float, float], seed: int) -> None:
    noise = blobs()[0]
    inside = noise != 0
    first = np.where(inside, 1 / (1 + np.exp(-3 * (noise - 1))), 0).astype(np.float32)
    second = np.where(inside, 1 - first, 0).astype(np.float32)
    fixed, image = levels([first, second], [contrast[0] * first + contrast[1] * second])
    matrix, score = fit_level(fixed, image, near_identity(seed), CENTER, "affine", "tissue")
    assert score > 0.99
    moved = fixed.points @ (matrix - np.eye(4))[:3, :3].T + matrix[:3, 3]
    assert np.linalg.norm(moved, axis=1).mean() < 0.3


def test_projection_to_a_kind() -> None:
    matrix = affine_matrix((0.2, 0.1, -0.4), (1.2, 0.9, 1.1), (3.0, -8.0, 12.0))
    rigid = project_to_kind(matrix, "rigid", CENTER)
    np.testing.assert_allclose(rigid[:3, :3], Rotation.from_rotvec((0.2, 0.1, -0.4)).as_matrix(), atol=1e-9)
    similar = project_to_kind(matrix, "similarity", CENTER)
    assert np.linalg.det(similar[:3, :3]) == pytest.approx(np.linalg.det(matrix[:3, :3]))
    for projected in (rigid, similar):
        np.testing.assert_allclose((projected - matrix) @ np.append(CENTER, 1.0), 0, atol=1e-9)
    np.testing.assert_array_equal(project_to_kind(matrix, "affine", CENTER), matrix)


def test_generators_are_orthonormal() -> None:
    for kind, count in zip(KINDS, (6, 7, 12), strict=True):
        basis = generators(kind)
        assert basis.shape == (12, count)
        np.testing.assert_allclose(basis.T @ basis, np.eye(count), atol=1e-12)


def test_a_transform_away_from_the_image_scores_worst() -> None:
    fixed, image = levels(blobs())
    away = np.eye(4)
    away[:3, 3] = 500.0
    assert evaluate(fixed, regressors(fixed.values, "ncc"), image, away, CENTER).score == -1.0


def test_core_score_sees_only_the_inside() -> None:
    channel = blobs()[0]
    fixed, image = levels([channel], [(channel != 0).astype(np.float32)])
    assert fit_level(fixed, image, np.eye(4), CENTER)[1] > 0.8  # the outline fits
    assert core_score(fixed, image, np.eye(4), CENTER, depth=6.0) < 0.5
    fixed, image = levels([channel])
    assert core_score(fixed, image, np.eye(4), CENTER, depth=6.0) > 0.99
    fixed, image = levels([(channel != 0).astype(np.float32)])
    assert core_score(fixed, image, np.eye(4), CENTER, depth=12.0) == 0.0
