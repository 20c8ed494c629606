"""Pictures of registrations: of a pair a checkerboard and both brains' outlines, of a group everyone's outlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuralprep.grid import Grid
from neuralprep.report import png
from neuralprep.report.png import Picture
from neuralprep.report.slices import (
    PLANES,
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
)
from neuralprep.resample import resample

if TYPE_CHECKING:
    from neuralprep.transform import Transform
    from neuralprep.volume import Volume

_TILE_PX = 280
SQUARE_MM = 25.0


def registration_picture(fixed: Volume, moved: Volume, fixed_brain: Volume, moved_brain: Volume) -> Picture:
    """Draw three planes, twice.

    Parameters
    ----------
    fixed, moved : Volume
        The fixed image, and the moving one on the fixed grid.
    fixed_brain, moved_brain : Volume
        Their brain masks, each on a grid of the fixed space.

    Returns
    -------
    Picture
        Above: squares of 25 mm in turn from the fixed and from the moved image; edges must run through. Below: the
        fixed image with both brains' outlines (first colour fixed, second moved), which must lie on one another.
    """
    frame = frame_around(fixed_brain, _TILE_PX)
    low, high = mask_box(fixed_brain)
    rows: list[list[np.ndarray]] = [[], []]
    for plane in PLANES:
        position = spread(low[plane.through], high[plane.through], 1)
        inside = _soft(fixed_brain, frame, plane, position)
        greys = [_grey(volume, frame, plane, position, inside) for volume in (fixed, moved)]
        board = np.where(_squares(greys[0].shape, frame.pixel), *greys)
        lined = greys[0].copy()
        for line, mask in enumerate((fixed_brain, moved_brain)):
            png.draw_line(lined, contour(_soft(mask, frame, plane, position))[0], line)
        tiles: list[np.ndarray] = [board, lined]
        for row, tile in zip(rows, tiles, strict=True):
            label(tile, plane, position[0], letters=True)
            row.append(tile)
    return Picture(mosaic(rows), png.slice_palette())


def group_picture(mean: Volume, brain: Volume, members: Sequence[tuple[Volume, Transform]]) -> Picture:
    """Draw a group's image in three planes, plain and with outlines.

    Parameters
    ----------
    mean, brain : Volume
        The group's image, and its brain mask on a grid of the same space.
    members : sequence of (Volume, Transform)
        Brain masks in their own spaces, with the pull-backs from the common space.

    Returns
    -------
    Picture
        Above: the image. Below: the group's brain (first colour) and every member's (second colour); a bundle of lines
        that keep together is a group that is aligned.
    """
    frame = frame_around(brain, _TILE_PX)
    low, high = mask_box(brain)
    grid = _coarse(brain.grid)
    masks = [resample(_real(mask), grid, transform) for mask, transform in members]
    rows: list[list[np.ndarray]] = [[], []]
    for plane in PLANES:
        position = spread(low[plane.through], high[plane.through], 1)
        plain = _grey(mean, frame, plane, position, _soft(brain, frame, plane, position))
        lined = plain.copy()
        for line, mask in [*((1, mask) for mask in masks), (0, brain)]:
            png.draw_line(lined, contour(_soft(mask, frame, plane, position), width=0.8)[0], line)
        for row, tile in zip(rows, (plain, lined), strict=True):
            label(tile, plane, position[0], letters=True)
            row.append(tile)
    return Picture(mosaic(rows), png.slice_palette())


def _coarse(grid: Grid, spacing_mm: float = 2.0) -> Grid:
    """Every second or third node of a fine grid: enough for an outline, at an eighth of the cost or less."""
    steps = np.maximum(1, np.floor(spacing_mm / np.asarray(grid.spacing) + 0.01)).astype(int)
    x, y, z = (-(-n // step) for n, step in zip(grid.shape, steps.tolist(), strict=True))
    return Grid((x, y, z), grid.affine @ np.diag([*steps.astype(float), 1.0]))


def _real(mask: Volume) -> Volume:
    return mask.with_data(mask.data.astype(np.float32))


def _soft(mask: Volume, frame: Frame, plane: Plane, position: np.ndarray) -> np.ndarray:
    return cut(_real(mask), frame, plane, position, fill=0.0)


def _grey(volume: Volume, frame: Frame, plane: Plane, position: np.ndarray, inside: np.ndarray) -> np.ndarray:
    values = cut(volume, frame, plane, position)
    return png.grey(values, *window(values, inside > 0.5))[0]


def _squares(shape: tuple[int, ...], pixel_mm: float) -> np.ndarray:
    number = [(np.arange(n) * pixel_mm // SQUARE_MM).astype(int) for n in shape]
    return np.asarray((number[0][:, None] + number[1]) % 2 == 0)
