"""The squared local correlation of two images, against the formula written out on the whole grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.registration.local_correlation import Level
from neuralprep.trilinear import trilinear

COARSE = (14, 17, 15)
WINDOW, FLOOR = 5, 1e-4


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    shape = tuple(2 * n - 1 for n in COARSE)
    radius = np.sqrt(sum(((g - (n - 1) / 2) / (0.3 * n)) ** 2 for g, n in zip(np.indices(shape), shape, strict=True)))
    pair = [5 * ndimage.gaussian_filter(rng.random(shape), 1.5) * (radius < 1) for _ in range(2)]
    return [one.astype(np.float32) for one in pair], radius < 1.1


def written_out(fixed, moving, counted):
    """Gradient of the mean of both^2 / (var_f var_m) by where the images are looked up, and that mean."""
    def local(values):
        return ndimage.uniform_filter(values.astype(np.float64), WINDOW, mode="constant")

    fixed, moving = fixed.astype(np.float64), moving.astype(np.float64)
    mean_f, mean_m = local(fixed), local(moving)
    both = local(fixed * moving) - mean_f * mean_m
    var_f, var_m = local(fixed**2) - mean_f**2 + FLOOR, local(moving**2) - mean_m**2 + FLOOR
    scale = np.where(counted, both / (var_f * var_m), 0)
    by_moving = scale * (fixed - mean_f - both / var_m * (moving - mean_m))
    by_fixed = scale * (moving - mean_m - both / var_f * (fixed - mean_f))
    slopes = zip(np.gradient(moving), np.gradient(fixed), strict=True)
    return np.stack([by_moving * m - by_fixed * f for m, f in slopes]), (scale * both).sum() / counted.sum()


@pytest.mark.parametrize("factor", [1, 2])
def test_direction_and_mean_are_those_of_the_formula_on_the_whole_grid(images, factor):
    (fixed, moving), counted = images
    if factor == 1:
        fixed, moving, counted = fixed[::2, ::2, ::2], moving[::2, ::2, ::2], counted[::2, ::2, ::2]
    direction, correlation = Level(fixed, moving, counted, factor).compare(np.zeros((3, *COARSE), np.float32))
    expected, mean = written_out(fixed, moving, counted)
    smooth = np.stack([ndimage.gaussian_filter(one, factor)[::factor, ::factor, ::factor] for one in expected])
    assert correlation == pytest.approx(mean, rel=1e-4)
    # single precision: a variance near the floor is a difference of squares a thousand times as large
    np.testing.assert_allclose(direction, smooth, atol=1e-3 * np.abs(smooth).max())


def test_images_are_carried_half_way_each(images):
    (fixed, moving), counted = images
    velocity = np.zeros((3, *COARSE), np.float32)
    velocity[1] = 1.5  # a shift of 1.5 voxels of the velocity's grid, half of it for either image: 1.5 of the images'
    where = np.indices(fixed.shape, dtype=np.float32)
    shift = np.array([0, 1.5, 0], np.float32)[:, None, None, None]
    carried = [trilinear([image], where + sign * shift)[0] for image, sign in ((fixed, -1), (moving, 1))]
    _, mean = written_out(*carried, counted)
    assert Level(fixed, moving, counted, 2).compare(velocity)[1] == pytest.approx(mean, rel=1e-4)


def test_a_step_the_way_it_points_raises_the_correlation(images):
    (fixed, moving), counted = images
    level = Level(fixed, moving, counted, 2)
    nothing = np.zeros((3, *COARSE), np.float32)
    direction, before = level.compare(nothing)
    for step in (0.05, 0.2):
        moved = (step / np.abs(direction).max()) * direction
        assert level.compare(moved)[1] > before
        assert level.compare(-moved)[1] < before


def test_exchanged_images_and_velocity_give_the_opposite_direction(images):
    (fixed, moving), counted = images
    rng = np.random.default_rng(0)
    velocity = np.stack([ndimage.gaussian_filter(rng.standard_normal(COARSE), 2) for _ in range(3)]).astype(np.float32)
    there, one = Level(fixed, moving, counted, 2).compare(velocity)
    back, other = Level(moving, fixed, counted, 2).compare(-velocity)
    assert one == pytest.approx(other, rel=1e-5)
    np.testing.assert_allclose(there, -back, atol=1e-5 * np.abs(there).max())


def test_voxels_whose_window_leaves_the_grid_do_not_count():
    rng = np.random.default_rng(1)
    fixed, moving = rng.random((2, 12, 12, 12), dtype=np.float32)
    everything, inner = np.ones(fixed.shape, bool), np.zeros(fixed.shape, bool)
    inner[2:-2, 2:-2, 2:-2] = True
    nothing = np.zeros((3, *fixed.shape), np.float32)
    all_direction, all_mean = Level(fixed, moving, everything, 1).compare(nothing)
    direction, mean = Level(fixed, moving, inner, 1).compare(nothing)
    assert all_mean == mean
    np.testing.assert_array_equal(all_direction, direction)


def test_nothing_to_compare_is_no_direction():
    image = np.ones((8, 8, 8), np.float32)
    direction, mean = Level(image, image, np.zeros(image.shape, bool), 1).compare(np.zeros((3, 8, 8, 8), np.float32))
    assert mean == 0
    assert not direction.any()
