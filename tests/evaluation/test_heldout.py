"""Held-out cases: the same number is the same case, and a perfect or a spoilt result scores what it must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.heldout import (
    UNIT,
    Case,
    HeldOutHeads,
    roi_dice,
    score_constant,
    score_geometry,
    score_images,
    score_result,
)
from neuralprep.pipeline import Result, Settings
from neuralprep.stages.quality import Quality
from neuralprep.synthesis.atlas import save_atlas
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.transform import Affine

SETTINGS = SamplerSettings(shape=(48, 48, 48), spacing_mm=4.0, subsamples=1)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> HeldOutHeads:
    path = tmp_path_factory.mktemp("atlas") / "atlas.npz"
    save_atlas([phantom_head("one"), phantom_head("two", 0.9)], path)
    return HeldOutHeads(path, SETTINGS, ("one", "two"))


@pytest.fixture(scope="module")
def case(heads: HeldOutHeads) -> Case:
    """A head in a mild pose, with a bias field and without other faults."""
    return heads.case(
        0, 7, "T1w",
        lambda record: replace(record, noise=0.0, masses=(), bias_strength=0.3, stripped_mm=None, deface_deg=None,
                               cut=((0.0, 0.0),) * 3, resolution=(None,) * 3),
        want_classes=True,
    )


def result(case: Case, **changes: object) -> Result:
    """The pipeline's result with every output right, or changed as asked."""
    brain = np.where(case.icv, case.clean, 0) * UNIT
    outputs: dict[str, object] = {
        "brain_mask": case.scan.with_data(case.icv.astype(np.uint8)),
        "nocsf_mask": case.scan.with_data(case.tissue.astype(np.uint8)),
        "multiplier": case.scan.with_data(np.where(case.icv, case.multiplier, 0) * UNIT),
        "preproc_brain": case.scan.with_data(brain.astype(np.float32)),
        "template_from_scan": case.template_from_scan,
    }
    return Result(case.scan, Settings(), outputs | changes, Quality({}, "ok"), {}, {})  # type: ignore[arg-type]


def test_a_case_is_its_number(heads: HeldOutHeads) -> None:
    first, again, other = heads.case(3, 5), heads.case(3, 5), heads.case(4, 5)
    assert first.record == again.record
    np.testing.assert_array_equal(first.scan.data, again.scan.data)
    assert first.record != other.record
    assert (first.record.head, other.record.head) == ("two", "one")  # in turn
    assert heads.case(3, 6).record != first.record
    assert heads.case(3, 5, "FLAIR").look == "FLAIR"


def test_truths_fit_each_other(case: Case) -> None:
    shape = case.scan.grid.shape
    assert shape == case.icv.shape == case.tissue.shape == case.clean.shape == case.multiplier.shape
    assert not (case.tissue & ~case.icv).mean() > 0.01
    deep = case.tissue & (case.scan.data > 0.1) & (case.scan.data < 0.95)
    ratio = case.clean[deep] / (case.scan.data[deep] * case.multiplier[deep])
    assert np.median(np.abs(ratio - 1)) < 0.02  # clean = multiplier * noise-free scan
    # the centre of the brain lies near the template's
    center = case.scan.grid.voxel_to_world(np.argwhere(case.icv)).mean(0)
    assert np.linalg.norm(case.template_from_scan.inverse().apply([center])[0] - [0, -18, 4]) < 25


def test_a_perfect_result(case: Case) -> None:
    got = score_geometry(case, result(case)) | score_result(case, result(case))
    assert got["dice"] == got["tissue_dice"] == got["mean_dice"] == 1
    assert got["hd95"] == got["mean_mm"] == 0
    assert got["gain_error"] == pytest.approx(0, abs=1e-5)
    assert all(got[name] == pytest.approx(1, abs=1e-3) for name in ("field_ssim", "whole_field_ssim", "ssim"))
    assert got["decision"] == "ok"


def test_a_spoilt_result(case: Case) -> None:
    shift = np.eye(4)
    shift[:3, 3] = 3, 0, 4
    moved = Affine(case.template_from_scan.matrix @ shift)  # 5 mm off in the template
    shrunk = case.scan.with_data(np.roll(case.icv, 1, 0).astype(np.uint8))
    got = score_geometry(case, result(case, template_from_scan=moved, brain_mask=shrunk))
    assert got["mean_mm"] == pytest.approx(5)
    assert got["hd95"] == pytest.approx(4)
    assert 0.9 < got["dice"] < 1
    assert 0.2 < got["mean_dice"] < 0.95
    assert roi_dice(case, moved) == got["mean_dice"]


def test_fields_count_up_to_a_factor_within_both_masks(case: Case) -> None:
    brain = np.where(case.icv, case.clean, 0) * UNIT
    half = case.icv & (np.arange(case.icv.shape[0]) % 4 > 0)[:, None, None]
    got = score_images(case, 3 * UNIT * case.multiplier, brain, half)
    assert got["gain_error"] == pytest.approx(0, abs=1e-5)
    assert got["field_ssim"] == pytest.approx(1, abs=1e-4)
    assert got["whole_field_ssim"] < 0.95  # NPP's protocol sees the factor and the mask
    nothing = score_images(case, np.zeros_like(case.multiplier), brain, case.icv)
    assert np.isnan(nothing["gain_error"])
    # a constant leaves the whole bias field as its error
    floor = score_constant(case)["gain_error"]
    assert floor == pytest.approx(np.log(case.multiplier[case.icv]).std(), rel=1e-4)
    assert floor > 0.03


def test_ct_has_no_field_to_find(heads: HeldOutHeads, case: Case) -> None:
    assert case.field_measurable
    assert not heads.case(0, 1, "CT").field_measurable


def test_a_map_that_is_not_in_the_atlas(tmp_path: Path) -> None:
    save_atlas([phantom_head("one")], tmp_path / "atlas.npz")
    with pytest.raises(InputError):
        HeldOutHeads(tmp_path / "atlas.npz", SETTINGS)
