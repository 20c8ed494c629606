"""Figures of one result as tiles: slices before and after, multiplier field, template alignment; and the overview.

A tile is a picture without any lines on it; outlines are SVG paths beside it, so that a page can show and hide them,
cut along them, and draw them sharp at any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuralprep.report import png
from neuralprep.report.png import Picture
from neuralprep.report.registration_figure import SQUARE_MM
from neuralprep.report.slices import (
    AXIAL,
    CORONAL,
    PLANES,
    SAGITTAL,
    Cuts,
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

TILE_PX, OVERVIEW_PX = 240, 216  # longest side of a tile
_MASK_STEP = 1.5  # pixels of the picture per sample of a mask: its contour is smooth, and few points draw it
_PATH_UNITS = 4  # outlines are drawn in quarters of a pixel, which keeps their numbers short whole ones

# Anchors of the diverging colours of the multiplier: blue darkens the scan, red brightens it.
FIELD_COLOURS = ((33, 74, 150), (106, 160, 214), (240, 240, 238), (235, 142, 96), (160, 32, 46))


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice.

    Attributes
    ----------
    plane, position : which slice, mm.
    picture : its pixels.
    outlines : SVG path data per mask, in quarters of a pixel; "" where a mask does not meet the slice.
    """

    plane: Plane
    position: float
    picture: Picture
    outlines: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class View:
    """Slices of one grid: pictures made from one view can be laid over each other.

    Attributes
    ----------
    frame : what a tile shows.
    groups : one look-up per plane.
    planes : of each look-up.
    positions : of each look-up, mm.
    masks : fraction of the first mask on each tile, (tiles, rows, columns) of that look-up; the grey window and the
        scale of the field are taken there.
    """

    frame: Frame
    groups: tuple[Cuts, ...]
    planes: tuple[Plane, ...]
    positions: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]


def native_view(mask: Volume, counts: tuple[int, int, int] = (5, 5, 5)) -> View:
    """Evenly spread slices of each plane through a brain mask (or through a whole image that has none).

    The middle sagittal slice lies beside the mid-plane, which shows the falx and not the brain.
    """
    low, high = mask_box(mask)
    positions = [spread(low[plane.through], high[plane.through], count)
                 for plane, count in zip(PLANES, counts, strict=True)]
    middle = (low[0] + high[0]) / 2
    positions[2] = np.where(np.abs(positions[2] - middle) < 4, middle + 7.0, positions[2])
    return _view(mask, frame_around(mask, TILE_PX), PLANES, tuple(positions))


def part_of(view: View, keep: tuple[tuple[int, ...], ...]) -> View:
    """Some slices of a view: `keep` has the numbers of those to keep, per plane."""
    positions = tuple(where[list(chosen)] for where, chosen in zip(view.positions, keep, strict=True))
    groups = tuple(group.only(chosen) for group, chosen in zip(view.groups, keep, strict=True))
    masks = tuple(mask[list(chosen)] for mask, chosen in zip(view.masks, keep, strict=True))
    return replace(view, positions=positions, groups=groups, masks=masks)


def grey_tiles(volume: Volume, view: View, outlines: tuple[tuple[str, ...], ...] = ()) -> list[Tile]:
    """The slices of a view through a volume on its grid, in one grey window that shows the brain well."""
    values = [group.sample(volume.data) for group in view.groups]
    low, high = _common_window(values, view.masks)
    palette = png.slice_palette()
    pictures = [Picture(index, palette) for part in values for index in png.grey(part, low, high)]
    return _tiles(view, pictures, outlines)


def outline_paths(masks: list[Volume], view: View) -> tuple[tuple[str, ...], ...]:
    """SVG paths of each mask on each tile of a view: one tuple per tile, with one path per mask."""
    frame = replace(view.frame, pixel=view.frame.pixel * _MASK_STEP)
    per_mask: list[list[str]] = [[] for _ in masks]
    for plane, where in zip(view.planes, view.positions, strict=True):
        cuts = {id(grid): Cuts(grid, frame, plane, where) for grid in (mask.grid for mask in masks)}
        rows, columns = view.frame.size(plane)
        for number, mask in enumerate(masks):
            fields = cuts[id(mask.grid)].sample(mask.data, fill=0.0)
            scale = (columns / fields.shape[2], rows / fields.shape[1])
            per_mask[number] += [_path(field, scale) for field in fields]
    return tuple(zip(*per_mask, strict=True))


def field_tiles(field: Volume, view: View) -> tuple[list[Tile], float]:
    """The multiplier as a colour map on a logarithmic scale about its median in the brain.

    Returns
    -------
    tiles, reach : `reach` is the multiplier over its median at the upper end of the scale; its inverse at the lower.
    """
    support = field.data > 0  # the field is zero where it was not computed: outside of the brain
    shown = []
    for group in view.groups:
        share = group.sample(support, fill=0.0)
        values = group.sample(field.data, fill=0.0) / np.maximum(share, 1e-3)  # the mean of those voxels that have one
        shown.append(np.where(share > 0.5, values, np.nan))
    inside = np.concatenate([values[mask > 0.5] for values, mask in zip(shown, view.masks, strict=True)])
    inside = inside[inside > 0]
    middle = float(np.median(inside)) if inside.size else 1.0
    # The scale is symmetric, so that white always means "left as it is"; never narrower than 10 %.
    reach = float(np.max(np.abs(np.log(np.percentile(inside, (1, 99)) / middle)))) if inside.size else 0.0
    reach = max(reach, float(np.log(1.1)))
    palette = _field_palette()
    pictures = []
    for values in shown:
        outside = np.isnan(values)
        scaled = np.log(np.where(outside, middle, values) / middle) / reach
        index = np.rint(np.clip((scaled + 1) / 2, 0, 1) * 250).astype(np.uint8) + np.uint8(2)
        index[outside] = png.OUTSIDE
        pictures += [Picture(tile, palette) for tile in index]
    return _tiles(view, pictures, ()), float(np.exp(reach))


def template_view(template: Template, grid: Grid | None = None) -> View:
    """Slices of template space, sampled on the template's grid or on another one of the same space."""
    frame = _grid_frame(template.grid_1mm, TILE_PX)
    low, high = mask_box(template.brain_mask)
    positions = (spread(low[2], high[2], 4), spread(low[1], high[1], 2), np.array([-28.0, 6.0]))
    view = _view(template.brain_mask, frame, (AXIAL, CORONAL, SAGITTAL), positions)
    if grid is None or grid is template.brain_mask.grid:
        return view
    groups = tuple(Cuts(grid, frame, plane, where) for plane, where in zip(view.planes, positions, strict=True))
    return replace(view, groups=groups)


@lru_cache(maxsize=2)
def template_tiles(template: Template) -> list[Tile]:
    """The template with the outlines of its brain and its white matter; the same for every scan of a batch."""
    view = template_view(template)
    return grey_tiles(template.t1, view, outline_paths([template.brain_mask, template.wm], view))


def squares_path(template: Template) -> str:
    """SVG path of every other square of a checkerboard that covers a tile of template space, in pixels."""
    frame = _grid_frame(template.grid_1mm, TILE_PX)
    side = SQUARE_MM / frame.pixel
    count = int(np.ceil(TILE_PX / side)) + 1
    corners = [(row, column) for row in range(count) for column in range(count) if (row + column) % 2 == 0]
    square = f"h{side:.1f}v{side:.1f}h-{side:.1f}z"
    return "".join(f"M{column * side:.1f} {row * side:.1f}{square}" for row, column in corners)


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
    # Whole numbers fall into bins unevenly, which looks like a comb: spread each over the step to the next.
    steps = np.diff(np.unique(values[: 1 << 15]))
    if steps.size and steps.size < 8 * bins:
        values = values + np.random.default_rng(0).uniform(-0.5, 0.5, values.size) * np.median(steps)
    counts, _ = np.histogram(np.maximum(values, start), bins, (start, stop))
    return ndimage.gaussian_filter1d(counts.astype(float), 0.8, mode="nearest") / max(int(counts.sum()), 1)


def _view(mask: Volume, frame: Frame, planes: tuple[Plane, ...], positions: tuple[np.ndarray, ...]) -> View:
    groups = tuple(Cuts(mask.grid, frame, plane, where) for plane, where in zip(planes, positions, strict=True))
    return View(frame, groups, planes, positions, tuple(group.sample(mask.data, fill=0.0) for group in groups))


def _tiles(view: View, pictures: list[Picture], outlines: tuple[tuple[str, ...], ...]) -> list[Tile]:
    places = [(plane, float(mm)) for plane, where in zip(view.planes, view.positions, strict=True) for mm in where]
    paths = outlines or ((),) * len(places)
    return [Tile(plane, mm, picture, path)
            for (plane, mm), picture, path in zip(places, pictures, paths, strict=True)]


def _common_window(values: list[np.ndarray], masks: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """One grey window for all planes, from every ninth pixel."""
    thin = (slice(None), slice(None, None, 3), slice(None, None, 3))
    sampled = np.concatenate([part[thin].ravel() for part in values])
    inside = np.concatenate([mask[thin].ravel() > 0.5 for mask in masks])
    return window(sampled, inside)


def _path(field: np.ndarray, scale: tuple[float, float]) -> str:
    """SVG path of the 0.5 level of one sampled mask; `scale` leads from its samples to pixels (right, down)."""
    from contourpy import contour_generator

    # A rim of zeros closes outlines that leave the frame.
    smooth = ndimage.gaussian_filter(np.pad(field, 1), 0.7, truncate=2.5)
    parts = []
    for line in contour_generator(z=smooth).lines(0.5):
        # sample centres lie at half samples, and the rim shifts by one
        points = np.rint((np.asarray(line) - 0.5) * np.array(scale) * _PATH_UNITS).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps) > 3:
            text = " ".join(map(str, steps.ravel().tolist())).replace(" -", "-")
            parts.append(f"M{points[0, 0]} {points[0, 1]}l{text}z")
    return "".join(parts)


def _three_planes(volume: Volume, around: Volume, masks: list[Volume | None], frame: Frame) -> list[np.ndarray]:
    low, high = mask_box(around)
    centre = (low + high) / 2
    return [_outlined(volume, masks, frame, plane, centre[plane.through, None]) for plane in PLANES]


def _outlined(volume: Volume, masks: list[Volume | None], frame: Frame, plane: Plane,
              position: np.ndarray) -> np.ndarray:
    """Grey tile with the 0.5 level of each mask drawn on it; the first mask sets the grey window."""
    values = cut(volume, frame, plane, position)
    fields = [None if mask is None else cut(mask, frame, plane, position, fill=0.0) for mask in masks]
    inside = fields[0] > 0.5 if fields[0] is not None else np.isfinite(values)
    tiles = png.grey(values, *window(values, inside))
    # The inner outline first: where both run together the outer one stays visible.
    for line, field in reversed(list(enumerate(fields))):
        if field is not None:
            png.draw_line(tiles, contour(field), line)
    label(tiles[0], plane, float(position[0]), letters=True)
    return tiles[0]


def _grid_frame(grid: Grid, tile_px: int) -> Frame:
    low, high = world_box(grid)
    return Frame(low, high, float((high - low).max()) / tile_px)


@lru_cache(maxsize=1)
def _field_palette() -> np.ndarray:
    """0 outside, 1 padding, 2 to 252 the diverging scale."""
    palette = np.full((256, 3), 255.0)
    anchors = np.array(FIELD_COLOURS, dtype=float)
    place = np.linspace(0, 1, len(anchors))
    for channel in range(3):
        palette[2:253, channel] = np.interp(np.linspace(0, 1, 251), place, anchors[:, channel])
    palette[[png.OUTSIDE, png.PADDING]] = (14, 17, 22), (0, 0, 0)
    return palette.round().astype(np.uint8)
