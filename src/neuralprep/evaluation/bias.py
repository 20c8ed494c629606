"""How well a bias field was found: against a known field, and by what variation it leaves in white matter.

A field is known up to a global factor only: doubling the gain doubles the image and changes nothing that anyone
measures afterwards. Scores here therefore first bring the two fields to one scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neuralprep.box import box_or_all
from neuralprep.evaluation.image import psnr, ssim_map
from neuralprep.evaluation.overlap import check_shapes
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.templates import Template
from neuralprep.transform import Affine

MAD_TO_SD = 1.4826
"""Median absolute deviation of a normal distribution times this is its standard deviation."""


@dataclass(frozen=True)
class FieldScores:
    """A multiplicative field against the true one within a mask.

    Attributes
    ----------
    factor
        Global factor that was applied to the field.
    gain_error
        Standard deviation of log(field / truth): 0.1 is an error of about 10 %. It does not depend on the factor.
    ssim, psnr
        Of the scaled field; the windows of SSIM see the mask only; the peak is the truth's 99th percentile.
    """

    factor: float
    gain_error: float
    ssim: float
    psnr: float


def gain_error(field: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> float:
    """Standard deviation of log(field / truth) over a mask; see `field_scores`."""
    return float(_log_ratio(field, truth, mask).std())


def field_scores(field: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> FieldScores:
    """Compare a multiplicative field (a gain, or a bias field) with the true one.

    Parameters
    ----------
    field, truth
        (X, Y, Z) arrays of the same kind: both gains, or both bias fields.
    mask
        (X, Y, Z); voxels that both fields are defined in. Voxels where one of them is not positive are left out.

    Returns
    -------
    FieldScores

    Raises
    ------
    ValueError
        Shapes that differ, or no voxel of the mask where both fields are positive.
    """
    first, second = np.asarray(field, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    inside = _positive(first, second, mask)
    ratio = np.log(first[inside] / second[inside])
    # the factor that makes the mean log ratio 0 leaves the spread that the gain error states
    factor = float(np.exp(-ratio.mean()))
    box = box_or_all(inside)
    scaled, reference, support = first[box] * factor, second[box], inside[box]
    peak = float(np.percentile(reference[support], 99))
    return FieldScores(
        factor=factor,
        gain_error=float(ratio.std()),
        ssim=float(ssim_map(scaled, reference, peak, support)[support].mean()),
        psnr=psnr(scaled, reference, peak, support),
    )


def residual_variation(image: ArrayLike, mask: ArrayLike) -> float:
    """Robust coefficient of variation (MAD as SD, over the median) of an image within one tissue.

    Parameters
    ----------
    image
        (X, Y, Z) intensities.
    mask
        (X, Y, Z) of the tissue, for example `white_matter`.

    Returns
    -------
    float
        NaN if the median is not positive.

    Raises
    ------
    ValueError
        Shapes that differ or an empty mask.
    """
    values, inside = np.asarray(image, dtype=np.float64), np.asarray(mask) != 0
    check_shapes(values, inside)
    if not inside.any():
        raise ValueError("the tissue mask is empty; there is nothing to measure the variation in")
    tissue = values[inside]
    middle = float(np.median(tissue))
    return float(MAD_TO_SD * np.median(np.abs(tissue - middle)) / middle) if middle > 0 else float("nan")


def white_matter(
    template: Template, template_from_scan: Affine, grid: Grid, fraction: float = 0.9, erosion_mm: float = 2.0
) -> NDArray[np.bool_]:
    """The template's deep white matter on a scan's grid.

    It is eroded in the template, because an affine puts its border only roughly in place; the inverse affine carries
    every voxel of the scan to it.

    Parameters
    ----------
    template
        Its white-matter fractions are used.
    template_from_scan
        Pull-back of the registration, template mm -> scan mm.
    grid
        Of the scan.
    fraction
        Least fraction of white matter.
    erosion_mm
        Distance from where the fraction falls below that.

    Returns
    -------
    numpy.ndarray
        (X, Y, Z) bool.
    """
    deep = np.pad(template.wm.data >= fraction, 1)
    distance = ndimage.distance_transform_edt(deep, template.wm.grid.spacing)[1:-1, 1:-1, 1:-1]
    core = template.wm.with_data((distance > erosion_mm).astype(np.float32))
    return resample(core, grid, template_from_scan.inverse()).data >= 0.5


def simulated_field(grid: Grid, percent: float, rng: np.random.Generator, within: ArrayLike) -> NDArray[np.float32]:
    """Random smooth bias field of a stated strength.

    A cubic polynomial of the position with random coefficients, scaled so that over `within` it spans
    1 - p/2 to 1 + p/2 (BrainWeb's convention: a "40 %" field runs from 0.8 to 1.2).
    Source: Collins et al., IEEE Trans. Med. Imaging 17:463 (1998).

    Parameters
    ----------
    grid
        Where to evaluate it.
    percent
        p in percent, 0 to 150.
    rng
        Draws the coefficients.
    within
        (X, Y, Z) mask of the brain or head, not empty.

    Returns
    -------
    numpy.ndarray
        (X, Y, Z) float32, positive everywhere.

    Raises
    ------
    ValueError
        A strength out of range, an empty mask, or shapes that differ.
    """
    inside = np.asarray(within) != 0
    if not 0 <= percent <= 150:
        raise ValueError(f"a field of {percent} % is out of range; give 0 to 150")
    if inside.shape != grid.shape or not inside.any():
        raise ValueError(f"the mask must have the grid's shape {grid.shape} and not be empty")
    coefficients = np.zeros((4, 4, 4))
    for power in np.ndindex(coefficients.shape):
        if 0 < sum(power) <= 3:
            coefficients[power] = rng.standard_normal() / sum(power)
    # positions along the array axes in units of 100 mm, about the size of a head, from the grid's centre
    axes = [(np.arange(n) - (n - 1) / 2) * step / 100 for n, step in zip(grid.shape, grid.spacing, strict=True)]
    field = np.asarray(np.polynomial.polynomial.polygrid3d(axes[0], axes[1], axes[2], coefficients))
    low, high = field[inside].min(), field[inside].max()
    share = (field - low) / max(high - low, 1e-12) - 0.5
    # outside the mask a polynomial runs away; a gain must not become negative there
    return np.clip(1 + percent / 100 * share, 0.1, 3.0).astype(np.float32)


def _log_ratio(field: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> NDArray[np.float64]:
    first, second = np.asarray(field, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    inside = _positive(first, second, mask)
    return np.asarray(np.log(first[inside] / second[inside]))


def _positive(first: NDArray[np.float64], second: NDArray[np.float64], mask: ArrayLike) -> NDArray[np.bool_]:
    inside = np.asarray(mask) != 0
    check_shapes(first, second)
    check_shapes(first, inside)
    inside = inside & (first > 0) & (second > 0)
    if not inside.any():
        raise ValueError("no voxel of the mask has two positive fields; do the field and the mask belong together?")
    return inside
