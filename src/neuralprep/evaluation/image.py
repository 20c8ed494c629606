"""Likeness of two images: structural similarity, peak signal-to-noise ratio, absolute error, correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neuralprep.box import bounding_box
from neuralprep.evaluation.overlap import check_shapes

WINDOW = 5
SIGMA = 1.5


def ssim_map(
    image: ArrayLike, reference: ArrayLike, data_range: float = 1.0, support: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Structural similarity at every voxel.

    Gaussian window of 5 voxels (sigma 1.5) per axis, zeros beyond the array, C1 = (0.01 R)^2 and
    C2 = (0.03 R)^2: the settings of NPP, so that its tables can be compared with.
    Source: Wang et al., IEEE Trans. Image Process. 13:600 (2004).

    Parameters
    ----------
    image, reference
        Arrays of one shape, any number of axes.
    data_range
        R, the width of the range of values.
    support
        Let the windows see the non-zero voxels of this mask only, each window re-weighted to the voxels that it sees:
        the edge of a mask is then neither an agreement nor an error. The result means something within it only.

    Returns
    -------
    numpy.ndarray
        float64, the shape of the images, -1 to 1.

    Raises
    ------
    ValueError
        If the shapes differ or the range is not positive.
    """
    first, second = _as_images(image, reference, data_range)
    if support is not None:
        check_shapes(first, np.asarray(support))
    # Where every window sees zeros in both images they are alike; stripped heads are mostly that.
    likeness = np.ones(first.shape)
    box = bounding_box((first != 0) | (second != 0), WINDOW // 2)
    if box is None:
        return likeness
    likeness[box] = _similarity(first[box], second[box], data_range,
                                None if support is None else (np.asarray(support)[box] != 0).astype(np.float64))
    return likeness


def _similarity(
    first: NDArray[np.float64], second: NDArray[np.float64], data_range: float, inside: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """`ssim_map` of arrays with nothing around them."""
    steps = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(steps**2) / (2 * SIGMA**2))
    window /= window.sum()

    def window_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis in range(values.ndim):
            values = ndimage.correlate1d(values, window, axis, mode="constant")
        return values

    weight = np.ones(()) if inside is None else np.maximum(window_sum(inside), 1e-12)

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = window_sum(values if inside is None else values * inside) / weight
        return mean

    mean_1, mean_2 = local_mean(first), local_mean(second)
    # E[x^2] - E[x]^2 cancels badly in float32, hence float64 throughout
    variance_1 = local_mean(first * first) - mean_1 * mean_1
    variance_2 = local_mean(second * second) - mean_2 * mean_2
    covariance = local_mean(first * second) - mean_1 * mean_2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    return similarity / ((mean_1 * mean_1 + mean_2 * mean_2 + c1) * (variance_1 + variance_2 + c2))


def ssim(
    image: ArrayLike, reference: ArrayLike, data_range: float = 1.0, mask: ArrayLike | None = None
) -> float:
    """Mean structural similarity (see `ssim_map`).

    Parameters
    ----------
    image, reference
        Arrays of one shape.
    data_range
        Width of the range of values.
    mask
        Average over its non-zero voxels only; the whole array, background included, if None (as NPP does).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ, the range is not positive, or the mask is empty.
    """
    return float(_within(ssim_map(image, reference, data_range), mask).mean())


def psnr(
    image: ArrayLike, reference: ArrayLike, data_range: float = 1.0, mask: ArrayLike | None = None
) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    Parameters
    ----------
    image, reference
        Arrays of one shape.
    data_range
        The peak: width of the range of values.
    mask
        Average the squared error over its non-zero voxels only; the whole array if None.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ, the range is not positive, or the mask is empty.
    """
    first, second = _as_images(image, reference, data_range)
    error = float(np.mean(np.square(_within(first - second, mask))))
    return float(10 * np.log10(data_range**2 / error)) if error else float("inf")


def mean_absolute_error(image: ArrayLike, reference: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean absolute difference, in the units of the images.

    Parameters
    ----------
    image, reference
        Arrays of one shape.
    mask
        Average over its non-zero voxels only; the whole array if None.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ or the mask is empty.
    """
    first, second = _as_images(image, reference, 1.0)
    return float(np.abs(_within(first - second, mask)).mean())


def correlation(image: ArrayLike, reference: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Pearson correlation of the voxel values, -1 to 1; NaN if one image is constant.

    Parameters
    ----------
    image, reference
        Arrays of one shape.
    mask
        Correlate its non-zero voxels only; the whole array if None.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ or the mask is empty.
    """
    first, second = _as_images(image, reference, 1.0)
    first, second = _within(first, mask), _within(second, mask)
    first, second = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum() / spread) if spread else float("nan")


def best_factor(image: ArrayLike, reference: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Factor that brings an image closest to a reference in the least-squares sense.

    Parameters
    ----------
    image, reference
        Arrays of one shape.
    mask
        Fit over its non-zero voxels only; the whole array if None.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ, the mask is empty, or the image is zero there.
    """
    first, second = _as_images(image, reference, 1.0)
    first, second = _within(first, mask), _within(second, mask)
    power = float((first * first).sum())
    if not power:
        raise ValueError("the image is zero everywhere; no factor brings it to the reference")
    return float((first * second).sum()) / power


def _as_images(
    image: ArrayLike, reference: ArrayLike, data_range: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(image, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    check_shapes(first, second)
    if not data_range > 0:
        raise ValueError(f"data_range {data_range} must be positive")
    return first, second


def _within(values: NDArray[np.float64], mask: ArrayLike | None) -> NDArray[np.float64]:
    if mask is None:
        return values
    inside = np.asarray(mask) != 0
    check_shapes(values, inside)
    if not inside.any():
        raise ValueError("the mask is empty; there is nothing to average over")
    return values[inside]
