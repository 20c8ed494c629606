from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.errors import GeometryError
from neuralprep.grid import Grid, sampling_matrix
from samples import fixed_grid, moving_grid, points

ALL_CODES = ["".join(letters) for order in permutations(("RL", "AP", "SI")) for letters in product(*order)]
SETTINGS = settings(max_examples=25, deadline=None)


def test_there_are_48_axis_orders() -> None:
    assert len(set(ALL_CODES)) == 48


@pytest.mark.parametrize("codes", ALL_CODES)
def test_centered_grid_has_the_codes_and_the_centre(codes: str) -> None:
    grid = Grid.centered((5, 6, 7), (1.5, 2, 3), (4, -5, 6), codes)
    assert grid.axis_codes == codes == "".join(nib.aff2axcodes(grid.affine))
    np.testing.assert_allclose(grid.center, (4, -5, 6), atol=1e-12)
    assert grid.spacing == pytest.approx((1.5, 2, 3))
    assert grid.voxel_volume == pytest.approx(9)
    assert grid.extent == pytest.approx((7.5, 12, 21))


@pytest.mark.parametrize("codes", ALL_CODES)
def test_orienting_and_back_is_the_same_grid(codes: str) -> None:
    grid = moving_grid()
    there = grid.oriented(codes)
    assert there.axis_codes == codes
    assert there.oriented(grid.axis_codes).same_as(grid, 1e-9)
    np.testing.assert_allclose(there.center, grid.center)


def test_voxels_and_world_are_inverse_and_agree_with_nibabel() -> None:
    grid = moving_grid()
    at = points()
    np.testing.assert_allclose(grid.voxel_to_world(grid.world_to_voxel(at)), at, atol=1e-10)
    np.testing.assert_allclose(grid.voxel_to_world(at), nib.affines.apply_affine(grid.affine, at))


def test_crop_and_pad_keep_every_voxel_in_place() -> None:
    grid = moving_grid()
    cropped = grid.cropped((3, 4, 5), (20, 21, 22))
    assert cropped.shape == (17, 17, 17)
    np.testing.assert_allclose(cropped.voxel_to_world((0, 0, 0)), grid.voxel_to_world((3, 4, 5)))
    back = cropped.padded((3, 4, 5), (18, 25, 2))
    assert back.same_as(grid, 1e-9)


@SETTINGS
@given(st.tuples(*[st.floats(0.5, 5)] * 3))
def test_with_spacing_keeps_the_centre_and_covers_the_field_of_view(spacing: tuple[float, float, float]) -> None:
    grid = moving_grid()
    other = grid.with_spacing(spacing)
    assert other.spacing == pytest.approx(spacing)
    np.testing.assert_allclose(other.center, grid.center, atol=1e-9)
    for new, old, step in zip(other.extent, grid.extent, spacing, strict=True):
        assert old - 0.01 * step <= new < old + step
    assert other.axis_codes == grid.axis_codes


def test_with_spacing_of_an_exact_multiple_has_no_extra_voxels() -> None:
    assert Grid.centered((256, 255, 254), 1.0).with_spacing(2.0).shape == (128, 128, 127)


def test_same_as_measures_corners_in_mm() -> None:
    grid = fixed_grid()
    shifted = grid.affine.copy()
    shifted[0, 3] += 5e-4
    assert grid.same_as(Grid(grid.shape, shifted))
    assert not grid.same_as(Grid(grid.shape, shifted), tol_mm=1e-4)
    assert not grid.same_as(Grid((33, 41, 28), grid.affine))


def test_sampling_matrix_samples_voxel_centres_in_torch() -> None:
    torch = pytest.importorskip("torch")
    grid = moving_grid()
    data = np.random.default_rng(0).random(grid.shape)
    voxels = np.random.default_rng(1).integers(0, np.array(grid.shape), (50, 3))
    world = grid.voxel_to_world(voxels)
    normalised = np.c_[world, np.ones(len(world))] @ sampling_matrix(grid).T
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(data)[None, None], torch.from_numpy(normalised[None, None, None, :, :3]), align_corners=True)
    np.testing.assert_allclose(sampled.numpy().ravel(), data[tuple(voxels.T)], atol=1e-9)


def test_sampling_matrix_of_a_single_voxel_axis_is_finite() -> None:
    assert np.isfinite(sampling_matrix(Grid((1, 4, 5), np.eye(4)))).all()


@pytest.mark.parametrize(("shape", "affine"), [
    ((0, 4, 5), np.eye(4)), ((4, 5), np.eye(4)), ((4, 5, 6), np.eye(3)), ((4, 5, 6), np.zeros((4, 4))),
    ((4, 5, 6), np.diag([1, 1, np.nan, 1])), ((4, 5, 6), np.diag([1.0, 1, 1, 2])),
    ((4, 5, 6), [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])])
def test_unusable_geometry_is_refused(shape: tuple[int, ...], affine: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        Grid(shape, affine)  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", ["RAR", "RA", "XYZ", "", "RAL"])
def test_bad_codes_are_refused(codes: str) -> None:
    with pytest.raises(GeometryError, match="axis codes"):
        fixed_grid().oriented(codes)


def test_the_centre_of_a_block_is_the_mean_of_its_voxels() -> None:
    matrix = np.array([[0.9, 0.1, 0, -5], [-0.1, 1.9, 0.2, 7], [0, -0.3, 3.1, 11], [0, 0, 0, 1]])
    grid = Grid((7, 4, 6), matrix)
    blocks = grid.blocks([3, 2, 1])
    assert blocks.shape == (3, 2, 6)
    voxels = np.add(np.argwhere(np.ones((3, 2, 1), bool)), [3, 2, 4])
    assert np.allclose(blocks.voxel_to_world([[1, 1, 4]])[0], grid.voxel_to_world(voxels).mean(0))
    assert np.allclose(blocks.spacing, np.multiply(grid.spacing, [3, 2, 1]))
    assert grid.blocks(1).same_as(grid)
    with pytest.raises(GeometryError, match="positive edge"):
        grid.blocks(0)


def test_crops_outside_and_negative_padding_are_refused() -> None:
    grid = fixed_grid()
    with pytest.raises(GeometryError, match="outside"):
        grid.cropped((0, 0, 0), (34, 41, 27))
    with pytest.raises(GeometryError, match="empty"):
        grid.cropped((5, 0, 0), (5, 41, 27))
    with pytest.raises(GeometryError, match="negative"):
        grid.padded((0, 0, -1), (0, 0, 0))
    with pytest.raises(GeometryError, match="positive"):
        grid.with_spacing(0)


def test_the_affine_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        fixed_grid().affine[0, 0] = 2
