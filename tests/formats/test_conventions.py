"""Every format of a transform: how voxels are stored plays no part, and 10 mm to the right are 10 mm to the right.

SimpleITK and nitransforms read the same files by themselves, and must find the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

from neuralprep.formats.afni import write_aff12
from neuralprep.formats.chain import Leg, read_chain
from neuralprep.formats.fsl import write_mat
from neuralprep.formats.itk import write_affine, write_field
from neuralprep.formats.itk_hdf5 import write_composite
from neuralprep.formats.lta import write_lta
from neuralprep.formats.x5 import write_x5
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain, Transform, grid_points, to_displacement
from neuralprep.volume import Volume, load
from samples import fixed_grid, moving_grid, pull_back, sitk_points, sitk_resample, smooth_field, smooth_volume

sitk = pytest.importorskip("SimpleITK")
nitransforms = pytest.importorskip("nitransforms")

BENT = ("w.nii.gz", "w.x5", "c.h5")
FORMATS = ("a.mat", "a.tfm", "a.h5", "a.lta", "a.fsl.mat", "a.x5", "a.aff12.1D", *BENT)
OTHER = {"RAS": "LAS", "LAS": "RAS"}
NITRANSFORMS = {"a.lta": "fs", "a.fsl.mat": "fsl", "a.x5": "X5", "a.aff12.1D": "afni"}


def write(path: Path, bend: Transform, affine: Affine, fixed: Grid, moving: Grid) -> Transform:
    """Write what a format can hold: the affine, or the bend and then the affine. What was written."""
    writers = {"a.lta": write_lta, "a.fsl.mat": write_mat, "a.aff12.1D": write_aff12}
    whole = to_displacement(Chain([bend, affine]), fixed)
    if path.name in writers:
        writers[path.name](path, affine, fixed, moving)
    elif path.name == "a.x5":
        write_x5(path, affine, fixed)
    elif path.name == "w.x5":  # which we only read
        vectors, empty = (nib.Nifti1Image(one, fixed.affine) for one in (whole.vectors, np.zeros(fixed.shape)))
        made = nitransforms.nonlinear.DenseFieldTransform(vectors, reference=empty)
        nitransforms.io.x5.to_filename(path, [made.to_x5()])
    elif path.name == "w.nii.gz":
        write_field(path, whole)
    elif path.name == "c.h5":
        chain = Chain([to_displacement(bend, fixed), affine])
        write_composite(path, chain)
        return chain
    else:
        write_affine(path, affine)
    return whole if path.name in BENT else affine


def theirs(path: Path, fixed: Path, moving: Path) -> Any:
    """The transform as SimpleITK or nitransforms reads it."""
    if path.name in NITRANSFORMS:
        return nitransforms.linear.load(path, fmt=NITRANSFORMS[path.name], reference=fixed, moving=moving)
    if path.name == "w.x5":
        return nitransforms.nonlinear.DenseFieldTransform.from_filename(path)
    if path.name == "w.nii.gz":
        return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return sitk.ReadTransform(str(path))


def their_points(transform: Any, at: np.ndarray) -> np.ndarray:
    return sitk_points(transform, at) if isinstance(transform, sitk.Transform) else np.asarray(transform.map(at))


def their_image(transform: Any, fixed: Path, moving: Path) -> np.ndarray:
    if isinstance(transform, sitk.Transform):
        return sitk_resample(load(moving, checks=False), load(fixed, checks=False).grid, transform)
    return np.asarray(nitransforms.resampling.apply(transform, moving, reference=fixed, order=1).dataobj)


def stored(tmp_path: Path, name: str, volume: Volume, codes: str) -> tuple[Path, Volume]:
    """A volume on disk with its axes in another order, and as it is read."""
    path = tmp_path / f"{name}.nii.gz"
    volume.oriented(codes).save(path)
    return path, load(path, checks=False)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("codes", [("RAS", "LAS"), ("LAS", "RAS"), ("LAS", "LAS"), ("PIR", "LAS")])
@pytest.mark.parametrize("name", FORMATS)
def test_how_the_images_are_stored_plays_no_part(tmp_path: Path, name: str, codes: tuple[str, str]) -> None:
    moving_path, moving = stored(tmp_path, "moving", smooth_volume(moving_grid()), codes[1])
    fixed_path, fixed = stored(tmp_path, "fixed", smooth_volume(fixed_grid(), 5), codes[0])
    truth = write(tmp_path / name, smooth_field(), pull_back(), fixed.grid, moving.grid)
    found = read_chain([Leg(tmp_path / name)], fixed.grid, moving.grid)
    # the answer of the images as they were before they were stored in another order
    exact = Chain([smooth_field(), pull_back()]) if name in BENT else pull_back()
    want = resample(smooth_volume(moving_grid()), fixed_grid(), exact).data
    made = resample(moving, fixed.grid, found).oriented(fixed_grid().axis_codes).data
    assert (want != 0).mean() > 0.2
    assert (np.abs(made - want) > 1e-3 * np.ptp(want)).mean() < 2e-4  # the very edge of the field of view may differ
    at = grid_points(fixed.grid)[::97]  # where a field is known, so that nothing is interpolated
    assert apart(found.apply(at), exact.apply(at)) < 1e-4
    assert apart(their_points(theirs(tmp_path / name, fixed_path, moving_path), at), truth.apply(at)) < 1e-3
    if name != "a.aff12.1D" and codes[0] in OTHER:  # AFNI turns oblique images straight about their first voxel
        others = (one.grid.oriented(OTHER[stored_as]) for one, stored_as in zip((fixed, moving), codes, strict=True))
        assert apart(read_chain([Leg(tmp_path / name)], *others).apply(at), found.apply(at)) < 1e-9


def around_zero(grid: Grid) -> Grid:
    matrix = grid.affine.copy()
    matrix[:3, 3] -= grid.center
    return Grid(grid.shape, matrix)


def blob(grid: Grid, center: np.ndarray) -> Volume:
    distance = np.linalg.norm(grid_points(grid) - center, axis=1).reshape(grid.shape)
    return Volume((100 * np.exp(-(distance**2) / (2 * 2.5**2))).astype(np.float32), grid)


def centroid(values: np.ndarray, grid: Grid) -> np.ndarray:
    return np.average(grid_points(grid), axis=0, weights=values.ravel())


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("name", FORMATS)
def test_content_that_moves_by_10_mm_moves_by_10_mm(tmp_path: Path, name: str, axis: int) -> None:
    """To the right, to the front, upwards: the pull-back subtracts 10 mm."""
    by = 10.0 * np.eye(3)[axis]
    start = -by / 2
    pull = np.eye(4)
    pull[:3, 3] = -by
    bend, affine = (Affine(pull), Affine.identity()) if name in BENT else (Affine.identity(), Affine(pull))
    moving_path, moving = stored(tmp_path, "moving", blob(around_zero(moving_grid()), start), "LAS")
    fixed_path, fixed = stored(tmp_path, "fixed", smooth_volume(around_zero(fixed_grid())), "RAS")
    write(tmp_path / name, bend, affine, fixed.grid, moving.grid)
    made = resample(moving, fixed.grid, read_chain([Leg(tmp_path / name)], fixed.grid, moving.grid))
    assert apart(centroid(moving.data, moving.grid), start) < 0.02
    assert apart(centroid(made.data, made.grid), start + by) < 0.02
    same = their_image(theirs(tmp_path / name, fixed_path, moving_path), fixed_path, moving_path)
    assert apart(centroid(same, fixed.grid), start + by) < 0.02
    # on a grid that is 10 mm further on, nothing is interpolated: the content is the same, voxel for voxel
    further = Grid(moving.grid.shape, np.linalg.inv(pull) @ moving.grid.affine)
    write(tmp_path / name, bend, affine, further, moving.grid)
    made = resample(moving, further, read_chain([Leg(tmp_path / name)], further, moving.grid))
    assert apart(made.data, moving.data) < 1e-3


def test_what_the_files_say_of_content_that_moves(tmp_path: Path) -> None:
    """10 mm to the right, 20 to the front, 30 upwards, by hand, in the numbers on disk."""
    pull = np.eye(4)
    pull[:3, 3] = (-10, -20, -30)
    for codes in ("RAS", "LAS"):
        grid = Grid.centered((10, 11, 12), (1, 2, 3), codes=codes)
        # moving mm -> fixed mm, the first axis to the left however the image is stored
        write_mat(tmp_path / "a.fsl.mat", Affine(pull), grid, grid)
        np.testing.assert_allclose(np.loadtxt(tmp_path / "a.fsl.mat")[:3, 3], (-10, 20, 30), atol=1e-9)
        # fixed -> moving, vectors in LPS
        write_field(tmp_path / "w.nii.gz", to_displacement(Affine(pull), grid))
        vectors = np.asarray(nib.load(tmp_path / "w.nii.gz").dataobj)
        np.testing.assert_allclose(vectors.reshape(-1, 3), np.broadcast_to((10, 20, -30), (1320, 3)), atol=1e-5)
        # fixed -> moving, RAS
        write_x5(tmp_path / "a.x5", Affine(pull), grid)
        with h5py.File(tmp_path / "a.x5") as file:
            np.testing.assert_array_equal(file["TransformGroup/0/Transform"][()], pull)
