"""Cube: stripping with a network that looks once at a cube of fixed size, as MindGrab's own tool does.

The scan is conformed as FreeSurfer does it (voxel 128 of the cube lies on the middle voxel of the scan, axes left,
inferior, anterior, trilinear, 8 bits), scaled by its 2nd and 98th percentiles, and the largest component of the answer
is carried back. CT is first turned from Hounsfield to Cormack units.
Sources: Fani et al., arXiv 2506.11860, and the tool published with it; Rorden et al., NeuroImage 61:957 (2012).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from neuralprep.grid import Grid
from neuralprep.inference.mask_session import MaskSession
from neuralprep.resample import resample
from neuralprep.stages.conform import is_ct
from neuralprep.stages.look import main_component
from neuralprep.volume import Volume

_AXES = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Columns: world direction of the axes of the cube (left, inferior, anterior)."""
_QUANTILES = (0.02, 0.98)
_SATURATED = 0.001
"""Share of the non-zero voxels that the 8-bit scale lets saturate."""


def mask_from_cube(session: MaskSession, scan: Volume, threads: int = 1) -> Volume:
    """Brain mask (bool) on the grid of a scan; empty where the network finds none."""
    image = to_cormack(scan) if is_ct(scan) else scan
    grid = cube_grid(scan.grid, session.side, session.spacing_mm)
    logit = session.predict(scaled(conformed(image, grid, threads)))
    brain = main_component(logit > 0)
    share: NDArray = brain.astype(np.uint8)
    if _coarse(grid):  # the border lies within large voxels: where the interpolated probability is a half
        share = np.where(brain == (logit > 0), expit(logit), np.float32(0))
    found = resample(Volume(share, grid), scan.grid, threads=threads).data >= 0.5
    return scan.with_data(found)


def _coarse(grid: Grid) -> bool:
    """Whether this is not the published cube, whose tool neither blurs what it conforms nor looks between voxels."""
    return max(grid.spacing) > 1.01


def cube_grid(grid: Grid, side: int = 256, spacing_mm: float = 1.0) -> Grid:
    """The cube around a scan.

    Its middle voxel lies on voxel ``shape / 2`` of the scan, an index and not the centre of the field of view: the
    convention of the published tool.
    """
    affine = np.eye(4)
    affine[:3, :3] = spacing_mm * _AXES
    affine[:3, 3] = grid.voxel_to_world(np.asarray(grid.shape) / 2) - affine[:3, :3] @ np.full(3, side / 2)
    return Grid((side, side, side), affine)


def conformed(scan: Volume, grid: Grid, threads: int = 1) -> NDArray[np.uint8]:
    """A scan on the cube in 8 bits; outside of its field of view lies its darkest value."""
    moved = resample(scan, grid, fill=float(scan.data.min()), antialias=_coarse(grid), threads=threads).data
    low, high = float(moved.min()), float(moved.max())
    if high <= low:
        return np.zeros(grid.shape, np.uint8)
    counts, edges = np.histogram(moved, bins=1000, range=(low, high))
    above = np.cumsum(counts[::-1])[::-1]
    top = float(edges[np.flatnonzero(above >= _SATURATED * np.count_nonzero(moved))[-1] + 1])
    out = np.empty(grid.shape, np.uint8)
    for plane, values in zip(out, moved, strict=True):
        plane[:] = np.clip(np.rint((values - low) * (255 / (top - low))), 0, 255)
    return out


def scaled(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit values with the 2nd and 98th percentiles at 0 and 1; the small constant keeps a blank image finite."""
    ranks = np.cumsum(np.bincount(image.ravel(), minlength=256))
    low, high = (_quantile(ranks, share) for share in _QUANTILES)
    table = np.clip((np.arange(256, dtype=np.float32) - low) / (high - low + 1e-3), 0, 1)
    return table.astype(np.float32)[image]


def _quantile(ranks: NDArray[np.int64], share: float) -> float:
    """Quantile of integers with linear interpolation, from the numbers of voxels up to each value."""
    position = share * (int(ranks[-1]) - 1)
    first = int(position)
    below, above = (int(np.searchsorted(ranks, index, side="right")) for index in (first, int(np.ceil(position))))
    return below + (above - below) * (position - first)


def to_cormack(scan: Volume) -> Volume:
    """A CT in Cormack units: from 0 at air, with the 200 units of brain and fluid stretched tenfold.

    Air and fat, -1000 to -100 HU, become 0 to 900; soft tissue, -100 to 100 HU, becomes 900 to 2900; bone follows
    with slope 1. Values below -1000 HU mark what the scanner did not see and become air.
    """
    above_air = np.maximum(scan.data, -1000.0) + 1000.0
    return scan.with_data((above_air + 9.0 * np.clip(above_air - 900.0, 0.0, 200.0)).astype(np.float32))
