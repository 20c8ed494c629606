"""Predicting the Dice of a mask: the fit finds a known rule, and never rewards disagreement."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.trust import SETS, calibration, fit_trust, usable
from neuralprep.stages.trust import FEATURES, feature, predict_dice

SHA = "ab12"


def cases(count: int, seed: int = 0, noise: float = 0.0) -> tuple[list[dict[str, float]], list[float]]:
    """Measures, and a Dice that follows from two of them: 1 - Dice = 0.4 * (1 - agreement) ** 0.8 * residual ** 0.3."""
    rng = np.random.default_rng(seed)
    measures, dices = [], []
    for _ in range(count):
        case = {name: float(10 ** rng.uniform(-2.5, -0.3)) for name in FEATURES}
        case |= {name: 1 - case[name] for name in FEATURES if FEATURES[name] == "loss"}
        case["residual_mm"] = float(rng.uniform(1, 9))
        loss = 0.4 * (1 - case["agreement"]) ** 0.8 * case["residual_mm"] ** 0.3 * np.exp(noise * rng.standard_normal())
        measures.append(case)
        dices.append(float(1 - min(loss, 1.0)))
    return measures, dices


def quality(fits: list[dict]) -> dict:
    return {"sha256": SHA, "fits": fits}


def test_a_known_rule_is_found() -> None:
    fits = fit_trust(*cases(400))
    weights = {name: term["weight"] for name, term in fits[0]["features"].items()}
    assert weights["agreement"] == pytest.approx(0.8, abs=0.05)
    assert weights["residual_mm"] == pytest.approx(0.3, abs=0.05)
    assert all(0 <= weight < 0.02 for name, weight in weights.items() if name not in ("agreement", "residual_mm"))
    measures, dices = cases(200, seed=1)
    guessed = [predict_dice(case, quality(fits), SHA) for case in measures]
    assert np.abs(np.array(guessed) - dices).mean() < 0.01


def test_more_disagreement_never_predicts_a_better_mask() -> None:
    measures, dices = cases(150, noise=1.0)
    fits = fit_trust(measures, [1 - d for d in dices])  # a world turned upside down
    for fit in fits:
        assert all(term["weight"] >= 0 for term in fit["features"].values())
    fits = fit_trust(measures, dices)
    for name in FEATURES:
        row = []
        for value in np.linspace(0.01, 0.99, 25):
            row.append(predict_dice(measures[0] | {name: float(value)}, quality(fits), SHA))
        steps = np.diff(row) if FEATURES[name] == "loss" else -np.diff(row)
        assert (steps >= -1e-12).all(), name


def test_the_fit_that_the_known_measures_allow_is_used() -> None:
    measures, dices = cases(100, noise=0.5)
    fits = fit_trust(measures, dices)
    for index, names in enumerate(SETS):
        known = {name: measures[0][name] for name in names}
        expected = predict_dice(known, quality(fits[index : index + 1]), SHA)
        assert predict_dice(known, quality(fits), SHA) == expected
        assert expected is not None
    assert predict_dice({"agreement": 0.97}, quality(fits), SHA) is None
    assert predict_dice(measures[0] | dict.fromkeys(FEATURES, float("nan")), quality(fits), SHA) is None
    assert predict_dice(measures[0], quality(fits), "other weights") is None
    assert predict_dice(measures[0], {}, SHA) is None
    assert not usable({"agreement": 0.9})
    assert usable(measures[0])


def test_features_are_limited_to_what_was_seen() -> None:
    fits = fit_trust(*cases(200))
    worst = dict.fromkeys(FEATURES, 1e9) | {name: -5.0 for name in FEATURES if FEATURES[name] == "loss"}
    predicted = predict_dice(worst, quality(fits), SHA)
    assert predicted is not None
    assert 0 <= predicted < 0.9
    assert feature("agreement", 1.0) == feature("agreement", 0.9999) == -3.0


def test_calibration_counts_failures() -> None:
    real = np.r_[np.full(80, 0.97), np.full(20, 0.7)]
    predicted = np.r_[np.full(76, 0.96), np.full(4, 0.85), np.full(15, 0.8), np.full(5, 0.95)]
    found = calibration(predicted, real, failed_below=0.9, flagged_below=0.9)
    assert (found["failures"], found["failures_caught"], found["good"], found["good_flagged"]) == (20, 15, 80, 4)
    assert found["mean_absolute_error"] == pytest.approx((76 * 0.01 + 4 * 0.12 + 15 * 0.1 + 5 * 0.25) / 100)
    assert sum(part["cases"] for part in found["bins"]) == 100
    assert [part["predicted"] for part in found["bins"]] == sorted(part["predicted"] for part in found["bins"])
    with pytest.raises(InputError, match="too few"):
        fit_trust(*cases(3))
