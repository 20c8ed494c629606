"""Squared local correlation of two images in their mid-space, and which way it grows.

Only voxels in and near the brains are looked up: they are listed once per level, and everything but the sums over
windows is done on the list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.box import bounding_box
from neuralprep.grid import Grid
from neuralprep.trilinear import trilinear
from neuralprep.velocity import integrate

FloatImage = NDArray[np.float32]
_VISCOUS_VOX = 1.0  # of the velocity's grid
_WINDOW = 5  # voxels per axis of the local correlation
_SQUARINGS = 4  # of half the velocity, while it is searched for: five find the same and cost a tenth more
_FLOOR = 1e-4  # variance below which a window tells nothing (images scaled to 1)


class Level:
    """Two images on a grid of the mid-space, and where they are compared.

    Parameters
    ----------
    fixed, moving : (X, Y, Z) float32
        Scaled to 1.
    counted : (X, Y, Z) bool
        Voxels whose windows are compared. Those whose window leaves the grid are left out.
    factor : int
        1, or 2 if the grid is twice as fine as the velocity's: every second voxel is one of the velocity's.
    """

    def __init__(self, fixed: FloatImage, moving: FloatImage, counted: NDArray[np.bool_], factor: int) -> None:
        self.fixed, self.moving, self.factor = fixed, moving, factor
        half = _WINDOW // 2
        inner = (slice(half, -half),) * 3
        whole = np.zeros(counted.shape, bool)
        whole[inner] = counted[inner]
        near = ndimage.binary_dilation(whole, np.ones((3, 3, 3), bool), iterations=half)
        box = bounding_box(near) or (slice(0, 0),) * 3
        self._box_shape = near[box].shape
        self._near = np.flatnonzero(near)
        self._near_in_box = np.flatnonzero(near[box])
        self._counted = np.flatnonzero(whole)
        self._counted_in_box = np.flatnonzero(whole[box])
        self._places = np.stack(np.unravel_index(self._near, counted.shape)).astype(np.float32)

    def compare(self, velocity: FloatImage) -> tuple[FloatImage, float]:
        """Which way the correlation grows, and how large it is.

        Parameters
        ----------
        velocity : (3, X, Y, Z) float32
            In voxels of its grid.

        Returns
        -------
        direction : (3, X, Y, Z) float32
            On the velocity's grid, in voxels of the level, smoothed.
        correlation : float
            Mean over the counted voxels, 0 to 1.
        """
        if not len(self._counted):
            return np.zeros_like(velocity), 0.0
        half: FloatImage = np.float32(0.5) * velocity
        there, back = self._carried(self.moving, half), self._carried(self.fixed, -half)
        uphill, correlation = self._uphill(back, there)
        direction = np.zeros(self.fixed.size, np.float32)
        smoothed = []
        for one in uphill:
            direction[self._counted] = one
            smoothed.append(_smoothed(direction.reshape(self.fixed.shape), _VISCOUS_VOX * self.factor, self.factor))
        return np.stack(smoothed), correlation

    def _carried(self, image: FloatImage, velocity: FloatImage) -> FloatImage:
        """The image where the flow of the velocity says, in the box; zero where it is not needed."""
        where = self._places.copy()
        for place, moved in zip(where, _flow(velocity), strict=True):
            place += 2 * _between(moved).take(self._near) if self.factor == 2 else moved.take(self._near)
        carried = np.zeros(self._box_shape, np.float32)
        carried.reshape(-1)[self._near_in_box] = trilinear([image], where)[0]
        return carried

    def _uphill(self, fixed: FloatImage, moving: FloatImage) -> tuple[list[FloatImage], float]:
        """Derivative (3 arrays) of the squared local correlation by the velocity, at the counted voxels; its mean."""

        def local(values: FloatImage) -> FloatImage:
            return _window_means(values).reshape(-1).take(self._counted_in_box)

        f, m = (image.reshape(-1).take(self._counted_in_box) for image in (fixed, moving))
        mean_f, mean_m = local(fixed), local(moving)
        both = local(fixed * moving) - mean_f * mean_m
        var_f = np.maximum(local(fixed * fixed) - mean_f**2, 0) + np.float32(_FLOOR)
        var_m = np.maximum(local(moving * moving) - mean_m**2, 0) + np.float32(_FLOOR)
        scale = both / (var_f * var_m)
        off_f, off_m = f - mean_f, m - mean_m
        by_moving = scale * (off_f - both / var_m * off_m)
        by_fixed = scale * (off_m - both / var_f * off_f)
        uphill = []
        for axis in range(3):
            step = int(np.prod(self._box_shape[axis + 1:]))
            slope_f, slope_m = (_slope(image, self._counted_in_box, step) for image in (fixed, moving))
            uphill.append(by_moving * slope_m - by_fixed * slope_f)
        return uphill, float((scale * both).mean(dtype=np.float64))


def _slope(image: FloatImage, voxels: NDArray[np.intp], step: int) -> FloatImage:
    """Central differences at voxels that have neighbours."""
    line = image.reshape(-1)
    return np.float32(0.5) * (line.take(voxels + step) - line.take(voxels - step))


def _window_means(values: FloatImage) -> FloatImage:
    """Means over windows of five voxels per axis, zero where a window leaves the array."""
    total = values
    for axis in range(3):
        line = np.moveaxis(total, axis, 0)
        twos = line[:-1] + line[1:]
        total = np.moveaxis(twos[:-3] + twos[2:-1] + line[4:], 0, axis)
    out = np.zeros_like(values)
    half = _WINDOW // 2
    out[half:-half, half:-half, half:-half] = total
    out *= np.float32(1 / _WINDOW**3)
    return out


def _smoothed(values: FloatImage, sigma: float, step: int) -> FloatImage:
    """Every `step`-th voxel of the Gaussian-smoothed values: an axis is thinned before the next one is smoothed."""
    for axis in range(values.ndim):
        line = [slice(None)] * values.ndim
        line[axis] = slice(None, None, step)
        values = ndimage.gaussian_filter1d(values, sigma, axis)[tuple(line)]
    return values


def _flow(velocity: FloatImage) -> FloatImage:
    """exp(v) - identity, components first, in voxels."""
    shape = velocity.shape[1:]
    grid = Grid((shape[0], shape[1], shape[2]), np.eye(4))
    return np.moveaxis(integrate(np.moveaxis(velocity, 0, -1), grid, _SQUARINGS), -1, 0)


def _between(values: FloatImage) -> FloatImage:
    """Values at the voxels and half way between them, linear; the array grows along its slowest axis last."""
    for axis in (2, 1, 0):
        whole, halves = ((slice(None),) * axis + (slice(first, None, 2),) for first in (0, 1))
        low, high = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        finer = np.empty([2 * n - 1 if k == axis else n for k, n in enumerate(values.shape)], np.float32)
        finer[whole] = values
        finer[halves] = 0.5 * (values[low] + values[high])
        values = finer
    return values
