"""Cases side by side: order, exceptions, a process that is ended from outside."""

from __future__ import annotations

import math
import os

import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.parallel import each


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_cases(jobs: int) -> None:
    assert list(each(abs, [-3, 2, -1, 0], jobs)) == [3, 2, 1, 0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_the_work_raises_is_raised_here(jobs: int) -> None:
    with pytest.raises(ValueError, match=r"nonnegative|domain"):
        list(each(math.sqrt, [4.0, -1.0], jobs))


def test_a_process_that_is_ended_is_said_in_words() -> None:
    with pytest.raises(InputError, match="--jobs"):
        list(each(os._exit, [1, 1], 2))
