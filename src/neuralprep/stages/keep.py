"""Keep: carrying a label onto the grid of a scan so that nothing of it is lost."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.volume import Volume

_CHUNK = 1 << 18
_EDGE = 0.495
"""How far from its centre a label voxel is sampled, in voxels: just inside, so that faces that touch do not count."""
_STEP, _FINE_STEP = 0.55, 0.3
"""Largest distance of samples in voxels of the scan: below 1/sqrt(3) no voxel inside a label can lie between them."""


class Kept(NamedTuple):
    """A label on the grid of a scan.

    Attributes
    ----------
    voxels
        (X, Y, Z) bool.
    outside
        Label voxels whose centre the scan does not cover; these cannot be kept.
    """

    voxels: NDArray[np.bool_]
    outside: int


def label_on_grid(label: Volume, grid: Grid) -> Kept:
    """Every voxel of a grid that a voxel above 0 of the label reaches into.

    On the same grid that is the label itself. Otherwise each voxel of the label is sampled more densely than the grid;
    on a turned grid the samples at the label's surface also mark what lies between them, which adds less than half a
    voxel around it (half of three gaps of `_FINE_STEP`). Neither interpolation nor the nearest neighbour would keep
    small lesions whole.

    Raises
    ------
    InputError
        The label marks voxels, but all of them lie outside the grid.
    """
    marked = label.data > 0
    if label.grid.same_as(grid, tol_mm=0.01 * min(grid.spacing)):
        return Kept(marked, 0)
    kept = np.zeros(grid.shape, bool)
    matrix = np.linalg.inv(grid.affine) @ label.grid.affine
    centers = np.argwhere(marked) @ matrix[:3, :3].T + matrix[:3, 3]
    covered = _mark(kept, centers, np.zeros((1, 3)))
    if len(centers) and not covered:
        raise InputError(f"{label.source or 'the label to keep'}: lies outside the scan; is it a label of this scan?")
    steps = np.abs(matrix[:3, :3])
    if (steps < 1e-4 * steps.max(0)).sum() == 6:  # axes run along axes: samples at every voxel are exact
        _mark(kept, centers, _lattice(matrix[:3, :3], 1.0)[0])
    else:
        _mark(kept, centers, _lattice(matrix[:3, :3], _STEP)[0])
        surface = np.argwhere(marked & ~ndimage.binary_erosion(marked)) @ matrix[:3, :3].T + matrix[:3, 3]
        lattice, gap = _lattice(matrix[:3, :3], _FINE_STEP)
        corners = np.array(list(product((-0.5, 0.5), repeat=3))) * gap
        _mark(kept, surface, (lattice[:, None] + corners).reshape(-1, 3))
    return Kept(kept, len(centers) - covered)


def _lattice(linear: NDArray[np.float64], step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples of a label voxel about its centre, in voxels of the grid, and the gaps between them along its axes."""
    counts = np.ceil(2 * _EDGE * np.abs(linear).max(0) / step).astype(int) + 1
    lines = [np.linspace(-_EDGE, _EDGE, count) for count in counts]
    gap = np.abs(linear) @ (2 * _EDGE / (counts - 1))
    return np.array(list(product(*lines))) @ linear.T, gap


def _mark(kept: NDArray[np.bool_], centers: NDArray[np.float64], offsets: NDArray[np.float64]) -> int:
    """Mark the voxels nearest to every centre at every offset; how many of these points lie inside."""
    total = 0
    for start in range(0, len(centers), _CHUNK):
        part = centers[start : start + _CHUNK]
        for offset in offsets:
            nearest = np.rint(part + offset).astype(np.int32)
            inside = ((nearest >= 0) & (nearest < kept.shape)).all(1)
            x, y, z = nearest[inside].T
            kept[x, y, z] = True
            total += int(inside.sum())
    return total
