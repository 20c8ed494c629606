"""Resampling: one interpolation through any chain of transforms, and none where none is needed.

The value of the output at world point x is the volume's value at T(x). A volume reaches half a voxel beyond its outer
voxel centres (as in ITK); further out is `fill`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.errors import GeometryError
from neuralprep.grid import FloatArray, Grid
from neuralprep.transform import (
    Affine,
    Transform,
    apply_to_grid,
    compose,
    inside_voxels,
    least_squares_affine,
    slabs,
)
from neuralprep.trilinear import trilinear
from neuralprep.volume import Volume

# Headers hold float32, so affines that mean the same differ by this much (voxels) over a field of view.
_SAME_VOXEL = 1e-3
_VOTERS = 1 << 16  # voxels that vote at a time: few enough that most labels are out of reach
_FWHM = 2 * np.sqrt(2 * np.log(2))


def resample(volume: Volume, grid: Grid, transform: Transform | None = None, order: int = 1, fill: float = 0.0,
             threads: int = 1, antialias: bool = False) -> Volume:
    """Carry a volume onto a grid.

    Parameters
    ----------
    volume : Volume
        Moving image.
    grid : Grid
        Where the output's voxels lie, in the fixed space.
    transform : Transform or None
        Pull-back, fixed points (mm) -> moving points (mm). None is the identity.
    order : {1, 0}
        Trilinear, or nearest neighbour (masks and labels; keeps the dtype).
    fill : float
        Value outside the volume.
    threads : int
        Slabs worked on at a time. The result does not depend on it.
    antialias : bool
        Blur first along the axes on which the output voxel is more than 1.5 times the volume's (order 1 only).

    Returns
    -------
    Volume
        On `grid`. Where the output's voxels are the volume's own (identity; shifts by whole voxels; axes permuted or
        flipped) the values are copied and keep their dtype; otherwise order 1 gives float32.

    Raises
    ------
    GeometryError
        Unknown order, or anti-aliasing asked for with order 0.
    """
    if order not in (0, 1):
        raise GeometryError(f"order {order} is not supported; use 1 (linear) or 0 (nearest neighbour)")
    if antialias and order == 0:
        raise GeometryError("antialias needs order 1; labels cannot be blurred")
    transform = Affine.identity() if transform is None else compose(transform)
    if antialias:
        volume = _coarsened(volume, _voxel_map(volume.grid, grid, transform))
    matrix = _voxel_map(volume.grid, grid, transform)
    if isinstance(transform, Affine):
        permutation = _signed_permutation(matrix, grid.shape)
        if permutation is not None:
            return Volume(_copied(volume.data, permutation, grid.shape, fill), grid, volume.source, volume.notes)
    data = volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data
    if order == 1:
        data = data.astype(np.float32, copy=False)
    axes = _memory_order(data, matrix)
    permuted = _permuted(grid, axes)
    out = np.empty(permuted.shape, dtype=data.dtype)
    if isinstance(transform, Affine):
        matrix = matrix[:, [*axes, 3]]
        _each_slab(out.shape, threads, lambda slab: _affine_slab(data, matrix, out, slab, order, fill))
    else:
        _each_slab(out.shape, threads,
                   lambda slab: _warp_slab(data, volume.grid, permuted, transform, out, slab, order, fill))
    out = out.transpose(np.argsort(axes))
    if order == 0 and volume.data.dtype == bool:
        out = out.view(bool)
    return Volume(out, grid, volume.source, volume.notes)


def covered(source: Grid, grid: Grid) -> NDArray[np.bool_]:
    """Voxels (X, Y, Z) of `grid` whose centres `source` sees: at most half a voxel beyond its outer centres."""
    matrix = _voxel_map(source, grid, Affine.identity())
    first, last = _inside_range(matrix[:3, :3], matrix[:3, 3], grid.shape, source.shape)
    index = np.arange(grid.shape[2])
    return np.asarray((index >= first[..., None]) & (index < last[..., None]))


def resample_labels(volume: Volume, grid: Grid, transform: Transform | None = None, threads: int = 1) -> Volume:
    """Carry a label map onto a grid by vote: every label's share of a voxel is interpolated, the largest wins.

    Shares are interpolated linearly, and averaged over the output voxel where that is the larger one; background has
    a share like any label. Borders come out smooth where nearest neighbour gives steps, and no value appears that was
    not there.

    Parameters
    ----------
    volume : Volume
        Moving image of whole numbers; 0 is background.
    grid, transform, threads
        As in `resample`.

    Returns
    -------
    Volume
        On `grid`, in the smallest of uint8, int16, int32 that holds all labels. Ties go to the smaller label.

    Raises
    ------
    GeometryError
        Values that are not whole numbers.
    """
    labels = np.rint(volume.data)
    if volume.data.dtype.kind == "f" and np.abs(labels - volume.data).max() > 1e-3:
        raise GeometryError(f"{volume.source or 'the image'}: has values between whole numbers, so it is no label map")
    labels = labels.astype(np.int32)
    found = np.unique(labels)
    kind = next(t for t in (np.uint8, np.int16, np.int32)
                if np.iinfo(t).min <= found[0] and found[-1] <= np.iinfo(t).max)
    if _only_copies(volume.grid, grid, transform):
        return resample(volume.with_data(labels.astype(kind)), grid, transform, order=0, threads=threads)
    transform = Affine.identity() if transform is None else compose(transform)
    ballot = _Ballot(labels, found, volume.grid, _voxel_map(volume.grid, grid, transform))
    winner = np.empty(grid.shape, kind)

    def vote(slab: slice) -> None:
        voxels = ballot.grid.world_to_voxel(apply_to_grid(transform, grid, slab)).T
        winner[slab] = ballot.won(voxels).reshape(-1, *grid.shape[1:])

    _each_slab(grid.shape, threads, vote, _VOTERS)
    return Volume(winner, grid, volume.source, volume.notes)


class _Ballot:
    """Shares of labels, each looked up only near its own voxels.

    Attributes
    ----------
    grid
        What is looked up: the labels' grid, coarser where the output is.
    """

    def __init__(self, labels: NDArray[np.int32], found: NDArray[np.int32], fine: Grid, matrix: FloatArray) -> None:
        self._labels, self._fine, self._matrix = labels, fine, matrix
        self.grid = _coarsened(Volume(labels.astype(np.float32), fine), matrix).grid
        self._steps = np.rint(np.array(self.grid.spacing) / fine.spacing).astype(int)
        # Around each label: two voxels that it does not reach, unless the image ends before.
        boxes = ndimage.find_objects(np.searchsorted(found, labels).astype(np.int32) + 1)
        self._boxes = [(label, *self._around(box)) for label, box in zip(found, boxes, strict=True) if label != 0]

    def _around(self, box: tuple[slice, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        low = np.array([part.start for part in box]) // self._steps - 2
        high = -(-np.array([part.stop for part in box]) // self._steps) + 2
        return np.maximum(low, 0), np.minimum(high, self.grid.shape)

    def won(self, voxels: FloatArray) -> NDArray[np.int32]:
        """The label with the largest share at voxels (3, N) of the grid; 0 if background's is larger, or none shows."""
        shown = inside_voxels(voxels, self.grid.shape)
        voxels = np.clip(voxels, 0, np.array(self.grid.shape)[:, None] - 1)
        least, most = np.floor(voxels.min(axis=1)).astype(int) - 2, np.ceil(voxels.max(axis=1)).astype(int) + 3
        best, rest = np.zeros(len(shown), np.float32), np.ones(len(shown), np.float32)
        winner = np.zeros(len(shown), np.int32)
        for label, low, high in self._boxes:
            first, stop = np.maximum(low, least), np.minimum(high, most)
            if (first >= stop).any():
                continue
            near = shown.copy()
            for row, begin, end in zip(voxels, first, stop, strict=True):
                near &= (row >= begin) & (row <= end - 1)
            places = np.flatnonzero(near)
            values = trilinear([self._share(label, first, stop)], voxels[:, places] - first[:, None])[0]
            rest[places] -= values
            larger = values > best[places]
            places = places[larger]
            winner[places], best[places] = label, values[larger]
        winner[rest > best] = 0
        return winner

    def _share(self, label: int, first: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.float32]:
        """Share of a label in a box of the grid."""
        low, high = first * self._steps, np.minimum(stop * self._steps, self._labels.shape)
        part = self._labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == label
        box = Volume(part.astype(np.float32), self._fine.cropped(low.tolist(), high.tolist()))
        return np.asarray(_coarsened(box, self._matrix).data)


def _only_copies(moving: Grid, grid: Grid, transform: Transform | None) -> bool:
    transform = Affine.identity() if transform is None else compose(transform)
    matrix = _voxel_map(moving, grid, transform)
    return isinstance(transform, Affine) and _signed_permutation(matrix, grid.shape) is not None


def _voxel_map(moving: Grid, grid: Grid, transform: Transform) -> FloatArray:
    """Voxels of `grid` -> voxels of `moving`, (4, 4); of a warp, the affine that it resembles."""
    affine = transform if isinstance(transform, Affine) else _local_affine(transform, grid)
    return np.linalg.inv(moving.affine) @ affine.matrix @ grid.affine


def _memory_order(data: NDArray, matrix: FloatArray) -> tuple[int, int, int]:
    """Output axes, slowest first, such that walking the output walks the input's memory (4 times faster)."""
    source = np.argsort([-abs(step) for step in data.strides], kind="stable")
    size = np.abs(matrix[:3, :3])
    x, y, z = max(permutations(range(3)), key=lambda axes: sum(size[s, o] for s, o in zip(source, axes, strict=True)))
    return x, y, z


def _permuted(grid: Grid, axes: tuple[int, int, int]) -> Grid:
    x, y, z = (grid.shape[axis] for axis in axes)
    return Grid((x, y, z), grid.affine[:, [*axes, 3]])


def _signed_permutation(matrix: FloatArray, shape: tuple[int, ...]) -> FloatArray | None:
    """The voxel-to-voxel matrix rounded to whole numbers, if that moves no voxel of `shape` noticeably."""
    rounded = np.rint(matrix)
    linear = np.abs(rounded[:3, :3])
    if not ((linear.sum(0) == 1).all() and (linear.sum(1) == 1).all()):
        return None
    drift = np.abs(matrix - rounded)[:3] @ np.append(np.array(shape) - 1, 1)
    return rounded if drift.max() <= _SAME_VOXEL else None


def _copied(data: NDArray, matrix: FloatArray, shape: tuple[int, int, int], fill: float) -> NDArray:
    """Output of `shape` by slicing: output voxel o shows input voxel ``matrix @ o``."""
    source_axes = [int(np.argmax(np.abs(matrix[:3, axis]))) for axis in range(3)]
    view = data.transpose(source_axes)
    offsets = []
    for axis, source in enumerate(source_axes):
        offset = int(matrix[source, 3])
        if matrix[source, axis] < 0:
            view = np.flip(view, axis)
            offset = data.shape[source] - 1 - offset
        offsets.append(offset)
    # Output index o on an axis now shows index o + offset of the view.
    start = [max(0, -offset) for offset in offsets]
    stop = [min(n, m - offset) for n, m, offset in zip(shape, view.shape, offsets, strict=True)]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return np.full(shape, fill, dtype=data.dtype)
    part = view[tuple(slice(a + o, b + o) for a, b, o in zip(start, stop, offsets, strict=True))]
    if part.shape == tuple(shape):
        return part
    out = np.full(shape, fill, dtype=data.dtype)
    out[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = part
    return out


def _each_slab(shape: tuple[int, ...], threads: int, work: Callable[[slice], None], *points: int) -> None:
    parts = slabs(shape, *points)
    if threads <= 1 or len(parts) == 1:
        for slab in parts:
            work(slab)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))  # list(): raises what a thread raised


def _affine_slab(data: NDArray, matrix: FloatArray, out: NDArray, slab: slice, order: int, fill: float) -> None:
    offset = matrix[:3, 3] + matrix[:3, 0] * slab.start
    part = out[slab]
    if order == 0:
        ndimage.affine_transform(data, matrix[:3, :3], offset, output_shape=part.shape, output=part, order=0,
                                 mode="nearest", prefilter=False)
    else:
        rows, columns = (np.arange(n, dtype=np.float64) for n in part.shape[1:])
        plane = matrix[:3, 1, None, None] * rows[:, None] + matrix[:3, 2, None, None] * columns
        for row, image in enumerate(part):
            corner = offset + matrix[:3, 0] * row
            image[:] = trilinear([data], plane + corner[:, None, None])[0]
    first, last = _inside_range(matrix[:3, :3], offset, part.shape, data.shape)
    if first.max() > 0 or last.min() < part.shape[2]:
        index = np.arange(part.shape[2])
        part[(index < first[..., None]) | (index >= last[..., None])] = fill


def _inside_range(linear: FloatArray, offset: FloatArray, shape: tuple[int, ...],
                  source: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each line along the last axis of `shape`, the range [first, last) whose source voxel lies in the volume.

    The source coordinate along a line is linear in the index, so its bounds are solved for instead of tested.
    """
    first = np.zeros(shape[:2])
    last = np.full(shape[:2], float(shape[2]))
    rows, columns = np.ogrid[:shape[0], :shape[1]]
    for axis in range(3):
        base = offset[axis] + linear[axis, 0] * rows + linear[axis, 1] * columns
        step = linear[axis, 2]
        low, high = -0.5 - base, source[axis] - 0.5 - base
        if abs(step) < 1e-12:
            last[(low > 0) | (high < 0)] = 0
            continue
        enter, leave = (low / step, high / step) if step > 0 else (high / step, low / step)
        np.maximum(first, np.ceil(enter - 1e-9), out=first)
        np.minimum(last, np.floor(leave + 1e-9) + 1, out=last)
    return first.astype(np.int64), last.astype(np.int64)


def _warp_slab(data: NDArray, moving: Grid, grid: Grid, transform: Transform, out: NDArray, slab: slice, order: int,
               fill: float) -> None:
    voxels = moving.world_to_voxel(apply_to_grid(transform, grid, slab)).T
    if order == 0:
        values = ndimage.map_coordinates(data, voxels, output=out.dtype, order=0, mode="nearest", prefilter=False)
    else:
        values = trilinear([data], voxels)[0]
    values[~inside_voxels(voxels, data.shape)] = fill
    out[slab] = values.reshape(-1, *grid.shape[1:])


def _local_affine(transform: Transform, grid: Grid) -> Affine:
    """Affine that a warp resembles over a grid (least squares over a lattice), to tell how much it shrinks."""
    lattice = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 5) for n in grid.shape), indexing="ij"), -1).reshape(-1, 3)
    points = grid.voxel_to_world(lattice)
    return least_squares_affine(points, transform.apply(points))


def _coarsened(volume: Volume, matrix: FloatArray) -> Volume:
    """Average input voxels along the axes on which the output voxel spans more than 1.5 of them.

    Whole multiples become means of blocks (which is also what makes the interpolation that follows cheap); between
    1.5 and 2 a three-point kernel widens the voxel so that its variance is that of the output voxel.
    """
    data, affine = volume.data, volume.grid.affine.copy()
    for axis, ratio in enumerate(np.linalg.norm(matrix[:3, :3], axis=1)):
        block = min(int(ratio + 0.01), data.shape[axis])
        if block >= 2:
            data = _block_means(data, axis, block)
            affine[:3, 3] += affine[:3, axis] * (block - 1) / 2
            affine[:3, axis] *= block
        elif ratio > 1.5 and data.shape[axis] > 1:
            data = _three_point(data, axis, (ratio**2 - 1) / _FWHM**2 / 2)
    x, y, z = data.shape
    return Volume(data, Grid((x, y, z), affine), volume.source, volume.notes)


def _block_means(data: NDArray, axis: int, block: int) -> NDArray[np.float32]:
    """Means of blocks of voxels along an axis; an incomplete last block is filled up with the last voxel."""
    view = np.moveaxis(data, axis, 0)
    blocks = -(-len(view) // block)
    total = view[::block].astype(np.float32)
    for step in range(1, block):
        part = view[step::block]
        total[: len(part)] += part
        if len(part) < blocks:
            total[-1] += view[-1]
    total /= block
    return np.moveaxis(total, 0, axis)


def _three_point(data: NDArray, axis: int, weight: float) -> NDArray[np.float32]:
    """Smooth with the kernel (weight, 1 - 2 weight, weight); border voxels stand in for those beyond."""
    view = np.moveaxis(data.astype(np.float32, copy=False), axis, 0)
    out = view * np.float32(1 - 2 * weight)
    side = np.float32(weight)
    out[1:] += side * view[:-1]
    out[:-1] += side * view[1:]
    out[0] += side * view[0]
    out[-1] += side * view[-1]
    return np.moveaxis(out, 0, axis)
