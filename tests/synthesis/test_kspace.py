"""Faults of raw data against independent computations and conservation laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from neuralprep.synthesis.kspace import (
    rigidly_moved,
    truncated,
    with_ghost,
    with_motion,
    with_spikes,
    wrapped_around,
)
from neuralprep.synthesis.record import Motion

STILL = (0.0,) * 6


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((24, 30, 26)), 1.5)
    inside = np.zeros_like(smooth)
    inside[5:19, 6:24, 5:21] = 1
    return torch.from_numpy((smooth * inside).astype(np.float32))


def test_truncation_equals_numpy(image: torch.Tensor) -> None:
    kept = (0.5, 1.0, 0.7)
    spectrum = np.fft.fftn(image.numpy())
    for axis, share in enumerate(kept):
        number = np.abs(np.fft.fftfreq(image.shape[axis]) * image.shape[axis])
        mask = (number <= share * image.shape[axis] / 2).astype(float)
        spectrum *= np.expand_dims(mask, [a for a in range(3) if a != axis])
    assert truncated(image, kept).numpy() == pytest.approx(np.abs(np.fft.ifftn(spectrum)), abs=1e-5)


def test_truncation_rings_by_nine_percent() -> None:
    # Gibbs: the overshoot at a step does not depend on how much is kept.
    step = torch.zeros(4, 4, 400)
    step[..., 100:300] = 1
    for kept in (0.05, 0.1, 0.2):
        assert truncated(step, (1.0, 1.0, kept)).max().item() == pytest.approx(1.0895, abs=0.015)


def test_motion_of_a_still_head_is_no_motion(image: torch.Tensor) -> None:
    still = with_motion(image, Motion(1, (0.3, 0.4, 0.3), (STILL,) * 3), 2.0)
    assert still.numpy() == pytest.approx(image.numpy(), abs=1e-6)


def test_motion_keeps_the_energy_of_a_shifted_object(image: torch.Tensor) -> None:
    # Whole-voxel shifts only change the phase of each line, so by Parseval the energy stays.
    shifted = (*STILL[:3], 4.0, -6.0, 2.0)
    moved = with_motion(image, Motion(1, (0.5, 0.3, 0.2), (STILL, STILL, shifted)), 2.0)
    assert (moved**2).sum().item() == pytest.approx((image**2).sum().item(), rel=1e-4)
    assert (moved - image).abs().max() > 0.02


def test_the_pose_at_the_central_line_is_the_truth(image: torch.Tensor) -> None:
    far = (0.0, 0.0, 0.0, 0.0, 8.0, 0.0)
    # Few outer lines are moved: the head must stay where it is, whichever pose is called the first.
    for shares, poses in (((0.15, 0.85), (far, STILL)), ((0.85, 0.15), (far, far))):
        moved = with_motion(image, Motion(1, shares, poses), 2.0)
        center = [(a * np.arange(30)[None, :, None]).sum() / a.sum() for a in (moved.numpy(), image.numpy())]
        assert center[0] == pytest.approx(center[1], abs=0.2)


def test_rigid_motion_turns_and_shifts_by_what_it_says() -> None:
    blob = torch.zeros(41, 41, 41)
    blob[30:33, 19:22, 19:22] = 1  # 10 to 12 voxels from the centre along x
    moved = rigidly_moved(blob, (0.0, 0.0, 90.0, 0.0, 0.0, 6.0), 2.0)
    where = ndimage.center_of_mass(moved.numpy())
    assert abs(where[1] - 20) == pytest.approx(11, abs=0.3)
    assert where[0] == pytest.approx(20, abs=0.3)
    assert where[2] == pytest.approx(23, abs=0.3)


def test_ghosts_are_copies_of_the_stated_size(image: torch.Tensor) -> None:
    copies, level = 3, 0.3
    ghosted = with_ghost(image, 1, copies, level, 0.0)
    shift = image.shape[1] // copies
    expected = image + level / 2 * (image.roll(shift, 1) + image.roll(-shift, 1))
    assert ghosted.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_spike_is_one_point_of_kspace(image: torch.Tensor) -> None:
    bright = image + 1  # so that the magnitude changes nothing
    spoilt = with_spikes(bright, ((3, -5, 2, 0.2, 0.7),))
    difference = np.fft.fftn((spoilt - bright).numpy().astype(float))
    peaks = np.argwhere(np.abs(difference) > 1)
    assert sorted(map(tuple, peaks.tolist())) == sorted([(3, 25, 2), (21, 5, 24)])
    assert difference[3, 25, 2] == pytest.approx(0.1 * image.numel() * np.exp(0.7j), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2), st.floats(0, 0.6), st.floats(0, 0.35))
def test_wrapping_loses_no_signal(axis: int, low: float, high: float) -> None:
    image = torch.from_numpy(np.random.default_rng(1).random((20, 23, 26)).astype(np.float32))
    folded = wrapped_around(image, axis, low, high)
    assert folded.sum().item() == pytest.approx(image.sum().item(), rel=1e-5)


def test_halved_field_of_view_is_every_other_line() -> None:
    image = torch.from_numpy(np.random.default_rng(2).random((8, 24, 8)).astype(np.float32))
    folded = wrapped_around(image, 1, 0.5, 0.0).numpy()[:, 12:]
    lines = np.fft.fft(np.roll(image.numpy(), -12, 1), axis=1)[:, ::2]
    assert folded == pytest.approx(np.fft.ifft(lines, axis=1).real, abs=1e-5)
