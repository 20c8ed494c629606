"""Brain: masks and signed distance on the scan's own grid, from the distances on the working grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.box import box_or_all
from neuralprep.distance import signed_distance
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.stages.look import Look, main_component
from neuralprep.stages.quality_limits import LIMITS
from neuralprep.stages.sharpen import BAND_MM, SKULL, SURE_MM, TISSUE, sharpened
from neuralprep.volume import Volume

DISTANCE_LIMIT_MM = 15.0
"""Distances further from the surface than this are reported as this."""
GIVEN_MM = 4.0
"""A boundary that a stripped scan came with is taken over where it lies at most this far outside the one found."""
_SURROUNDINGS_MM = (4.0, 12.0)
_FLUID_MM = 0.5
"""This deep inside the skull at least, what is not tissue is fluid: no bone tells what fluid looks like."""


@dataclass(frozen=True, eq=False)
class Brain:
    """Masks on the native grid.

    Attributes
    ----------
    mask
        (X, Y, Z) uint8, inside of the skull including sulcal fluid.
    distance
        (X, Y, Z) float32 mm to the inner skull (border 0), negative inside, limited to +-15 mm.
    nocsf_mask
        (X, Y, Z) uint8, brain tissue and ventricles, within ``mask``; None where it was not asked for.
    nocsf_distance
        (X, Y, Z) float32 mm to the surface of the tissue (border 0), like ``distance``; None without ``nocsf_mask``.
    second_component
        Size of the largest discarded component relative to the kept one.
    """

    mask: Volume
    distance: Volume
    nocsf_mask: Volume | None
    nocsf_distance: Volume | None
    second_component: float


def brain_from_look(found: Look, scan: Volume, border_mm: float = 0.0, threads: int = 1, *, no_csf: bool = False,
                    tissue: bool = True, reach_mm: float = DISTANCE_LIMIT_MM) -> Brain:
    """Threshold the distances after carrying them to the native grid, and moving them to where the scan shows edges.

    A mask is {distance <= border}, its largest component with holes filled.

    Parameters
    ----------
    found, scan
        The look, and the (windowed) scan it looked at.
    border_mm
        Moves the surface that strips: the tissue's with ``no_csf``, else the inner skull.
    no_csf
        The tissue surface strips; where it is moved beyond the inner skull, that follows.
    tissue
        Make the tissue mask too; half of the cost.
    reach_mm
        How far from the surface, at least, distances are computed; further out they are the limit.
    """
    skull_border, tissue_border = (0.0, border_mm) if no_csf else (border_mm, 0.0)
    box = _native_box(found, scan.grid, border_mm, reach_mm)
    part = scan.grid.cropped(*box)

    def carried(distance: NDArray[np.float32]) -> NDArray[np.float32]:
        volume = Volume(distance, found.working.grid)
        return resample(volume, part, fill=DISTANCE_LIMIT_MM, threads=threads).data

    skull_distance = found.prediction.distances[1]
    kept = _kept_region(found, border_mm)
    where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    image = scan.data[where]
    seen = carried(np.where(kept, skull_distance, np.maximum(skull_distance, 1.0)))
    icv = sharpened(seen, image, part, SKULL, fluid=_outer_fluid(found, scan))
    raw = icv <= skull_border
    mask, second = _cleaned(raw)
    nocsf = depth = None
    if tissue or no_csf:
        within_skull = (seen < -_FLUID_MM) & (icv <= 0)  # which no border changes
        depth = sharpened(carried(found.prediction.distances[0]), image, part, TISSUE, within_skull)
        within = mask
        if tissue_border > 0:
            within = icv <= tissue_border
        elif skull_border > 0:  # tissue ends at the skull, however wide the margin around it
            within, _ = _cleaned(icv <= 0)
        inside = depth <= tissue_border
        nocsf = _filled(main_component(inside & within)) if mask.any() else mask
        mask = mask | nocsf
        depth = np.where(inside & ~nocsf, np.maximum(depth, tissue_border + 0.5), depth)
        depth = np.where(nocsf & ~inside, np.minimum(depth, tissue_border - 0.5), depth)
    icv = np.where(raw & ~mask, np.maximum(icv, skull_border + 0.5), icv)
    icv = np.where(mask & ~raw, np.minimum(icv, skull_border - 0.5), icv)

    def placed(values: NDArray) -> Volume:
        outside, dtype = (0, np.uint8) if values.dtype == bool else (DISTANCE_LIMIT_MM, np.float32)
        out: NDArray = np.full(scan.grid.shape, outside, dtype, order="F")
        out[where] = values if values.dtype == bool else np.clip(values, -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
        return Volume(out, scan.grid, scan.source)

    return Brain(placed(mask), placed(icv), None if nocsf is None else placed(nocsf),
                 None if depth is None else placed(depth), second)


def brain_from_mask(mask: Volume, found: Look | None, threads: int = 1) -> Brain:
    """The same products around a given mask, which is used exactly as it is; tissue only where there is a look."""
    inside = mask.data > 0
    distance = _limited_distance(inside, mask.grid.spacing)
    nocsf = depth = None
    if found is not None:
        tissue = resample(Volume(found.prediction.distances[0], found.working.grid), mask.grid,
                          fill=DISTANCE_LIMIT_MM, threads=threads).data
        nocsf = inside & (tissue <= 0)
        limited = np.clip(np.maximum(tissue, distance), -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
        depth = mask.with_data(limited.astype(np.float32))
    return Brain(mask.with_data(inside.astype(np.uint8)), mask.with_data(distance),
                 None if nocsf is None else mask.with_data(nocsf.astype(np.uint8)), depth, 0.0)


def with_kept(brain: Brain, kept: NDArray[np.bool_], border_mm: float = 0.0, *, no_csf: bool = False) -> Brain:
    """Masks united with the voxels to keep; {distance <= border} is still the mask.

    The distance becomes the smaller of the brain's and that to the kept voxels, whose own surface the border leaves
    where it is.

    Parameters
    ----------
    brain, border_mm, no_csf
        A result of :func:`brain_from_look` and what it was made with.
    kept
        (X, Y, Z) on the same grid.
    """
    if not kept.any():
        return brain
    own = _limited_distance(kept, brain.mask.grid.spacing)
    mask, distance = _united(brain.mask, brain.distance, kept, own, 0.0 if no_csf else border_mm)
    nocsf, depth = brain.nocsf_mask, brain.nocsf_distance
    if nocsf is not None and depth is not None:
        nocsf, depth = _united(nocsf, depth, kept, own, border_mm if no_csf else 0.0)
    return Brain(mask, distance, nocsf, depth, brain.second_component)


def with_given_boundary(
    brain: Brain, found: Look, scan: Volume, border_mm: float = 0.0, *, no_csf: bool = False
) -> Brain:
    """The mask, of a scan that is stripped already united with what it shows up to `GIVEN_MM` further out.

    Whoever stripped it has decided; a surface without a skull beyond it is also none that a network can place well.
    Scans of heads are left as they are, and so is the mask of tissue.

    Parameters
    ----------
    brain, border_mm, no_csf
        A result of :func:`brain_from_look` and what it was made with.
    found, scan
        The look, and the scan it looked at.
    """
    near, far = _SURROUNDINGS_MM
    distance = found.prediction.distances[1]
    values = _values_at((distance > near) & (distance < far), found, scan)
    if len(values) < 100:
        return brain
    blank = np.median(values)
    if np.mean(values == blank) <= LIMITS.blank_shell_share.usual_high:
        return brain
    inside = brain.mask.data > 0
    given = (scan.data != blank) & (brain.distance.data <= GIVEN_MM)
    given = main_component(given | inside) & ~inside
    if not given.any():
        return brain
    own = _limited_distance(given, brain.mask.grid.spacing)
    mask, distances = _united(brain.mask, brain.distance, given, own, 0.0 if no_csf else border_mm)
    return Brain(mask, distances, brain.nocsf_mask, brain.nocsf_distance, brain.second_component)


def _outer_fluid(found: Look, scan: Volume) -> NDArray:
    """Intensities of the scan in the fluid between brain and skull, near the skull, where the look is sure of it."""
    tissue, skull = found.prediction.distances
    return _values_at((tissue > SURE_MM) & (skull < -SURE_MM) & (skull > -BAND_MM), found, scan)


def _values_at(where: NDArray[np.bool_], found: Look, scan: Volume) -> NDArray:
    """Intensities of the scan at every fifth of the chosen voxels of a look."""
    chosen = np.argwhere(where & found.working.visible)[::5]
    voxels = np.rint(scan.grid.world_to_voxel(found.working.grid.voxel_to_world(chosen))).astype(int)
    x, y, z = np.clip(voxels, 0, np.array(scan.grid.shape) - 1).T
    return np.asarray(scan.data[x, y, z])


def _united(
    mask: Volume, distance: Volume, kept: NDArray[np.bool_], own: NDArray[np.float32], border_mm: float
) -> tuple[Volume, Volume]:
    """A mask {distance <= border} and further voxels, with their own distance; and a distance of which that is true."""
    nearer = np.maximum(np.minimum(distance.data, own + np.float32(border_mm)), -DISTANCE_LIMIT_MM)
    return mask.with_data(((mask.data > 0) | kept).astype(np.uint8)), distance.with_data(nearer)


def _limited_distance(inside: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """Distance to the surface of a mask in mm, negative inside, as far as outputs hold it."""
    distance = np.full(inside.shape, DISTANCE_LIMIT_MM, np.float32)
    where = box_or_all(inside, [int(np.ceil(DISTANCE_LIMIT_MM / s)) + 1 for s in spacing])
    distance[where] = np.clip(signed_distance(inside[where], spacing), -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
    return distance


def _native_box(found: Look, grid: Grid, border_mm: float, reach_mm: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Voxel box on the native grid around everything within reach of the brain."""
    near = np.argwhere(found.prediction.distances[1][::2, ::2, ::2] < border_mm + 6.0) * 2
    if not len(near):
        return (0, 0, 0), tuple(min(2, n) for n in grid.shape)
    corners = found.working.grid.voxel_to_world(near)
    voxels = grid.world_to_voxel(corners)
    margin = (reach_mm - 4.0) / np.asarray(grid.spacing)
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
    return _filled(kept), second


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask with its holes filled: background that no way through faces of voxels leads out of.

    Labelling the background takes a sixth of the time of ``ndimage.binary_fill_holes``, which grows the outside.
    """
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        return _filled(mask.T).T  # four times faster in memory's order
    background, count = ndimage.label(~mask)
    enclosed = np.ones(count + 1, bool)
    enclosed[0] = False
    for axis in range(3):
        for face in (0, -1):
            enclosed[background.take(face, axis)] = False
    return mask | enclosed[background] if enclosed.any() else mask
