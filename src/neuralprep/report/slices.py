"""Cuts through a volume along world planes, with contours, letters and coordinates.

Every tile is sampled in world millimetres, so that axis order, handedness, oblique axes and anisotropic voxels
come out right by construction: right is right, up is up, and a millimetre has one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuralprep.report import png

if TYPE_CHECKING:
    from neuralprep.grid import Grid
    from neuralprep.volume import Volume


@dataclass(frozen=True)
class Plane:
    """World axes of a cut: to the right, upwards, and through it; and the letters at its edges."""

    right: int
    up: int
    through: int
    letters: tuple[str, str, str, str]  # left, right, top, bottom edge

    @property
    def name(self) -> str:
        """World axis that the cut is perpendicular to."""
        return "xyz"[self.through]


# Neurological display: the left of the picture is the left of the head.
AXIAL = Plane(0, 1, 2, ("L", "R", "A", "P"))
CORONAL = Plane(0, 2, 1, ("L", "R", "S", "I"))
SAGITTAL = Plane(1, 2, 0, ("P", "A", "S", "I"))
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Frame:
    """World box that a figure shows, mm, and the side of a pixel, mm."""

    low: np.ndarray
    high: np.ndarray
    pixel: float

    def size(self, plane: Plane) -> tuple[int, int]:
        """Rows and columns of a tile."""
        extent = np.maximum(1, np.rint((self.high - self.low) / self.pixel)).astype(int)
        return int(extent[plane.up]), int(extent[plane.right])


def mask_box(mask: Volume) -> tuple[np.ndarray, np.ndarray]:
    """World corners of the box around a mask, mm; the box of the whole grid when the mask is empty."""
    thin = tuple(slice(None, None, 2 if size > 32 else 1) for size in mask.data.shape)
    inside = np.asarray(mask.data[thin]) != 0
    if not inside.any():
        return world_box(mask.grid)
    ends = []
    for axis in range(3):
        rows = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        step = thin[axis].step
        ends.append((rows[0] * step, rows[-1] * step))
    corners = mask.grid.voxel_to_world(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
    return corners.min(axis=0), corners.max(axis=0)


def world_box(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """World box around the voxels of a grid, mm."""
    half = np.abs(grid.affine[:3, :3]).sum(axis=1) / 2
    corners = grid.corners()
    return corners.min(axis=0) - half, corners.max(axis=0) + half


def frame_around(mask: Volume, tile_px: int, margin_mm: float = 22.0,
                 least_mm: tuple[float, float, float] = (176.0, 212.0, 188.0)) -> Frame:
    """Frame of the brain with its surroundings.

    It never shrinks below an adult head (cut to the field of view), so that a mask that took only a part of the
    brain, or the neck, is seen to be wrong.
    """
    low, high = mask_box(mask)
    centre, half = (low + high) / 2, np.maximum((high - low) / 2 + margin_mm, np.array(least_mm) / 2)
    view_low, view_high = world_box(mask.grid)
    rim = 0.02 * (view_high - view_low)
    low, high = np.maximum(centre - half, view_low - rim), np.minimum(centre + half, view_high + rim)
    return Frame(low, high, float((high - low).max()) / tile_px)


def spread(low: float, high: float, count: int) -> np.ndarray:
    """Evenly spaced positions inside the middle three quarters of an interval."""
    if count == 1:
        return np.array([(low + high) / 2])
    return np.linspace(low + 0.14 * (high - low), high - 0.12 * (high - low), count)


def cut(volume: Volume, frame: Frame, plane: Plane, positions: np.ndarray, fill: float = np.nan) -> np.ndarray:
    """Sample evenly spaced parallel planes by linear interpolation.

    Returns
    -------
    (positions, rows, columns) float32; `fill` beyond the field of view.
    """
    step = positions[1] - positions[0] if positions.size > 1 else 1.0
    world = np.zeros((4, 4))  # (tile, row, column, 1) -> world mm
    world[3, 3] = 1.0
    world[plane.through, 0], world[plane.through, 3] = step, positions[0]
    world[plane.up, 1], world[plane.up, 3] = -frame.pixel, frame.high[plane.up] - frame.pixel / 2
    world[plane.right, 2], world[plane.right, 3] = frame.pixel, frame.low[plane.right] + frame.pixel / 2
    matrix = np.linalg.inv(volume.grid.affine) @ world
    data, linear, shape = volume.data, matrix[:3, :3], (positions.size, *frame.size(plane))
    order = np.abs(linear).argmax(axis=0)  # volume axis that each tile axis runs along
    stray = linear.copy()
    stray[order, range(3)] = 0.0
    if (np.abs(stray) @ shape < 0.05).all() and sorted(order) == [0, 1, 2]:
        # Along the axes, a diagonal suffices: the library then looks up each axis once, three times as fast.
        data, linear, offset = data.transpose(order), linear[order, range(3)], matrix[order, 3]
    else:
        offset = matrix[:3, 3]
    return ndimage.affine_transform(data, linear, offset, shape, np.float32, order=1, mode="constant", cval=fill,
                                    prefilter=False)


def window(values: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Grey window that shows the brain well in any contrast, CT included.

    The upper end is the brain's 99.5th percentile; the lower end lies at most three times as far below its median.
    """
    finite = values[np.isfinite(values)]
    brain = values[inside & np.isfinite(values)]
    if brain.size < 64:
        brain = finite
    if brain.size == 0:
        return 0.0, 1.0
    middle, high = np.percentile(brain, (50, 99.5))
    low = max(float(np.percentile(finite, 1)), float(middle - 3 * (high - middle)))
    return low, float(high) if high > low else low + 1.0


def contour(field: np.ndarray, level: float = 0.5, width: float = 1.3) -> np.ndarray:
    """Opacity of an antialiased line along a level set of each tile.

    The distance to the level set is the value over the gradient, to first order; a light blur joins voxel steps.
    """
    smooth = ndimage.gaussian_filter(np.asarray(field, np.float32), (0, 0.8, 0.8), truncate=2.5) - np.float32(level)
    # Only pixels near the surface can carry the line; the gradient is needed there alone.
    sign = smooth > 0
    near = ndimage.maximum_filter(sign, (1, 3, 3)) != ndimage.minimum_filter(sign, (1, 3, 3))
    tile, row, column = np.nonzero(near)
    last_row, last_column = field.shape[1] - 1, field.shape[2] - 1
    above, below = np.maximum(row - 1, 0), np.minimum(row + 1, last_row)
    left, right = np.maximum(column - 1, 0), np.minimum(column + 1, last_column)
    slope = np.hypot(smooth[tile, below, column] - smooth[tile, above, column],
                     smooth[tile, row, right] - smooth[tile, row, left]) / 2
    distance = np.abs(smooth[tile, row, column]) / np.maximum(slope, 1e-4)
    opacity = np.zeros(field.shape, dtype=np.float32)
    opacity[tile, row, column] = np.clip(width / 2 + 0.5 - distance, 0, 1)
    return opacity


def label(tile: np.ndarray, plane: Plane, position: float, letters: bool) -> None:
    """Write the coordinate into the upper left corner, and the letters of the edges when asked, in place."""
    rows, columns = tile.shape
    where = f"{plane.name} {round(float(position))}"
    png.draw_text(tile, where, 5, 6)
    if letters:
        left, right, top, bottom = plane.letters
        wide = png.text_width("L")
        middle = columns // 2 - wide // 2
        png.draw_text(tile, left, rows // 2 - 7, 5)
        png.draw_text(tile, right, rows // 2 - 7, columns - wide - 5)
        png.draw_text(tile, top, 5, max(middle, png.text_width(where) + 20))
        png.draw_text(tile, bottom, rows - 18, middle)


def mosaic(rows: list[list[np.ndarray]], gap: int = 3) -> np.ndarray:
    """Tiles in rows; each is centred in the cell of its row and column."""
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    columns = max(len(row) for row in rows)
    widths = [max(row[i].shape[1] for row in rows if i < len(row)) for i in range(columns)]
    sheet = np.full((sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (columns - 1)), png.PADDING, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for tile, width in zip(row, widths, strict=False):
            down, right = top + (height - tile.shape[0]) // 2, left + (width - tile.shape[1]) // 2
            sheet[down : down + tile.shape[0], right : right + tile.shape[1]] = tile
            left += width + gap
        top += height + gap
    return sheet
