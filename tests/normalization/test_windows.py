"""Windows and equalisation against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.errors import InputError
from neuralprep.normalization.catalog import WINDOWS, Window, parse_window
from neuralprep.normalization.windows import apply_window, equalization
from neuralprep.volume import load
from normalization.brains import head_ct

PERFUSION = ("cbf", "cbv", "mtt", "tmax")


def perfusion(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A map with values below, in and above its window, many exact zeros inside the mask, rubbish outside."""
    window = WINDOWS[name]
    rng = np.random.default_rng(seed)
    shape = (20, 24, 16)
    mask = np.zeros(shape, bool)
    mask[3:17, 4:20, 2:14] = True
    data = rng.gamma(2, 0.25 * window.high, shape) - 0.05 * window.high
    data[rng.random(shape) < 0.2] = 0
    data[~mask] = rng.choice([0, 500, -3], (~mask).sum())
    return data.astype(np.float32), mask


def reference(data: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.array([min(max((float(v) - low) / (high - low), 0.0), 1.0) for v in data.ravel()]).reshape(data.shape)


@pytest.mark.parametrize("name", PERFUSION)
def test_a_window_is_clip_shift_and_scale(name: str) -> None:
    data, mask = perfusion(name)
    window = WINDOWS[name]
    done = apply_window(data, name, mask, fill=-1)
    expected = reference(data, window.low, window.high)
    assert np.abs(done.image[mask] - expected[mask]).max() < 1e-6
    assert (done.image[~mask] == -1).all()
    values = data[mask]
    assert done.measures["zero_share"] == np.mean(values == 0) > 0.1
    assert done.measures["within_share"] == np.mean((values > window.low) & (values < window.high))
    total = sum(done.measures[f"{part}_share"] for part in ("within", "below", "above"))
    assert total == pytest.approx(1)


@pytest.mark.parametrize("name", PERFUSION)
def test_equalisation_is_that_of_scikit_image(name: str) -> None:
    exposure = pytest.importorskip("skimage.exposure")
    data, mask = perfusion(name)
    window = WINDOWS[name]
    done = apply_window(data, window, mask, equalize=True).image
    for precision in (np.float32, np.float64):
        scaled = reference(data, window.low, window.high).astype(precision)
        expected = exposure.equalize_hist(scaled, mask=mask)
        assert np.abs(done[mask] - expected[mask]).max() < 1e-6
    outside = apply_window(data, window, mask, equalize=True, fill=None).image
    assert np.abs(outside - expected).max() < 1e-6


@pytest.mark.parametrize("name", ["cta", "brain", "stroke", "bone"])
def test_ct_windows_with_equalisation_are_those_of_scikit_image(name: str) -> None:
    exposure = pytest.importorskip("skimage.exposure")
    scan, mask = head_ct()
    window = WINDOWS[name]
    done = apply_window(scan, name, mask, equalize=True)
    inside = mask.data > 0
    scaled = np.clip((scan.data - np.float32(window.low)) / np.float32(window.high - window.low), 0, 1)
    expected = exposure.equalize_hist(scaled, mask=inside)
    assert np.abs(done.image.data[inside] - expected[inside]).max() < 1e-6
    assert not done.image.data[~inside].any()
    assert done.image.grid is scan.grid


def test_equalisation_is_the_share_of_voxels_that_are_not_above() -> None:
    """Against the empirical distribution itself, which the 256 bins approximate."""
    rng = np.random.default_rng(3)
    values = rng.beta(2, 5, 20_000).astype(np.float32)
    ranks = np.searchsorted(np.sort(values), values, side="right") / values.size
    assert np.abs(np.interp(values, *equalization(values)) - ranks).max() < 0.01


def test_true_zeros_in_the_brain_stay_in_the_brain() -> None:
    """The original recipe takes every exact zero for background; those in the mask are brain without perfusion."""
    data, mask = perfusion("tmax")
    zeros = mask & (data == 0)
    done = apply_window(data, "tmax", mask, equalize=True, fill=-1).image
    assert zeros.sum() > 100
    assert (done[zeros] > 0).all()
    assert (done[zeros] == done[zeros][0]).all()
    assert (done[zeros][0] <= done[mask]).all()
    assert (done[~mask] == -1).all()
    plain = apply_window(data, "tmax", mask, fill=-1).image
    assert (plain[zeros] == 0).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), low=st.floats(-500, 500), width=st.floats(1, 900), equalize=st.booleans())
def test_order_is_kept(seed: int, low: float, width: float, equalize: bool) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(rng.uniform(-400, 800), rng.uniform(1, 400), 4000).astype(np.float32).reshape(20, 20, 10)
    window = Window("custom", low, low + width, "", "")
    done = apply_window(data, window, np.ones(data.shape), equalize=equalize, checks=False).image
    order = np.argsort(data, axis=None)
    steps = np.diff(done.ravel()[order])
    assert (steps >= 0).all()
    assert done.min() >= 0
    assert done.max() <= 1 + 1e-6
    if not equalize:
        within = (data > window.low) & (data < window.high)
        assert np.unique(done[within]).size >= 0.9 * np.unique(data[within]).size


def test_equalising_needs_no_units() -> None:
    """Any change of scale that the window follows leaves the result as it is."""
    data, mask = perfusion("cbf")
    done = apply_window(data, "cbf", mask, equalize=True).image
    scaled = apply_window(data * 4, Window("custom", 0, 140, "", ""), mask, equalize=True).image
    assert np.abs(done - scaled).max() < 1e-6


def test_without_a_mask_a_ct_has_its_minimum_for_background_and_a_map_zero() -> None:
    scan, mask = head_ct()
    inside = mask.data > 0
    stripped = scan.with_data(np.where(inside, scan.data, -1024))
    done = apply_window(stripped, "brain", equalize=True, fill=-1).image.data
    expected = apply_window(scan, "brain", mask, equalize=True, fill=-1).image.data
    assert np.array_equal(done, expected)
    zero = scan.with_data(np.where(inside, scan.data, 0))
    done = apply_window(zero, "brain", background=0, equalize=True, fill=-1).image.data
    lost = inside & (scan.data == 0)
    assert np.array_equal(done == -1, ~inside | lost)  # what only a mask can tell apart
    data, mask_array = perfusion("mtt")
    data[~mask_array] = 0
    done = apply_window(data, "mtt", fill=-1).image
    assert np.array_equal(done == -1, data == 0)


def test_a_window_alone_takes_a_ct_with_its_skull_and_an_equalisation_does_not() -> None:
    scan, _ = head_ct()
    done = apply_window(scan, "bone").image.data
    assert np.abs(done - reference(scan.data, -800, 2000))[scan.data > scan.data.min()].max() < 1e-6
    with pytest.raises(InputError, match="give a mask"):
        apply_window(scan, "bone", equalize=True)


def test_header_and_values_survive_the_file(tmp_path) -> None:
    scan, mask = head_ct()
    done = apply_window(scan, "stroke", mask).image
    done.save(tmp_path / "x.nii.gz")
    again = load(tmp_path / "x.nii.gz")
    assert np.array_equal(again.data, done.data)
    assert again.grid.same_as(scan.grid, 1e-4)


def test_windows_by_name_and_by_numbers() -> None:
    assert (parse_window("CTA").low, parse_window("cta").high) == (0, 90)
    assert [(WINDOWS[n].low, WINDOWS[n].high) for n in PERFUSION] == [(0, 35), (0, 10), (0, 20), (0, 7)]
    own = parse_window("-100,200")
    assert (own.low, own.high, own.is_ct, own.name) == (-100, 200, False, "custom")
    for wrong in ("lung", "1", "1,2,3", "5,5", "9,2", "nan,4", "0,inf", ""):
        with pytest.raises(InputError, match="window"):
            parse_window(wrong)


def test_other_units_are_noticed() -> None:
    data, mask = perfusion("tmax")
    milliseconds = np.where(data > 0, data * 1000, data)
    with pytest.raises(InputError, match=r"within the window 0 to 7 s .* in these units"):
        apply_window(milliseconds, "tmax", mask)
    assert apply_window(milliseconds, "tmax", mask, checks=False).measures["within_share"] < 0.05
