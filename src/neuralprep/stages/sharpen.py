"""Sharpen: a surface of the brain at the scan's own resolution, from what its intensities say about it.

The network knows shapes but sees 2 mm voxels; the scan often knows more. How bright it is on either side of a surface
is read off where the network is sure of the side, `SURE_MM` to `BAND_MM` away from it: two histograms, of this scan
alone, whatever its contrast. How much more often a voxel's brightness occurs outside than inside (a log-likelihood
ratio) is its evidence; times a weight in mm, smoothed, it is added to the network's distance, which is the prior (its
log-odds, in units of that weight). Where both sides look alike, such as fluid and bone in T1w, the ratio is near 1 and
the surface stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.box import box_or_all
from neuralprep.grid import Grid
from neuralprep.lattice import through_lattice

BAND_MM = 4.0
"""Further than this from its surface the network is not questioned."""
SURE_MM = 0.8
"""Nearer than this to its surface the network is not asked what a side looks like."""
_DEPTH_MM = 3.0
"""How far inside of the surface its inner side reaches: not into other tissue."""
_BINS = 64
_BIN_SMOOTHING = 2.0
_FLOOR = 0.2
"""Share, of an average bin's, that every bin has at least: brightness that a side hardly shows decides nothing."""
_LIMIT = 3.0
"""Evidence of one voxel, natural logarithm, at most: 20 to 1."""
_MOST_MM = 1.5
"""No surface moves further: ventricles, fluid too, lie not much deeper in places."""
_LEAST_VOXELS = 500
_CLASS_SAMPLE = 100_000
_BLOCK_MM = 4.0
"""Edge of the blocks over which the movement of the surface is averaged for distances away from it."""
_FLUSH_VOXEL = 0.25
"""Distance, in voxels, of a voxel that changed sides in detail only."""


@dataclass(frozen=True)
class Sharpening:
    """How far evidence moves a surface.

    Attributes
    ----------
    weight_mm
        mm by which a voxel e times likelier on one side moves the surface there.
    blur_mm
        Standard deviation of the Gaussian over which voxels share their evidence.
    """

    weight_mm: float
    blur_mm: float


SKULL = Sharpening(0.5, 0.7)
"""Of the inner skull: the network is sure of it to less than a millimetre."""
TISSUE = Sharpening(1.4, 0.5)
"""Of brain tissue, whose folds 2 mm voxels blur."""


def sharpened(
    distance: NDArray[np.float32], image: NDArray, grid: Grid, how: Sharpening,
    where: NDArray[np.bool_] | None = None, fluid: NDArray | None = None,
) -> NDArray[np.float32]:
    """Move a surface to where the scan shows it.

    Parameters
    ----------
    distance
        (X, Y, Z) signed distance to the surface in mm, negative inside: the network's.
    image
        (X, Y, Z) the scan on the same voxels.
    grid
        Where the voxels lie.
    how
        Weights.
    where
        (X, Y, Z) voxels that have evidence and give it; all if None.
    fluid
        (N,) intensities of fluid that lies along the inside of this surface, however little of it the network saw
        there: they count as much as the inner side. None if there is no such fluid.

    Returns
    -------
    ndarray
        (X, Y, Z) float32 signed distance to the moved surface: exact in sign, and in mm as far as the surface moved by
        the same amount over some millimetres. ``distance`` itself where a side has too few voxels to tell how it looks.
    """
    box = box_or_all(np.abs(distance) < BAND_MM)
    near = distance[box]
    told = evidence(near, image[box], grid.spacing, how, None if where is None else where[box], fluid)
    if told is None:
        return distance
    band = np.nonzero(np.abs(near) < BAND_MM)
    before = near[band]
    inside = before + told[band] <= 0
    part = grid.cropped([s.start for s in box], [s.stop for s in box])
    moved = distance - _movement(inside, before, band, part, grid)
    flush = np.float32(_FLUSH_VOXEL * min(grid.spacing))
    after = moved[box][band]
    moved[box][band] = np.where(inside == (after <= 0), after, np.where(inside, -flush, flush))
    return moved


def evidence(
    distance: NDArray[np.float32], image: NDArray, spacing: tuple[float, float, float], how: Sharpening,
    where: NDArray[np.bool_] | None = None, fluid: NDArray | None = None,
) -> NDArray[np.float32] | None:
    """What the intensities say against each voxel's being inside, (X, Y, Z) mm; None where a side is too small to tell.

    Takes what :func:`sharpened` takes. Depends on the order of the intensities only: any increasing function of them
    gives the same.
    """
    band = np.abs(distance) < BAND_MM
    if where is not None:
        band &= where
    values, depth = image[band], distance[band]
    inner, outer = (depth > -_DEPTH_MM) & (depth < -SURE_MM), depth > SURE_MM
    if min(inner.sum(), outer.sum()) < _LEAST_VOXELS:
        return None
    limits = _equal_shares(values[inner], values[outer])
    bins = np.searchsorted(limits, values)
    inner_share, outer_share = (_shares(bins[side], len(limits) + 1) for side in (inner, outer))
    if fluid is not None and len(fluid) >= _LEAST_VOXELS:
        inner_share = (inner_share + _shares(np.searchsorted(limits, fluid), len(limits) + 1)) / 2
    ratio = np.clip(np.log(outer_share / inner_share), -_LIMIT, _LIMIT)
    told: NDArray[np.float32] = np.zeros_like(distance)  # in the same order of memory
    told[band] = (how.weight_mm * ratio).astype(np.float32)[bins]
    told = ndimage.gaussian_filter(told, [how.blur_mm / s for s in spacing], truncate=2.0)
    return np.clip(told, -_MOST_MM, _MOST_MM, out=told)


def _equal_shares(inner: NDArray, outer: NDArray) -> NDArray:
    """Limits of bins that each hold the same share of both sides together, either counting as much as the other."""
    thinned = [side[:: max(1, len(side) // _CLASS_SAMPLE)] for side in (inner, outer)]
    weights = np.concatenate([np.full(len(side), 0.5 / len(side)) for side in thinned])
    values = np.concatenate(thinned)
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return np.unique(values[order][np.searchsorted(below, np.arange(1, _BINS) / _BINS)])


def _shares(bins: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Smoothed histogram with a floor."""
    share = np.bincount(bins, minlength=count) / len(bins)
    return np.asarray(ndimage.gaussian_filter1d(share, _BIN_SMOOTHING, mode="nearest") + _FLOOR / count)


def _movement(
    inside: NDArray[np.bool_], distance: NDArray[np.float32], band: tuple[NDArray[np.intp], ...], part: Grid, grid: Grid
) -> NDArray[np.float32]:
    """How far outwards a surface moved, mm, as a smooth field on ``grid``.

    The volume gained in a block over the area of the surface in it, where there is any; further away that of wider
    surroundings.

    Parameters
    ----------
    inside
        (N,) the inside now, of the voxels of the band.
    distance
        (N,) from the surface as it was.
    band
        Their indices on ``part``.
    """
    half = _BLOCK_MM / 2
    edges = [max(1, round(_BLOCK_MM / s)) for s in part.spacing]
    blocks = part.blocks(edges)
    block = np.ravel_multi_index([index // edge for index, edge in zip(band, edges, strict=True)], blocks.shape)

    def sums(of: NDArray) -> NDArray[np.float32]:
        return np.bincount(block, of, int(np.prod(blocks.shape))).reshape(blocks.shape).astype(np.float32)

    gained, area = sums(inside - (distance <= 0).astype(np.float32)), sums(np.abs(distance) < half)
    total, surface = np.zeros_like(gained), np.zeros_like(area)
    for width, share in ((1.0, 1.0), (4.0, 1e-3), (12.0, 1e-6)):
        total += share * ndimage.gaussian_filter(gained, width, mode="constant")
        surface += share * ndimage.gaussian_filter(area, width, mode="constant")
    shift = _BLOCK_MM * total / np.maximum(surface, 1e-12)
    return through_lattice(shift.astype(np.float32), blocks, grid)
