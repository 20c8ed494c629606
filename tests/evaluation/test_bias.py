"""Scores of bias fields whose error is known, and the tissue mask and fields of the benchmarks."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.evaluation.bias import field_scores, gain_error, residual_variation, simulated_field, white_matter
from neuralprep.grid import Grid
from neuralprep.templates import load_template
from neuralprep.transform import Affine

SHAPE = (20, 22, 18)


def ball(shape: tuple[int, ...] = SHAPE, radius: float = 8.0) -> np.ndarray:
    position = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"), -1)
    return np.linalg.norm(position, axis=-1) < radius


def smooth(seed: int = 0) -> np.ndarray:
    return simulated_field(Grid(SHAPE, np.diag([8.0, 8, 8, 1])), 40, np.random.default_rng(seed), ball())


def test_a_scaled_field_is_a_perfect_field() -> None:
    truth, mask = smooth(), ball()
    got = field_scores(3.7 * truth, truth, mask)
    assert got.factor == pytest.approx(1 / 3.7)
    assert got.gain_error == pytest.approx(0, abs=1e-7)
    assert got.ssim == pytest.approx(1)
    assert got.psnr > 100


def test_gain_error_is_the_spread_of_the_log_ratio() -> None:
    truth, mask = smooth(), ball()
    error = np.random.default_rng(1).normal(0.3, 0.1, SHAPE)
    got = gain_error(truth * np.exp(error), truth, mask)
    assert got == pytest.approx(error[mask].std(), rel=1e-6)
    # the best single factor leaves the spread of the truth itself
    assert gain_error(np.ones(SHAPE), truth, mask) == pytest.approx(np.log(truth[mask]).std(), rel=1e-6)


def test_only_the_common_mask_counts() -> None:
    truth, mask = smooth(), ball()
    found = truth.copy()
    found[~mask] = 55.0
    assert field_scores(found, truth, mask).ssim == pytest.approx(1)
    found[0, 0, 0] = 0
    assert field_scores(found, truth, np.ones(SHAPE)).gain_error > 0.5
    worse = field_scores(truth * np.exp(0.2 * np.random.default_rng(2).standard_normal(SHAPE)), truth, mask)
    assert worse.ssim < 0.9
    with pytest.raises(ValueError, match="two positive fields"):
        field_scores(np.zeros(SHAPE), truth, mask)
    with pytest.raises(ValueError, match="differ"):
        field_scores(truth[1:], truth, mask)


def test_residual_variation() -> None:
    values = np.random.default_rng(3).normal(100, 7, (40, 40, 40))
    mask = np.ones(values.shape)
    assert residual_variation(values, mask) == pytest.approx(0.07, rel=0.02)
    assert residual_variation(8 * values, mask) == pytest.approx(residual_variation(values, mask))
    values[::50] = 1e6  # a few vessels and lesions do not move it
    assert residual_variation(values, mask) == pytest.approx(0.07, rel=0.08)
    assert np.isnan(residual_variation(-values, mask))
    with pytest.raises(ValueError, match="empty"):
        residual_variation(values, np.zeros(values.shape))


def test_white_matter_lies_deep_in_the_templates() -> None:
    template = load_template()
    angle = np.deg2rad(20)
    matrix = np.eye(4)
    matrix[:3, :3] = 1.1 * np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix[:3, 3] = 12, -7, 30
    scan_from_template_points = Affine(matrix)
    grid = Grid.centered((110, 120, 100), 2.0, scan_from_template_points.apply([[0.0, -18.0, 4.0]])[0])
    found = white_matter(template, scan_from_template_points, grid)
    assert found.dtype == bool
    assert 20_000 < found.sum() * grid.voxel_volume < 500_000  # mm3: a part of the brain's half litre
    points = scan_from_template_points.inverse().apply(grid.voxel_to_world(np.argwhere(found)))
    index = np.rint(template.wm.grid.world_to_voxel(points)).astype(int)
    assert template.wm.data[tuple(index.T)].min() > 0.8
    assert white_matter(template, scan_from_template_points, grid, erosion_mm=0).sum() > 1.5 * found.sum()


@pytest.mark.parametrize("percent", [10.0, 40.0, 80.0])
def test_simulated_field_has_the_stated_range(percent: float) -> None:
    mask = ball()
    grid = Grid(SHAPE, np.diag([8.0, 8, 8, 1]))
    field = simulated_field(grid, percent, np.random.default_rng(4), mask)
    assert field[mask].min() == pytest.approx(1 - percent / 200)
    assert field[mask].max() == pytest.approx(1 + percent / 200)
    assert (field > 0).all()
    # smooth: neighbours 8 mm apart differ by a small part of the range
    assert np.abs(np.diff(field, axis=0)).max() < 0.35 * percent / 100
    np.testing.assert_array_equal(field, simulated_field(grid, percent, np.random.default_rng(4), mask))


def test_impossible_fields() -> None:
    grid = Grid(SHAPE, np.eye(4))
    for percent, mask in ((-1, ball()), (200, ball()), (20, np.zeros(SHAPE)), (20, np.ones((2, 2, 2)))):
        with pytest.raises(ValueError, match=r"out of range|shape"):
            simulated_field(grid, percent, np.random.default_rng(0), mask)
