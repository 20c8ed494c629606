"""Distribution of the intensities of a brain: an even histogram, a smooth density, and three fuzzy clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError

Floats = NDArray[np.float64]

NODES = 1024
_TAIL_PERCENT = 0.1
_LEAST_VOXELS = 100
_STARTS = (10.0, 50.0, 90.0)  # percentiles
_ROUNDS = 500
_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Histogram:
    """A distribution on evenly spaced nodes.

    Attributes
    ----------
    nodes
        (1024,) float64 intensities.
    weights
        (1024,) float64 shares of the voxels; they sum to one, or to less where smoothing spreads them beyond the ends.
    """

    nodes: Floats
    weights: Floats

    @property
    def step(self) -> float:
        """Distance of the nodes."""
        return float(self.nodes[1] - self.nodes[0])


def histogram(values: Floats) -> Histogram:
    """Spread the values over nodes between their 0.1th and 99.9th percentile; the tails are left out.

    Each value is shared by the two nodes beside it in proportion (linear binning: Wand, J. Comput. Graph. Stat. 3:433,
    1994). So the mean is exact, and stored integers that fall on the edge of a bin do not jump.

    Raises
    ------
    InputError
        Too few voxels, or too many of one value, to speak of a distribution.
    """
    low, high = np.percentile(values, (_TAIL_PERCENT, 100 - _TAIL_PERCENT))
    if values.size < _LEAST_VOXELS or not low < high:
        raise InputError(f"{values.size} voxels between {low:g} and {high:g} are no distribution that tissue could be "
                         "found in; is it the right image, and the right mask?")
    position = (values[(values >= low) & (values <= high)] - low) * ((NODES - 1) / (high - low))
    left = np.minimum(position.astype(np.intp), NODES - 2)
    right_share = position - left
    weights = np.bincount(left, 1 - right_share, NODES) + np.bincount(left + 1, right_share, NODES)
    return Histogram(np.linspace(low, high, NODES), weights / weights.sum())


def density(values: Floats, found: Histogram) -> Histogram:
    """Gaussian kernel density estimate of ``values`` on the nodes of their :func:`histogram`.

    The bandwidth is Silverman's (Density Estimation, 1986, eq. 3.31: 0.9 min(sd, IQR/1.34) n^-1/5), and at least the
    distance of two nodes.
    """
    from scipy import ndimage

    quartiles = np.percentile(values, (25, 75))
    spread = min(float(values.std()), float(quartiles[1] - quartiles[0]) / 1.34) or float(values.std())
    bandwidth = max(0.9 * spread * values.size**-0.2 / found.step, 1.0)
    smooth = ndimage.gaussian_filter1d(found.weights, bandwidth, mode="constant")
    return Histogram(found.nodes, smooth)


def fuzzy_c_means(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Three fuzzy clusters on a line, exponent 2 (Bezdek, Pattern Recognition with Fuzzy Objective Functions, 1981).

    Starts from fixed percentiles, so that the result does not depend on chance.

    Parameters
    ----------
    values, weights
        (n,) intensities and how much each counts.

    Returns
    -------
    centres : (3,) float64
        In ascending order.
    memberships : (3, n) float64
        They sum to one for every value.
    """
    share = np.cumsum(weights) / weights.sum()
    centres = np.interp(_STARTS, 100 * share, values)
    span = float(values[-1] - values[0])
    for _ in range(_ROUNDS):
        memberships = _memberships(values, centres)
        power = memberships**2 * weights
        moved = (power @ values) / power.sum(axis=1)
        done = float(np.abs(moved - centres).max()) < _TOLERANCE * span
        centres = moved
        if done:
            break
    order = np.argsort(centres)
    return centres[order], _memberships(values, centres[order])


def _memberships(values: Floats, centres: Floats) -> Floats:
    """Inverse squared distance to each centre as a share of all of them."""
    distance = (values - centres[:, None]) ** 2
    inverse = 1 / np.maximum(distance, 1e-12 * max(float(distance.max()), np.finfo(float).tiny))
    return np.asarray(inverse / inverse.sum(axis=0))
