from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from neuralprep.errors import GeometryError
from neuralprep.grid import Grid
from neuralprep.resample import covered, resample, resample_labels
from neuralprep.transform import Affine, Chain, Transform, grid_points
from neuralprep.volume import Volume, from_array
from samples import (
    affine_matrix,
    fixed_grid,
    lps,
    moving_grid,
    pull_back,
    sitk_affine,
    sitk_resample,
    smooth_field,
    smooth_volume,
    to_sitk,
)
from test_grid import ALL_CODES

SETTINGS = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, bool])
def test_identity_is_bit_identical_and_shares_memory(dtype: type) -> None:
    volume = smooth_volume()
    volume = volume.with_data((volume.data > 50) if dtype is bool else volume.data.astype(dtype))
    for transform in (None, Affine.identity(), Chain([pull_back(), pull_back().inverse()])):
        out = resample(volume, volume.grid, transform)
        assert out.data.dtype == dtype
        assert np.shares_memory(out.data, volume.data)
        np.testing.assert_array_equal(out.data, volume.data)


def test_rounded_header_is_still_the_identity() -> None:
    volume = smooth_volume()
    rounded = Grid(volume.grid.shape, volume.grid.affine.astype(np.float32))
    np.testing.assert_array_equal(resample(volume, rounded).data, volume.data)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_axis_orders_change_no_value_and_give_the_same_world(codes: str) -> None:
    volume = smooth_volume()
    turned = volume.oriented(codes)
    np.testing.assert_array_equal(resample(turned, volume.grid).data, volume.data)
    np.testing.assert_array_equal(resample(volume, turned.grid).data, turned.data)
    want = resample(volume, fixed_grid(), pull_back()).data
    np.testing.assert_allclose(resample(turned, fixed_grid(), pull_back()).data, want, atol=1e-4)


@SETTINGS
@given(st.tuples(*[st.integers(-30, 30)] * 3), st.tuples(*[st.integers(5, 40)] * 3), st.sampled_from(ALL_CODES))
def test_whole_voxel_shifts_are_slices_and_come_back_exactly(shift: tuple, shape: tuple, codes: str) -> None:
    volume = smooth_volume()
    matrix = volume.grid.affine.copy()
    matrix[:3, 3] = volume.grid.voxel_to_world(shift)
    out = resample(volume, Grid(shape, matrix).oriented(codes), fill=-1.0)
    want = np.full(shape, -1.0, np.float32)
    index = np.indices(shape).reshape(3, -1) + np.array(shift)[:, None]
    inside = ((index >= 0) & (index < np.array(volume.data.shape)[:, None])).all(0)
    want.reshape(-1)[inside] = volume.data[tuple(index[:, inside])]
    back = resample(out, Grid(shape, matrix), fill=-1.0)
    np.testing.assert_array_equal(back.data, want)


@SETTINGS
@given(st.tuples(*[st.integers(0, 12)] * 3), st.tuples(*[st.integers(0, 12)] * 3))
def test_conforming_and_going_back_is_exact(before: tuple, after: tuple) -> None:
    volume = smooth_volume()
    conformed = resample(volume, volume.grid.padded(before, after).oriented("RAS"))
    np.testing.assert_array_equal(resample(conformed, volume.grid).data, volume.data)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("memory", ["C", "F"])
def test_affine_agrees_with_simpleitk(order: int, memory: str) -> None:
    pytest.importorskip("SimpleITK")
    volume = smooth_volume()
    want = sitk_resample(volume, fixed_grid(), sitk_affine(pull_back()), order, fill=-7)
    volume = volume.with_data(np.asarray(volume.data, order=memory))
    got = resample(volume, fixed_grid(), pull_back(), order=order, fill=-7)
    assert 0.2 < (want == -7).mean() < 0.9  # the comparison covers both inside and outside
    assert (got.data == -7).mean() == pytest.approx((want == -7).mean(), abs=1e-4)
    np.testing.assert_allclose(got.data, want, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1])
def test_warp_chain_agrees_with_simpleitk(order: int) -> None:
    sitk = pytest.importorskip("SimpleITK")
    volume, field = smooth_volume(), smooth_field()
    image = to_sitk(Volume(field.vectors[..., 0], field.grid))
    vectors = sitk.GetImageFromArray(lps(field.vectors).transpose(2, 1, 0, 3).astype(np.float64), isVector=True)
    vectors.CopyInformation(image)
    warp = sitk.DisplacementFieldTransform(sitk.Cast(vectors, sitk.sitkVectorFloat64))
    # The composite applies its last member to points first.
    composite = sitk.CompositeTransform([sitk_affine(pull_back()), warp])
    want = sitk_resample(volume, fixed_grid(), composite, order, fill=-7)
    got = resample(volume, fixed_grid(), Chain([field, pull_back()]), order=order, fill=-7).data
    different = np.abs(got - want) > 1e-2
    assert different.mean() < (1e-3 if order == 0 else 2e-4)  # voxels whose coordinate lies on a decision boundary


def test_affine_agrees_with_scipy_inside() -> None:
    volume = smooth_volume()
    grid = fixed_grid()
    voxels = volume.grid.world_to_voxel(pull_back().apply(grid_points(grid)))
    want = ndimage.map_coordinates(volume.data, voxels.T, order=1, cval=np.nan).reshape(grid.shape)
    got = resample(volume, grid, pull_back()).data
    inside = np.isfinite(want)
    np.testing.assert_allclose(got[inside], want[inside], atol=1e-3)


def test_affine_and_the_same_affine_as_a_warp_agree() -> None:
    class Hidden:
        def apply(self, at: np.ndarray) -> np.ndarray:
            return pull_back().apply(at)

        def inverse(self) -> Hidden:
            return self

    want = resample(smooth_volume(), fixed_grid(), pull_back(), fill=5).data
    got = resample(smooth_volume(), fixed_grid(), Hidden(), fill=5).data
    np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.parametrize("transform", [pull_back(), smooth_field()])
def test_threads_and_slabs_change_nothing(transform: Affine, monkeypatch: pytest.MonkeyPatch) -> None:
    want = resample(smooth_volume(), fixed_grid(), transform).data
    monkeypatch.setattr("neuralprep.transform._POINTS_PER_BLOCK", 2000)
    monkeypatch.setattr("neuralprep.transform.slabs.__defaults__", (2000,))
    for threads in (1, 3):
        np.testing.assert_array_equal(resample(smooth_volume(), fixed_grid(), transform, threads=threads).data, want)


def test_masks_keep_their_type() -> None:
    volume = smooth_volume()
    for data in (volume.data > 50, (volume.data > 50).astype(np.uint8), volume.data.astype(np.int16)):
        out = resample(volume.with_data(data), fixed_grid(), pull_back(), order=0)
        assert out.data.dtype == data.dtype
        assert set(np.unique(out.data)) <= set(np.unique(data)) | {0}


def test_a_volume_reaches_half_a_voxel_beyond_its_centres() -> None:
    volume = from_array(np.ones((4, 4, 4), np.float32), np.eye(4))
    grid = Grid((8, 8, 8), affine_matrix((0, 0, 0), (0.7, 0.7, 0.7), (-0.9, -0.9, -0.9)))
    line = resample(volume, grid).data[:, 3, 3]
    coordinates = grid.voxel_to_world(np.c_[np.arange(8), np.zeros((8, 2))])[:, 0]
    np.testing.assert_array_equal(line > 0, (coordinates >= -0.5) & (coordinates <= 3.5))


def test_what_is_covered_lies_within_the_outer_voxels() -> None:
    source, grid = moving_grid(), fixed_grid()
    voxels = source.world_to_voxel(grid_points(grid)).T
    expected = np.all([(row >= -0.5) & (row <= n - 0.5) for row, n in zip(voxels, source.shape, strict=True)], axis=0)
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(covered(source, grid).ravel(), expected)
    assert covered(source, source).all()


def test_outside_is_filled() -> None:
    far = Grid((6, 6, 6), affine_matrix((0.3, 0, 0), (1, 1, 1), (500, 0, 0)))
    assert (resample(smooth_volume(), far, fill=-3).data == -3).all()
    assert (resample(smooth_volume(), Grid.centered((5, 5, 5), 1, (900, 0, 0)), fill=2).data == 2).all()


def test_antialias_of_a_whole_multiple_is_the_mean_of_blocks() -> None:
    data = np.random.default_rng(0).random((12, 8, 10)).astype(np.float32)
    volume = from_array(data, np.eye(4))
    out = resample(volume, volume.grid.with_spacing(2), antialias=True)
    np.testing.assert_allclose(out.data, data.reshape(6, 2, 4, 2, 5, 2).mean((1, 3, 5)), atol=1e-6)


@pytest.mark.parametrize("spacing", [1.7, 2.0, 2.5, 3.3, 4.0])
@pytest.mark.parametrize("codes", ["RAS", "PSR", "LIA"])
def test_antialias_keeps_smooth_images_and_quiets_noise(spacing: float, codes: str) -> None:
    grid = Grid.centered((48, 44, 40), 1.0, (3, 4, 5))
    ramp = grid_points(grid) @ np.array([0.3, -0.2, 0.5])
    noise = np.random.default_rng(0).standard_normal(grid.shape)
    target = Grid.centered((12, 12, 12), spacing, (3, 4, 5), codes).cropped((3, 3, 3), (9, 9, 9))
    smooth = resample(from_array(ramp.reshape(grid.shape), grid.affine), target, antialias=True)
    np.testing.assert_allclose(smooth.data.ravel(), grid_points(target) @ np.array([0.3, -0.2, 0.5]), atol=1e-4)
    turned = from_array(noise, grid.affine)
    assert resample(turned, target, antialias=True).data.std() < 0.75 * resample(turned, target).data.std() + 0.1


def test_antialias_with_a_last_incomplete_block() -> None:
    volume = from_array(np.ones((9, 7, 5), np.int16), np.eye(4))
    out = resample(volume, volume.grid.with_spacing(2), antialias=True)
    np.testing.assert_allclose(out.data, 1)


def test_antialias_with_a_warp() -> None:
    out = resample(smooth_volume(), fixed_grid().with_spacing(5), Chain([pull_back(), smooth_field()]), antialias=True)
    assert np.isfinite(out.data).all()
    assert out.data.max() > 0


def test_a_shift_of_the_header_moves_the_image_the_right_way() -> None:
    data = np.zeros((20, 20, 20), np.float32)
    data[10, 10, 10] = 1
    volume = from_array(data, np.eye(4))
    shift = np.eye(4)
    shift[0, 3] = 5
    # Fixed point x shows moving point x + 5, so the spot at 10 appears at 5.
    assert np.argwhere(resample(volume, volume.grid, Affine(shift)).data).tolist() == [[5, 10, 10]]


def test_misuse_is_refused() -> None:
    with pytest.raises(GeometryError, match="order"):
        resample(smooth_volume(), fixed_grid(), order=3)
    with pytest.raises(GeometryError, match="antialias"):
        resample(smooth_volume(), fixed_grid(), order=0, antialias=True)


def test_moving_grid_is_left_handed() -> None:
    assert np.linalg.det(moving_grid().affine[:3, :3]) < 0 < np.linalg.det(fixed_grid().affine[:3, :3])


def by_shares(labels: Volume, grid: Grid, transform: Transform) -> np.ndarray:
    """The vote as it is defined: one image of shares per label, the whole image each time."""
    found = [int(label) for label in np.unique(labels.data) if label != 0]
    shares = [resample(labels.with_data((labels.data == label).astype(np.float32)), grid, transform,
                       antialias=True).data for label in found]  # fmt: skip
    winner = np.array(found)[np.argmax(shares, axis=0)]
    return np.where(1 - np.sum(shares, axis=0, dtype=np.float32) > np.max(shares, axis=0), 0, winner)


@pytest.mark.parametrize("spacing", [(1.1, 1.3, 0.9), (3.1, 3.3, 4.5), (2.2, 5.9, 1.0)])
@pytest.mark.parametrize("warped", [False, True])
def test_labels_are_carried_by_their_shares(spacing: tuple[float, float, float], warped: bool) -> None:
    moving = moving_grid()
    rng = np.random.default_rng(6)
    seeds = rng.uniform(-0.1, 1.1, (40, 3)) * moving.shape  # cells, some cut by the faces of the volume
    where = np.stack(np.indices(moving.shape), -1).reshape(-1, 1, 3)
    nearest = np.concatenate([((part - seeds) ** 2).sum(-1).argmin(-1) for part in np.array_split(where, 20)])
    names = np.concatenate([[0, -7, 3000], rng.permutation(np.arange(1, 38))]).astype(np.int16)
    labels = Volume(names[nearest].reshape(moving.shape), moving)
    transform = Chain([smooth_field(), pull_back()]) if warped else pull_back()
    grid = Grid.centered((24, 20, 22), spacing, fixed_grid().center)
    expected = by_shares(labels, grid, transform)
    for threads in (1, 2):
        found = resample_labels(labels, grid, transform, threads).data
        assert found.dtype == np.int16
        assert len(np.unique(found)) > 10
        # sums of shares in another order may decide a tie with background otherwise
        assert (found != expected).mean() < 1e-3
