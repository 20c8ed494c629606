"""FSL FLIRT matrices.

A FLIRT matrix takes *scaled voxel* coordinates of the moving image to those of the fixed (reference) image, so it means
nothing without both grids. Scaled voxel coordinates are voxel indices times voxel size, with the first axis counted
from its other end where the image is stored in neurological order (affine with positive determinant).
Source: Jenkinson et al., NeuroImage 17:825 (2002); FSL newimage.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from neuralprep.files import read_text
from neuralprep.formats.parsing import affine_of, parse_numbers, rows_text, write_text
from neuralprep.grid import FloatArray, Grid
from neuralprep.transform import Affine


def read_mat(path: str | PathLike[str], fixed: Grid, moving: Grid) -> Affine:
    """Read a FLIRT matrix as a pull-back.

    Parameters
    ----------
    path : path
        Four lines of four numbers.
    fixed, moving : Grid
        Grids of FLIRT's ``-ref`` and ``-in`` images, as stored.

    Returns
    -------
    Affine
        RAS mm, fixed -> moving.

    Raises
    ------
    InputError, GeometryError
        Not 16 finite numbers; singular.
    """
    path = Path(path)
    matrix = parse_numbers(read_text(path), 16, "matrix", path).reshape(4, 4)
    inverse = affine_of(matrix, path).inverse().matrix
    return affine_of(_to_ras(moving) @ inverse @ np.linalg.inv(_to_ras(fixed)), path)


def write_mat(path: str | PathLike[str], affine: Affine, fixed: Grid, moving: Grid) -> None:
    """Write a pull-back (RAS mm, fixed -> moving) as the FLIRT matrix for these two grids."""
    matrix = np.linalg.inv(_to_ras(fixed)) @ affine.inverse().matrix @ _to_ras(moving)
    write_text(Path(path), rows_text(matrix))


def _to_ras(grid: Grid) -> FloatArray:
    """FSL's scaled voxel coordinates of a grid -> RAS mm."""
    unscale = np.diag([*(1 / np.array(grid.spacing)), 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        flip = np.eye(4)
        flip[0, 0], flip[0, 3] = -1, grid.shape[0] - 1
        unscale = flip @ unscale
    return grid.affine @ unscale
