"""Picture of a compartment at the stripped edge: slices through the largest contact, and the same close up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuralprep.report import png
from neuralprep.report.png import Picture
from neuralprep.report.slices import PLANES, Frame, Plane, contour, cut, frame_around, label, mosaic, window, world_box

if TYPE_CHECKING:
    from neuralprep.volume import Volume

_TILE_PX = 300
_CLOSE_MM = 56.0  # side of the close view
# Colours of the compartment, of its part beyond the edge, of the contact voxels and of the line of the mask. They stay
# apart with any colour vision; each lies over 32 greys.
COLOURS = {"compartment": (64, 120, 255), "lost": (225, 90, 220), "contact": (255, 214, 10), "mask": (46, 213, 235)}
_OPACITY = {"compartment": 0.45, "lost": 0.6, "contact": 0.85, "mask": 0.9}
_FIRST, _GREYS = 128, 32


def edge_picture(mask: Volume, compartment: Volume, contact: Volume, image: Volume | None = None) -> Picture:
    """Draw three planes through the largest contact, the head above and a close view below.

    Parameters
    ----------
    mask : Volume
        Brain mask.
    compartment : Volume
        Bool, every voxel of the compartment.
    contact : Volume
        Bool, its voxels in contact with the edge; without any, the slices pass through the compartment's middle.
    image : Volume, optional
        What to show below; the mask itself in grey by default.

    Returns
    -------
    Picture
        Compartment blue, its part outside the mask violet, contact voxels yellow, outline of the mask cyan.
    """
    at = mask.grid.voxel_to_world(_centre(contact.data if contact.data.any() else compartment.data))
    low, high = world_box(mask.grid)
    close = Frame(np.maximum(at - _CLOSE_MM / 2, low), np.minimum(at + _CLOSE_MM / 2, high), _CLOSE_MM / _TILE_PX)
    frames = (frame_around(mask, _TILE_PX), close)
    rows = [[_tile(plane, at, frame, mask, compartment, contact, image) for plane in PLANES] for frame in frames]
    return Picture(mosaic(rows), _palette())


def _centre(voxels: np.ndarray) -> np.ndarray:
    """The voxel nearest to the middle of the largest connected part."""
    components, _ = ndimage.label(voxels, np.ones((3, 3, 3)))
    where = np.argwhere(components == 1 + np.bincount(components.ravel())[1:].argmax())
    return where[np.square(where - where.mean(0)).sum(1).argmin()]


def _tile(plane: Plane, at: np.ndarray, frame: Frame, mask: Volume, compartment: Volume, contact: Volume,
          image: Volume | None) -> np.ndarray:
    position = at[plane.through, None]

    def sampled(volume: Volume) -> np.ndarray:
        return cut(volume.with_data(volume.data.astype(np.float32)), frame, plane, position, fill=0.0)

    inside, painted = sampled(mask), sampled(compartment) > 0.5
    # a sheet of voxels seen between their centres never reaches one half
    touching = sampled(contact) > 0.3
    if image is None:
        base = png.grey(inside, -0.5, 2.0)
    else:
        values = cut(image, frame, plane, position)
        base = png.grey(values, *window(values, inside > 0.5))
    layers = {"compartment": painted, "lost": painted & (inside <= 0.5), "contact": touching,
              "mask": contour(inside) > 0.5}
    tile = base[0]
    for number, name in enumerate(COLOURS):
        _paint(tile, base[0].copy(), layers[name][0], number)
    label(tile, plane, position[0], letters=True)
    return tile


def _paint(tile: np.ndarray, below: np.ndarray, where: np.ndarray, number: int) -> None:
    """Replace the palette indices under a layer by its colour over the same grey, in place."""
    grey = np.clip(below[where].astype(np.int64) - png.GREY_FIRST, 0, None)
    level = np.where(below[where] >= _FIRST, below[where] % _GREYS,
                     grey * _GREYS // (png.GREY_LAST - png.GREY_FIRST + 1))
    tile[where] = _FIRST + number * _GREYS + level


def _palette() -> np.ndarray:
    """The greys of every picture, then each colour over 32 greys; (256, 3) uint8."""
    palette = png.slice_palette()
    below = np.linspace(0, 255, _GREYS)[:, None]
    for number, (name, colour) in enumerate(COLOURS.items()):
        first, opacity = _FIRST + number * _GREYS, _OPACITY[name]
        palette[first : first + _GREYS] = np.rint((1 - opacity) * below + opacity * np.array(colour))
    return palette
