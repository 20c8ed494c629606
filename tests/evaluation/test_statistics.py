"""Intervals and paired tests against SciPy's bootstrap, statsmodels' Holm and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuralprep.evaluation.statistics import bootstrap, family, holm, paired_test


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_interval_is_that_of_scipy(statistic: str) -> None:
    values = np.random.default_rng(3).gamma(2.0, 3.0, 60)
    got = bootstrap(values, statistic, resamples=8000)  # type: ignore[arg-type]
    function = np.median if statistic == "median" else np.mean
    expected = stats.bootstrap((values,), function, n_resamples=8000, method="percentile", rng=7).confidence_interval
    width = expected.high - expected.low
    assert got.estimate == function(values)
    assert got.low == pytest.approx(expected.low, abs=0.08 * width)
    assert got.high == pytest.approx(expected.high, abs=0.08 * width)
    assert bootstrap(values, statistic, seed=1) == bootstrap(values, statistic, seed=1)  # type: ignore[arg-type]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = bootstrap(rng.normal(5, 2, 40), "mean", resamples=300)
        hits += found.low <= 5 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_one_value_has_no_interval() -> None:
    found = bootstrap([0.9])
    assert found.estimate == 0.9
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    for bad in ([], [1.0, math.inf], [math.nan]):
        with pytest.raises(ValueError, match="finite"):
            bootstrap(bad)


def test_a_method_that_always_wins() -> None:
    second = np.linspace(0.8, 0.95, 10)
    first = second + np.linspace(0.001, 0.02, 10)
    test = paired_test(first, second)
    assert test.effect == 1
    assert test.p == pytest.approx(2 / 2**10)  # exact: one of the 2^10 signings on each side
    assert test.difference.estimate == pytest.approx(np.median(first - second))
    assert paired_test(second, first).effect == -1


def test_effect_is_the_share_of_ranks_for_minus_against() -> None:
    # differences +1 +2 -3 +4: ranks for 1 + 2 + 4, against 3
    test = paired_test([1, 2, 0, 4], [0, 0, 3, 0])
    assert test.effect == pytest.approx((7 - 3) / 10)


def test_equal_and_missing_scores() -> None:
    same = paired_test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.p, same.effect, same.difference.estimate) == (1, 0, 0)
    assert paired_test([1.0, math.inf, 3.0], [0.0, 1.0, math.nan]).cases == 1
    with pytest.raises(ValueError, match="not pairs"):
        paired_test([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="nothing to compare"):
        paired_test([math.inf], [1.0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    np.testing.assert_allclose(holm(p_values), multitest.multipletests(p_values, method="holm")[1])


def test_a_family_is_corrected_together() -> None:
    rng = np.random.default_rng(5)
    second = rng.normal(0, 1, 20)
    tests = {str(shift): paired_test(second + rng.normal(shift, 1, 20), second) for shift in (0.0, 0.6, 1.5)}
    corrected = family(tests)
    assert list(corrected) == list(tests)
    smallest = min(tests, key=lambda name: tests[name].p)
    assert corrected[smallest].p_holm == pytest.approx(min(1, 3 * tests[smallest].p))
    assert all(corrected[name].p_holm >= test.p for name, test in tests.items())
