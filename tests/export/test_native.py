"""Label maps carried between grids: no invented labels, exact where voxels coincide, better than nearest neighbour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.overlap import dice, dice_by_label
from neuralprep.export.native import carry_labels
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load
from samples import affine_matrix, fixed_grid, moving_grid, pull_back, sitk_affine, sitk_resample


def blobs(grid: Grid, seed: int = 0) -> Volume:
    """Smooth regions with the labels 0, 2, 3, 7."""
    from scipy.ndimage import gaussian_filter

    fields = [gaussian_filter(noise, 2) for noise in np.random.default_rng(seed).normal(size=(4, *grid.shape))]
    return Volume(np.array([0, 2, 3, 7], np.uint8)[np.argmax(fields, 0)], grid)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations((0, 1, 2)), flips=st.tuples(*[st.booleans()] * 3))
def test_voxels_that_coincide_are_copied(seed: int, order: list[int], flips: tuple[bool, ...]) -> None:
    labels = blobs(moving_grid(), seed)
    codes = labels.grid.axis_codes
    turned = "".join(codes[axis].translate(str.maketrans("RLAPSI", "LRPAIS") if flip else {})
                     for axis, flip in zip(order, flips, strict=True))
    for interpolation in ("vote", "nearest"):
        there = carry_labels(labels, labels.grid.oriented(turned), None, interpolation)
        np.testing.assert_array_equal(there.data, labels.oriented(turned).data)
        back = carry_labels(there, labels.grid, None, interpolation)
        np.testing.assert_array_equal(back.data, labels.data)


def test_vote_takes_the_label_with_the_largest_linear_share() -> None:
    labels, grid, transform = blobs(moving_grid()), fixed_grid(), pull_back()
    found = carry_labels(labels, grid, transform).data
    # independent: SimpleITK interpolates the indicator of every label, the background too
    numbers = np.array([0, 2, 3, 7])
    shares = np.array([
        sitk_resample(labels.with_data((labels.data == n).astype(np.float32)), grid, sitk_affine(transform))
        for n in numbers
    ])
    shares[0] = 1 - shares[1:].sum(0)  # beyond the label map is background
    order = np.sort(shares, axis=0)
    clear = order[-1] - order[-2] > 1e-3  # ties are decided by rounding
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], numbers[shares.argmax(0)][clear])
    assert set(np.unique(found)) <= {0, 2, 3, 7}


def test_nearest_equals_simpleitk() -> None:
    labels, grid, transform = blobs(moving_grid()), fixed_grid(), pull_back()
    expected = sitk_resample(labels, grid, sitk_affine(transform), order=0)
    assert (carry_labels(labels, grid, transform, "nearest").data == expected).mean() > 0.999


def test_large_voxel_takes_the_label_that_fills_most_of_it() -> None:
    fine = Grid.centered((40, 40, 40), 1.0)
    labels = np.zeros(fine.shape, np.uint8)
    labels[:, :, 3::5] = 1  # sheets that only a nearest-neighbour sample at their middle would take for solid
    coarse = Grid.centered((40, 40, 8), (1.0, 1.0, 5.0))
    assert not carry_labels(Volume(labels, fine), coarse).data.any()
    labels[:, :, 2::5] = labels[:, :, 4::5] = 1  # three of five layers
    assert carry_labels(Volume(labels, fine), coarse).data.all()


def test_labels_that_miss_the_grid_leave_it_empty() -> None:
    labels = blobs(moving_grid())
    far = Affine(affine_matrix((0, 0, 0), (1, 1, 1), (900, 0, 0)))
    assert not carry_labels(labels, fixed_grid(), far).data.any()
    assert not carry_labels(labels.with_data(labels.data * 0), fixed_grid()).data.any()


@pytest.mark.parametrize("name", ["clinicaltbx_stroke_lesion", "openms_p01_s1_FLAIR_authormask"])
def test_round_trip_on_a_real_head_with_a_known_affine(shared_data: Path, name: str) -> None:
    path = next(folder / f"{name}.nii.gz" for folder in (shared_data / "heads", shared_data / "labels")
                if (folder / f"{name}.nii.gz").is_file())
    volume = load(path, checks=False)
    labels = volume.with_data((volume.data > 0.5).astype(np.uint8))
    middle = labels.grid.voxel_to_world(np.argwhere(labels.data > 0).mean(0))
    matrix = affine_matrix((0.12, -0.2, 0.1), (0.95, 1.06, 0.98), (0, 0, 0))
    matrix[:3, 3] = middle
    transform = Affine(matrix)  # template -> scan
    template = Grid.centered((181, 217, 181), 1.0)
    scores = {}
    for interpolation in ("vote", "nearest"):
        there = carry_labels(labels, template, transform, interpolation)
        back = carry_labels(there, labels.grid, transform.inverse(), interpolation)
        assert back.grid is labels.grid
        scores[interpolation] = dice(back.data, labels.data)
    assert scores["vote"] > 0.995
    assert scores["vote"] > scores["nearest"]


def test_real_tissue_labels_come_back(shared_data: Path) -> None:
    labels = read_labels(shared_data / "labels" / "malf_oasis" / "1000_tissues.nii.gz")
    thin = labels.cropped((40, 60, 50), (120, 150, 120))
    matrix = affine_matrix((0.12, -0.2, 0.1), (0.95, 1.06, 0.98), tuple(thin.grid.center))
    there = carry_labels(thin, Grid.centered((120, 130, 110), 1.0), Affine(matrix))
    back = carry_labels(there, thin.grid, Affine(matrix).inverse())
    scores = dice_by_label(back.data, thin.data)
    assert set(scores) == {1, 2, 3}
    assert min(scores.values()) > 0.95
