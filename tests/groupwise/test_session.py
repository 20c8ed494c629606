"""A visit of four real scans: contrasts agree, one mask serves all, transforms on disk carry what was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuralprep import Volume, load
from neuralprep.cli import main
from neuralprep.errors import InputError
from neuralprep.formats import read_transform
from neuralprep.grid import Grid
from neuralprep.groupwise.session import (
    BRATS_GRID,
    Contrast,
    SessionFit,
    SessionSettings,
    align_session,
    choose_reference,
    look_at_contrast,
)
from neuralprep.inference.session import open_session
from neuralprep.resample import resample
from neuralprep.transform import Affine

NAMES = ("s1_T1W", "s1_T2W", "s1_FLAIR")


@pytest.fixture(scope="module")
def contrasts(shared_data: Path) -> list[Contrast]:
    session = open_session("npp", "cpu", 1)
    return [look_at_contrast(session, load(shared_data / "heads" / f"openms_p01_{name}.nii.gz"), name, name)
            for name in NAMES]  # fmt: skip


@pytest.fixture(scope="module")
def fit(contrasts: list[Contrast]) -> SessionFit:
    return align_session(contrasts)


def brain_points(one: Contrast) -> np.ndarray:
    judged = one.member.view.judged
    return judged.grid.voxel_to_world(np.argwhere(judged.data > 0)[::200])


def test_contrasts_of_a_visit_lie_where_the_scanner_says(contrasts: list[Contrast], fit: SessionFit) -> None:
    """One head, three acquisitions of minutes each: headers agree to the few mm that a head moves."""
    assert fit.reference == 0
    assert np.array_equal(fit.to_reference[0].matrix, np.eye(4))
    points = brain_points(contrasts[0])
    for one in fit.to_reference[1:]:
        assert one.distance(Affine.identity(), points) < 4
        np.testing.assert_allclose(one.matrix[:3, :3] @ one.matrix[:3, :3].T, np.eye(3), atol=1e-9)
    assert all(fit.group.good(k) for k in range(3))
    assert fit.template.good


def test_the_mask_is_one_mask_on_every_grid(contrasts: list[Contrast], fit: SessionFit, shared_data: Path) -> None:
    volumes = []
    for one, name, transform in zip(contrasts, NAMES, fit.to_reference, strict=True):
        mask = fit.mask(one.member.grid, transform.inverse())
        author = load(shared_data / "labels" / f"openms_p01_{name}_authormask.nii.gz", checks=False).data > 0
        assert 2 * (author & (mask.data > 0)).sum() / (author.sum() + mask.data.sum()) > 0.93
        volumes.append(float(mask.data.sum()) * one.member.grid.voxel_volume)
    assert max(volumes) < 1.03 * min(volumes)


def test_the_brats_grid_holds_the_brain_upright(contrasts: list[Contrast]) -> None:
    fit = align_session(contrasts[:2], SessionSettings(grid="brats", strip="reference"))
    assert fit.grid is BRATS_GRID
    linear = fit.to_space[0].matrix[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-9)  # rigid: the brain keeps its size
    mask = fit.mask(fit.grid, fit.to_space[fit.reference])
    inside = np.argwhere(mask.data > 0)
    assert (inside.min(0) > 3).all()
    assert (inside.max(0) < np.array(fit.grid.shape) - 4).all()
    assert np.abs((inside.min(0) + inside.max(0)) / 2 - (119.5, 128.5, 71.5)).max() < 8
    # what ITK calls the challenge's origin and direction
    assert np.array_equal(np.diag([-1, -1, 1]) @ BRATS_GRID.affine[:3, 3], (0, -239, 0))
    assert np.array_equal(np.diag([-1, -1, 1]) @ BRATS_GRID.affine[:3, :3], np.eye(3))


def test_which_image_stays(contrasts: list[Contrast]) -> None:
    members = [one.member for one in contrasts]
    assert choose_reference(members, SessionSettings()) == 0  # 3 mm slices; the others have 4
    assert choose_reference(members[::-1], SessionSettings()) == 2
    assert choose_reference(members, SessionSettings(reference="s1_T2W")) == 1
    with pytest.raises(InputError, match="s2_T2W"):
        choose_reference(members, SessionSettings(reference="s2_T2W"))
    # with the BraTS grid a T1w after contrast agent is preferred, whatever its voxels
    named = [members[0], replace(members[1], name="case-t1c")]
    assert choose_reference(named, SessionSettings(grid="brats")) == 1
    assert choose_reference(named, SessionSettings()) == 0


def test_without_stripping_there_is_no_mask(fit: SessionFit) -> None:
    with pytest.raises(InputError, match="not stripped"):
        replace(fit, distance=None).mask(BRATS_GRID)


@pytest.mark.parametrize(
    ("change", "message"), [({"strip": "best"}, "best"), ({"grid": "sri24"}, "sri24"), ({"kind": "tps"}, "tps")]
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SessionSettings(**change)


def test_the_verb_writes_what_its_transforms_say(shared_data: Path, tmp_path: Path) -> None:
    scan = load(shared_data / "heads" / "bisweb_sag_T1w_2mm.nii.gz")
    shift = np.eye(4)
    shift[:3, 3] = (12, -7, 5)
    scan.save(tmp_path / "a_T1w.nii.gz")
    other = Volume(scan.data.max() - scan.data, Grid(scan.grid.shape, shift @ scan.grid.affine))
    other.with_data(np.where(scan.data > 15, other.data, 0)).save(tmp_path / "a_T2w.nii.gz")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "a_T1w.nii.gz"), str(tmp_path / "a_T2w.nii.gz"), str(out)]
    assert main(["session", *arguments, "--reference", arguments[0], "--res", "3", "--threads", "1",
                 "--also", "x5"]) == 0  # fmt: skip
    space = "MNI152NLin2009aSym"
    mask = load(out / f"space-{space}_desc-brain_mask.nii.gz", checks=False)
    for name in ("a_T1w", "a_T2w"):
        made = load(out / f"{name}_space-{space}.nii.gz", checks=False)
        transform = read_transform(out / f"from-{name}_to-{space}_mode-image_xfm.x5")
        again = resample(load(tmp_path / f"{name}.nii.gz"), made.grid, transform, antialias=True)
        assert np.abs(again.data - made.data).max() < 1e-3 * np.ptp(made.data)  # one interpolation from the original
        brain = load(out / f"{name}_space-{space}_desc-brain.nii.gz", checks=False)
        assert np.array_equal(brain.data, np.where(mask.data > 0, made.data, 0))
    found = read_transform(out / "from-a_T2w_to-a_T1w_mode-image_xfm.txt")
    assert found.apply([[0.0, 0, 0]])[0] == pytest.approx((12, -7, 5), abs=0.5)
    record = json.loads((out / "session.json").read_text())
    assert record["Reference"] == "a_T1w"
    assert [image["Decision"] for image in record["Images"]] == ["ok", "ok"]
    assert (out / "from-a_T2w_to-a_T1w_overlay.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.nii.gz", "b.nii.gz", "out", "--preset", "brats", "--res", "2"], "--res has no effect"),
        (["a.nii.gz", "b.nii.gz", "out", "--reference", "c.nii.gz"], "a.nii.gz"),
        (["a.nii.gz", "out"], "two or more"),
        (["{head}", "{copy}", "out", "--res", "0"], "resolution of 0.0 mm is out of range"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {name: str(shared_data / "heads" / f"{scan}_T1w_2mm.nii.gz") for name, scan in
             (("head", "bisweb_sag"), ("copy", "xa30_prisma"))}  # fmt: skip
    try:
        code = main(["session", *(argument.format(**files) for argument in arguments)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
