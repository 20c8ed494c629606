"""Spatial transforms of world points.

A transform maps points (RAS mm) to points (RAS mm). Used on images it is a *pull-back*: it takes points of the
fixed image's space to the moving image's space, which is what resampling needs. It is named after the image that
it carries: ``template_from_scan`` brings the scan onto the template grid, so ``template_from_scan.apply`` takes
template points to scan points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuralprep.errors import GeometryError
from neuralprep.grid import FloatArray, Grid, check_matrix, transform_points
from neuralprep.trilinear import by_component, trilinear

_POINTS_PER_BLOCK = 1 << 19
_SAME_AXES = 1e-3  # voxels that float32 headers may be off over a field of view


@runtime_checkable
class Transform(Protocol):
    """A map of world points, fixed -> moving."""

    def apply(self, points: ArrayLike) -> FloatArray:
        """Map points (..., 3), RAS mm -> RAS mm, float64."""
        ...

    def inverse(self) -> Transform:
        """Return the map in the other direction, moving -> fixed."""
        ...


@dataclass(frozen=True, eq=False)
class Affine:
    """y = A x + t.

    Attributes
    ----------
    matrix : (4, 4) float64, read-only
        RAS mm -> RAS mm, fixed -> moving.

    Raises
    ------
    GeometryError
        The matrix is not a finite, invertible 4x4 with last row 0 0 0 1.
    """

    matrix: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", check_matrix(self.matrix, "affine transform"))

    @classmethod
    def identity(cls) -> Affine:
        """The map that leaves every point where it is."""
        return cls(np.eye(4))

    def apply(self, points: ArrayLike) -> FloatArray:
        """Map points (..., 3) mm."""
        return transform_points(self.matrix, points)

    def inverse(self) -> Affine:
        """The affine in the other direction."""
        return Affine(np.linalg.inv(self.matrix))

    def distance(self, other: Affine, points: ArrayLike) -> float:
        """Mean distance (mm) between where the two affines send `points` (N, 3)."""
        return float(np.linalg.norm(self.apply(points) - other.apply(points), axis=-1).mean())


@dataclass(frozen=True, eq=False)
class Displacement:
    """y = x + u(x), with u interpolated linearly between the voxel centres of a grid.

    Attributes
    ----------
    vectors : (X, Y, Z, 3) float32
        u in mm, RAS components.
    grid : Grid
        Where the vectors lie (in the fixed space).
    outside : {"zero", "edge"}
        Beyond the voxels of the grid u is 0 (as ITK has it), or the value of the nearest voxel. Within the outer half
        of a border voxel it is always the value at that voxel's centre plane.

    Raises
    ------
    GeometryError
        Shapes do not fit, vectors are not finite, or `outside` is unknown.
    """

    vectors: np.ndarray
    grid: Grid
    outside: str = "zero"

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors, dtype=np.float32)
        if vectors.shape != (*self.grid.shape, 3):
            raise GeometryError(f"displacement has shape {vectors.shape}; its grid needs {(*self.grid.shape, 3)}")
        if not np.isfinite(vectors).all():
            raise GeometryError("displacement holds values that are not finite; write the field again")
        if self.outside not in ("zero", "edge"):
            raise GeometryError(f"outside={self.outside!r}; it must be 'zero' or 'edge'")
        vectors = by_component(vectors).view()
        vectors.flags.writeable = False
        object.__setattr__(self, "vectors", vectors)

    def at(self, points: ArrayLike) -> FloatArray:
        """Displacement u at points (..., 3), mm."""
        points = np.asarray(points, dtype=np.float64)
        voxels = self.grid.world_to_voxel(points).reshape(-1, 3).T
        out = trilinear(np.moveaxis(self.vectors, -1, 0), voxels).T.astype(np.float64)
        if self.outside == "zero":
            out[~inside_voxels(voxels, self.grid.shape)] = 0
        return out.reshape(points.shape)

    def apply(self, points: ArrayLike) -> FloatArray:
        """Map points (..., 3) mm."""
        points = np.asarray(points, dtype=np.float64)
        return points + self.at(points)

    def along(self, grid: Grid, slab: slice | None = None) -> FloatArray | None:
        """Displacement (N, 3) mm at the voxel centres of a grid (or of a slab of its first axis), last axis fastest.

        None unless the axes of both grids run along one another: then it is interpolated axis by axis, which takes a
        quarter of the time of `at`.
        """
        matrix = np.linalg.inv(self.grid.affine) @ grid.affine
        size = np.abs(matrix[:3, :3])
        ours = size.argmax(axis=0)
        lines = size[ours, range(3)]
        drift = (size.sum(axis=0) - lines) @ (np.array(grid.shape) - 1)
        if sorted(ours) != [0, 1, 2] or drift > _SAME_AXES:
            return None
        places = [np.arange(*(slab or slice(None)).indices(grid.shape[0])), *map(np.arange, grid.shape[1:])]
        values = np.moveaxis(self.vectors, -1, 0).transpose(0, *(1 + ours))
        outside = []
        for axis, place in enumerate(places):
            voxels = matrix[ours[axis], axis] * place + matrix[ours[axis], 3]
            count = self.grid.shape[ours[axis]]
            inside = np.clip(voxels, 0, count - 1)
            low = np.minimum(inside.astype(np.intp), max(count - 2, 0))
            share = (inside - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
            near, far = (values.take(index, 1 + axis) for index in (low, np.minimum(low + 1, count - 1)))
            values = near + share * (far - near)
            outside.append((voxels < -0.5) | (voxels > count - 0.5))
        if self.outside == "zero":
            for axis, beyond in enumerate(outside):
                np.moveaxis(values, 1 + axis, 0)[beyond] = 0
        return values.reshape(3, -1).T.astype(np.float64)

    def inverse(self, iterations: int = 50, tol_mm: float = 1e-4) -> Displacement:
        """Inverse map on the same grid, by the fixed-point iteration v <- -u(x + v).

        It converges where u is invertible and changes by less than 1 mm per mm; points whose pre-image lies outside
        the grid are as good as the rule `outside` allows. Source: Chen et al., Med Phys 35:81 (2008).

        Raises
        ------
        GeometryError
            The iteration does not converge (the field folds).
        """
        start = grid_points(self.grid)
        inverse = -self.vectors.reshape(-1, 3).astype(np.float64)
        step = np.inf
        for _ in range(iterations):
            update = -self.at(start + inverse)
            # The zero rule makes the map jump at the border of the grid: points there may never settle.
            settled = np.linalg.norm(update - inverse, axis=1)
            inverse = update
            step = float(np.percentile(settled, 99))
            if settled.max() < tol_mm:
                break
        if not step < max(tol_mm, 0.05):
            raise GeometryError(f"displacement has no inverse: still moving by {step:.3g} mm; it folds, smooth it")
        return Displacement(inverse.reshape(self.vectors.shape).astype(np.float32), self.grid, self.outside)


@dataclass(frozen=True, eq=False)
class Chain:
    """Several transforms in a row; points go through the first one first.

    Nested chains are flattened and neighbouring affines multiplied, so an all-affine chain holds one affine.
    """

    transforms: tuple[Transform, ...] = field(default=())

    def __init__(self, transforms: Iterable[Transform] = ()) -> None:
        object.__setattr__(self, "transforms", _flatten(transforms))

    def apply(self, points: ArrayLike) -> FloatArray:
        """Map points (..., 3) mm."""
        points = np.asarray(points, dtype=np.float64)
        for transform in self.transforms:
            points = transform.apply(points)
        return points

    def inverse(self) -> Chain:
        """The inverses in the other order."""
        return Chain([transform.inverse() for transform in reversed(self.transforms)])


def compose(*transforms: Transform) -> Transform:
    """One transform that does `transforms` in turn (points go through the first one first).

    Affines alone give an `Affine`; a single transform is returned as it is; anything else is a `Chain`.
    """
    parts = _flatten(transforms)
    if not parts:
        return Affine.identity()
    return parts[0] if len(parts) == 1 else Chain(parts)


def to_displacement(transform: Transform, grid: Grid) -> Displacement:
    """Sample a transform as a displacement field (float32 mm) on the voxel centres of `grid`."""
    if isinstance(transform, Displacement) and transform.grid.same_as(grid, tol_mm=0):
        return transform
    vectors = np.moveaxis(np.empty((3, *grid.shape), dtype=np.float32), 0, -1)
    for slab in slabs(grid.shape):
        points = grid_points(grid, slab)
        vectors[slab] = (transform.apply(points) - points).reshape(-1, *grid.shape[1:], 3)
    return Displacement(vectors, grid)


def jacobian_determinant(transform: Transform, grid: Grid) -> NDArray[np.float32]:
    """Local volume change of a transform at the voxel centres of `grid`.

    Parameters
    ----------
    transform : Transform
        Fixed -> moving.
    grid : Grid
        Grid in the fixed space, at least 2 voxels on each axis.

    Returns
    -------
    (X, Y, Z) float32
        det(dy/dx): moving volume per fixed volume; <= 0 where the map folds. By differences of fourth order over the
        grid; of second order one voxel from its border, one-sided at it.
    """
    points = np.concatenate([apply_to_grid(transform, grid, slab) for slab in slabs(grid.shape)])
    mapped = points.reshape(*grid.shape, 3)
    columns = np.stack([_slopes(mapped, axis) for axis in range(3)], axis=-1)
    return np.asarray(np.linalg.det(columns) / np.linalg.det(grid.affine[:3, :3]), dtype=np.float32)


def _slopes(values: FloatArray, axis: int) -> FloatArray:
    """Change of values (X, Y, Z, 3) per voxel along an axis.

    Central differences over two voxels flatten a warp: with waves of 16 mm, on slices of 3 mm, its determinant is up to
    3.4 % wrong. Over four voxels they err four times as much, so that both together cancel it (0.2 %).
    """
    slopes = np.gradient(values, axis=axis)
    along, inner = np.moveaxis(values, axis, 0), np.moveaxis(slopes, axis, 0)[2:-2]
    if len(inner):
        inner += (inner - (along[4:] - along[:-4]) / 4) / 3
    return np.asarray(slopes)


def inside_voxels(voxels: FloatArray, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which voxel coordinates (3, N) lie in a voxel of an array of this shape (half a voxel beyond the centres)."""
    inside = np.ones(voxels.shape[1], dtype=bool)
    for row, n in zip(voxels, shape, strict=True):
        inside &= (row >= -0.5) & (row <= n - 0.5)
    return inside


def slabs(shape: Sequence[int], points: int = _POINTS_PER_BLOCK) -> list[slice]:
    """Slices of the first axis that cover an array of this shape in blocks of about `points` voxels."""
    step = max(1, points // max(1, int(shape[1]) * int(shape[2])))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def least_squares_affine(points: FloatArray, moved: FloatArray) -> Affine:
    """The affine that carries points (N, 3) as near as possible to others (N, 3)."""
    solution, *_ = np.linalg.lstsq(np.c_[points, np.ones(len(points))], moved, rcond=None)
    return Affine(np.vstack([solution.T, (0, 0, 0, 1)]))


def grid_points(grid: Grid, slab: slice | None = None) -> FloatArray:
    """World positions (N, 3) of the voxel centres of a grid (or of a slab of its first axis), last axis fastest."""
    first = np.arange(*(slab or slice(None)).indices(grid.shape[0]))
    step_x, step_y, step_z = grid.affine[:3, :3].T
    points = (first[:, None, None, None] * step_x + grid.affine[:3, 3]
              + np.arange(grid.shape[1])[:, None, None] * step_y + np.arange(grid.shape[2])[:, None] * step_z)
    return points.reshape(-1, 3)


def apply_to_grid(transform: Transform, grid: Grid, slab: slice | None = None) -> FloatArray:
    """Where a transform carries the voxel centres that `grid_points` lists: (N, 3) mm."""
    points = grid_points(grid, slab)
    moved = transform.along(grid, slab) if isinstance(transform, Displacement) else None
    return transform.apply(points) if moved is None else points + moved


def _flatten(transforms: Iterable[Transform]) -> tuple[Transform, ...]:
    parts: list[Transform] = []
    for transform in transforms:
        for part in transform.transforms if isinstance(transform, Chain) else (transform,):
            if parts and isinstance(part, Affine) and isinstance(parts[-1], Affine):
                parts[-1] = Affine(part.matrix @ parts[-1].matrix)
            else:
                parts.append(part)
    return tuple(parts)
