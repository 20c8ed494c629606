"""Smooth fields on fine grids, through a coarse lattice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuralprep.grid import Grid

LATTICE_MM = 5.0
"""Spacing of the lattice, at most."""


def through_lattice(values: NDArray[np.float32], grid: Grid, target: Grid) -> NDArray[np.float32]:
    """Carry a field that varies over tens of mm to a fine grid, at a tenth of the cost of a trilinear gather.

    Rotated onto a coarse lattice of the target's axes first; then every axis is interpolated with a small matrix.

    Parameters
    ----------
    values
        (X, Y, Z) on ``grid``; beyond it the nearest edge value continues.
    target
        Where the result, float32, lies.
    """
    x, y, z = counts = [max(2, int(np.ceil(extent / LATTICE_MM)) + 1) for extent in target.extent]
    steps = [(n - 1) / (c - 1) for n, c in zip(target.shape, counts, strict=True)]
    affine = target.affine @ np.diag([*steps, 1.0])
    lattice = Grid((x, y, z), affine)
    coarse = np.ascontiguousarray(_clamped(values, grid, lattice).T)
    along_x, along_y, along_z = (_interpolation(n, c) for n, c in zip(target.shape, counts, strict=True))
    # In this order every product is contiguous and the result lies in memory as images do, first axis fastest.
    fine: NDArray[np.float32] = np.tensordot(along_z, coarse, axes=(1, 0))
    return ((along_y @ fine) @ along_x.T).T.astype(np.float32, copy=False)


def _clamped(values: NDArray[np.float32], grid: Grid, lattice: Grid) -> NDArray[np.float32]:
    """Trilinear values on the lattice; beyond the field the nearest edge value continues."""
    from scipy import ndimage

    matrix = np.linalg.inv(grid.affine) @ lattice.affine
    return ndimage.affine_transform(values, matrix[:3, :3], matrix[:3, 3], output_shape=lattice.shape, order=1,
                                    mode="nearest", prefilter=False, output=np.float32)


def _interpolation(fine: int, coarse: int) -> NDArray[np.float32]:
    """(fine, coarse) linear interpolation between nodes spread evenly over the axis."""
    position = np.linspace(0, coarse - 1, fine)
    index = np.arange(coarse)
    return np.maximum(0, 1 - np.abs(position[:, None] - index[None])).astype(np.float32)
