from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.api import as_volume, preprocess
from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.volume import Volume, save

SHAPE = (12, 14, 10)
AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])


def data() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, SHAPE).astype(np.float32)


def test_every_kind_of_image_becomes_the_same_volume(tmp_path: Path) -> None:
    values = data()
    volume = Volume(values, Grid(SHAPE, AFFINE))
    save(volume, tmp_path / "a.nii.gz")
    path = tmp_path / "a.nii.gz"
    kinds = [volume, path, str(path), nib.Nifti1Image(values, AFFINE), (values, AFFINE)]
    for kind in kinds:
        made = as_volume(kind)
        np.testing.assert_array_equal(made.data, values)
        np.testing.assert_allclose(made.grid.affine, AFFINE)


@pytest.mark.parametrize("image", [None, 3, np.zeros(SHAPE), (data(),), (data(), AFFINE, 1)])
def test_anything_else_is_an_error(image: object) -> None:
    with pytest.raises(InputError, match="is no image"):
        as_volume(image)  # type: ignore[arg-type]


def test_unknown_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"no such setting: lambda_\. There are .*lam"):
        preprocess((data(), AFFINE), lambda_=1.0)
