"""Fitting and checking the prediction of a mask's Dice from its quality measures (`neuralprep.stages.trust`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

from neuralprep.errors import InputError
from neuralprep.stages.trust import FEATURES, feature

LOOKS = ("agreement", "odd_gradient_share", "second_component_share", "dent_share", "residual_mm", "fov_contact_cm2")
MIRROR = ("mirror_agreement",)
TEMPLATE = ("registration_score", "template_dice")
SETS: tuple[tuple[str, ...], ...] = (LOOKS + MIRROR + TEMPLATE, LOOKS + TEMPLATE, LOOKS + MIRROR, LOOKS)
"""Measures that a run may know, the most first: with and without a mirrored look, with and without a template."""
_RIDGE = 0.02
_LEAST_CASES = 10

Measures = Mapping[str, float]


def fit_trust(cases: Sequence[Measures], dices: Sequence[float], weights: Sequence[float] | None = None
              ) -> list[dict[str, Any]]:
    """Coefficients for every set of measures, as `neuralprep.stages.trust.predict_dice` reads them.

    Weighted least squares of log10(1 - Dice) on the logarithmic features with weights of 0 or more (nonnegative least
    squares) and a small ridge, so that two features that say the same share the weight.

    Parameters
    ----------
    cases
        Measures of each case; all of :data:`SETS` must be there.
    dices
        True Dice of each case.
    weights
        How much each case counts; all the same if None.

    Raises
    ------
    InputError
        Too few cases.
    """
    if len(cases) < _LEAST_CASES:
        raise InputError(f"{len(cases)} cases are too few to fit; give {_LEAST_CASES} or more")
    target = np.log10(np.clip(1.0 - np.asarray(dices, float), 1e-3, 1.0))
    shares = np.ones(len(cases)) if weights is None else np.asarray(weights, float)
    shares = shares / shares.sum()
    return [_fit(names, cases, target, shares) for names in SETS]


def _fit(names: tuple[str, ...], cases: Sequence[Measures], target: NDArray[np.float64], shares: NDArray[np.float64]
         ) -> dict[str, Any]:
    table = np.array([[feature(name, case[name]) for name in names] for case in cases])
    # the rarest values tell little about a slope: the fit, and later its use, stops at the 1st and 99th percentile
    low, high = np.percentile(table, (1, 99), axis=0)
    table = np.clip(table, low, high)
    center, scale = shares @ table, np.maximum(table.std(0), 1e-6)
    level = float(shares @ target)
    root = np.sqrt(shares)[:, None]
    design = np.vstack([root * (table - center) / scale, np.sqrt(_RIDGE) * np.eye(len(names))])
    answer = np.concatenate([root[:, 0] * (target - level), np.zeros(len(names))])
    slopes = nnls(design, answer)[0] / scale
    return {
        "intercept": round(level - float(slopes @ center), 5),
        "features": {
            name: {"weight": round(float(w), 5), "low": round(float(a), 5), "high": round(float(b), 5)}
            for name, w, a, b in zip(names, slopes, low, high, strict=True)
        },
    }


def calibration(predicted: Sequence[float], real: Sequence[float], failed_below: float, flagged_below: float
                ) -> dict[str, Any]:
    """How well predictions hold: errors, ranks, bins, and failures caught.

    Parameters
    ----------
    predicted, real
        Dice of each case.
    failed_below
        A real Dice below this is a failure.
    flagged_below
        A prediction below this asks for a check.
    """
    guess, truth = np.asarray(predicted, float), np.asarray(real, float)
    failed, flagged = truth < failed_below, guess < flagged_below
    order = np.argsort(guess)
    bins = [
        {"cases": len(part), "predicted": float(guess[part].mean()), "real": float(truth[part].mean()),
         "real_low": float(np.percentile(truth[part], 10)), "real_high": float(np.percentile(truth[part], 90))}
        for part in np.array_split(order, min(8, max(1, len(order) // 8))) if len(part)
    ]  # fmt: skip
    return {
        "cases": len(guess),
        "mean_absolute_error": float(np.abs(guess - truth).mean()),
        "median_absolute_error": float(np.median(np.abs(guess - truth))),
        "rank_correlation": float(spearmanr(guess, truth).statistic),
        "failures": int(failed.sum()),
        "failures_caught": int((failed & flagged).sum()),
        "good": int((~failed).sum()),
        "good_flagged": int((~failed & flagged).sum()),
        "bins": bins,
    }


def usable(measures: Measures) -> bool:
    """Whether a case has every measure that the fits need."""
    return all(np.isfinite(measures.get(name, np.nan)) for name in FEATURES)
