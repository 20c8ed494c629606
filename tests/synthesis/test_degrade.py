"""Acquisition, bias, noise and cropping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.synthesis.degrade import (
    acquire,
    acquisition_matrices,
    add_noise,
    bias_field,
    coil_field,
    field_of_view,
)
from neuralprep.synthesis.record import Coils, Record, Slices
from neuralprep.synthesis.spatial import along_axis, blur_matrix

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


def test_blur_has_the_stated_width() -> None:
    point = torch.zeros(101)
    point[50] = 1
    profile = (blur_matrix(101, 0.5, 6.0) @ point).numpy()
    above = np.flatnonzero(profile > profile.max() / 2)
    assert 0.5 * (above[-1] - above[0] + 1) == pytest.approx(6.0, abs=0.6)
    assert profile.sum() == pytest.approx(1, abs=1e-4)
    assert (blur_matrix(30, 2.0, 5.0) @ torch.ones(30)).numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("count", "strength"), [(1, 0.8), (8, 0.5)])
def test_coils_darken_the_head_by_the_stated_share(count: int, strength: float) -> None:
    shape, spacing, center = (48, 48, 48), 5.0, (10.0, -5.0, 0.0)
    field = coil_field(Coils(count, strength, 3), shape, spacing, center, CPU)
    axes = [spacing * (torch.arange(48) - 23.5) - c for c in center]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    inside = field[radius < 95]
    assert inside.max().item() == pytest.approx(1, abs=0.04)
    assert inside.min().item() == pytest.approx(1 - strength, abs=0.04)
    assert field.min() > 0


def test_slice_faults_befall_the_image_and_not_the_clean_copy() -> None:
    record = Record("phantom", "T1w", shape=(12, 12, 24), slices=Slices(2, interleave=0.3, corrupted=2, seed=1),
                    resolution=(None, None, (4.0, 4.0, 0.5)))
    image, clean = acquire(record, [torch.ones(12, 12, 24), torch.ones(12, 12, 24)])
    assert clean.numpy() == pytest.approx(1, abs=1e-5)
    lines = image[0, 0].numpy()
    assert lines.max() == pytest.approx(1.3, abs=0.05)
    assert lines.min() < 0.6
    assert (image == image[:1, :1]).all()


def test_gaps_between_slices_are_never_seen() -> None:
    # Slices of 2 mm every 8 mm: a bright sheet that lies in a gap is lost, one in a slice is stretched.
    average, interpolate = acquisition_matrices(80, 1.0, 8.0, 2.0, 0.5)
    sheet = torch.zeros(80)
    sheet[40] = 1  # slices are centred on 4, 12, ... 36, 44
    assert not (interpolate @ (average @ sheet)).any()
    assert (interpolate @ (average @ sheet.roll(4))).sum() > 2


def test_slices_thinner_than_a_voxel_change_nothing() -> None:
    record = Record("phantom", "T1w", shape=(16, 16, 16), spacing_mm=2.0, resolution=((0.5, 0.5, 0.2), None, None))
    image = torch.rand(16, 16, 16)
    (seen,) = acquire(record, [image])
    assert torch.equal(seen, image)
