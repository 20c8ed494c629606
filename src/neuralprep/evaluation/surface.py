"""Distances between the surfaces of two masks, in millimetres.

A surface is the set of voxels of a mask with at least one of their six neighbours outside it; what lies
beyond the array is outside. Every surface voxel counts the same, so on anisotropic voxels a surface is
weighted by its voxels, not by its area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neuralprep.evaluation.overlap import as_masks


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

    from_mask: NDArray[np.float64]
    from_reference: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over the surface voxels of both masks together, mm."""
        return float(self._both().mean())

    @property
    def hausdorff95(self) -> float:
        """The larger of the two directed 95th percentiles, mm."""
        return self.hausdorff(95)

    def hausdorff(self, percentile: float = 100) -> float:
        """Larger of the two directed percentiles (100: the Hausdorff distance), mm."""
        if not (self.from_mask.size and self.from_reference.size):
            return float(self._both().max())
        return float(max(np.percentile(side, percentile) for side in (self.from_mask, self.from_reference)))

    def _both(self) -> NDArray[np.float64]:
        if self.from_mask.size and self.from_reference.size:
            return np.concatenate([self.from_mask, self.from_reference])
        return np.array([np.inf if self.from_mask.size or self.from_reference.size else 0.0])


def surface_distances(
    mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Parameters
    ----------
    mask, reference
        (X, Y, Z) arrays of one shape; every non-zero element belongs to the mask.
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
    first, second = as_masks(mask, reference)
    if len(spacing) != first.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing {tuple(spacing)} must be {first.ndim} positive numbers")
    if not (first.any() or second.any()):
        return SurfaceDistances(np.empty(0), np.empty(0))
    box = ndimage.find_objects((first | second).astype(np.int8))[0]
    first, second = _surface(first[box]), _surface(second[box])
    return SurfaceDistances(_distances(first, second, spacing), _distances(second, first, spacing))


def mean_surface_distance(
    mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> float:
    """Mean symmetric surface distance in mm (see `surface_distances`)."""
    return surface_distances(mask, reference, spacing).mean


def hausdorff95(mask: ArrayLike, reference: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> float:
    """95 % Hausdorff distance in mm (see `surface_distances`)."""
    return surface_distances(mask, reference, spacing).hausdorff95


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)


def _distances(
    surface: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Sequence[float]
) -> NDArray[np.float64]:
    if not other.any():
        return np.full(int(np.count_nonzero(surface)), np.inf)
    distance = ndimage.distance_transform_edt(~other, sampling=tuple(spacing))
    return np.asarray(distance[surface], dtype=np.float64)
