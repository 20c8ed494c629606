"""How far apart two transforms put the same points, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuralprep.errors import InputError
from neuralprep.files import read_text
from neuralprep.grid import Grid
from neuralprep.transform import Transform

MAX_POINTS = 20_000
"""More points than this change a mean error by less than a hundredth of its spread."""


@dataclass(frozen=True)
class PointError:
    """Distances (mm) between where two transforms send the same points."""

    mean: float
    median: float
    percentile95: float
    largest: float


def point_error(first: Transform, second: Transform, points: ArrayLike) -> PointError:
    """Compare two transforms on points.

    Parameters
    ----------
    first, second
        Transforms of the same direction (for example both template mm -> scan mm).
    points
        (N, 3) world mm in the space both transforms start from.

    Returns
    -------
    PointError

    Raises
    ------
    ValueError
        If there are no points.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if not len(points):
        raise ValueError("no points to compare the transforms on; the mask is empty")
    distance = np.linalg.norm(first.apply(points) - second.apply(points), axis=1)
    return PointError(
        mean=float(distance.mean()),
        median=float(np.median(distance)),
        percentile95=float(np.percentile(distance, 95)),
        largest=float(distance.max()),
    )


def mean_point_error(first: Transform, second: Transform, points: ArrayLike) -> float:
    """Mean distance (mm) between where two transforms send `points` (N, 3); see `point_error`."""
    return point_error(first, second, points).mean


def points_in_mask(mask: ArrayLike, grid: Grid, limit: int = MAX_POINTS) -> NDArray[np.float64]:
    """World positions of the voxel centres in a mask, evenly thinned.

    Parameters
    ----------
    mask
        (X, Y, Z) array on `grid`; every non-zero element belongs to the mask.
    grid
        Where the mask lies.
    limit
        At most this many points are returned.

    Returns
    -------
    numpy.ndarray
        (N, 3) float64, mm.

    Raises
    ------
    ValueError
        If mask and grid differ in shape.
    """
    array = np.asarray(mask)
    if array.shape != grid.shape:
        raise ValueError(f"mask shape {array.shape} is not the grid's {grid.shape}")
    voxels = np.argwhere(array)
    step = max(1, -(-len(voxels) // limit))
    return grid.voxel_to_world(voxels[::step])


def points_in_box(grid: Grid, per_axis: int = 10) -> NDArray[np.float64]:
    """Evenly spaced world positions over the field of view of a grid, corner voxels included.

    Parameters
    ----------
    grid
        The box.
    per_axis
        Points along each array axis.

    Returns
    -------
    numpy.ndarray
        (per_axis ** 3, 3) float64, mm.
    """
    steps = [np.linspace(0, edge - 1, per_axis) for edge in grid.shape]
    voxels = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    return grid.voxel_to_world(voxels)


def read_points(path: Path) -> NDArray[np.float64]:
    """World positions from a text file: x, y and z in RAS mm on each line, separated by spaces, tabs or commas.

    One line of headings at the top is passed over, and further columns are ignored.

    Returns
    -------
    numpy.ndarray
        (N, 3) float64, mm.

    Raises
    ------
    InputError
        Unreadable, a line that does not start with three numbers, or no points.
    """
    points: list[list[float]] = []
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for number, line in enumerate(lines):
        words = line.replace(",", " ").split()[:3]
        try:
            point = [float(word) for word in words]
        except ValueError:
            if not number:
                continue
            point = []
        if len(point) < 3 or not np.isfinite(point).all():
            raise InputError(f"{path}: '{line.strip()[:60]}' does not start with three numbers (x y z in RAS mm)")
        points.append(point)
    if not points:
        raise InputError(f"{path}: holds no points; give x y z in RAS mm on each line")
    return np.asarray(points)
