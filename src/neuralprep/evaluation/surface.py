"""Distances between the surfaces of two masks, in millimetres, by two definitions of a surface.

- **Voxels** (`surface_distances`): the voxels of a mask with at least one of their six neighbours outside it. Every
  voxel counts the same, so on anisotropic voxels a surface is weighted by its voxels, not by its area.
- **Elements** (`element_distances`): the 2 x 2 x 2 neighbourhoods that hold voxels of both sides, each weighted by the
  area (mm^2) of the surface that runs through it. This is the definition of DeepMind's ``surface-distance`` package,
  which challenges use. Source: Nikolov et al., J. Med. Internet Res. 23 (2021) e26151.

What lies beyond the array is outside. Two empty masks are at distance 0; if one alone is empty, every distance is
infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from neuralprep.box import bounding_box
from neuralprep.evaluation.overlap import as_masks

FloatArray = NDArray[np.float64]

_CORNERS = tuple(product((0, 1), repeat=3))
# Surfaces through a 2 x 2 x 2 neighbourhood, up to rotation, reflection and exchange of the two sides. Key: the corners
# of one side, bit 4i + 2j + k for corner (i, j, k). Value: magnitudes of the components of the vector area of each
# triangle, in eighths of the cube's faces. The triangles join the middles of the cut edges. Source: Lorensen and Cline,
# "Marching cubes", SIGGRAPH 1987.
_TRIANGLES: dict[int, tuple[tuple[int, int, int], ...]] = {
    0b00000001: ((1, 1, 1),),
    0b00000011: ((2, 2, 0), (2, 2, 0)),
    0b00000110: ((1, 1, 1), (1, 1, 1)),
    0b00011000: ((1, 1, 1), (1, 1, 1)),
    0b00000111: ((4, 0, 0), (2, 2, 2), (1, 1, 1)),
    0b00011001: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    0b00010110: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    0b00001111: ((4, 0, 0), (4, 0, 0)),
    0b00010111: ((2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    0b00011011: ((3, 3, 3), (2, 0, 2), (0, 2, 2), (1, 1, 1)),
    0b00011110: ((4, 0, 0), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    0b00111100: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    0b01101001: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}
_MOST_TRIANGLES = 4


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of a surface and the area that each stands for.

    Attributes
    ----------
    points : (N, D) int
        Voxel indices; of elements, the index of the last voxel of the neighbourhood.
    areas : (N,) float64
        mm^2; 1 for every voxel of a surface of voxels.
    spacing : tuple of float
        mm per index step.
    """

    points: NDArray[np.intp]
    areas: FloatArray
    spacing: tuple[float, ...]

    @cached_property
    def _tree(self) -> KDTree:
        # balancing costs more than it gains on points of a lattice
        return KDTree(self.points * self.spacing, balanced_tree=False, compact_nodes=False)

    def distances_to(self, other: Surface) -> FloatArray:
        """Distance (N,) in mm from every point to the nearest point of another surface; infinite if that is empty."""
        if not len(other.points):
            return np.full(len(self.points), np.inf)
        nearest = other._tree.query(self.points * self.spacing)[1]
        # from whole steps, so that equal steps give equal distances
        return np.sqrt(np.sum(((self.points - other.points[nearest]) * self.spacing) ** 2, axis=1))


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance from every surface voxel of one mask to the nearest surface voxel of the other.

    Two empty masks are at distance 0; if one alone is empty every summary is infinite.

    Attributes
    ----------
    from_mask : (N,) float64
        mm, one per surface voxel of the mask.
    from_reference : (M,) float64
        mm, one per surface voxel of the reference.
    """

    from_mask: FloatArray
    from_reference: FloatArray

    @property
    def mean(self) -> float:
        """Mean over the surface voxels of both masks together (average symmetric surface distance), mm."""
        return float(self._both().mean())

    @property
    def directed_means(self) -> tuple[float, float]:
        """Mean over the surface voxels of the mask, and over those of the reference, mm."""
        if not (self.from_mask.size and self.from_reference.size):
            return self.mean, self.mean
        return float(self.from_mask.mean()), float(self.from_reference.mean())

    @property
    def rms(self) -> float:
        """Root mean square over the surface voxels of both masks together, mm."""
        return float(np.sqrt(np.mean(self._both() ** 2)))

    @property
    def hausdorff95(self) -> float:
        """The larger of the two directed 95th percentiles, mm."""
        return self.hausdorff(95)

    def hausdorff(self, percentile: float = 100) -> float:
        """Larger of the two directed percentiles (100: the Hausdorff distance), mm."""
        if not (self.from_mask.size and self.from_reference.size):
            return float(self._both().max())
        return float(max(np.percentile(side, percentile) for side in (self.from_mask, self.from_reference)))

    def _both(self) -> FloatArray:
        if self.from_mask.size and self.from_reference.size:
            return np.concatenate([self.from_mask, self.from_reference])
        return np.array([np.inf if self.from_mask.size or self.from_reference.size else 0.0])


@dataclass(frozen=True, eq=False)
class ElementDistances(SurfaceDistances):
    """Distance from every surface element of one mask to the nearest of the other; summaries are weighted by area.

    Attributes
    ----------
    from_mask, from_reference : (N,), (M,) float64
        mm.
    mask_areas, reference_areas : (N,), (M,) float64
        mm^2.
    """

    mask_areas: FloatArray
    reference_areas: FloatArray

    @property
    def mean(self) -> float:
        """Mean over the area of both surfaces together, mm."""
        return float(np.average(self._both(), weights=self._weights()))

    @property
    def directed_means(self) -> tuple[float, float]:
        """Mean over the surface of the mask, and over that of the reference, mm."""
        if not (self.from_mask.size and self.from_reference.size):
            return self.mean, self.mean
        return (
            float(np.average(self.from_mask, weights=self.mask_areas)),
            float(np.average(self.from_reference, weights=self.reference_areas)),
        )

    @property
    def rms(self) -> float:
        """Root mean square over the area of both surfaces together, mm."""
        return float(np.sqrt(np.average(self._both() ** 2, weights=self._weights())))

    def hausdorff(self, percentile: float = 100) -> float:
        """Larger of the two directed distances within which `percentile` % of the area lies, mm."""
        if not (self.from_mask.size and self.from_reference.size):
            return float(self._both().max())
        return max(
            _weighted_percentile(self.from_mask, self.mask_areas, percentile),
            _weighted_percentile(self.from_reference, self.reference_areas, percentile),
        )

    def overlaps(self, tolerance: float) -> tuple[float, float]:
        """Share of the mask's surface, and of the reference's, within `tolerance` (mm) of the other; 1 if empty."""
        near, area = self._within(tolerance)
        mask, reference = (n / a if a else 1.0 for n, a in zip(near, area, strict=True))
        return mask, reference

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces together within `tolerance` (mm) of the other; 1 if both are empty."""
        near, area = self._within(tolerance)
        return sum(near) / sum(area) if sum(area) else 1.0

    def _within(self, tolerance: float) -> tuple[tuple[float, float], tuple[float, float]]:
        if not tolerance >= 0:
            raise ValueError(f"tolerance {tolerance} mm must not be negative")
        sides = ((self.from_mask, self.mask_areas), (self.from_reference, self.reference_areas))
        mask, reference = (float(areas[distances <= tolerance].sum()) for distances, areas in sides)
        return (mask, reference), (float(self.mask_areas.sum()), float(self.reference_areas.sum()))

    def _weights(self) -> FloatArray:
        if self.from_mask.size and self.from_reference.size:
            return np.concatenate([self.mask_areas, self.reference_areas])
        return np.ones(1)


def surface_distances(
    mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, by voxels.

    Parameters
    ----------
    mask, reference
        Arrays of one shape, any number of axes; every non-zero element belongs to the mask.
    spacing
        Voxel edges along the array axes, mm. The axes are taken as orthogonal.

    Returns
    -------
    SurfaceDistances

    Raises
    ------
    ValueError
        If the shapes differ, an array holds NaN, or a spacing is not positive.
    """
    one, other = (voxel_surface(array, spacing) for array in as_masks(mask, reference))
    return SurfaceDistances(one.distances_to(other), other.distances_to(one))


def element_distances(
    mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> ElementDistances:
    """Distances between the surfaces of two masks, by surface elements weighted by their area.

    Parameters
    ----------
    mask, reference
        (X, Y, Z) arrays of one shape; every non-zero element belongs to the mask.
    spacing
        Voxel edges along the array axes, mm. The axes are taken as orthogonal.

    Returns
    -------
    ElementDistances

    Raises
    ------
    ValueError
        If the shapes differ, an array is not 3-D or holds NaN, or a spacing is not positive.
    """
    return compare_elements(*(element_surface(array, spacing) for array in as_masks(mask, reference)))


def compare_elements(mask: Surface, reference: Surface) -> ElementDistances:
    """Distances between two surfaces of one spacing; see `element_distances`."""
    return ElementDistances(
        mask.distances_to(reference), reference.distances_to(mask), mask.areas, reference.areas
    )


def mean_surface_distance(
    mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> float:
    """Mean symmetric surface distance in mm (see `surface_distances`)."""
    return surface_distances(mask, reference, spacing).mean


def hausdorff95(mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> float:
    """95 % Hausdorff distance in mm (see `surface_distances`)."""
    return surface_distances(mask, reference, spacing).hausdorff95


def surface_dice(
    mask: ArrayLike, reference: ArrayLike, tolerance: float, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> float:
    """Share of both surfaces within `tolerance` mm of the other, weighted by area (see `element_distances`)."""
    return element_distances(mask, reference, spacing).surface_dice(tolerance)


def voxel_surface(mask: NDArray[np.bool_], spacing: Sequence[float]) -> Surface:
    """Voxels of a mask that have a face neighbour outside it, in the order of the array."""
    steps = _checked_spacing(spacing, mask.ndim)
    box = bounding_box(mask)
    if box is None:
        return Surface(np.empty((0, mask.ndim), dtype=np.intp), np.empty(0), steps)
    inside = np.pad(mask[box], 1)
    core = (slice(1, -1),) * mask.ndim
    enclosed = inside[core].copy()
    for axis in range(mask.ndim):
        for part in (slice(0, -2), slice(2, None)):
            enclosed &= inside[(*core[:axis], part, *core[axis + 1 :])]
    points = np.argwhere(inside[core] & ~enclosed) + [edge.start for edge in box]
    return Surface(points, np.ones(len(points)), steps)


def element_surface(mask: NDArray[np.bool_], spacing: Sequence[float]) -> Surface:
    """Neighbourhoods of 2 x 2 x 2 voxels that a mask (X, Y, Z) fills in part, with their areas.

    The point of an element is the index of the last of its eight voxels, so that it runs from 0 to the shape.

    Raises
    ------
    ValueError
        If the mask is not 3-D or a spacing is not positive.
    """
    if mask.ndim != 3:
        raise ValueError(f"surface elements are defined in three dimensions, not {mask.ndim}")
    steps = _checked_spacing(spacing, 3)
    box = bounding_box(mask)
    if box is None:
        return Surface(np.empty((0, 3), dtype=np.intp), np.empty(0), steps)
    inside = np.pad(mask[box], 1).view(np.uint8)
    x, y, z = (n - 1 for n in inside.shape)
    codes = np.zeros((x, y, z), dtype=np.uint8)
    for bit, (i, j, k) in enumerate(_CORNERS):
        codes |= inside[i : i + x, j : j + y, k : k + z] << np.uint8(bit)
    points = np.argwhere((codes != 0) & (codes != 255))
    areas = element_areas(steps)[codes[tuple(points.T)]]
    return Surface(points + [edge.start for edge in box], areas, steps)


def element_areas(spacing: Sequence[float]) -> FloatArray:
    """Area (256,) in mm^2 of the surface through a 2 x 2 x 2 neighbourhood.

    The index is the sum of ``1 << (4 i + 2 j + k)`` over the corners (i, j, k) inside the mask.
    """
    a, b, c = (float(edge) for edge in spacing)
    vectors = _vector_areas()
    scaled = np.stack([vectors[..., 0] * b * c, vectors[..., 1] * a * c, vectors[..., 2] * a * b], axis=-1)
    return np.asarray(np.linalg.norm(scaled, axis=-1).sum(axis=-1), dtype=np.float64)


@cache
def _vector_areas() -> FloatArray:
    """Vector areas (256, triangles, 3) of the triangles in every neighbourhood of unit voxels, up to their signs."""
    table = np.zeros((256, _MOST_TRIANGLES, 3))
    corners = np.array(_CORNERS)
    for code, triangles in _TRIANGLES.items():
        members = corners[[bool(code >> bit & 1) for bit in range(8)]]
        for order in permutations(range(3)):
            for flips in product((0, 1), repeat=3):
                turned = members[:, order] ^ np.array(flips)
                image = int(np.sum(1 << (turned @ (4, 2, 1))))
                for side in (image, 255 - image):
                    table[side, : len(triangles)] = np.array(triangles)[:, order] / 8
    return table


def _weighted_percentile(distances: FloatArray, areas: FloatArray, percentile: float) -> float:
    """Smallest distance within which `percentile` % of the area lies."""
    # sorting by area too makes the running sum, and so its rounding, independent of the order of the elements
    order = np.lexsort((areas, distances))
    covered = np.cumsum(areas[order]) / np.sum(areas[order])
    index = min(int(np.searchsorted(covered, percentile / 100)), len(order) - 1)
    return float(distances[order[index]])


def _checked_spacing(spacing: Sequence[float], axes: int) -> tuple[float, ...]:
    if len(spacing) != axes or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing {tuple(spacing)} must be {axes} positive numbers")
    return tuple(float(s) for s in spacing)
