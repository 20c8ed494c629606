"""Working grids and intensity scaling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.grid import Grid
from neuralprep.stages.conform import (
    CLOSE_SHAPE,
    SPACING_MM,
    close_grid,
    conform,
    is_ct,
    wide_grid,
    windowed,
)
from neuralprep.transform import Affine
from neuralprep.volume import Volume


def ball(shape: tuple[int, int, int], spacing: float, center: tuple[float, float, float] = (0, 0, 0),
         radius: float = 70) -> Volume:
    grid = Grid.centered(shape, spacing)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distance = np.linalg.norm(grid.voxel_to_world(index) - np.asarray(center), axis=-1)
    return Volume(np.where(distance < radius, 900.0, 5.0).astype(np.float32), grid)


def test_a_normal_field_of_view_is_centred() -> None:
    scan = ball((64, 60, 62), 4.0, center=(10, 5, -8))
    assert wide_grid(scan).center == pytest.approx(scan.grid.center)


def test_a_tall_field_of_view_hangs_from_the_top_of_the_head() -> None:
    scan = ball((60, 60, 110), 4.0, center=(0, 0, 130), radius=80)  # 440 mm tall, the head's top at z = 210
    grid = wide_grid(scan)
    assert grid.center[2] == pytest.approx(210 - 112, abs=8)
    assert grid.center[:2] == pytest.approx([0, 0], abs=1)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*(st.integers(12, 40),) * 3), st.tuples(*(st.floats(2.5, 7.0),) * 3), st.booleans())
def test_the_first_look_covers_the_field_of_view_and_no_block_more(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], swap: bool
) -> None:
    grid = Grid.centered(shape, spacing, (5.0, -9.0, 14.0))
    stored = grid.oriented("PSR") if swap else grid
    chosen = wide_grid(Volume(np.ones(stored.shape, np.float32), stored))
    extent = np.asarray(shape) * np.asarray(spacing)  # along the world axes, the outer voxels whole
    room = np.asarray(chosen.shape) * SPACING_MM
    assert (np.asarray(chosen.shape) % 16 == 0).all()
    for span, edge in zip(extent, room, strict=True):
        assert 128 <= edge <= 256
        assert edge >= span - 0.1 or edge == 256
        assert edge - 32 < span or edge == 128
    if (extent <= 256).all():
        assert chosen.center == pytest.approx(grid.center)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.6, 1.5))
def test_close_grid_has_the_templates_axes_and_keeps_its_spacing(seed: int, scale: float) -> None:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    matrix = np.eye(4)
    matrix[:3, :3] = scale * q
    matrix[:3, 3] = (10, -20, 30)
    grid = close_grid(Affine(matrix))
    assert grid.shape == CLOSE_SHAPE
    assert grid.affine[:3, :3] == pytest.approx(SPACING_MM * q, abs=1e-9)
    assert np.linalg.det(grid.affine[:3, :3]) > 0
    assert grid.center == pytest.approx(matrix[:3, :3] @ (0, -18, 4) + matrix[:3, 3])


@pytest.mark.parametrize("factor", [1.0, 37.5, 1e-4])
def test_scaling_does_not_depend_on_units(factor: float) -> None:
    scan = ball((40, 40, 40), 5.0)
    grid = Grid.centered((48, 48, 48), 4.0)
    one = conform(scan, grid)
    other = conform(scan.with_data(scan.data * np.float32(factor)), grid)
    assert other.image == pytest.approx(one.image, abs=1e-4)
    assert one.image.max() == 1
    assert one.low == 0  # magnitude images keep their zero


def test_negative_intensities_are_shifted_not_lost() -> None:
    scan = ball((40, 40, 40), 5.0)
    shifted = conform(scan.with_data(scan.data - 400), Grid.centered((48, 48, 48), 4.0))
    assert shifted.low < -390
    assert shifted.image.max() == pytest.approx(1)
    assert (shifted.image > 0.9).mean() > 0.05


def test_outside_the_scan_is_dark_and_not_visible() -> None:
    scan = ball((40, 40, 20), 4.0)
    work = conform(scan, Grid.centered((48, 48, 48), 4.0))
    assert work.visible.sum() == 40 * 40 * 20
    assert not work.image[~work.visible].any()


def test_orientation_of_the_array_does_not_matter() -> None:
    scan = ball((40, 44, 36), 4.0, center=(12, -8, 4), radius=50)
    grid = Grid.centered((48, 48, 48), 4.0)
    for codes in ("LPI", "SAR", "ILA"):
        assert conform(scan.oriented(codes), grid).image == pytest.approx(conform(scan, grid).image, abs=1e-5)


def test_ct_is_recognised_and_windowed_but_not_mr() -> None:
    rng = np.random.default_rng(0)
    grid = Grid.centered((40, 40, 40), 5.0)
    head = ball((40, 40, 40), 5.0).data > 100
    hu = np.where(head, rng.normal(35, 5, grid.shape), -1000.0).astype(np.float32)
    hu[head & ~(ball((40, 40, 40), 5.0, radius=58).data > 100)] = 900  # a skull
    ct = Volume(hu, grid)
    assert is_ct(ct)
    assert windowed(ct).data.min() == -100
    assert windowed(ct).data.max() == 200
    mr = Volume(np.where(head, 600.0, 10.0).astype(np.float32), grid)
    assert not is_ct(mr)
    assert windowed(mr) is mr
    assert not is_ct(mr.with_data(mr.data - 700))  # an MR with an odd offset has no soft tissue near 0 HU and bone
