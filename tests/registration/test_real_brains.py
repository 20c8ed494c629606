"""Skull-stripped scans of five people: the answer must not depend on what the header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuralprep.grid import Grid
from neuralprep.registration.affine import LOWEST_GOOD_SCORE, Target, align, prepare_target, refine, search
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load


@pytest.fixture(scope="module")
def target() -> Target:
    template = load_template()
    return prepare_target([template.gm, template.wm, template.csf], template.brain_mask)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    mask = load_template().brain_mask
    return mask.grid.voxel_to_world(np.argwhere(mask.data)[::2000])


def brain(shared_data: Path, name: str) -> Volume:
    path = shared_data / "labels" / "malf_oasis" / f"{name}_SS.nii.gz"
    if not path.is_file():
        pytest.skip("no OASIS brains here")
    return load(path)


@pytest.mark.parametrize("name", ["1000", "1119"])
def test_random_orientations(name: str, shared_data: Path, target: Target, points: np.ndarray) -> None:
    scan = brain(shared_data, name)
    upright = align(target, scan, criterion="tissue")
    assert upright.score > LOWEST_GOOD_SCORE
    rng = np.random.default_rng(int(name))
    for rotation in Rotation.random(5, random_state=int(name)):
        turn = np.eye(4)
        turn[:3, :3] = rotation.as_matrix()
        turn[:3, 3] = rng.uniform(-150, 150, 3)
        fit = align(target, Volume(scan.data, Grid(scan.grid.shape, turn @ scan.grid.affine)), criterion="tissue")
        back = Affine(np.linalg.inv(turn) @ fit.transform.matrix)
        assert back.distance(upright.transform, points) < 0.5
        assert fit.score == pytest.approx(upright.score, abs=0.01)


@pytest.mark.parametrize("name", ["1000", "1006", "1110", "1119", "1122"])
def test_score_tells_right_from_wrong(name: str, shared_data: Path, target: Target, points: np.ndarray) -> None:
    scan = brain(shared_data, name)
    right = align(target, scan, criterion="tissue")
    assert right.score > LOWEST_GOOD_SCORE
    for start in search(target, scan, criterion="tissue")[1:]:
        fit = refine(target, scan, start.transform, criterion="tissue")
        if fit.transform.distance(right.transform, points) > 10:
            assert fit.score < LOWEST_GOOD_SCORE


def test_criteria_agree_on_t1(shared_data: Path, target: Target, points: np.ndarray) -> None:
    template, scan = load_template(), brain(shared_data, "1110")
    tissue = align(target, scan, criterion="tissue")
    ncc = align(template.t1, scan, fixed_mask=template.brain_mask)
    assert tissue.transform.distance(ncc.transform, points) < 1.0
