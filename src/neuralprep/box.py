"""Boxes of voxels around masks: most of a head's image is air."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def bounding_box(mask: NDArray[np.bool_], margin: int | Sequence[int] = 0) -> tuple[slice, ...] | None:
    """Smallest box around a mask, grown by a margin as far as the array goes; None if the mask is empty.

    Parameters
    ----------
    mask
        (X, Y, Z) bool, or of any number of axes.
    margin
        Voxels on each side, the same along all axes or one number for each.
    """
    found: list[tuple[slice, ...]] = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    if not found or found[0] is None:
        return None
    margins = np.broadcast_to(margin, mask.ndim).tolist()
    return tuple(
        slice(max(edge.start - more, 0), min(edge.stop + more, size))
        for edge, more, size in zip(found[0], margins, mask.shape, strict=True)
    )


def box_or_all(mask: NDArray[np.bool_], margin: int | Sequence[int] = 0) -> tuple[slice, ...]:
    """As :func:`bounding_box`, but the whole array if the mask is empty."""
    return bounding_box(mask, margin) or tuple(slice(0, size) for size in mask.shape)
