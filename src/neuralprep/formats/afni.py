"""AFNI affines (.aff12.1D), through nitransforms.

The matrix takes points of the base (fixed) image to points of the source (moving) image in AFNI's coordinates, LPS mm:
the direction of our pull-backs. AFNI thinks of oblique images as turned straight, so for them a file means nothing
without both images.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from neuralprep.errors import InputError
from neuralprep.files import read_text
from neuralprep.formats.parsing import affine_of, parse_numbers, rows_text, write_text
from neuralprep.grid import Grid
from neuralprep.transform import Affine

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image


def nitransforms_io(what: str) -> ModuleType:
    """The readers and writers of nitransforms.

    Raises
    ------
    InputError
        It is not installed; `what` asked for it.
    """
    try:
        import nitransforms.io.afni
        import nitransforms.io.x5
    except ImportError:
        fault = f"{what}: this format needs the package nitransforms; pip install 'neuralprep[formats]'"
        raise InputError(fault) from None
    return nitransforms.io


def read_aff12(path: str | PathLike[str], fixed: Grid, moving: Grid) -> Affine:
    """Read an AFNI affine as a pull-back.

    Parameters
    ----------
    path : path
        One line of twelve numbers; lines starting with # are comments.
    fixed, moving : Grid
        Of AFNI's base and source images.

    Raises
    ------
    InputError, GeometryError
        Malformed, several lines (a time series), singular, or nitransforms is not installed.
    """
    path = Path(path)
    afni = nitransforms_io(str(path)).afni
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) > 1 and all(len(line.split()) == 12 for line in lines):
        raise InputError(f"{path}: holds {len(lines)} affines, one per volume of a series; give a file with one")
    stored = afni.AFNILinearTransform()
    stored.structarr["parameters"] = np.vstack(
        [parse_numbers(" ".join(lines), 12, "matrix", path).reshape(3, 4), (0, 0, 0, 1)]
    )
    return affine_of(stored.to_ras(moving=_image(moving), reference=_image(fixed)), path)


def write_aff12(path: str | PathLike[str], affine: Affine, fixed: Grid, moving: Grid) -> None:
    """Write a pull-back (RAS mm, fixed -> moving) for AFNI, with all its digits.

    Raises
    ------
    InputError
        nitransforms is not installed, or the folder cannot be written to.
    """
    afni = nitransforms_io(str(path)).afni
    made = afni.AFNILinearTransform.from_ras(affine.matrix, moving=_image(moving), reference=_image(fixed))
    numbers = np.asarray(made.structarr["parameters"])[:3].reshape(1, 12)
    write_text(Path(path), "# 3dAllineate matrix (DICOM-to-DICOM, row-by-row):\n" + rows_text(numbers))


def _image(grid: Grid) -> Nifti1Image:
    """An empty image with the geometry of a grid."""
    import nibabel as nib

    return nib.Nifti1Image(np.broadcast_to(np.uint8(0), grid.shape), grid.affine)
