"""How far looks disagree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.inference.session import open_session
from neuralprep.stages.doubt import both_distances, mask_dice, spread_mm
from neuralprep.stages.look import both_ways, find_brain, look
from neuralprep.volume import load


def test_spread_is_the_standard_deviation_of_what_lies_near_the_surface() -> None:
    rng = np.random.default_rng(0)
    looks = [rng.uniform(-9, 9, (5, 6, 7)).astype(np.float32) for _ in range(3)]
    assert spread_mm(looks) == pytest.approx(np.std(looks, axis=0), abs=1e-5)
    far = [np.full((2, 2, 2), value, np.float32) for value in (11, 25, 60)]
    assert not spread_mm(far).any()


def test_masks_are_compared_where_the_scan_has_data() -> None:
    one, two = np.full((4, 4, 4), -1.0, np.float32), np.full((4, 4, 4), -1.0, np.float32)
    two[:2] = 1
    everywhere = np.ones(one.shape, bool)
    assert mask_dice(one, two, everywhere) == pytest.approx(2 / 3)
    assert mask_dice(one, two, one * 0 + np.arange(4)[:, None, None] >= 2) == 1.0
    assert mask_dice(-one, -one, everywhere) == 0.0


def test_a_mirrored_look_is_the_mean_of_the_head_and_its_mirror_image(shared_data: Path) -> None:
    session = open_session("npp", "cpu", 1)
    scan = load(shared_data / "heads" / "xa30_prisma_T1w_2mm.nii.gz")
    _, centred = find_brain(session, scan, 0.1)
    aside = centred.working.grid.affine.copy()
    aside[:3, 3] += 9 * aside[:3, 0]  # 18 mm off the middle: an answer that is not turned back lies beside the brain
    found = look(session, scan, Grid(centred.working.grid.shape, aside), 0.1, close=True, mirrored=True)
    plain, mirrored = both_distances(found)
    alone = session.predict(found.working.image, 0.1, "fine")
    assert plain == pytest.approx(alone.distances, abs=1e-4)
    assert mask_dice(plain[1], mirrored[1], found.working.visible) > 0.95
    assert mask_dice(plain[1], mirrored[1][::-1], found.working.visible) < 0.9
    near = np.abs(found.prediction.distances[1]) < 3
    assert 0.01 < spread_mm([plain[1], mirrored[1]])[near].mean() < 3


def test_the_mirror_image_gets_the_mirror_image_of_the_answer() -> None:
    session = open_session("npp", "cpu", 1)
    image = np.random.default_rng(1).random((32, 48, 32)).astype(np.float32)
    answer, apart = both_ways(session, image, 0.1)
    turned, parted = both_ways(session, image[::-1], 0.1)
    assert np.array_equal(turned.distances, answer.distances[:, ::-1])
    assert np.array_equal(turned.log_gain, answer.log_gain[::-1])
    assert np.array_equal(turned.mask_logit, answer.mask_logit[::-1])
    assert np.array_equal(turned.coordinates[0], -answer.coordinates[0, ::-1])
    assert np.array_equal(turned.coordinates[1:], answer.coordinates[1:, ::-1])
    assert np.array_equal(parted, -apart[:, ::-1])
    assert np.abs(apart).max() > 0.1  # which was not so of one answer alone
