"""Lesion-wise scores of many cases: what the command line cannot reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.cases import Pair
from neuralprep.evaluation.lesion_cohort import LesionCase, LesionSettings, measure_cases, summarize_lesions
from neuralprep.evaluation.lesions import PRESETS, Lesion, RegionScore


class Deadly(LesionSettings):
    """Ends the process that receives it, as a system short of memory does."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


def test_a_process_that_dies_is_a_fault_with_advice() -> None:
    pairs = [Pair(name, Path(name), Path(name)) for name in ("a", "b", "c")]
    with pytest.raises(InputError, match="smaller --jobs"):
        list(measure_cases(pairs, Deadly(PRESETS["brats-gli"]), jobs=2))


def test_the_interval_of_the_mean_is_of_the_mean() -> None:
    def case(number: int, dice: float) -> LesionCase:
        lesion = Lesion("found", True, 1.0, 1.0, dice, 2.0, 1, (0.0, 0.0, 0.0))
        return LesionCase(str(number), {"L": RegionScore((lesion,), dice, 1.0, 1.0, 1.0, 1.0, 1.0)})

    # nine perfect cases and a failure: the median hides what the mean shows
    cases = [*(case(number, 1.0) for number in range(9)), case(9, 0.0), LesionCase("bad", fault="unreadable")]
    line = summarize_lesions(cases)[0]
    assert (line["region"], line["measure"], line["cases"]) == ("L", "lesion_dice", 10)
    assert (line["median"], line["median_low"]) == (1, 1)
    assert line["mean"] == pytest.approx(0.9)
    assert 0.6 <= line["mean_low"] < 0.9 < line["mean_high"] <= 1
