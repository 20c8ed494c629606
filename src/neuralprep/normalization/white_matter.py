"""Where white matter lies among the intensities of a brain.

Peak and mean are two answers: the peak is what most of white matter has, the mean takes in its edges and lesions.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.normalization.catalog import Contrast, check_contrast
from neuralprep.normalization.distribution import Floats, Histogram, density, fuzzy_c_means, histogram

#: place of white matter among three clusters in order of intensity, where clusters are fluid, grey and white matter
_CLUSTER: dict[Contrast, int] = {"t1": 2, "t2": 0}
#: place of fluid where they are not
_FLUID: dict[Contrast, int] = {"flair": 0, "pd": 2}
_PROMINENCE = 0.03
_LEAST_MASS = 0.1
_TRIM = 0.03
_MEMBER = 0.5
_HIGH = 0.4
_CORE = 0.8


def white_matter_peak(values: Floats, contrast: Contrast) -> float:
    """Intensity of the peak of white matter in the density.

    Peaks that stand less than 3 % of the highest one above their surroundings do not count, nor do those of less than a
    tenth of the voxels: no tissue, but bone and vessels without signal, or slices that were dropped.

    * T1w and T2w: the highest peak among the intensities that belong to the brightest (T1w) or darkest (T2w) of three
      fuzzy clusters rather than to the others.
    * FLAIR and PDw, whose grey and white matter are not two clusters: the darkest of the high peaks outside of the
      darkest (FLAIR) or brightest (PDw) cluster, which is fluid. High is 40 % of the highest of them.

    Taking just the last or the first peak, as the papers do, ends up in grey matter where noise or a receive field has
    merged the two. Where there is no peak the centre of the cluster answers.

    Parameters
    ----------
    values
        (n,) intensities of the voxels of a brain.
    contrast
        One of :data:`~neuralprep.normalization.catalog.CONTRASTS`.

    Raises
    ------
    InputError
        Unknown contrast, or no distribution (see :func:`~neuralprep.normalization.distribution.histogram`).
    """
    check_contrast(contrast)
    found = histogram(values)
    estimate = density(values, found)
    peaks = _tissue_peaks(found, estimate)
    centres, memberships = _clusters(found)
    if contrast in _CLUSTER:
        cluster = _CLUSTER[contrast]
        peaks = peaks[memberships[cluster][peaks] > _MEMBER]
    else:
        cluster = 1
        peaks = peaks[memberships[_FLUID[contrast]][peaks] < _MEMBER]
    if peaks.size == 0:
        return float(centres[cluster])
    heights = estimate.weights[peaks]
    chosen = np.argmax(heights) if contrast in _CLUSTER else np.argmax(heights >= _HIGH * heights.max())
    return float(estimate.nodes[peaks[chosen]])


def _tissue_peaks(found: Histogram, estimate: Histogram) -> NDArray[np.intp]:
    """Nodes of the peaks that may be tissue, ascending."""
    from scipy import signal

    padded = np.pad(estimate.weights, 1)  # a peak may lie at the end
    peaks = signal.find_peaks(padded, prominence=_PROMINENCE * padded.max())[0] - 1
    valleys = [first + int(np.argmin(estimate.weights[first:last])) for first, last in pairwise(peaks)]
    masses = np.array([part.sum() for part in np.split(found.weights, valleys)])
    return np.asarray(peaks[masses >= _LEAST_MASS])


def _clusters(found: Histogram) -> tuple[Floats, Floats]:
    """Centres and memberships of three clusters; 3 % at either end, where signal voids and vessels are, have no say."""
    share = np.cumsum(found.weights)
    inner = (share > _TRIM) & (share < 1 - _TRIM)
    return fuzzy_c_means(found.nodes, np.where(inner, found.weights, 0))


def white_matter_mean(values: Floats, contrast: Contrast, *, core: bool = False) -> float:
    """Mean intensity of white matter, found by fuzzy C-means.

    Parameters
    ----------
    values
        (n,) intensities of the voxels of a brain with its fluid.
    contrast
        "t1" or "t2".
    core
        False: every voxel counts by its membership (Reinhold et al., Proc. SPIE 10949:109493H, 2019). True: only those
        that belong to white matter by more than 80 %, which leaves out partial volume with grey matter.

    Raises
    ------
    InputError
        A contrast whose white matter is no cluster of its own, or no distribution.
    """
    check_contrast(contrast)
    if contrast not in _CLUSTER:
        raise InputError(f"white matter cannot be told from grey matter by clustering a {contrast} image; give a white "
                         "matter mask (from a T1w image of the same person), or use kde or whitestripe")
    found = histogram(values)
    _, memberships = _clusters(found)
    membership = memberships[_CLUSTER[contrast]]
    weights = found.weights * membership
    inner = found.weights * (membership > _CORE)
    if core and inner.any():  # with very few grey levels none may belong to it by so much
        weights = inner
    return float(weights @ found.nodes / weights.sum())
