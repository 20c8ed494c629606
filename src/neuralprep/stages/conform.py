"""Conform: from a scan of any orientation, spacing and scale to what the network sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuralprep.grid import Grid
from neuralprep.resample import covered, resample
from neuralprep.transform import Affine
from neuralprep.volume import Volume

SPACING_MM = 2.0
WIDE_SHAPE = (128, 128, 128)
"""First look: at most 256 mm along the world axes."""
_BLOCK = 16
"""The network takes grids whose axes are multiples of this."""
CLOSE_SHAPE = (96, 112, 96)
"""Second look: 192 x 224 x 192 mm around the brain, along the template's axes."""
TEMPLATE_CENTER_MM = (0.0, -18.0, 4.0)
"""Middle of the brain in template space, on which the second look is centred."""
HEAD_TOP_MM = 112.0
"""In a field of view taller than the first look, the grid's centre lies this far below the top of the head."""

CT_WINDOW_HU = (-100.0, 200.0)


@dataclass(frozen=True, eq=False)
class WorkingImage:
    """A scan on a working grid, scaled for the network.

    Attributes
    ----------
    image
        (X, Y, Z) float32 in [0, 1].
    grid
        Where its voxels are.
    low, high
        Intensities of the (windowed) scan that became 0 and 1.
    visible
        (X, Y, Z) bool, inside the scan's field of view.
    """

    image: NDArray[np.float32]
    grid: Grid
    low: float
    high: float
    visible: NDArray[np.bool_]


def is_ct(scan: Volume) -> bool:
    """Whether intensities look like Hounsfield units: air near -1000 fills much of the volume and bone is there."""
    values = scan.data[::4, ::4, ::4]
    if values.min() > -500 or values.max() < 300:
        return False
    air = np.mean((values > -3100) & (values < -800))
    soft = np.mean((values > -20) & (values < 90))
    return bool(air > 0.1 and soft > 0.03)


def windowed(scan: Volume) -> Volume:
    """A CT limited to the head window; any other scan unchanged."""
    if not is_ct(scan):
        return scan
    return scan.with_data(np.clip(scan.data, *CT_WINDOW_HU).astype(np.float32))


def wide_grid(scan: Volume) -> Grid:
    """Grid of the first look, along the world axes: the field of view, as far as it fits into 256 mm.

    Centred on it; where it is taller than that (neck and shoulders), hung from the top of the head; where it is wider,
    centred on the head. No voxel is spent on what the scan did not see.
    """
    corners = scan.grid.corners()
    low, high = corners.min(0), corners.max(0)
    center = (low + high) / 2
    room = SPACING_MM * np.asarray(WIDE_SHAPE)
    if ((high - low) > room).any():
        foreground = _foreground_points(scan)
        if len(foreground):
            first, last = np.percentile(foreground, 1, axis=0), np.percentile(foreground, 99.5, axis=0)
            for axis in (0, 1):
                if high[axis] - low[axis] > room[axis]:
                    center[axis] = (first[axis] + last[axis]) / 2
            if high[2] - low[2] > room[2]:
                center[2] = max(last[2] - HEAD_TOP_MM, low[2] + room[2] / 2)
    voxel = np.abs(scan.grid.affine[:3, :3]).sum(1)  # corners are centres of voxels
    blocks = np.ceil((high - low + voxel) / (_BLOCK * SPACING_MM) - 1e-3).astype(int)
    x, y, z = (min(max(_BLOCK * int(n), 4 * _BLOCK), most) for n, most in zip(blocks, WIDE_SHAPE, strict=True))
    return Grid.centered((x, y, z), SPACING_MM, center)


def _foreground_points(scan: Volume) -> NDArray[np.float64]:
    """World positions of voxels brighter than a fifth of the bright tissue, on a coarse lattice."""
    steps = [max(1, round(6 / s)) for s in scan.grid.spacing]
    values = scan.data[:: steps[0], :: steps[1], :: steps[2]].astype(np.float32)
    floor = float(np.percentile(values, 2))
    bright = np.argwhere(values - floor > 0.2 * (np.percentile(values, 98) - floor))
    return scan.grid.voxel_to_world(bright * np.asarray(steps))


def close_grid(world_from_template: Affine) -> Grid:
    """Grid of the second look: the template's axes (without its size) laid over the brain found in the first."""
    u, _, vt = np.linalg.svd(world_from_template.matrix[:3, :3])
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    affine = np.eye(4)
    affine[:3, :3] = SPACING_MM * rotation
    center = world_from_template.apply(np.asarray([TEMPLATE_CENTER_MM]))[0]
    affine[:3, 3] = center - affine[:3, :3] @ ((np.asarray(CLOSE_SHAPE) - 1) / 2)
    return Grid(CLOSE_SHAPE, affine)


def conform(scan: Volume, grid: Grid, threads: int = 1) -> WorkingImage:
    """Resample a (windowed) scan onto a working grid and scale it to [0, 1].

    The scale runs from min(0, 0.5th percentile) to the 99.5th percentile of what the scan covers of the grid: zero
    stays zero for magnitude images, so the multiplier field acts as a gain. Training uses the same rule
    (:func:`neuralprep.synthesis.sample.intensity_range`).
    """
    values = resample(scan, grid, antialias=True, fill=0.0, threads=threads).data.astype(np.float32)
    visible = covered(scan.grid, grid)
    inside = values[visible][::7] if visible.any() else values.ravel()[::7]
    low, high = (float(v) for v in np.percentile(inside, (0.5, 99.5)))
    low = min(low, 0.0)
    high = max(high, low + 1e-6 * max(1.0, abs(low)))
    image = np.clip((values - low) / (high - low), 0, 1)
    image[~visible] = 0
    return WorkingImage(image, grid, low, high, visible)
