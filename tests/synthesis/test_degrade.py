"""Acquisition, bias, noise and cropping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.synthesis.degrade import (
    acquisition_matrices,
    add_noise,
    along_axis,
    bias_field,
    field_of_view,
)

CPU = torch.device("cpu")


@settings(max_examples=25, deadline=None)
@given(st.integers(16, 60), st.floats(0.8, 3), st.floats(0.5, 8), st.floats(0.4, 1.2), st.floats(0, 0.99))
def test_slicing_keeps_constants(size: int, spacing: float, step: float, share: float, phase: float) -> None:
    average, interpolate = acquisition_matrices(size, spacing, step, step * share, phase)
    assert torch.isfinite(average).all()
    ones = interpolate @ (average @ torch.ones(size))
    assert ones.numpy() == pytest.approx(1.0, abs=1e-4)


def test_slicing_keeps_ramps_between_the_outer_slices() -> None:
    average, interpolate = acquisition_matrices(60, 2.0, 6.0, 6.0, 0.5)
    ramp = torch.arange(60.0)
    assert (interpolate @ (average @ ramp))[6:-6].numpy() == pytest.approx(ramp[6:-6].numpy(), abs=0.05)


def test_along_axis_is_matrix_multiplication_on_that_axis() -> None:
    image, matrix = torch.rand(5, 6, 7), torch.rand(4, 6)
    expected = np.einsum("ay,xyz->xaz", matrix.numpy(), image.numpy())
    assert along_axis(image, matrix, 1).numpy() == pytest.approx(expected, rel=1e-5)


def test_rician_noise_has_the_rayleigh_mean_in_air() -> None:
    noisy = add_noise(torch.zeros(60, 60, 60), 0.05, rician=True, seed=1)
    assert noisy.mean().item() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.01)
    assert torch.equal(noisy, add_noise(torch.zeros(60, 60, 60), 0.05, rician=True, seed=1))


def test_bias_field_is_smooth_with_unit_geometric_mean() -> None:
    field = bias_field((32, 32, 32), (3, 3, 3), 0.5, 4, CPU)
    assert torch.log(field).mean().item() == pytest.approx(0, abs=1e-5)
    assert torch.log(field).diff(dim=0).abs().max() < 0.15


def test_field_of_view_cuts_the_stated_fractions() -> None:
    inside = field_of_view((20, 10, 10), ((0.25, 0.1), (0, 0), (0, 0)), CPU)
    assert inside[:, 0, 0].nonzero().flatten().tolist() == list(range(5, 18))
