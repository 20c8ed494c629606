"""Masks on the native grid, and the multiplier field, from predictions with known answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.grid import Grid
from neuralprep.inference.session import Prediction
from neuralprep.stages.brain import (
    DISTANCE_LIMIT_MM,
    GIVEN_MM,
    _filled,
    brain_from_look,
    brain_from_mask,
    with_given_boundary,
)
from neuralprep.stages.conform import WorkingImage, conform
from neuralprep.stages.intensity import NORMAL_LEVEL, masked, normalise
from neuralprep.stages.look import Look
from neuralprep.transform import Affine
from neuralprep.volume import Volume

WORK = Grid.centered((64, 64, 64), 3.0, (2, -3, 1))


def positions(grid: Grid) -> np.ndarray:
    return grid.voxel_to_world(np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1))


def radius(grid: Grid) -> np.ndarray:
    return np.linalg.norm(positions(grid), axis=-1)


def found(distance_icv: np.ndarray, distance_tissue: np.ndarray, log_gain: np.ndarray | None = None,
          working: WorkingImage | None = None) -> Look:
    half = tuple(n // 2 for n in WORK.shape)
    gain = np.zeros(half, np.float32) if log_gain is None else log_gain.astype(np.float32)
    prediction = Prediction(np.stack([distance_tissue, distance_icv]).astype(np.float32),
                            np.zeros((3, 16, 16, 16), np.float32), gain, np.full(half, 20.0, np.float32))
    if working is None:
        working = WorkingImage(np.zeros(WORK.shape, np.float32), WORK, 0.0, 1.0, np.ones(WORK.shape, bool))
    return Look(working, prediction, Affine.identity(), 0.0, 1000.0)


def native(codes: str = "RAS", spacing: float = 2.0) -> Volume:
    grid = Grid.centered((80, 90, 84), spacing).oriented(codes)
    return Volume(np.zeros(grid.shape, np.float32), grid)


@pytest.mark.parametrize("codes", ["RAS", "LIA", "PSR"])
@pytest.mark.parametrize("border", [0.0, 3.0, -2.5])
def test_a_ball_comes_back_with_its_volume_and_distance(codes: str, border: float) -> None:
    scan = native(codes)
    made = brain_from_look(found(radius(WORK) - 60, radius(WORK) - 50), scan, border)
    volume = made.mask.data.sum() * scan.grid.voxel_volume
    assert volume == pytest.approx(4 / 3 * np.pi * (60 + border) ** 3, rel=0.01)
    r = radius(scan.grid)
    near = np.abs(r - 60) < 10
    assert made.distance.data[near] == pytest.approx((r - 60)[near], abs=0.25)
    assert np.abs(made.distance.data).max() <= DISTANCE_LIMIT_MM
    tissue = made.nocsf_mask.data.sum() * scan.grid.voxel_volume
    assert tissue == pytest.approx(4 / 3 * np.pi * 50**3, rel=0.01)
    assert not (made.nocsf_mask.data > made.mask.data).any()


def test_islands_are_dropped_and_holes_filled() -> None:
    r = radius(WORK)
    island = np.linalg.norm(positions(WORK) - (80, 60, 70), axis=-1) - 9
    hole = 6 - np.linalg.norm(positions(WORK) - (10, 0, 0), axis=-1)
    distance = np.maximum(np.minimum(r - 55, island), hole)
    made = brain_from_look(found(distance, distance), native())
    clean = brain_from_look(found(r - 55, r - 55), native())
    assert np.array_equal(made.mask.data, clean.mask.data)
    # The distance must tell the same story as the mask.
    assert np.array_equal(made.distance.data < 0, made.mask.data > 0)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
def test_holes_are_those_of_scipy(order: str, share: float) -> None:
    mask = np.asarray(np.random.default_rng(0).random((30, 34, 28)) < share, order=order)
    assert np.array_equal(_filled(mask), ndimage.binary_fill_holes(mask))


def test_masks_with_borders_lie_within_each_other_where_the_scan_moved_them() -> None:
    r = radius(native().grid)
    noise = 10 * np.random.default_rng(0).standard_normal(r.shape)
    scan = native().with_data((np.where(r < 61, 100, 20) + noise).astype(np.float32))
    look = found(radius(WORK) - 60, radius(WORK) - 50)
    masks = [brain_from_look(look, scan, border).mask.data > 0 for border in (-2.0, -0.5, 0.0, 0.5, 2.0)]
    for inner, outer in pairwise(masks):
        assert not (inner & ~outer).any()
    radii = [(3 / (4 * np.pi) * 8 * mask.sum()) ** (1 / 3) for mask in masks]
    assert radii[2] > 60.3
    assert np.array(radii) - radii[2] == pytest.approx([-2.0, -0.5, 0.0, 0.5, 2.0], abs=0.25)


@pytest.mark.parametrize("codes", ["RAS", "PSR"])
@pytest.mark.parametrize("border", [0.0, 2.0])
@pytest.mark.parametrize("blank", [0.0, -1024.0])
def test_the_boundary_of_a_stripped_scan_is_kept(codes: str, border: float, blank: float) -> None:
    look, scan = found(radius(WORK) - 60, radius(WORK) - 50), native(codes)
    r = radius(scan.grid)
    lump = np.linalg.norm(positions(scan.grid) - (0, 66, 0), axis=-1) < 10  # reaches further out than is believed
    speck = np.abs(r - 63) < 0.1  # single voxels with nothing around them
    shown = (r < 61.5) | lump | speck
    brain = brain_from_look(look, scan, border)
    stripped = scan.with_data(np.where(shown, np.float32(400) + r.astype(np.float32), np.float32(blank)))
    made = with_given_boundary(brain, look, stripped, border)
    mask = made.mask.data > 0
    assert mask[(r < 61.5) | (lump & (r < 60 + GIVEN_MM - 0.5))].all()
    assert not mask[r > 60 + GIVEN_MM + 0.5].any()
    assert not (mask & ~shown & (r > 60.5 + border)).any()
    assert np.array_equal(made.distance.data <= border, mask)
    assert np.array_equal(made.nocsf_mask.data, brain.nocsf_mask.data)


def test_the_mask_of_a_head_is_left_as_it_is() -> None:
    look, scan = found(radius(WORK) - 60, radius(WORK) - 50), native()
    r = radius(scan.grid)
    brain = brain_from_look(look, scan)
    rng = np.random.default_rng(0)
    bone = (r > 61) & (r < 66)  # dark and of one value, scalp beyond it; an eighth of the voxels is noise
    head = np.where(bone & (rng.random(r.shape) < 0.9), 0, np.where(r < 75, 300 + 10 * rng.standard_normal(r.shape), 0))
    assert with_given_boundary(brain, look, scan.with_data(head.astype(np.float32))) is brain


def test_no_brain_gives_an_empty_mask() -> None:
    nothing = np.full(WORK.shape, 9.0)
    assert not brain_from_look(found(nothing, nothing), native()).mask.data.any()


def test_a_given_mask_is_kept_to_the_voxel_with_its_distance() -> None:
    scan = native()
    r = radius(scan.grid)
    mask = scan.with_data((r < 50).astype(np.uint8))
    made = brain_from_mask(mask, found(radius(WORK) - 60, radius(WORK) - 30))
    assert np.array_equal(made.mask.data, mask.data)
    near = np.abs(r - 50) < 8
    assert np.abs(made.distance.data - (r - 50))[near].mean() < 0.6
    assert made.nocsf_mask.data.sum() * 8 == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.02)


@pytest.mark.parametrize("codes", ["RAS", "LIA"])
def test_a_known_bias_field_is_removed(codes: str) -> None:
    grid = Grid.centered((80, 90, 84), 2.0).oriented(codes)
    x = positions(grid)
    bias = np.exp(0.004 * x[..., 0] - 0.003 * x[..., 2])
    scan = Volume((700 * bias * (radius(grid) < 75)).astype(np.float32), grid)
    working = conform(scan, WORK)
    half = positions(WORK)[::2, ::2, ::2] + 1.5
    log_gain = -(0.004 * half[..., 0] - 0.003 * half[..., 2]) + 0.37  # any constant: it is calibrated away
    look = found(radius(WORK) - 60, radius(WORK) - 50, log_gain, working)
    tissue = brain_from_look(look, scan).nocsf_mask
    made = normalise(scan, look, look.prediction.log_gain, tissue)
    inside = tissue.data > 0
    assert made.preproc.data[inside].mean() == pytest.approx(NORMAL_LEVEL, rel=1e-4)
    assert made.preproc.data[inside].std() < 0.01 * NORMAL_LEVEL
    product = made.gain.data * (scan.data - made.offset)
    assert made.preproc.data == pytest.approx(np.maximum(product, 0), rel=1e-5, abs=1e-3)


def test_gain_is_continued_smoothly_where_nothing_was_measured() -> None:
    wild = np.random.default_rng(0).normal(0, 2, tuple(n // 2 for n in WORK.shape))
    inside = np.linalg.norm(positions(WORK)[::2, ::2, ::2] + 1.5, axis=-1) < 62
    wild[inside] = 0.2
    scan = native().with_data(np.ones(native().grid.shape, np.float32))
    look = replace(found(radius(WORK) - 50, radius(WORK) - 45, wild))
    made = normalise(scan, look, look.prediction.log_gain, brain_from_look(look, scan).nocsf_mask)
    assert made.gain.data.max() / made.gain.data.min() < 1.2


@pytest.mark.parametrize(("fill", "value"), [("zero", 0.0), ("min", -7.0), (42.5, 42.5)])
def test_fill_outside_the_mask(fill: float, value: float) -> None:
    scan = native()
    image = scan.with_data(np.random.default_rng(0).uniform(-7, 50, scan.data.shape).astype(np.float32))
    image.data.flags.writeable = False
    low = float(image.data.min())
    mask = scan.with_data((radius(scan.grid) < 40).astype(np.uint8))
    out = masked(image, mask, fill)
    outside = mask.data == 0
    assert np.array_equal(out.data[~outside], image.data[~outside])
    assert out.data[outside] == pytest.approx(low if fill == "min" else value)
