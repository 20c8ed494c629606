"""Figures of one result: outlines on the scan, before and after, multiplier field, template alignment, histogram."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from neuralprep.report import png
from neuralprep.report.png import Picture
from neuralprep.report.slices import (
    AXIAL,
    CORONAL,
    PLANES,
    SAGITTAL,
    Frame,
    Plane,
    contour,
    cut,
    frame_around,
    label,
    mask_box,
    mosaic,
    spread,
    window,
    world_box,
)

if TYPE_CHECKING:
    from neuralprep.grid import Grid
    from neuralprep.templates import Template
    from neuralprep.volume import Volume

OUTLINE_PX, STRIP_PX, OVERVIEW_PX = 240, 208, 216  # longest side of a tile
_CHECK_MM = 22.0  # side of a square of the checkerboard: small enough that every gyrus meets an edge

# Anchors of the diverging colours of the multiplier: blue darkens the scan, red brightens it.
FIELD_COLOURS = ((33, 74, 150), (106, 160, 214), (240, 240, 238), (235, 142, 96), (160, 32, 46))


@dataclass(frozen=True, eq=False)
class View:
    """Five cuts through a brain mask, with the mask on them: pictures made from one view can be compared by eye."""

    frame: Frame
    cuts: tuple[tuple[Plane, np.ndarray], ...]
    masks: tuple[np.ndarray, ...]  # fraction of the mask on each cut, (1, rows, columns)


def brain_view(mask: Volume, frame: Frame | None = None) -> View:
    """Three axial cuts, a coronal and a sagittal one beside the mid-plane, which shows the falx only."""
    low, high = mask_box(mask)
    frame = frame or frame_around(mask, STRIP_PX)
    shares = ((AXIAL, 0.32), (AXIAL, 0.54), (AXIAL, 0.76), (CORONAL, 0.5), (SAGITTAL, 0.56))
    cuts = tuple((plane, low[plane.through, None] + share * (high - low)[plane.through]) for plane, share in shares)
    return View(frame, cuts, tuple(cut(mask, frame, plane, where, fill=0.0) for plane, where in cuts))


def outlines(scan: Volume, brain_mask: Volume, nocsf_mask: Volume | None = None) -> Picture:
    """Five slices of each plane of the native scan with the outline of each mask."""
    frame = frame_around(brain_mask, OUTLINE_PX)
    low, high = mask_box(brain_mask)
    rows = []
    for plane in PLANES:
        positions = spread(low[plane.through], high[plane.through], 5)
        rows.append(_outlined(scan, [brain_mask, nocsf_mask], frame, plane, positions))
    return Picture(mosaic(rows), png.slice_palette())


def overview(scan: Volume, brain_mask: Volume | None = None, nocsf_mask: Volume | None = None,
             space_preproc: Volume | None = None, template: Template | None = None) -> Picture:
    """Three planes of the native scan and, below, of the scan in template space with the template's outline."""
    where = brain_mask if brain_mask is not None else scan
    frame = frame_around(where, OVERVIEW_PX)
    rows = [_three_planes(scan, where, [brain_mask, nocsf_mask], frame)]
    if space_preproc is not None and template is not None:
        atlas = template.brain_mask
        rows.append(_three_planes(space_preproc, atlas, [atlas], _grid_frame(atlas.grid, OVERVIEW_PX)))
    return Picture(mosaic(rows), png.slice_palette())


def strip(volume: Volume, view: View) -> Picture:
    """The cuts of a view through any volume, in one row."""
    row: list[np.ndarray] = []
    for (plane, where), mask in zip(view.cuts, view.masks, strict=True):
        values = cut(volume, view.frame, plane, where)
        tile = png.grey(values, *window(values, mask > 0.5))[0]
        label(tile, plane, where[0], letters=not row)
        row.append(tile)
    return Picture(mosaic([row]), png.slice_palette())


def multiplier(field: Volume, view: View) -> tuple[Picture, float, float]:
    """The multiplier as a colour map on a logarithmic scale about its median in the brain.

    Returns
    -------
    picture, low, high : the multiplier over its median at the two ends of the scale.
    """
    shown = [cut(field, view.frame, plane, where)[0] for plane, where in view.cuts]
    inside = np.concatenate([values[mask[0] > 0.5] for values, mask in zip(shown, view.masks, strict=True)])
    inside = inside[np.isfinite(inside) & (inside > 0)]
    middle = float(np.median(inside)) if inside.size else 1.0
    # The scale is symmetric, so that white always means "left as it is"; never narrower than 10 %.
    reach = float(np.max(np.abs(np.log(np.percentile(inside, (1, 99)) / middle)))) if inside.size else 0.0
    reach = max(reach, float(np.log(1.1)))
    row = []
    for (plane, where), values, mask in zip(view.cuts, shown, view.masks, strict=True):
        scaled = np.log(np.maximum(values, 1e-6 * middle) / middle) / reach
        outside = ~np.isfinite(scaled)
        scaled[outside] = 0.0
        tile = np.rint(np.clip((scaled + 1) / 2, 0, 1) * 250).astype(np.uint8) + np.uint8(2)
        tile[outside] = png.OUTSIDE
        tile[contour(mask)[0] > 0.5] = 255
        label(tile, plane, where[0], letters=False)
        row.append(tile)
    return Picture(mosaic([row]), _field_palette()), float(np.exp(-reach)), float(np.exp(reach))


def alignment(space_preproc: Volume, template: Template) -> Picture:
    """The scan in template space with the template's brain (orange) and white matter (cyan) outlined."""
    frame = _grid_frame(template.brain_mask.grid, OUTLINE_PX)
    low, high = mask_box(template.brain_mask)
    rows = []
    for plane, count in ((AXIAL, 4), (CORONAL, 2), (SAGITTAL, 2)):
        positions = spread(low[plane.through], high[plane.through], count)
        if plane is SAGITTAL:
            positions = np.array([-28.0, 4.0])  # the mid-plane itself shows the falx, not the brain
        rows.append(_outlined(space_preproc, [template.brain_mask, template.wm], frame, plane, positions))
    return Picture(mosaic([rows[0], rows[1] + rows[2]]), png.slice_palette())


def checkerboard(space_brain: Volume, template: Template) -> Picture:
    """Scan and template in turn, square by square: edges run on across the squares where they are aligned."""
    view = _template_view(template)
    ours, theirs = strip(space_brain, view), strip(template.t1, view)
    down, right = np.ogrid[: ours.index.shape[0], : ours.index.shape[1]]
    square = max(1, round(_CHECK_MM / view.frame.pixel))
    mixed = np.where((down // square + right // square) % 2 == 0, ours.index, theirs.index)
    return Picture(mixed, ours.palette)


def histogram(volume: Volume, mask: Volume, bins: int = 72) -> np.ndarray | None:
    """Density of intensity inside a mask, from a thinned sample; (bins,) that sum to one, or None if constant.

    The axis runs from 0 (or the first percentile, if that is below) to 1.15 times the 99th percentile, so that
    curves before and after normalisation lie over each other whatever their units.
    """
    thin = tuple(slice(None, None, max(1, size // 96)) for size in mask.data.shape)
    values = np.asarray(volume.data[thin], np.float32)[np.asarray(mask.data[thin]) != 0]
    if values.size < 64:
        return None
    first, last = np.percentile(values, (1, 99))
    start = min(0.0, float(first))
    stop = start + 1.15 * (float(last) - start)
    if not stop > start:
        return None
    counts, _ = np.histogram(values, bins, (start, stop))
    return counts / max(int(counts.sum()), 1)


def _outlined(volume: Volume, masks: list[Volume | None], frame: Frame, plane: Plane,
              positions: np.ndarray) -> list[np.ndarray]:
    """Grey tiles with the 0.5 level of each mask or fraction map; the first mask sets the grey window."""
    values = cut(volume, frame, plane, positions)
    fields = [None if mask is None else cut(mask, frame, plane, positions, fill=0.0) for mask in masks]
    inside = fields[0] > 0.5 if fields[0] is not None else np.isfinite(values)
    tiles = png.grey(values, *window(values, inside))
    # The inner outline first: where both run together the outer one stays visible.
    for line, field in reversed(list(enumerate(fields))):
        if field is not None:
            png.draw_line(tiles, contour(field), line)
    for number, (tile, position) in enumerate(zip(tiles, positions, strict=True)):
        label(tile, plane, position, letters=number == 0)
    return list(tiles)


def _three_planes(volume: Volume, around: Volume, masks: list[Volume | None], frame: Frame) -> list[np.ndarray]:
    low, high = mask_box(around)
    centre = (low + high) / 2
    return [tile for plane in PLANES for tile in _outlined(volume, masks, frame, plane, centre[plane.through, None])]


def _grid_frame(grid: Grid, tile_px: int) -> Frame:
    low, high = world_box(grid)
    return Frame(low, high, float((high - low).max()) / tile_px)


@lru_cache(maxsize=2)
def _template_view(template: Template) -> View:
    """The same for every scan of a batch."""
    return brain_view(template.brain_mask, _grid_frame(template.brain_mask.grid, STRIP_PX))


def _field_palette() -> np.ndarray:
    """0 outside, 1 padding, 2 to 252 the diverging scale, 255 the dark outline."""
    palette = np.full((256, 3), 255.0)
    anchors = np.array(FIELD_COLOURS, dtype=float)
    place = np.linspace(0, 1, len(anchors))
    for channel in range(3):
        palette[2:253, channel] = np.interp(np.linspace(0, 1, 251), place, anchors[:, channel])
    grey = png.slice_palette()
    palette[[png.OUTSIDE, png.PADDING]] = grey[[png.OUTSIDE, png.PADDING]]
    palette[255] = (20, 20, 20)
    return palette.round().astype(np.uint8)
