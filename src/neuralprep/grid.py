"""Sampling grids: where the voxels of an array lie in the world.

World coordinates are RAS+ millimetres (x to the right, y to the front, z to the top of the head) and voxel
coordinates point at voxel *centres*. Nothing else in the package may assume a corner convention:
`sampling_matrix` is the one place that knows how torch's ``grid_sample`` normalises coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuralprep.errors import GeometryError

FloatArray = NDArray[np.float64]

# letter -> (world axis, direction along it)
_DIRECTION = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_LETTER = {value: letter for letter, value in _DIRECTION.items()}
# Volume of the voxel over the volume of a box with the same edges; below this the axes are all but coplanar.
_SINGULAR = 1e-3
# Nothing in mm, voxels or micrometres is larger than this; what is, comes from damaged bytes.
MAX_VALUE = 1e9


def check_matrix(matrix: ArrayLike, name: str = "affine") -> FloatArray:
    """Return `matrix` as a read-only 4x4 float64 array, or say what is wrong with it.

    Parameters
    ----------
    matrix : array_like, (4, 4)
        Homogeneous matrix; the last row must be 0 0 0 1.
    name : str
        What to call it in the message.

    Raises
    ------
    GeometryError
        Wrong shape, values not finite or absurdly large, wrong last row, or singular.
    """
    array = np.array(matrix, dtype=np.float64)
    if array.shape != (4, 4):
        raise GeometryError(f"{name} has shape {array.shape}; a 4x4 matrix is needed")
    if not (np.abs(array) < MAX_VALUE).all():
        raise GeometryError(f"{name} holds values that are not finite or absurdly large; correct its header or matrix")
    if not np.allclose(array[3], (0, 0, 0, 1), rtol=0, atol=1e-6):
        raise GeometryError(f"{name} has last row {array[3].tolist()}; it must be 0 0 0 1")
    array[3] = (0, 0, 0, 1)
    edges = np.linalg.norm(array[:3, :3], axis=0)
    if (edges == 0).any() or abs(np.linalg.det(array[:3, :3] / edges)) < _SINGULAR:
        raise GeometryError(f"{name} is singular (its axes do not span three dimensions)")
    array.flags.writeable = False
    return array


def transform_points(matrix: FloatArray, points: ArrayLike) -> FloatArray:
    """Apply a 4x4 homogeneous matrix to points (..., 3)."""
    array = np.asarray(points, dtype=np.float64)
    if array.shape[-1:] != (3,):
        raise GeometryError(f"points have shape {array.shape}; the last axis must have length 3")
    return array @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True, eq=False)
class Grid:
    """A box of voxels in the world.

    Attributes
    ----------
    shape : tuple of 3 int
        Number of voxels along each array axis.
    affine : (4, 4) float64, read-only
        Voxel index (centre of the voxel) -> RAS mm.

    Raises
    ------
    GeometryError
        Shape or affine unusable.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"grid shape {tuple(self.shape)} is not three positive numbers")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", check_matrix(self.affine, "grid affine"))

    @classmethod
    def centered(cls, shape: Sequence[int], spacing: float | Sequence[float], center: ArrayLike = (0, 0, 0),
                 codes: str = "RAS") -> Grid:
        """Grid along the world axes, with its centre at `center` (mm).

        Parameters
        ----------
        shape : 3 int
            Voxels along each *array* axis.
        spacing : float or 3 float
            Voxel edge along each array axis, mm.
        center : 3 float
            World position of the grid's centre, mm.
        codes : str
            Direction of each array axis, for example ``"LIA"``.
        """
        matrix = np.eye(4)
        steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
        matrix[:3, :3] = 0
        for axis, (world, sign) in enumerate(_parse_codes(codes)):
            matrix[world, axis] = sign * steps[axis]
        matrix[:3, 3] = np.asarray(center, float) - matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2)
        return cls(tuple(shape), matrix)  # type: ignore[arg-type]

    @classmethod
    def around(cls, points: FloatArray, spacing: float, margin: float) -> Grid:
        """Grid along the world axes whose voxel centres enclose points (N, 3) and a margin, all in mm."""
        low, high = points.min(0) - margin, points.max(0) + margin
        shape = np.ceil((high - low) / spacing).astype(int) + 1
        return cls.centered(shape.tolist(), spacing, (low + high) / 2)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths along the array axes, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def extent(self) -> tuple[float, float, float]:
        """Field of view along the array axes (voxels times spacing), mm."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return x, y, z

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel, mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def axis_codes(self) -> str:
        """World direction nearest to each array axis, for example ``"RAS"`` or ``"PSR"``."""
        rotation = self.affine[:3, :3] / self.spacing
        # One world axis for each array axis, all different: the assignment with the largest total |cosine|.
        order = max(permutations(range(3)), key=lambda p: sum(abs(rotation[p[axis], axis]) for axis in range(3)))
        return "".join(_LETTER[world, 1 if rotation[world, axis] > 0 else -1] for axis, world in enumerate(order))

    @property
    def center(self) -> FloatArray:
        """World position of the centre of the grid, mm, shape (3,)."""
        return self.voxel_to_world((np.array(self.shape) - 1) / 2)

    def voxel_to_world(self, points: ArrayLike) -> FloatArray:
        """Voxel coordinates (..., 3) -> RAS mm (..., 3)."""
        return transform_points(self.affine, points)

    def world_to_voxel(self, points: ArrayLike) -> FloatArray:
        """RAS mm (..., 3) -> voxel coordinates (..., 3)."""
        return transform_points(np.linalg.inv(self.affine), points)

    def corners(self) -> FloatArray:
        """World positions of the eight corner voxel centres, mm, shape (8, 3)."""
        return self.voxel_to_world(list(product(*((0, n - 1) for n in self.shape))))

    def oriented(self, codes: str) -> Grid:
        """Same voxels with the array axes permuted and flipped so that `axis_codes` equals `codes`."""
        order, flips = self.reorientation(codes)
        matrix = np.eye(4)
        matrix[:3, :3] = 0
        for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
            matrix[source, axis] = -1 if flip else 1
            matrix[source, 3] = self.shape[source] - 1 if flip else 0
        x, y, z = (self.shape[source] for source in order)
        return Grid((x, y, z), self.affine @ matrix)

    def reorientation(self, codes: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """How to reorder an array of this grid to `codes`.

        Returns
        -------
        order : 3 int
            Array axis of this grid that becomes output axis 0, 1, 2 (as for ``numpy.transpose``).
        flips : 3 bool
            Whether that axis then runs backwards.
        """
        mine = _parse_codes(self.axis_codes)
        wanted = _parse_codes(codes)
        order = tuple([world for world, _ in mine].index(world) for world, _ in wanted)
        flips = tuple(mine[source][1] != sign for source, (_, sign) in zip(order, wanted, strict=True))
        return order, flips

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """Voxels ``start`` (inclusive) to ``stop`` (exclusive) of this grid."""
        if any(not 0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise GeometryError(f"crop {tuple(start)} to {tuple(stop)} is empty or outside shape {self.shape}")
        return self._shifted(start, [b - a for a, b in zip(start, stop, strict=True)])

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Grid:
        """The grid with voxels added before and after it along each axis."""
        if min(*before, *after) < 0:
            raise GeometryError(f"padding {tuple(before)}, {tuple(after)} must not be negative")
        shape = [n + a + b for n, a, b in zip(self.shape, before, after, strict=True)]
        return self._shifted([-a for a in before], shape)

    def with_spacing(self, spacing: float | Sequence[float]) -> Grid:
        """Grid of another voxel size (mm) over the same field of view, with the same centre and axes.

        The number of voxels is rounded up, so that nothing of the field of view is lost.
        """
        steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
        if not (steps > 0).all():
            raise GeometryError(f"voxel size {spacing} must be positive")
        x, y, z = (max(1, int(np.ceil(length / step - 1e-3))) for length, step in zip(self.extent, steps, strict=True))
        matrix = self.affine.copy()
        matrix[:3, :3] *= steps / self.spacing
        matrix[:3, 3] = self.center - matrix[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
        return Grid((x, y, z), matrix)

    def blocks(self, edge: int | Sequence[int]) -> Grid:
        """Grid of blocks of ``edge`` voxels along each axis, from this grid's first voxel on; the last may be cut."""
        edges = np.broadcast_to(edge, 3)
        if not (edges > 0).all():
            raise GeometryError(f"blocks of {edge} voxels must have a positive edge")
        x, y, z = (-(-n // e) for n, e in zip(self.shape, edges.tolist(), strict=True))
        matrix = self.affine @ np.diag([*edges, 1.0])
        matrix[:3, 3] = self.voxel_to_world((edges - 1) / 2)
        return Grid((x, y, z), matrix)

    def same_as(self, other: Grid, tol_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and all corners within `tol_mm` of each other."""
        if self.shape != other.shape:
            return False
        return bool(np.linalg.norm(self.corners() - other.corners(), axis=1).max() <= tol_mm)

    def _shifted(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        matrix = self.affine.copy()
        matrix[:3, 3] = self.voxel_to_world(start)
        x, y, z = shape
        return Grid((x, y, z), matrix)


def sampling_matrix(grid: Grid) -> FloatArray:
    """World mm -> the normalised coordinates of ``torch.nn.functional.grid_sample(..., align_corners=True)``.

    Returns
    -------
    (4, 4) float64
        Maps (x, y, z, 1) in RAS mm to (c, b, a, 1), with a, b, c in [-1, 1] over the voxel *centres* of array axes
        0, 1, 2: grid_sample wants the last array axis first. An axis of length 1 maps to 0 everywhere.
    """
    normalise = np.zeros((4, 4))
    normalise[3, 3] = 1
    for axis, n in enumerate(grid.shape):
        row = 2 - axis
        normalise[row, axis] = 2 / (n - 1) if n > 1 else 0
        normalise[row, 3] = -1 if n > 1 else 0
    return normalise @ np.linalg.inv(grid.affine)


def _parse_codes(codes: str) -> list[tuple[int, int]]:
    """``"RAS"`` -> [(world axis, sign), ...] for each array axis."""
    try:
        parsed = [_DIRECTION[letter] for letter in codes.upper()]
    except KeyError:
        parsed = []
    if sorted(axis for axis, _ in parsed) != [0, 1, 2]:
        raise GeometryError(f"axis codes {codes!r} must be three letters, one each of R/L, A/P and S/I")
    return parsed
