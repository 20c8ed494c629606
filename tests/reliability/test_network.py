"""The real network on one head in other clothes: the brain stays in its place in the world."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.pipeline import Preprocessor, Settings
from neuralprep.volume import load

HEAD = "xa30_prisma_T1w_2mm.nii.gz"


def stored_otherwise(image: nib.Nifti1Image, path: Path) -> Path:
    """NIfTI-2, big-endian, axes turned and flipped, scaled integers, with a name that lies about compression."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SLP"))
    turned = image.as_reoriented(turn)
    header = nib.Nifti2Header(endianness=">")
    header.set_data_dtype(np.int16)
    made = nib.Nifti2Image(np.asarray(turned.dataobj), turned.affine, header, dtype=np.int16)
    path = path.with_suffix(".nii")
    path.write_bytes(gzip.compress(made.to_bytes(), 1))
    return path


def with_holes(image: nib.Nifti1Image, path: Path) -> Path:
    """NaN around the head and some infinite voxels in it."""
    values = image.get_fdata(dtype=np.float32).copy()
    values[:3], values[-2:] = np.nan, np.nan
    values[48, 64, 64], values[40, 60, 70] = np.inf, -np.inf
    nib.save(nib.Nifti1Image(values, image.affine), path.with_suffix(".nii"))
    return path.with_suffix(".nii")


def in_metres(image: nib.Nifti1Image, path: Path) -> Path:
    """Header in metres, values negative and scaled, MGZ being unable to say so."""
    made = nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 1e-3 - 5, np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine)
    made.header.set_xyzt_units("meter")
    nib.save(made, path.with_suffix(".nii"))
    return path.with_suffix(".nii")


@pytest.fixture(scope="module")
def base(shared_data: Path) -> tuple[Preprocessor, nib.Nifti1Image, set[tuple[int, ...]]]:
    settings = Settings(normalize=False, register=False, quick=True, threads=1, outputs=("brain_mask",))
    preprocessor = Preprocessor(settings)
    image = nib.load(shared_data / "heads" / HEAD)
    return preprocessor, image, brain(preprocessor, shared_data / "heads" / HEAD, image.affine)


def brain(preprocessor: Preprocessor, path: Path, affine: np.ndarray) -> set[tuple[int, ...]]:
    """Voxels of the brain mask in terms of a grid."""
    mask = preprocessor.run(load(path)).outputs["brain_mask"]
    world = nib.affines.apply_affine(mask.grid.affine, np.argwhere(mask.data > 0))
    index = nib.affines.apply_affine(np.linalg.inv(affine), world)
    assert np.abs(index - np.rint(index)).max() < 0.01
    return set(map(tuple, np.rint(index).astype(int).tolist()))


@pytest.mark.slow
@pytest.mark.parametrize("make", [stored_otherwise, with_holes, in_metres])
def test_the_same_brain(
    base: tuple[Preprocessor, nib.Nifti1Image, set[tuple[int, ...]]], tmp_path: Path,
    make: Callable[[nib.Nifti1Image, Path], Path],
) -> None:  # fmt: skip
    preprocessor, image, truth = base
    found = brain(preprocessor, make(image, tmp_path / "a"), image.affine)
    dice = 2 * len(found & truth) / (len(found) + len(truth))
    assert dice > 0.99, f"{make.__name__}: {dice:.4f}"
    assert 1.2e6 < len(found) * 8 < 1.9e6  # mm^3


@pytest.mark.slow
def test_what_holds_no_head_is_refused_or_doubted(
    base: tuple[Preprocessor, nib.Nifti1Image, set[tuple[int, ...]]], tmp_path: Path
) -> None:
    preprocessor, image, _ = base
    noise = np.random.default_rng(0).normal(100, 20, image.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, image.affine), tmp_path / "noise.nii")
    try:
        result = preprocessor.run(load(tmp_path / "noise.nii"))
    except InputError as error:
        assert "noise.nii" in str(error)  # noqa: PT017
    else:
        assert result.quality.decision == "check"
        assert result.quality.reasons
