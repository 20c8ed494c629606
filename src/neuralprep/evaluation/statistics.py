"""Statistics of scores over cases: intervals by resampling, and paired comparison of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95
Statistic = Literal["median", "mean"]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; the bounds are NaN for fewer than two cases."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same cases.

    Attributes
    ----------
    cases
        Pairs with two finite scores.
    difference
        Median of first minus second, with its interval.
    p
        Two-sided Wilcoxon signed-rank test.
    p_holm
        The same after Holm's correction over the family it was tested in; `p` if it was tested alone.
    effect
        Matched-pairs rank-biserial correlation, -1 to 1: +1 if the first is higher in every case.
        Source: Kerby, Compr. Psychol. 3 (2014) 11.IT.3.1.
    """

    cases: int
    difference: Interval
    p: float
    p_holm: float
    effect: float


def bootstrap(
    values: ArrayLike, statistic: Statistic = "median", level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Estimate with its percentile bootstrap interval.

    Parameters
    ----------
    values
        (N,) finite scores.
    statistic
        What to estimate.
    level
        Coverage of the interval, 0 to 1.
    resamples, seed
        Of the bootstrap; the same seed gives the same interval.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        No values, or values that are not finite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not array.size or not np.isfinite(array).all():
        raise ValueError("an interval needs at least one value, and all of them finite")
    function = np.median if statistic == "median" else np.mean
    estimate = float(function(array))
    if array.size < 2:
        return Interval(estimate, float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(array.size, size=(resamples, array.size))
    low, high = np.quantile(function(array[drawn], axis=1), ((1 - level) / 2, (1 + level) / 2))
    return Interval(estimate, float(low), float(high))


def paired_test(first: ArrayLike, second: ArrayLike, seed: int = 0) -> PairedTest:
    """Compare two methods on the same cases.

    Cases in which a score is not finite (no overlap, nothing found) cannot be ranked and are left out of the test;
    count them beside it. Equal scores are left out of the ranks, as Wilcoxon did.

    Parameters
    ----------
    first, second
        (N,) scores of the two methods, case by case.
    seed
        Of the bootstrap of the median difference.

    Returns
    -------
    PairedTest
        `p` is 1 and the effect 0 if no two scores differ.

    Raises
    ------
    ValueError
        Different numbers of scores, or no case with two finite scores.
    """
    one, other = np.asarray(first, dtype=np.float64).ravel(), np.asarray(second, dtype=np.float64).ravel()
    if one.size != other.size:
        raise ValueError(f"{one.size} and {other.size} scores are not pairs; give one of each per case")
    finite = np.isfinite(one) & np.isfinite(other)
    if not finite.any():
        raise ValueError("no case has two finite scores; there is nothing to compare")
    difference = one[finite] - other[finite]
    moved = difference[difference != 0]
    p, effect = 1.0, 0.0
    if moved.size:
        p = float(stats.wilcoxon(moved).pvalue)
        ranks = stats.rankdata(np.abs(moved))
        effect = float(np.sum(ranks * np.sign(moved)) / ranks.sum())
    return PairedTest(int(finite.sum()), bootstrap(difference, seed=seed), p, p, effect)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down correction: p-values that may be compared with the level of the whole family.

    Source: Holm, Scand. J. Statist. 6 (1979) 65.

    Parameters
    ----------
    p_values
        One per hypothesis.

    Returns
    -------
    numpy.ndarray
        Corrected p-values in the given order, at most 1.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(given.size, 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def family(tests: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
    """Correct the p-values of several tests together (see `holm`); keys and order are kept."""
    corrected = holm([test.p for test in tests.values()])
    return {
        name: replace(test, p_holm=float(p)) for (name, test), p in zip(tests.items(), corrected, strict=True)
    }
