"""Range bars and states: they agree with the decision and keep their order whatever the value."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralprep.report import measures
from neuralprep.stages.quality import judge
from neuralprep.stages.quality_limits import LIMITS, MEASURES

_NAMES = [measure.name for measure in MEASURES]


@given(st.sampled_from(_NAMES), st.floats(allow_nan=True, allow_infinity=True))
def test_states_agree_with_the_decision(name: str, value: float) -> None:
    judged = judge({name: value})
    expected = "check" if judged.reasons else "note" if judged.notes else "ok"
    assert measures.state_of(name, value) == expected


@given(st.sampled_from(_NAMES), st.floats(-1e9, 1e9))
def test_bars_keep_their_order(name: str, value: float) -> None:
    row = measures.rows({name: value})[0]
    if row.bar is None:
        assert not row.accepted
        return
    bar = row.bar
    assert 0 <= bar.low <= bar.usual_low <= bar.usual_high <= bar.high <= 100
    assert 0 <= bar.value <= 100
    if row.state == "ok":
        assert bar.usual_low <= bar.value <= bar.usual_high
    elif row.state == "check":
        assert bar.value <= bar.low or bar.value >= bar.high


@pytest.mark.parametrize("name", _NAMES)
def test_every_range_can_be_seen(name: str) -> None:
    row = measures.rows({name: 0.5})[0]
    limits = asdict(getattr(LIMITS, name)).values()
    assert (row.bar is not None) == any(map(math.isfinite, limits))
    if row.bar is None:
        return
    assert row.accepted
    assert row.bar.high - row.bar.low > 20
    assert row.bar.low > 0 or row.bar.high < 100 or row.accepted.startswith("usually")


def test_unknown_measures_and_missing_values_are_shown() -> None:
    rows = {row.name: row for row in measures.rows({"brand_new": 1.23456, "icv_ml": math.nan})}
    assert rows["brand_new"].value == "1.235"
    assert rows["brand_new"].state == "ok"
    assert rows["icv_ml"].value == "not computed"
    assert rows["icv_ml"].state == "check"
    described = measures.columns(["brand_new", "icv_ml", "agreement"])
    assert [column["name"] for column in described] == ["icv_ml", "agreement", "brand_new"]
    assert described[0]["low"] == 1000
    assert described[1]["high"] is None
