"""Brain: masks and signed distance on the scan's own grid, from the distances on the working grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.stages.look import Look, main_component
from neuralprep.volume import Volume

DISTANCE_LIMIT_MM = 15.0
"""Distances further from the surface than this are reported as this."""


@dataclass(frozen=True, eq=False)
class Brain:
    """Masks on the native grid.

    Attributes
    ----------
    mask
        (X, Y, Z) uint8, inside of the skull including sulcal fluid, moved outwards by the border.
    nocsf_mask
        (X, Y, Z) uint8, brain tissue and ventricles, within ``mask``.
    distance
        (X, Y, Z) float32 mm to the inner skull (border 0), negative inside, limited to +-15 mm.
    second_component
        Size of the largest discarded component relative to the kept one.
    """

    mask: Volume
    nocsf_mask: Volume
    distance: Volume
    second_component: float


def brain_from_look(found: Look, scan: Volume, border_mm: float = 0.0, threads: int = 1) -> Brain:
    """Threshold the distances after carrying them to the native grid, which places edges between voxels.

    The mask is {distance <= border}, its largest component, holes filled.
    """
    box = _native_box(found, scan.grid, border_mm)
    part = scan.grid.cropped(*box)
    kept = _kept_region(found, border_mm)
    icv, tissue = (
        resample(Volume(np.where(kept, d, np.maximum(d, 1.0)) if c else d, found.working.grid), part,
                 fill=DISTANCE_LIMIT_MM, threads=threads).data
        for c, d in ((1, found.prediction.distances[1]), (0, found.prediction.distances[0]))
    )
    raw = icv <= border_mm
    mask, second = _cleaned(raw)
    icv = np.where(raw & ~mask, np.maximum(icv, border_mm + 0.5), icv)
    icv = np.where(mask & ~raw, np.minimum(icv, border_mm - 0.5), icv)
    nocsf = main_component((tissue <= 0) & mask) if mask.any() else mask
    where = tuple(slice(a, b) for a, b in zip(*box, strict=True))

    def placed(values: NDArray, fill: float, dtype: type) -> Volume:
        out: NDArray = np.full(scan.grid.shape, fill, dtype, order="F")
        out[where] = values
        return Volume(out, scan.grid, scan.source)

    limited = np.clip(icv, -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
    return Brain(placed(mask, 0, np.uint8), placed(nocsf, 0, np.uint8),
                 placed(limited, DISTANCE_LIMIT_MM, np.float32), second)


def brain_from_mask(mask: Volume, found: Look | None, threads: int = 1) -> Brain:
    """The same products around a mask that the user supplies; it is used exactly as it is."""
    inside = mask.data > 0
    distance = np.full(mask.grid.shape, DISTANCE_LIMIT_MM, np.float32)
    where = _box_slices(inside, [int(np.ceil(DISTANCE_LIMIT_MM / s)) + 1 for s in mask.grid.spacing])
    part = inside[where]
    # Half a voxel: the surface lies between the last voxel inside and the first outside.
    half = 0.5 * min(mask.grid.spacing)
    outside_mm = ndimage.distance_transform_edt(~part, mask.grid.spacing) - half
    inside_mm = ndimage.distance_transform_edt(part, mask.grid.spacing) - half
    distance[where] = np.clip(np.where(part, -inside_mm, outside_mm), -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
    nocsf = inside
    if found is not None:
        tissue = resample(Volume(found.prediction.distances[0], found.working.grid), mask.grid,
                          fill=DISTANCE_LIMIT_MM, threads=threads).data
        nocsf = inside & (tissue <= 0)
    return Brain(mask.with_data(inside.astype(np.uint8)), mask.with_data(nocsf.astype(np.uint8)),
                 mask.with_data(distance), 0.0)


def _native_box(found: Look, grid: Grid, border_mm: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Voxel box on the native grid around everything within the distance limit of the brain."""
    near = np.argwhere(found.prediction.distances[1][::2, ::2, ::2] < border_mm + 6.0) * 2
    if not len(near):
        return (0, 0, 0), tuple(min(2, n) for n in grid.shape)
    corners = found.working.grid.voxel_to_world(near)
    voxels = grid.world_to_voxel(corners)
    margin = (DISTANCE_LIMIT_MM - 4.0) / np.asarray(grid.spacing)
    low = np.clip(np.floor(voxels.min(0) - margin), 0, np.asarray(grid.shape) - 1).astype(int)
    high = np.clip(np.ceil(voxels.max(0) + margin) + 1, low + 1, grid.shape).astype(int)
    return tuple(map(int, low)), tuple(map(int, high))


def _kept_region(found: Look, border_mm: float) -> NDArray[np.bool_]:
    """Working-grid voxels of the main component and their surroundings: drops far islands before interpolation."""
    mask = main_component(found.prediction.distances[1] <= max(border_mm, 0.0))
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3, 3), bool), iterations=2))


def _cleaned(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """Largest component with holes filled, and the relative size of the largest other component."""
    components, count = ndimage.label(mask)
    if count == 0:
        return mask, 0.0
    sizes = np.sort(np.bincount(components.ravel())[1:])
    second = float(sizes[-2] / sizes[-1]) if count > 1 else 0.0
    kept = mask if count == 1 else components == 1 + int(np.bincount(components.ravel())[1:].argmax())
    return np.asarray(ndimage.binary_fill_holes(kept)), second


def _box_slices(mask: NDArray[np.bool_], margin: list[int]) -> tuple[slice, ...]:
    """Bounding box of a mask, grown by ``margin`` voxels; the whole array for an empty mask."""
    if not mask.any():
        return tuple(slice(0, n) for n in mask.shape)
    out = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(tuple(k for k in range(3) if k != axis)))
        out.append(slice(max(int(line[0]) - margin[axis], 0), min(int(line[-1]) + 1 + margin[axis], mask.shape[axis])))
    return tuple(out)
