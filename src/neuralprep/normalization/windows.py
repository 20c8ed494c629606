"""Windows of CT and perfusion images: clip, shift and scale to 0..1, with histogram equalisation as an option.

The five windows of the ISLES'24 winner (Ren, Rivera et al., arXiv 2505.18424: values of their released
pre-processing) are for images on the grid of the non-contrast CT. Their recipe takes every voxel that is exactly
zero for background, although zero is also the lower end of every one of the windows; here a mask says what is
brain, so that voxels without perfusion stay voxels of the brain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.normalization.catalog import Window, parse_window
from neuralprep.normalization.hounsfield import check_hounsfield, check_stripped
from neuralprep.normalization.region import Background, ImageT, Mask, Normalized, Region, select

BINS = 256
_LEAST_WITHIN = 0.05
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def apply_window(image: ImageT, window: Window | str, mask: Mask | None = None, *, equalize: bool = False,
                 background: float | None = None, fill: float | None = 0.0,
                 checks: bool = True) -> Normalized[ImageT]:
    """Clip to a window, shift and scale to 0..1; equalise the histogram of what is inside if asked for.

    Parameters
    ----------
    image
        (X, Y, Z) array or Volume: Hounsfield units for a CT window, the window's units for a perfusion map.
    window
        A Window, a name in :data:`~neuralprep.normalization.catalog.WINDOWS`, or "LOW,HIGH".
    mask
        Brain mask on the image's grid. Without one, inside is what differs from ``background``.
    equalize
        3-D histogram equalisation over the voxels inside, see :func:`equalization`.
    background
        Value of the background where there is no mask. None: the minimum of the image for a CT window (air is
        -1000 HU, not 0), else 0.
    fill
        Value outside; None treats what is outside like what is inside.
    checks
        Refuse an image that is not in the window's units, or that would have to be stripped first.

    Returns
    -------
    Normalized
        Image in 0..1; measures ``within_share`` (strictly within the window), ``below_share``, ``above_share`` and
        ``zero_share`` (exactly zero) of the voxels inside, and their ``median`` before.

    Raises
    ------
    InputError
        See :func:`~neuralprep.normalization.region.select`,
        :func:`~neuralprep.normalization.hounsfield.check_hounsfield`; or hardly any voxel lies within the window.
    """
    window = parse_window(window) if isinstance(window, str) else window
    value: Background = background if background is not None else "min" if window.is_ct else 0.0
    # A window alone does not depend on what is inside, so a CT with its skull is fine; an equalisation does.
    region = select(image, mask, value, checks=checks and (equalize or not window.is_ct))
    if checks and window.is_ct:
        check_hounsfield(region, masked=mask is not None)
        if equalize and mask is None:
            check_stripped(region)
    measures = _measures(region.values, window)
    if checks:
        _check_within(region, window, measures)
    if not equalize:
        return Normalized(region.mapped(lambda values: _scaled(values, window), fill), measures)
    curve = equalization(_scaled(region.values, window))
    return Normalized(region.mapped(lambda values: np.interp(_scaled(values, window), *curve), fill), measures)


def _scaled(values: NDArray[Any], window: Window) -> NDArray[np.float32]:
    """Clipped, shifted and scaled to 0..1."""
    scaled = (values.astype(np.float64) - window.low) / (window.high - window.low)
    return scaled.clip(0, 1).astype(np.float32)


def equalization(values: NDArray[np.float32]) -> Curve:
    """Curve of histogram equalisation: every value becomes the share of the values that are not above it.

    The cumulative histogram of 256 bins between the lowest and the highest value, linear between the centres of the
    bins, as ``skimage.exposure.equalize_hist`` has it. Order is kept: a larger value never becomes smaller than a
    smaller one.

    Parameters
    ----------
    values
        (n,) float32, the voxels inside.

    Returns
    -------
    centres, shares : (256,) float64
        Points of the curve. The lowest value becomes the share of the first bin, which is above zero: with a fill of 0
        brain and background stay apart.
    """
    counts, edges = np.histogram(values, BINS)
    return (edges[:-1] + edges[1:]) / 2, np.cumsum(counts) / counts.sum()


def _measures(values: NDArray[np.float64], window: Window) -> dict[str, float]:
    return {
        "voxels": float(values.size),
        "median": float(np.median(values)),
        "within_share": float(np.mean((values > window.low) & (values < window.high))),
        "below_share": float(np.mean(values <= window.low)),
        "above_share": float(np.mean(values >= window.high)),
        "zero_share": float(np.mean(values == 0)),
    }


def _check_within(region: Region[ImageT], window: Window, measures: dict[str, float]) -> None:
    """Refuse an image of which next to nothing lies within the window: other units, or another kind of image."""
    if measures["within_share"] >= _LEAST_WITHIN:
        return
    low, middle, high = np.percentile(region.values, (1, 50, 99))
    raise InputError(
        f"{region.name}: only {measures['within_share']:.1%} of the voxels inside lie within the window "
        f"{window.text} (1st percentile {low:.4g}, median {middle:.4g}, 99th {high:.4g}). Is it the right "
        "image, and in these units? Convert it, choose another window, or go on all the same with --force "
        "(in Python: checks=False)"
    )
