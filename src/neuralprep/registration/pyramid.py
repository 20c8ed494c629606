"""Coarse images for registration: anti-aliased levels, and trilinear samples with exact gradients.

Everything here works on plain arrays and 4x4 voxel -> RAS mm matrices, so that it can be used and tested without
a `Volume`. Images are reduced by block means (exactly anti-aliasing, and fast) followed by a Gaussian which brings
the total blur to half the level's spacing (standard deviation) whatever the voxel size was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from neuralprep.errors import InputError

FloatArray = npt.NDArray[np.floating]
ImageArray = npt.NDArray[np.floating | np.integer | np.bool_]

# A face of the scan is "cut" when its border slice carries more than this share of the image's mean foreground:
# there the head goes on outside the field of view, and nothing is known. Beyond any other face there is background.
CUT_FACE_SHARE = 0.05

# An image with more non-zero voxels than this has no background: a brain fills about half of its bounding box.
LARGEST_SUPPORT_SHARE = 0.75


@dataclass(frozen=True)
class FixedLevel:
    """Sample points of the fixed image at one spacing.

    Attributes
    ----------
    points : (N, 3) float32
        RAS mm.
    values : (C, N) float32
        Smoothed channel values at the points.
    depth : (N,) float32
        Distance in mm to the outside of the mask; 0 outside.
    spacing : float
        mm between points.
    """

    points: FloatArray
    values: FloatArray
    depth: FloatArray
    spacing: float

    def core(self, depth: float) -> FixedLevel:
        """The points more than `depth` mm inside the mask."""
        keep = self.depth > depth
        return FixedLevel(self.points[keep], self.values[:, keep], self.depth[keep], self.spacing)


@dataclass(frozen=True)
class MovingLevel:
    """Smoothed moving channels on a coarse grid.

    Attributes
    ----------
    channels : (C, X, Y, Z) float32
    voxel_from_world : (4, 4) float64
    cut_faces : (3, 2) bool
        Axis by (low, high): the object is cut by this face of the field of view.
    """

    channels: FloatArray
    voxel_from_world: FloatArray
    cut_faces: npt.NDArray[np.bool_]


def voxel_sizes(affine: FloatArray) -> FloatArray:
    """Lengths (3,) in mm of the columns of a voxel -> world matrix."""
    return np.sqrt((np.asarray(affine, np.float64)[:3, :3] ** 2).sum(axis=0))


def block_mean(image: ImageArray, factors: Sequence[int]) -> FloatArray:
    """Mean over blocks of `factors` voxels; a last incomplete block is completed by repeating the border.

    Parameters
    ----------
    image : (X, Y, Z) array
    factors : three ints >= 1

    Returns
    -------
    (ceil(X/fx), ceil(Y/fy), ceil(Z/fz)) float32
    """
    out = np.asarray(image)
    for axis in (2, 1, 0):
        factor = factors[axis]
        if factor == 1:
            continue
        rest = -out.shape[axis] % factor
        if rest:
            tail = np.take(out, [-1] * rest, axis=axis)
            out = np.concatenate([out, tail], axis=axis)
        window: list[slice] = [slice(None)] * 3
        total: FloatArray | None = None
        for start in range(factor):
            window[axis] = slice(start, None, factor)
            part = out[tuple(window)]
            total = part.astype(np.float32) if total is None else np.add(total, part, out=total)
        assert total is not None
        out = total
        out *= np.float32(1.0 / factor)
    return np.ascontiguousarray(out, dtype=np.float32)


def reduce(image: ImageArray, affine: FloatArray, spacing: float, sigma: float) -> tuple[FloatArray, FloatArray]:
    """Coarse copy of an image.

    Parameters
    ----------
    image : (X, Y, Z) array
    affine : (4, 4) voxel -> RAS mm
    spacing : float
        Wanted voxel size in mm. Axes that are already coarser keep their voxels.
    sigma : float
        Standard deviation, in mm, of the total blur (voxel box included where blocks were averaged).

    Returns
    -------
    image : float32 array
    affine : (4, 4) float64
        Of the coarse grid (block centres).
    """
    affine = np.asarray(affine, np.float64)
    sizes = voxel_sizes(affine)
    factors = block_factors(image.shape, sizes, spacing)
    coarse = block_mean(image, factors)
    coarse_affine = affine @ block_matrix(factors)
    coarse_sizes = voxel_sizes(coarse_affine)
    missing = np.sqrt(np.maximum(sigma**2 - coarse_sizes**2 / 12, 0.0)) / coarse_sizes
    # "nearest": a brain that reaches the face of the scan must not fade towards it.
    coarse = ndi.gaussian_filter(coarse, missing, mode="nearest", truncate=3.0)
    return coarse, coarse_affine


def block_factors(shape: Sequence[int], sizes: FloatArray, spacing: float) -> tuple[int, int, int]:
    """How many voxels of `sizes` mm make a block of about `spacing` mm; two blocks at least along every axis."""
    x, y, z = (
        max(1, min(round(spacing / float(size)), extent // 2)) for size, extent in zip(sizes, shape, strict=True)
    )
    return x, y, z


def block_matrix(factors: Sequence[int]) -> FloatArray:
    """Matrix (4, 4) from indices of blocks to indices of voxels, centre to centre."""
    matrix = np.diag([*factors, 1.0]).astype(np.float64)
    matrix[:3, 3] = (np.array(factors) - 1) / 2
    return matrix


def fixed_level(
    channels: Sequence[ImageArray],
    affine: FloatArray,
    spacing: float,
    mask: npt.NDArray[np.bool_] | None = None,
    margin: float = 8.0,
) -> FixedLevel:
    """Sample points of the fixed image: voxel centres of a coarse grid, within `margin` mm of the mask.

    Parameters
    ----------
    channels : list of (X, Y, Z) arrays on one grid
    affine : (4, 4) voxel -> RAS mm
    spacing : float
        mm.
    mask : (X, Y, Z) bool, optional
        Where the fit is judged; default: where any channel is not zero.
    margin : float
        mm by which the mask is dilated, so that the outer border of the brain counts.
    """
    if mask is None:
        mask = np.any([np.asarray(channel) != 0 for channel in channels], axis=0)
    coarse_mask, coarse_affine = reduce(mask, affine, spacing, 0.0)
    sizes = voxel_sizes(coarse_affine)
    distance = ndi.distance_transform_edt(coarse_mask < 0.25, sampling=sizes)
    index = np.argwhere(distance <= margin)
    depth = ndi.distance_transform_edt(coarse_mask >= 0.5, sampling=sizes)[tuple(index.T)]
    values = [reduce(channel, affine, spacing, spacing / 2)[0][tuple(index.T)] for channel in channels]
    points = index @ coarse_affine[:3, :3].T + coarse_affine[:3, 3]
    return FixedLevel(
        points.astype(np.float32), np.stack(values).astype(np.float32), depth.astype(np.float32), float(spacing)
    )


def moving_level(
    channels: Sequence[ImageArray], affine: FloatArray, spacing: float, oversample: float = 2.0
) -> MovingLevel:
    """Moving channels blurred as the fixed level of this spacing, on a grid finer by `oversample`.

    The finer grid keeps the trilinear interpolant close to the smooth image, hence the fit free of grid effects.
    """
    reduced = [reduce(channel, affine, spacing / oversample, spacing / 2) for channel in channels]
    stack = np.stack([image for image, _ in reduced])
    return MovingLevel(stack, np.linalg.inv(reduced[0][1]), _cut_faces(stack))


def _cut_faces(channels: FloatArray) -> npt.NDArray[np.bool_]:
    strength = np.abs(channels).sum(axis=0)
    foreground = strength[strength > 0]
    level = CUT_FACE_SHARE * float(foreground.mean()) if foreground.size else 0.0
    faces = np.zeros((3, 2), dtype=bool)
    for axis in range(3):
        for side, index in enumerate((0, -1)):
            faces[axis, side] = bool(strength.take(index, axis=axis).mean() > level)
    return faces


def sample_with_gradient(
    level: MovingLevel, points: FloatArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Trilinear values and their exact derivatives at points.

    Parameters
    ----------
    level : MovingLevel
    points : (N, 3) RAS mm of the moving image

    Returns
    -------
    values : (C, N) float32
    gradients : (C, N, 3) float32
        Per mm, along world x, y, z; zero outside the grid.
    known : (N,) bool
        False for points beyond a face which cuts the object.
    """
    matrix = level.voxel_from_world
    voxel = points @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
    _, nx, ny, nz = level.channels.shape
    limit = np.array([nx, ny, nz], np.float32) - 1
    below, above = voxel < -0.5, voxel > limit + 0.5
    beyond = (below & level.cut_faces[:, 0]) | (above & level.cut_faces[:, 1])
    known: npt.NDArray[np.bool_] = ~np.any(beyond, axis=1)
    base = np.clip(np.floor(voxel), 0, np.maximum(limit - 1, 0)).astype(np.int32)
    raw = voxel - base
    u, v, w = np.clip(raw, 0, 1).T
    flat = (base[:, 0] * ny + base[:, 1]) * nz + base[:, 2]
    step_x, step_y, step_z = (ny * nz if nx > 1 else 0), (nz if ny > 1 else 0), (1 if nz > 1 else 0)
    count = len(points)
    values = np.empty((len(level.channels), count), np.float32)
    gradients = np.empty((len(level.channels), count, 3), np.float32)
    within = ((raw >= 0) & (raw <= 1)).astype(np.float32)
    for channel, image in enumerate(level.channels):
        corners = image.ravel()
        c000, c001 = corners[flat], corners[flat + step_z]
        c010, c011 = corners[flat + step_y], corners[flat + step_y + step_z]
        upper = flat + step_x
        c100, c101 = corners[upper], corners[upper + step_z]
        c110, c111 = corners[upper + step_y], corners[upper + step_y + step_z]
        d00, d01, d10, d11 = c001 - c000, c011 - c010, c101 - c100, c111 - c110
        e00, e01, e10, e11 = c000 + w * d00, c010 + w * d01, c100 + w * d10, c110 + w * d11
        f0, f1 = e00 + v * (e01 - e00), e10 + v * (e11 - e10)
        values[channel] = f0 + u * (f1 - f0)
        gradients[channel, :, 0] = f1 - f0
        low_y, high_y = e01 - e00, e11 - e10
        gradients[channel, :, 1] = low_y + u * (high_y - low_y)
        low_z, high_z = d00 + v * (d01 - d00), d10 + v * (d11 - d10)
        gradients[channel, :, 2] = low_z + u * (high_z - low_z)
    gradients *= within
    return values, gradients @ matrix[:3, :3].astype(np.float32), known


def center_of_mass(channels: Sequence[ImageArray], affine: FloatArray) -> tuple[FloatArray, float]:
    """Centre and root-mean-square radius, in mm, of the object in an image.

    For a skull-stripped image or for fractions this is the centroid of all non-zero voxels, whatever their contrast.
    Where nearly every voxel is non-zero (no background was removed) voxels are weighted by intensity instead.

    Parameters
    ----------
    channels : list of (X, Y, Z) arrays on one grid
    affine : (4, 4) voxel -> RAS mm

    Returns
    -------
    center : (3,) float64, RAS mm
    radius : float, mm

    Raises
    ------
    InputError
        When all channels are zero.
    """
    support = np.any([np.asarray(channel) != 0 for channel in channels], axis=0)
    if support.mean() <= LARGEST_SUPPORT_SHARE:
        weight, coarse_affine = reduce(support, affine, 4.0, 0.0)
    else:
        reduced = [reduce(channel, affine, 4.0, 0.0) for channel in channels]
        weight, coarse_affine = np.sum([np.abs(image) for image, _ in reduced], axis=0), reduced[0][1]
    total = weight.sum(dtype=np.float64)
    if not total > 0:
        raise InputError("the image is zero everywhere and cannot be registered: give an image with a brain in it")
    index = np.argwhere(weight > 0)
    weights = weight[tuple(index.T)].astype(np.float64) / total
    points = index @ coarse_affine[:3, :3].T + coarse_affine[:3, 3]
    center = weights @ points
    radius = float(np.sqrt(weights @ ((points - center) ** 2).sum(axis=1)))
    return center, radius
