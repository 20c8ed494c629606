"""Intensity normalisation of magnitude images, which have no units of their own.

Every method looks at the voxels inside the mask alone and finds a mapping of straight pieces.

``zscore``
    Mean 0 and standard deviation 1 over the brain.
``percentile``
    A low and a high percentile become 0 and 1; what lies beyond them is clipped.
``whitestripe``
    The white stripe is the tenth of the voxels around the peak of white matter; its mean becomes 0 and its standard
    deviation 1. Shinohara et al., NeuroImage: Clinical 6:9 (2014).
``kde``
    The peak of white matter in a kernel density estimate becomes 1. Reinhold et al., Proc. SPIE 10949:109493H (2019).
``fcm``
    The mean of white matter found by fuzzy C-means becomes 1. Reinhold et al. (2019).
``wm110``
    The mean of white matter becomes 110, as in the images of FreeSurfer (Dale et al., NeuroImage 9:179, 1999).
``nyul``
    Percentiles become those of a cohort. Nyul et al. (2000); see :mod:`neuralprep.normalization.landmarks`.

z-score, percentile, WhiteStripe and Nyul remove any offset and scale of the input; KDE, FCM and wm110 only scale, so
zero stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.normalization.catalog import METHODS, Contrast, check_contrast
from neuralprep.normalization.landmarks import Landmarks
from neuralprep.normalization.mapping import Mapping
from neuralprep.normalization.region import ImageT, Mask, Normalized, Region, select
from neuralprep.normalization.white_matter import white_matter_mean, white_matter_peak

STRIPE_HALF_WIDTH = 0.05
"""Share of the voxels on either side of the white matter peak that make the white stripe."""
FREESURFER_WHITE = 110.0


@dataclass(frozen=True, eq=False)
class Options:
    """What methods may need besides the voxels.

    Parameters
    ----------
    contrast
        Tells which peak or cluster is white matter.
    percentiles
        Ends of the range of ``percentile``.
    landmarks
        Standard scale of ``nyul``.
    wm_values
        (n,) values of the voxels in the user's white matter mask.
    """

    contrast: Contrast = "t1"
    percentiles: tuple[float, float] = (1.0, 99.0)
    landmarks: Landmarks | None = None
    wm_values: NDArray[np.float64] | None = None


def _zscore(region: Region[ImageT], options: Options) -> Mapping:
    mean, deviation = float(region.values.mean()), float(region.values.std())
    return Mapping.linear(mean, deviation, {"mean": mean, "standard_deviation": deviation})


def _percentile(region: Region[ImageT], options: Options) -> Mapping:
    low, high = (float(v) for v in np.percentile(region.values, options.percentiles))
    if low == high:
        first, last = options.percentiles
        raise InputError(f"{region.name}: its percentiles {first:g} and {last:g} are both {low:g}; choose others that "
                         "lie further apart")
    return Mapping.linear(low, high - low, {"low": low, "high": high}, clipped=True)


def _whitestripe(region: Region[ImageT], options: Options) -> Mapping:
    values = region.values
    peak = white_matter_peak(values, options.contrast)
    place = float(np.mean(values < peak))
    ends = np.clip((place - STRIPE_HALF_WIDTH, place + STRIPE_HALF_WIDTH), 0, 1)
    low, high = np.quantile(values, ends)
    stripe = values[(values >= low) & (values <= high)]
    mean, deviation = float(stripe.mean()), float(stripe.std())
    if deviation == 0:
        raise InputError(f"{region.name}: all voxels of its white stripe have the value {mean:g} (few grey levels?); "
                         "use another method")
    return Mapping.linear(mean, deviation, {"peak": peak, "mean": mean, "standard_deviation": deviation})


def _kde(region: Region[ImageT], options: Options) -> Mapping:
    return _scaled(region, white_matter_peak(region.values, options.contrast), 1.0)


def _fcm(region: Region[ImageT], options: Options) -> Mapping:
    if options.wm_values is not None:
        return _scaled(region, float(options.wm_values.mean()), 1.0)
    return _scaled(region, white_matter_mean(region.values, options.contrast), 1.0)


def _wm110(region: Region[ImageT], options: Options) -> Mapping:
    if options.wm_values is not None:
        return _scaled(region, float(options.wm_values.mean()), FREESURFER_WHITE)
    return _scaled(region, white_matter_mean(region.values, options.contrast, core=True), FREESURFER_WHITE)


def _nyul(region: Region[ImageT], options: Options) -> Mapping:
    if options.landmarks is None:
        raise InputError("method nyul needs the landmarks of a cohort; fit them first")
    return options.landmarks.mapping(region.values, region.name)


def _scaled(region: Region[ImageT], white: float, level: float) -> Mapping:
    """White matter to a level; zero stays zero."""
    if white <= 0:
        raise InputError(f"{region.name}: its white matter was found at {white:g}; only images whose background is 0 "
                         "and whose tissue is above it can be scaled. Use zscore or whitestripe")
    return Mapping.linear(0.0, white, {"white_matter": white}, scale=level)


_FINDERS: dict[str, Callable[..., Mapping]] = {
    "zscore": _zscore, "whitestripe": _whitestripe, "fcm": _fcm, "kde": _kde, "nyul": _nyul, "percentile": _percentile,
    "wm110": _wm110,
}  # fmt: skip


def normalize(image: ImageT, method: str, mask: Mask | None = None, *, contrast: Contrast = "t1",
              percentiles: tuple[float, float] = (1.0, 99.0), landmarks: Landmarks | None = None,
              wm_mask: Mask | None = None, background: float = 0.0, fill: float | None = 0.0,
              checks: bool = True) -> Normalized[ImageT]:
    """Normalise the intensities of an image.

    Parameters
    ----------
    image
        (X, Y, Z) array or Volume.
    method
        A name in :data:`~neuralprep.normalization.catalog.METHODS`; the module's text says what each does.
    mask
        Brain mask on the image's grid. Without one the image must be stripped: inside is what differs from
        ``background``. All methods work best with a mask that includes the fluid around the brain.
    contrast
        "t1", "t2", "flair" or "pd": which peak or cluster is white matter (whitestripe, kde, fcm, wm110).
    percentiles
        For ``percentile``.
    landmarks
        For ``nyul``; from :func:`~neuralprep.normalization.landmarks.fit_landmarks`.
    wm_mask
        For fcm and wm110: a white matter mask on the image's grid to use instead of looking for white matter.
    background
        Value of the background where there is no mask.
    fill
        Value outside; None maps what is outside like what is inside.
    checks
        Refuse an image without a mask that does not look stripped.

    Raises
    ------
    InputError
        Unknown method or contrast; a mask or image that cannot be used; landmarks that are missing, or options that
        have no effect on the method.

    Examples
    --------
    >>> image = np.arange(1000.0).reshape(10, 10, 10)
    >>> done = normalize(image, "zscore", image > 99, fill=-5)
    >>> round(float(done.image[0, 0, 0]), 3), round(float(done.image[1:].mean()), 3)
    (-5.0, 0.0)
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; give {', '.join(METHODS)}")
    check_contrast(contrast)
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles {low:g} and {high:g} are no range; give 0 to 100, the lower one first")
    for name, given in (("wm_mask", wm_mask), ("landmarks", landmarks)):
        if given is not None and name not in METHODS[method].takes:
            raise InputError(f"{name} has no effect on method {method}: leave it out")
    region = select(image, mask, background, checks=checks)
    options = Options(contrast, percentiles, landmarks)
    if wm_mask is not None:
        white = select(image, wm_mask)
        options = replace(options, wm_values=white.values)
    mapping = _FINDERS[method](region, options)
    return Normalized(region.mapped(mapping, fill), mapping.measures)
