from __future__ import annotations

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.registration.pyramid import (
    block_factors,
    block_mean,
    center_of_mass,
    fixed_level,
    moving_level,
    reduce,
    sample_with_gradient,
)
from samples import affine_matrix

OBLIQUE = affine_matrix((0.2, -0.3, 0.15), (-1.1, 0.9, 2.3), (22.0, -25.0, -20.0))


def ramp(shape: tuple[int, int, int], affine: np.ndarray, slope: np.ndarray) -> np.ndarray:
    index = np.moveaxis(np.indices(shape), 0, -1)
    return ((index @ affine[:3, :3].T + affine[:3, 3]) @ slope).astype(np.float32)


def test_block_mean_against_a_loop() -> None:
    image = np.random.default_rng(0).random((6, 7, 9)).astype(np.float32)
    result = block_mean(image, (2, 3, 1))
    padded = np.concatenate([image, image[:, -1:], image[:, -1:]], axis=1)
    expected = padded.reshape(3, 2, 3, 3, 9).mean(axis=(1, 3))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_block_mean_takes_masks_and_integers() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[:2] = True
    np.testing.assert_array_equal(block_mean(mask, (4, 4, 4)), [[[0.5]]])
    assert block_mean(np.full((4, 4, 4), 30_000, np.int16), (4, 4, 4)) == 30_000


def test_blocks_leave_two_samples_along_thin_axes() -> None:
    assert block_factors((256, 256, 5), np.array([0.5, 0.5, 1.0]), 4.0) == (8, 8, 2)
    assert block_factors((256, 256, 20), np.array([1.0, 1.0, 6.0]), 4.0) == (4, 4, 1)


def test_reducing_keeps_places_in_the_world() -> None:
    slope = np.array([1.0, -2.0, 0.5])
    image, affine = reduce(ramp((36, 40, 24), OBLIQUE, slope), OBLIQUE, 4.0, 0.0)
    np.testing.assert_allclose(image, ramp(image.shape, affine, slope), atol=1e-3)


def test_linear_images_are_sampled_exactly_with_their_slope() -> None:
    slope = np.array([1.0, -2.0, 0.5])
    level = moving_level([ramp((40, 40, 24), OBLIQUE, slope)], OBLIQUE, 2.0)
    inside = np.random.default_rng(1).uniform((12, 12, 8), (28, 28, 16), (50, 3))
    points = inside @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
    values, gradients, known = sample_with_gradient(level, points.astype(np.float32))
    np.testing.assert_allclose(values[0], points @ slope, atol=2e-3)
    np.testing.assert_allclose(gradients[0], np.tile(slope, (50, 1)), atol=2e-3)
    assert known.all()


def test_gradient_is_the_derivative_of_the_interpolant() -> None:
    image = np.random.default_rng(2).random((12, 14, 10)).astype(np.float32)
    level = moving_level([image], np.eye(4), 2.0)
    points = np.random.default_rng(3).uniform(2, 8, (40, 3)).astype(np.float32)
    middle = np.floor(points) + np.clip(points - np.floor(points), 0.1, 0.9)
    _, gradients, _ = sample_with_gradient(level, middle)
    for axis in range(3):
        step = np.zeros(3, np.float32)
        step[axis] = 0.05
        ahead, behind = (sample_with_gradient(level, middle + sign * step)[0][0] for sign in (1, -1))
        np.testing.assert_allclose(gradients[0, :, axis], (ahead - behind) / 0.1, atol=1e-4)


def test_beyond_a_cut_face_nothing_is_known() -> None:
    image = np.zeros((20, 20, 20), np.float32)
    image[5:15, 5:15, 5:] = 1.0
    level = moving_level([image], np.eye(4), 1.0)
    np.testing.assert_array_equal(level.cut_faces, [[False, False], [False, False], [False, True]])
    outside = np.array([[-5, 10, 10], [10, 30, 10], [10, 10, -4], [10, 10, 25]], np.float32)
    values, gradients, known = sample_with_gradient(level, outside)
    np.testing.assert_array_equal(known, [True, True, True, False])
    assert not values[0, :3].any()
    assert not gradients[0, :3].any()


def test_fixed_points_lie_within_the_margin_of_the_mask() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[10:30, 10:30, 10:30] = True
    level = fixed_level([mask.astype(np.float32)], np.diag([2.0, 2.0, 2.0, 1.0]), 4.0, mask, margin=8.0)
    low, high = level.points.min(axis=0), level.points.max(axis=0)
    assert (low >= 20 - 8 - 4).all()
    assert (high <= 58 + 8 + 4).all()
    assert level.values.shape == (1, len(level.points))
    core = level.core(10.0)
    assert 0 < len(core.points) < len(level.points)
    assert (np.abs(core.points - 39).max(axis=1) < 20 - 10 + 4).all()


def test_center_of_mass_ignores_contrast() -> None:
    shape = (30, 32, 20)
    index = np.moveaxis(np.indices(shape), 0, -1)
    ball = ((index - (14, 15, 10)) ** 2 @ (1.0, 1.0, 2.0)) < 64
    uneven = np.where(ball, 1 + index[..., 0], 0).astype(np.float32)
    center, radius = center_of_mass([uneven], np.eye(4))
    same, _ = center_of_mass([ball], np.eye(4))
    np.testing.assert_allclose(center, (14, 15, 10), atol=0.2)
    np.testing.assert_allclose(center, same)
    assert radius == pytest.approx(np.sqrt(((index[ball] - (14, 15, 10)) ** 2).sum(axis=1).mean()), rel=0.1)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(InputError, match="zero everywhere"):
        center_of_mass([np.zeros((8, 8, 8), np.float32)], np.eye(4))
