"""Surfaces moved to where a scan shows them: known shapes, contrasts of either sign, invariances."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.stages.sharpen import SKULL, TISSUE, Sharpening, evidence, sharpened

GRID = Grid.centered((96, 100, 92), 1.0)
CENTERS = GRID.voxel_to_world(np.stack(np.meshgrid(*[np.arange(n) for n in GRID.shape], indexing="ij"), -1))
RADIUS = np.linalg.norm(CENTERS, axis=-1).astype(np.float32)
TRUTH = RADIUS - 33


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return 2 * float((one & two).sum()) / float(one.sum() + two.sum())


def shown(inside: np.ndarray, inner: float, outer: float, noise: float, seed: int = 0) -> np.ndarray:
    """A scan that shows ``inside``."""
    image = np.where(inside, inner, outer) + noise * np.random.default_rng(seed).standard_normal(inside.shape)
    return image.astype(np.float32)


def wavy(depth: float) -> np.ndarray:
    """Distance to the ball whose surface is off by up to ``depth`` mm, in and out over 12 mm."""
    x, y, z = (np.sin(CENTERS[..., axis] * (2 * np.pi / 24)) for axis in range(3))
    return (TRUTH + depth * x * y * z * 2).astype(np.float32)


@pytest.mark.parametrize(("inner", "outer"), [(100, 30), (30, 100)])
@pytest.mark.parametrize(("how", "left"), [(SKULL, 0.5), (TISSUE, 0.25)])
def test_a_surface_that_is_off_goes_where_the_scan_shows_it(
    how: Sharpening, left: float, inner: float, outer: float
) -> None:
    prior = wavy(1.2)
    made = sharpened(prior, shown(TRUTH < 0, inner, outer, 15), GRID, how)
    before, after = dice(prior <= 0, TRUTH < 0), dice(made <= 0, TRUTH < 0)
    assert before < 0.985
    assert 1 - after < left * (1 - before)


def test_folds_too_narrow_for_the_network_open() -> None:
    azimuth = np.arctan2(CENTERS[..., 1], CENTERS[..., 0])
    fold = (np.abs(np.sin(4 * azimuth)) * RADIUS < 3.0) & (TRUTH > -1.4) & (TRUTH < 0)
    tissue = (TRUTH < 0) & ~fold
    image = shown(tissue, 100, 40, 6)
    made = sharpened(TRUTH, image, GRID, TISSUE) <= 0
    assert fold.sum() > 1000
    assert (fold & made).sum() < 0.3 * fold.sum()
    assert (tissue & ~made).sum() < 0.01 * tissue.sum()


def test_where_both_sides_look_alike_the_surface_stays() -> None:
    prior = wavy(1.2)
    made = sharpened(prior, shown(TRUTH < 0, 50, 50, 10), GRID, SKULL)
    assert dice(made <= 0, prior <= 0) > 0.998
    assert np.abs(made - prior).mean() < 0.05


def test_only_the_order_of_intensities_counts() -> None:
    image = shown(TRUTH < 0, 90, 40, 12).clip(1)
    first = evidence(wavy(1.0), image, GRID.spacing, SKULL)
    for changed in (image**2, np.log(image.astype(np.float64)), 3 * image - 700):
        assert np.array_equal(first, evidence(wavy(1.0), changed, GRID.spacing, SKULL))
    inverted = evidence(wavy(1.0), -image, GRID.spacing, SKULL)
    assert np.abs(first - inverted).mean() < 0.02 * np.abs(first).mean()


@pytest.mark.parametrize("out_mm", [-1.0, 1.0])
def test_distances_follow_the_surface_and_agree_with_it_in_sign(out_mm: float) -> None:
    image = shown(33 + out_mm > RADIUS, 100, 20, 5)
    made = sharpened(TRUTH, image, GRID, SKULL)
    told = evidence(TRUTH, image, GRID.spacing, SKULL)
    inside = made <= 0
    assert np.array_equal(inside, TRUTH + told <= 0)
    radius = (3 / (4 * np.pi) * inside.sum()) ** (1 / 3)
    assert 0.3 < (radius - 33) / out_mm < 1
    away = (np.abs(TRUTH) > 4) & (np.abs(TRUTH) < 12)
    assert np.abs(made - (RADIUS - radius))[away].max() < 0.35  # a third of a voxel


def test_axes_may_lie_any_way() -> None:
    image, prior = shown(TRUTH < 0, 100, 40, 15), wavy(1.0)
    straight = sharpened(prior, image, GRID, TISSUE)
    turned = Grid((92, 96, 100), GRID.affine[:, [2, 0, 1, 3]])
    other = sharpened(np.asfortranarray(prior.transpose(2, 0, 1)), image.transpose(2, 0, 1), turned, TISSUE)
    assert (other <= 0).sum() == (straight <= 0).sum()
    assert np.abs(other.transpose(1, 2, 0) - straight).max() < 1e-3


def test_slices_as_thick_as_folds_are_served_too() -> None:
    grid = Grid((96, 100, 23), GRID.affine @ np.diag([1, 1, 4, 1.0]))
    prior = wavy(1.2)[:, :, ::4]
    truth = TRUTH[:, :, ::4] < 0
    made = sharpened(prior, shown(truth, 100, 30, 15), grid, SKULL)
    assert 1 - dice(made <= 0, truth) < 0.4 * (1 - dice(prior <= 0, truth))


def test_evidence_comes_only_from_where_it_is_said_to() -> None:
    image = shown(TRUTH < 1, 100, 20, 5)
    upper = CENTERS[..., 2] > 0
    told = evidence(TRUTH, image, GRID.spacing, SKULL, upper)
    assert not told[CENTERS[..., 2] < -1].any()
    assert told[upper & (np.abs(TRUTH) < 0.5)].mean() < -0.5


def test_a_surface_within_the_fluid_is_not_drawn_further_in() -> None:
    """Of dark fluid under dark bone the network saw too little: what it calls outside is fluid first, then bone."""
    image = shown(RADIUS < 30.5, 100, 30, 5) - np.where(RADIUS > 36, 10, 0).astype(np.float32)
    drawn_in = RADIUS - 32.2
    brain = RADIUS < 31
    fluid = image[(RADIUS > 31.5) & (RADIUS < 33)]
    alone = sharpened(drawn_in, image, GRID, SKULL) <= 0
    told = sharpened(drawn_in, image, GRID, SKULL, fluid=fluid) <= 0
    before = (drawn_in <= 0).sum()
    assert before - told.sum() < 0.6 * (before - alone.sum())
    assert told[brain].all()


def test_too_little_to_tell_leaves_the_distance_as_it_is() -> None:
    far = np.full(GRID.shape, 15, np.float32)
    assert sharpened(far, np.zeros(GRID.shape, np.float32), GRID, SKULL) is far
    nowhere = np.zeros(GRID.shape, bool)
    assert sharpened(TRUTH, shown(TRUTH < 0, 9, 1, 1), GRID, TISSUE, nowhere) is TRUTH
