"""Quality measures for a reader: value, unit, state, and where the value lies in its reference range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from neuralprep.stages.quality_limits import LIMITS, MEASURES, Measure, Range

State = Literal["ok", "note", "check"]

#: measures at the head of a page, with their short names
KEY_MEASURES = {"icv_ml": "Inside skull", "tissue_ml": "Brain tissue", "template_dice": "Template overlap",
                "registration_score": "Template correlation"}  # fmt: skip
_BY_NAME = {measure.name: measure for measure in MEASURES}
_EVERYTHING = Range()


@dataclass(frozen=True)
class Bar:
    """A range bar: positions from 0 (left end) to 100 (right end)."""

    low: float
    high: float
    usual_low: float
    usual_high: float
    value: float


@dataclass(frozen=True)
class Row:
    """One measure of one scan, in words; `bar` is None where there is no reference range."""

    name: str
    label: str
    short: str
    value: str
    accepted: str
    state: State
    bar: Bar | None


def rows(measures: Mapping[str, float]) -> list[Row]:
    """Known measures in the order of their table, then any others."""
    known = [measure.name for measure in MEASURES if measure.name in measures]
    return [_row(name, float(measures[name])) for name in [*known, *(n for n in measures if n not in _BY_NAME)]]


def state_of(name: str, value: float) -> State:
    """Where a value lies: as usual, unusual but accepted, or outside of the accepted range (or not a number)."""
    bounds = _bounds(name)
    if not math.isfinite(value) or not bounds.low <= value <= bounds.high:
        return "check"
    return "ok" if bounds.usual_low <= value <= bounds.usual_high else "note"


def value_text(name: str, value: float) -> str:
    """A value with the digits and the unit of its measure."""
    measure = _BY_NAME.get(name)
    if not math.isfinite(value):
        return "not computed"
    return f"{value:.{measure.digits}f} {measure.unit}".strip() if measure else f"{value:.4g}"


def columns(names: Iterable[str]) -> list[dict[str, Any]]:
    """What a page needs to know to print and draw these measures; `None` stands for an open end of a range."""
    present = set(names)
    ordered = [*KEY_MEASURES, *(m.name for m in MEASURES if m.name not in KEY_MEASURES)]
    ordered += sorted(present - set(ordered))
    described = []
    for name in ordered:
        if name not in present:
            continue
        measure, bounds = _BY_NAME.get(name), _bounds(name)
        ends = {key: _finite(getattr(bounds, key)) for key in ("low", "high", "usual_low", "usual_high")}
        described.append({"name": name, "label": measure.label if measure else name,
                          "short": KEY_MEASURES.get(name) or _shortened(measure.label if measure else name),
                          "unit": measure.unit if measure else "", "digits": measure.digits if measure else None,
                          "key": name in KEY_MEASURES, **ends})
    return described


def _row(name: str, value: float) -> Row:
    measure, bounds = _BY_NAME.get(name), _bounds(name)
    label = measure.label if measure else name
    return Row(name, label, KEY_MEASURES.get(name, label), value_text(name, value),
               _accepted(measure, bounds) if measure else "", state_of(name, value),
               _bar(bounds, value, measure.digits) if measure else None)


def _bounds(name: str) -> Range:
    return getattr(LIMITS, name, _EVERYTHING)


def _shortened(label: str) -> str:
    """Label without its explanation, for the head of a column."""
    return label.partition(" (")[0].partition(",")[0]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _accepted(measure: Measure, bounds: Range) -> str:
    """The accepted range, or the usual one where nothing is refused."""
    low, high = bounds.low, bounds.high
    usual = not math.isfinite(low) and not math.isfinite(high)
    if usual:
        low, high = bounds.usual_low, bounds.usual_high
    if math.isfinite(low) and math.isfinite(high):
        text = f"{low:.{measure.digits}f} to {high:.{measure.digits}f}"
    elif math.isfinite(low):
        text = "above 0" if low <= 1e-6 else f"at least {low:.{measure.digits}f}"
    elif math.isfinite(high):
        text = f"at most {high:.{measure.digits}f}"
    else:
        return ""
    return f"usually {text}" if usual else text


def _bar(bounds: Range, value: float, digits: int) -> Bar | None:
    """Range bar on a scale that leaves room beyond each finite end; a value further out sits at the edge."""
    ends = [end for end in (bounds.low, bounds.usual_low, bounds.usual_high, bounds.high) if math.isfinite(end)]
    if not ends or not math.isfinite(value):
        return None
    lowest, highest = min(ends), max(ends)
    if math.isfinite(min(bounds.high, bounds.usual_high)) and math.isfinite(max(bounds.low, bounds.usual_low)):
        room = 0.3 * (highest - lowest)
        left, right = lowest - room, highest + room
    elif math.isfinite(max(bounds.low, bounds.usual_low)):  # open to the right; shares and overlaps end at 1
        left = lowest - 0.6 * (abs(1 - lowest) if lowest < 1 and digits else lowest)
        right = 1.0 if 0.05 < highest <= 1 and digits else max(1.5 * highest, 1.25 * value, 1.5 if digits else 0)
    else:
        left, right = min(0.0, value), 1.6 * highest

    def place(number: float) -> float:
        return round(100 * min(max((number - left) / (right - left), 0.0), 1.0), 1)

    return Bar(place(bounds.low), place(bounds.high), place(max(bounds.low, bounds.usual_low)),
               place(min(bounds.high, bounds.usual_high)), place(value))
