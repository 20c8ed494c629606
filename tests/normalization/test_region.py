"""Which voxels count: masks, background values, and everything that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.normalization.region import select
from neuralprep.volume import Volume
from samples import smooth_volume


def box(shape: tuple[int, int, int] = (10, 12, 8)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[2:8, 3:9, 1:7] = True
    return mask


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, (10, 12, 8)).astype(np.float32)


def test_zeros_inside_a_mask_count_and_those_outside_do_not() -> None:
    data = image()
    data[3, 4, 2] = 0
    data[~box()] = 0
    assert select(data, box()).values.size == box().sum()
    assert select(data).values.size == box().sum() - 1  # without a mask the value is all there is to tell


def test_the_minimum_can_stand_for_background() -> None:
    data = np.where(box(), image(), -1024)
    assert select(data, background="min").inside.sum() == box().sum()
    assert select(data, background=-1024).inside.sum() == box().sum()


def test_a_mask_of_labels_and_of_fractions_is_what_is_above_zero() -> None:
    labels = box().astype(np.int16) * 7
    assert np.array_equal(select(image(), labels).inside, box())
    assert np.array_equal(select(image(), box() * 0.25).inside, box())


def test_a_volume_keeps_its_grid_and_an_array_its_type() -> None:
    volume = smooth_volume()
    region = select(volume, volume.data > 50)
    rebuilt = region.mapped(lambda values: values * 2, -1.0)
    assert rebuilt.grid is volume.grid
    assert rebuilt.data.dtype == np.float32
    assert np.array_equal(rebuilt.data, np.where(volume.data > 50, volume.data * 2, -1))
    kept = select(image(), box()).mapped(lambda values: values + 1, None)
    assert np.array_equal(kept, image() + 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_inside_and_harmless_outside(value: float) -> None:
    data = image()
    data[0, 0, 0] = value
    assert select(data, box()).values.size == box().sum()
    data[3, 4, 2] = value
    with pytest.raises(InputError, match="1 of 216 voxels inside the mask are NaN or infinite"):
        select(data, box())


@pytest.mark.parametrize(
    ("data", "mask", "message"),
    [
        (np.full((10, 12, 8), 3.0), box(), "all 216 voxels inside the mask have the value 3"),
        (image(), np.zeros((10, 12, 8)), "the mask: is empty"),
        (image(), np.ones((10, 12, 9)), r"shape \(10, 12, 9\) is not that of the image, \(10, 12, 8\)"),
        (image(), np.where(box(), -4.0, 4.0), "negative values, so it is no mask"),
        (image().astype(complex), box(), "type complex128"),
        (np.zeros((10, 12, 8)), None, "every voxel has the background value 0"),
        (image(), None, "only 0.00% of the voxels have the background value 0"),
        (np.zeros((0, 3, 3)), None, "real numbers are needed"),
    ],
)
def test_what_cannot_be_used_is_refused(data: np.ndarray, mask: np.ndarray | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(data, mask)


def test_a_mask_elsewhere_is_refused_by_name() -> None:
    scan = smooth_volume()
    affine = scan.grid.affine.copy()
    affine[0, 3] += 1.0
    elsewhere = Volume(np.ones(scan.grid.shape, np.uint8), Grid(scan.grid.shape, affine), Path("other_mask.nii.gz"))
    with pytest.raises(InputError, match=r"other_mask.nii.gz: lies elsewhere than the image"):
        select(scan, elsewhere)
    near = affine.copy()
    near[0, 3] -= 0.95
    assert select(scan, elsewhere.data).values.size == scan.data.size
    assert select(scan, Volume(elsewhere.data, Grid(scan.grid.shape, near))).values.size == scan.data.size


def test_a_head_is_not_taken_for_a_stripped_brain() -> None:
    grid = Grid.centered((40, 40, 40), 5.0)
    data = np.full(grid.shape, 100.0)
    data[:4] = 0
    data[20:] = 90
    with pytest.raises(InputError, match="7200 ml differ from the background value 0, more than any brain"):
        select(Volume(data, grid))
    assert select(Volume(data, grid), checks=False).values.size == 36 * 40 * 40
    assert select(data).values.size == 36 * 40 * 40
