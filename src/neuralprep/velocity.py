"""Stationary velocity fields: diffeomorphic maps whose inverse is the field with its sign changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neuralprep.errors import GeometryError
from neuralprep.grid import FloatArray, Grid
from neuralprep.transform import Affine, Chain, Displacement, Transform, grid_points
from neuralprep.trilinear import trilinear

INTEGRATION_MM = 2.0
"""Velocities are refined to this spacing before they are integrated: on a 4 mm grid the interpolation between the
squarings, not their number, would limit how well exp(v) and exp(-v) cancel."""


@dataclass(frozen=True, eq=False)
class Velocity:
    """y = exp(v)(x): the flow along a stationary velocity for one unit of time.

    Integrated by scaling and squaring. Source: Arsigny et al., MICCAI 2006 (log-Euclidean statistics on
    diffeomorphisms); Ashburner, NeuroImage 38:95 (2007).

    Attributes
    ----------
    vectors : (X, Y, Z, 3) float32
        v in mm per unit time, RAS components; beyond the grid the border's value holds.
    grid : Grid
        Where the vectors lie (in the fixed space).
    squarings : int
        Number of squarings; the first step is 2**-squarings of the way.

    Raises
    ------
    GeometryError
        Shapes do not fit, or vectors are not finite.
    """

    vectors: np.ndarray
    grid: Grid
    squarings: int = 7

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors, dtype=np.float32)
        if vectors.shape != (*self.grid.shape, 3):
            raise GeometryError(f"velocity has shape {vectors.shape}; its grid needs {(*self.grid.shape, 3)}")
        if not np.isfinite(vectors).all():
            raise GeometryError("velocity holds values that are not finite; fit it again")
        if not 0 <= self.squarings <= 12:
            raise GeometryError(f"{self.squarings} squarings; give 0 to 12")
        vectors = vectors.view()
        vectors.flags.writeable = False
        object.__setattr__(self, "vectors", vectors)

    def apply(self, points: ArrayLike) -> FloatArray:
        """Map points (..., 3) mm."""
        return self.displacement.apply(points)

    def inverse(self) -> Velocity:
        """exp(-v), the exact inverse of exp(v) up to the integration's interpolation."""
        return Velocity(-self.vectors, self.grid, self.squarings)

    def scaled(self, factor: float) -> Velocity:
        """exp(factor v): 0.5 goes half the way, 0 is the identity."""
        return Velocity(np.float32(factor) * self.vectors, self.grid, self.squarings)

    def on(self, grid: Grid) -> np.ndarray:
        """The vectors (X, Y, Z, 3) at the voxels of another grid, by cubic splines; beyond the own one the border's."""
        voxels = np.moveaxis(self.grid.world_to_voxel(grid_points(grid)).reshape(*grid.shape, 3), -1, 0)
        parts = [ndimage.map_coordinates(self.vectors[..., c], voxels, output=np.float32, order=3, mode="nearest")
                 for c in range(3)]
        return np.stack(parts, axis=-1)

    @property
    def displacement(self) -> Displacement:
        """The integrated map as a displacement on a grid of about 2 mm."""
        return _integrated(self)


def split(transform: Transform) -> tuple[Affine, Velocity, Affine]:
    """The three parts of a transform that is an affine, a velocity and an affine; either affine may be missing.

    Raises
    ------
    GeometryError
        It is anything else.
    """
    parts = list(Chain([transform]).transforms) or [Affine.identity()]
    if not isinstance(parts[0], Affine):
        parts.insert(0, Affine.identity())
    if not isinstance(parts[-1], Affine):
        parts.append(Affine.identity())
    if len(parts) == 3:
        before, middle, after = parts
        if isinstance(before, Affine) and isinstance(middle, Velocity) and isinstance(after, Affine):
            return before, middle, after
    raise GeometryError("the transform is not one velocity with at most an affine before and behind it")


def from_middle(transform: Transform) -> Chain:
    """The part of a transform with a velocity that begins half way along it: middle space -> moving.

    Of the inverse it is the part from the middle to the fixed image: both images are carried half way to one another.

    Raises
    ------
    GeometryError
        Another transform than `split` takes.
    """
    _, velocity, after = split(transform)
    return Chain([velocity.scaled(0.5), after])


def refined_grid(grid: Grid, spacing_mm: float) -> Grid:
    """A grid over the same voxel centres' box with spacing of at most `spacing_mm` (never coarser than it was)."""
    factors = [max(1, int(np.ceil(s / spacing_mm - 1e-6))) for s in grid.spacing]
    x, y, z = ((n - 1) * f + 1 for n, f in zip(grid.shape, factors, strict=True))
    return Grid((x, y, z), grid.affine @ np.diag([*(1 / f for f in factors), 1.0]))


@lru_cache(maxsize=8)
def _integrated(velocity: Velocity) -> Displacement:
    """Kept for the velocities used last: a group of hundreds would not hold a displacement for each."""
    grid = refined_grid(velocity.grid, INTEGRATION_MM)
    fine = _upsampled(velocity.vectors, velocity.grid, grid)
    return Displacement(integrate(fine, grid, velocity.squarings), grid, "edge")


def integrate(vectors: np.ndarray, grid: Grid, squarings: int) -> np.ndarray:
    """exp(v) - identity on the velocity's own grid, by scaling and squaring.

    Parameters
    ----------
    vectors : (X, Y, Z, 3) float32
        Velocity, mm.
    grid : Grid
        Its grid.
    squarings : int
        u is first v / 2**squarings, then u <- u + u(x + u) that many times.

    Returns
    -------
    (X, Y, Z, 3) float32
        Displacement, mm.
    """
    # Components along the voxel axes, in voxels: each squaring then needs no change of units.
    to_voxels = np.linalg.inv(grid.affine[:3, :3]).astype(np.float32)
    first = np.moveaxis(vectors @ to_voxels.T, -1, 0) / np.float32(2**squarings)
    steps: NDArray[np.float32] = np.ascontiguousarray(first, dtype=np.float32)
    base = np.indices(grid.shape, dtype=np.float32)
    for _ in range(squarings):
        steps = steps + trilinear(steps, base + steps)
    to_mm = grid.affine[:3, :3].astype(np.float32)
    return np.moveaxis(np.tensordot(to_mm, steps, 1), 0, -1)


def _upsampled(vectors: np.ndarray, coarse: Grid, fine: Grid) -> np.ndarray:
    """Vectors carried to the refined grid by cubic B-splines, axis by axis, which keeps them smooth."""
    if fine.shape == coarse.shape:
        return vectors
    factors = [max(1, (m - 1) // max(n - 1, 1)) for n, m in zip(coarse.shape, fine.shape, strict=True)]
    out = np.empty((*fine.shape, 3), np.float32)
    for component in range(3):
        values = vectors[..., component].astype(np.float32)
        for axis, factor in enumerate(factors):
            if factor > 1:
                values = _refined_axis(values, axis, fine.shape[axis], factor)
        out[..., component] = values
    return out


def _refined_axis(values: np.ndarray, axis: int, count: int, factor: int) -> np.ndarray:
    """One axis at `count` positions, `factor` to a voxel, by a cubic spline through the values."""
    order = 3 if values.shape[axis] >= 4 else 1  # a shorter axis has no room for a cubic piece
    coefficients = ndimage.spline_filter1d(values, order, axis, np.float32, "mirror") if order == 3 else values
    position = np.arange(count) / factor
    left = np.minimum(position.astype(int), values.shape[axis] - 2) if values.shape[axis] > 1 else np.zeros(count, int)
    t = (position - left).astype(np.float32)
    if order == 1:
        taps = {0: 1 - t, 1: t}
    else:
        taps = {-1: (1 - t) ** 3 / 6, 0: (4 - 6 * t**2 + 3 * t**3) / 6,
                1: (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, 2: t**3 / 6}
    shape = [1, 1, 1]
    shape[axis] = count
    last = values.shape[axis] - 1
    total = np.zeros([count if k == axis else n for k, n in enumerate(values.shape)], np.float32)
    for offset, weight in taps.items():
        index = np.abs(left + offset)
        index = np.where(index > last, 2 * last - index, index)  # mirrored about the border's centre
        total += np.take(coefficients, np.clip(index, 0, last), axis) * weight.reshape(shape)
    return total
