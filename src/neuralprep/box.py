"""Boxes of voxels around masks: most of a head's image is air."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_], margin: int | Sequence[int] = 0) -> tuple[slice, ...] | None:
    """Smallest box around a mask, grown by a margin as far as the array goes; None if the mask is empty.

    Parameters
    ----------
    mask
        (X, Y, Z) bool, or of any number of axes.
    margin
        Voxels on each side, the same along all axes or one number for each.
    """
    edges = _edges(mask.T)[::-1] if mask.flags.f_contiguous else _edges(mask)
    if not edges:
        return None
    margins = np.broadcast_to(margin, mask.ndim).tolist()
    return tuple(
        slice(max(first - more, 0), min(last + 1 + more, size))
        for (first, last), more, size in zip(edges, margins, mask.shape, strict=True)
    )


def box_or_all(mask: NDArray[np.bool_], margin: int | Sequence[int] = 0) -> tuple[slice, ...]:
    """As :func:`bounding_box`, but the whole array if the mask is empty."""
    return bounding_box(mask, margin) or tuple(slice(0, size) for size in mask.shape)


def _edges(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index along each axis with a voxel of the mask; nothing if it is empty.

    The array is read twice at most, in the order of memory if the first axis changes slowest; then its projection.
    """
    edges = []
    while mask.ndim:
        found = np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim))))
        if not len(found):
            return []
        first, last = int(found[0]), int(found[-1])
        edges.append((first, last))
        mask = np.asarray(mask[first : last + 1].any(axis=0))
    return edges
