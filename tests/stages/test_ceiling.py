"""The closer look's scale ends at the brightness of the brain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuralprep.demo import write_demo_head
from neuralprep.evaluation.overlap import dice
from neuralprep.inference.session import Session, open_session
from neuralprep.resample import resample
from neuralprep.stages.look import Look, brain_ceiling, find_brain, look
from neuralprep.volume import Volume, load


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session("npp", "cpu", 1)


@pytest.fixture(scope="module")
def plain(session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Look, Look]:
    return find_brain(session, load(write_demo_head(tmp_path_factory.mktemp("head")).path), 0.1)


def test_a_look_up_to_a_ceiling_is_one_at_the_scan_cut_off_there(session: Session, plain: tuple[Look, Look]) -> None:
    seen = plain[1].working
    scan = Volume(900 * seen.image, seen.grid)
    found = look(session, scan, seen.grid, 0.1, close=True, ceiling=450.0)
    cut = look(session, scan.with_data(np.minimum(scan.data, 450)), seen.grid, 0.1, close=True)
    assert cut.working.high == pytest.approx(450)
    assert found.working.high > 800
    assert found.prediction.distances == pytest.approx(cut.prediction.distances, abs=1e-3)
    factors = [np.exp(one.prediction.log_gain) / (one.working.high - one.working.low) for one in (found, cut)]
    assert factors[0] == pytest.approx(factors[1], rel=1e-3)  # the same field for the same scan
    assert not np.array_equal(found.prediction.distances,
                              look(session, scan, seen.grid, 0.1, close=True).prediction.distances)


def test_a_ceiling_below_all_intensities_leaves_something_to_see(session: Session, plain: tuple[Look, Look]) -> None:
    seen = plain[1].working
    found = look(session, Volume(900 * seen.image, seen.grid), seen.grid, 0.1, close=True, ceiling=-5.0)
    assert np.isfinite(found.prediction.log_gain).all()


def test_the_brightness_of_fat_hardly_moves_the_mask(session: Session, plain: tuple[Look, Look]) -> None:
    """Of three-fold brightness outside the bone, as next to a receive coil."""
    seen, skull = plain[1].working, plain[1].prediction.distances[1]
    bright = Volume(seen.image * (1 + 2 * np.clip((skull - 8) / 2, 0, 1)), seen.grid)
    first, second = find_brain(session, bright, 0.1)
    assert first.working.high > 1.8
    carried = resample(Volume(second.prediction.distances[1], second.working.grid), seen.grid, fill=15.0).data
    assert dice(carried < 0, skull < 0) > 0.95


def test_the_ceiling_is_the_brightness_of_the_brain(plain: tuple[Look, Look]) -> None:
    first = plain[0]
    inside = first.prediction.distances[1] < 0
    values = first.working.image[inside & first.working.visible]
    share = np.mean(values * (first.working.high - first.working.low) + first.working.low <= brain_ceiling(first))
    assert share == pytest.approx(0.98, abs=0.002)
    assert brain_ceiling(replace(first, brain_ml=20.0)) == np.inf
