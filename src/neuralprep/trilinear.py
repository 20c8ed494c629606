"""Trilinear interpolation at scattered voxel coordinates, of several arrays at once.

`scipy.ndimage.map_coordinates` does the same for one array and is what the tests compare with. Here arrays on one grid
share indices and weights, and work goes in blocks that stay in the processor's cache: two to four times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16
"""Points worked on at a time: few enough for the caches, and enough that threads do not wait for the interpreter."""


def trilinear(
    arrays: Sequence[NDArray[np.float32]] | NDArray[np.float32], voxels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Values of arrays between their voxels; beyond the outer centres the nearest one's hold.

    Parameters
    ----------
    arrays : sequence of C arrays (X, Y, Z) float32, or (C, X, Y, Z)
        Of one shape, in any memory order.
    voxels : (3, ...) floating
        Where, in voxels. Shares of neighbours are computed in its precision and kept in single.

    Returns
    -------
    (C, ...) float32
    """
    where = voxels.reshape(3, -1)
    values = np.empty((len(arrays), where.shape[1]), np.float32)
    first = _ordered(arrays[0])
    order = np.argsort([-step for step in first.strides], kind="stable")
    lines = [np.ascontiguousarray(array.transpose(order), np.float32).reshape(-1) for array in arrays]
    strides = [step // first.itemsize for step in first.strides]
    for start in range(0, where.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        _blend(lines, first.shape, strides, where[:, block], values[:, block])
    return values.reshape(len(arrays), *voxels.shape[1:])


def by_component(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (X, Y, Z, C) with each component's memory in one piece, as `trilinear` wants it: copied if need be."""
    first = vectors[..., 0]
    if _ordered(first) is first:
        return vectors
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(vectors, -1, 0)), 0, -1)


def _ordered(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array itself if its memory is one piece, in whichever order of the axes; else a copy."""
    order = np.argsort([-step for step in array.strides], kind="stable")
    return array if array.transpose(order).flags.c_contiguous else np.ascontiguousarray(array)


def _blend(
    lines: Sequence[NDArray[np.float32]], shape: Sequence[int], strides: Sequence[int],
    where: NDArray[np.floating], out: NDArray[np.float32],
) -> None:
    """Fill `out` (C, N) with the eight neighbours' values, brought together axis by axis."""
    index = np.zeros(where.shape[1], np.intp)
    shares = []
    for position, count, stride in zip(where, shape, strides, strict=True):
        inside = np.clip(position, 0, count - 1)
        low = np.minimum(inside.astype(np.int32), max(count - 2, 0))
        shares.append((inside - low).astype(np.float32))
        index += low * np.int64(stride)
    # an axis of a single voxel has no upper neighbour; its share is 0, so the voxel itself stands in
    steps = [stride if count > 1 else 0 for count, stride in zip(shape, strides, strict=True)]
    corners = np.empty((8, where.shape[1]), np.float32)
    for line, total in zip(lines, out, strict=True):
        for corner, (x, y, z) in zip(corners, product((0, 1), repeat=3), strict=True):
            line[x * steps[0] + y * steps[1] + z * steps[2]:].take(index, mode="clip", out=corner)
        values = corners
        for share in shares:  # from the eight corners to four edges, two faces, one point
            half = len(values) // 2
            near, far = values[:half], values[half:]
            far -= near
            far *= share
            values = np.add(near, far, out=total[None] if half == 1 else near)
