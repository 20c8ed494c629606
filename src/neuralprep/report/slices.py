"""Cuts through a volume along world planes, with contours, letters and coordinates.

Every tile is sampled in world millimetres, so that axis order, handedness, oblique axes and anisotropic voxels
come out right by construction: right is right, up is up, and a millimetre has one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuralprep.box import bounding_box
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
    box = bounding_box(inside)
    if box is None:
        return world_box(mask.grid)
    ends = [(edge.start * every.step, (edge.stop - 1) * every.step) for edge, every in zip(box, thin, strict=True)]
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


class Cuts:
    """Parallel planes through a grid; one look-up of the voxels serves every volume on that grid.

    Parameters
    ----------
    grid : grid of the volumes to sample.
    frame, plane : what a tile shows.
    positions : (N,) mm along the axis through the plane.
    """

    def __init__(self, grid: Grid, frame: Frame, plane: Plane, positions: np.ndarray) -> None:
        rows, columns = frame.size(plane)
        world = np.zeros((4, 4))  # (mm through, row, column, 1) -> world mm
        world[3, 3] = 1.0
        world[plane.through, 0] = 1.0
        world[plane.up, 1], world[plane.up, 3] = -frame.pixel, frame.high[plane.up] - frame.pixel / 2
        world[plane.right, 2], world[plane.right, 3] = frame.pixel, frame.low[plane.right] + frame.pixel / 2
        matrix = (np.linalg.inv(grid.affine) @ world)[:3]
        along = (np.asarray(positions, float), np.arange(rows), np.arange(columns))
        #: contribution of position, row and column to each voxel coordinate
        self._parts = [[matrix[axis, i] * steps for i, steps in enumerate(along)] for axis in range(3)]
        self._offset = matrix[:, 3]
        self._shape = grid.shape
        order = np.abs(matrix[:, :3]).argmax(axis=0)  # volume axis that each tile axis runs along
        stray = matrix[:, :3].copy()
        stray[order, range(3)] = 0.0
        reach = [np.ptp(positions), rows, columns]
        self._straight = bool((np.abs(stray) @ reach < 0.05).all()) and sorted(order) == [0, 1, 2]
        self._order = [int(axis) for axis in order]
        self._corners: list[tuple[np.ndarray, list[np.ndarray], np.ndarray]] | None = None

    def only(self, numbers: Sequence[int]) -> Cuts:
        """Some of the planes, by number; what was looked up is kept."""
        other = copy(self)
        chosen = list(numbers)
        other._parts = [[through[chosen], down, right] for through, down, right in self._parts]
        if self._corners is not None:
            other._corners = [self._corners[number] for number in chosen]
        return other

    def sample(self, data: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """Linear interpolation in an array on the grid.

        Returns
        -------
        (positions, rows, columns) float32; `fill` beyond the field of view, which ends at the faces of the voxels.
        """
        return self._sample_straight(data, fill) if self._straight else self._sample_oblique(data, fill)

    def _sample_straight(self, data: np.ndarray, fill: float) -> np.ndarray:
        """Planes along the voxel axes: two neighbours along one axis after the other."""
        data = data.transpose(self._order)
        lines = []
        for i, axis in enumerate(self._order):
            spread_out = sum(float(self._parts[axis][j].mean()) for j in range(3) if j != i)  # under 0.05 voxels
            lines.append(_neighbours(self._parts[axis][i] + self._offset[axis] + spread_out, self._shape[axis]))
        (first, second, share, out), rows, columns = lines
        tiles = np.empty((len(first), len(rows[0]), len(columns[0])), np.float32)
        for n, tile in enumerate(tiles):
            if out[n]:
                tile[:] = fill
                continue
            sheet = _mix(data[first[n]], data[second[n]], share[n])
            sheet = _mix(sheet[rows[0]], sheet[rows[1]], rows[2][:, None])
            tile[:] = _mix(sheet[:, columns[0]], sheet[:, columns[1]], columns[2])
            tile[rows[3]] = fill
            tile[:, columns[3]] = fill
        return tiles

    def _sample_oblique(self, data: np.ndarray, fill: float) -> np.ndarray:
        """Planes across the voxel axes: eight neighbours of each pixel."""
        flat = data.T if data.flags.f_contiguous else np.ascontiguousarray(data.T)
        flat = flat.reshape(-1)
        if self._corners is None:
            self._corners = [self._corner(number) for number in range(len(self._parts[0][0]))]
        steps = np.cumprod([1, *self._shape[:2]]) * (np.array(self._shape) > 1)
        tiles = np.empty((len(self._corners), len(self._parts[0][1]), len(self._parts[0][2])), np.float32)
        for tile, (corner, shares, out) in zip(tiles, self._corners, strict=True):
            values = [flat.take(corner + dx + dy + dz) for dz in (0, steps[2]) for dy in (0, steps[1])
                      for dx in (0, steps[0])]
            for share in shares:
                values = [_mix(near, far, share) for near, far in zip(values[::2], values[1::2], strict=True)]
            tile[:] = values[0]
            tile[out] = fill
        return tiles

    def _corner(self, number: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Of one tile: flat index (first axis fastest) of the lower corner, share of the upper one, and outside."""
        corner: np.ndarray = np.zeros((), np.intp)
        outside: np.ndarray = np.zeros((), bool)
        shares = []
        stride = 1
        for axis, size in enumerate(self._shape):
            through, down, right = self._parts[axis]
            place = (down[:, None] + (through[number] + self._offset[axis])) + right[None, :]
            outside = outside | (place < -0.5) | (place > size - 0.5)
            low = np.clip(place, 0, max(size - 2, 0)).astype(np.intp)
            shares.append(np.clip(place - low, 0, 1).astype(np.float32))
            corner = corner + low * stride
            stride *= size
        return corner, shares, outside


def cut(volume: Volume, frame: Frame, plane: Plane, positions: np.ndarray, fill: float = np.nan) -> np.ndarray:
    """Sample parallel planes of one volume; see `Cuts`."""
    return Cuts(volume.grid, frame, plane, positions).sample(volume.data, fill)


def _neighbours(place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper voxel of each place on an axis, share of the upper one, and whether it is out of the image."""
    low = np.clip(np.floor(place), 0, size - 1).astype(np.intp)
    high = np.minimum(low + 1, size - 1)
    share = np.clip(place - low, 0, 1).astype(np.float32)
    return low, high, share, (place < -0.5) | (place > size - 0.5)


def _mix(near: np.ndarray, far: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`near` + `share` * (`far` - `near`) in float32, whatever the stored type."""
    near = near.astype(np.float32)
    return near + share * (far - near)


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
