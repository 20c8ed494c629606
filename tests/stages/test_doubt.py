"""How far looks disagree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.inference.session import open_session
from neuralprep.stages.doubt import mask_dice, mirrored_distances, spread_mm
from neuralprep.stages.look import find_brain, look
from neuralprep.volume import load


def test_spread_is_the_standard_deviation_of_what_lies_near_the_surface() -> None:
    rng = np.random.default_rng(0)
    looks = [rng.uniform(-9, 9, (5, 6, 7)).astype(np.float32) for _ in range(3)]
    assert spread_mm(looks) == pytest.approx(np.std(looks, axis=0), abs=1e-5)
    far = [np.full((2, 2, 2), value, np.float32) for value in (11, 25, 60)]
    assert not spread_mm(far).any()


def test_a_mirrored_head_has_the_mirrored_brain(shared_data: Path) -> None:
    session = open_session("npp", "cpu", 1)
    scan = load(shared_data / "heads" / "xa30_prisma_T1w_2mm.nii.gz")
    _, centred = find_brain(session, scan, 0.1)
    aside = centred.working.grid.affine.copy()
    aside[:3, 3] += 9 * aside[:3, 0]  # 18 mm off the middle: an answer that is not turned back lies beside the brain
    found = look(session, scan, Grid(centred.working.grid.shape, aside), 0.1)
    mirrored = mirrored_distances(session, found, 0.1)
    assert mirrored.shape == found.prediction.distances.shape
    assert mask_dice(mirrored[1], found) > 0.95
    assert mask_dice(mirrored[1][::-1], found) < 0.9
    assert mask_dice(found.prediction.distances[1], found) == 1.0
    near = np.abs(found.prediction.distances[1]) < 3
    spread = spread_mm([found.prediction.distances[1], mirrored[1]])
    assert 0.01 < spread[near].mean() < 3
