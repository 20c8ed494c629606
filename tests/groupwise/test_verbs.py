"""`register --longitudinal`, `register --group` and `template`: known motions, order, faults, what is written."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from groupwise.heads import rendered, truth
from neuralprep import Volume, alignment, load
from neuralprep.cli import main
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.formats import read_transform
from neuralprep.grid import Grid
from neuralprep.groupwise import bend
from neuralprep.groupwise.align import GroupSettings, Member, align_group, look_at
from neuralprep.inference.session import open_session
from neuralprep.registration.averages import bias
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain
from neuralprep.velocity import split

XFM = "from-{}_to-{}_mode-image_xfm"


def moved(volume: Volume, by: Affine) -> Volume:
    """The same voxels elsewhere in the world: only the header changes, so the answer is known exactly."""
    return Volume(volume.data, Grid(volume.grid.shape, by.matrix @ volume.grid.affine))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_visits_meet_half_way_in_any_order(shared_data: Path, tmp_path: Path) -> None:
    scan, by = load(shared_data / "heads" / "bisweb_sag_T1w_2mm.nii.gz"), truth(1, 10.0)
    scan.save(tmp_path / "one.nii.gz")
    moved(scan, by).save(tmp_path / "two.nii.gz")
    inputs = [str(tmp_path / name) for name in ("one.nii.gz", "two.nii.gz")]
    for number, order in enumerate((inputs, inputs[::-1])):
        assert main(["register", "--longitudinal", *order, str(tmp_path / f"out{number}"),
                     "--res", "3", "--threads", "1"]) == 0  # fmt: skip
    out = tmp_path / "out0"
    assert contents(out) == contents(tmp_path / "out1")  # not one bit depends on the order
    found = [read_transform(out / f"{XFM.format(name, 'midspace')}.txt") for name in ("one", "two")]
    points = np.random.default_rng(0).uniform(-50, 50, (200, 3)) + scan.grid.center
    relation = found[1].apply(found[0].inverse().apply(points))
    assert np.linalg.norm(relation - by.apply(points), axis=1).mean() < 0.3
    assert bias(found) < 1e-9  # type: ignore[arg-type]
    back = read_transform(out / f"{XFM.format('midspace', 'two')}.lta")
    assert np.abs(back.apply(found[1].apply(points)) - points).max() < 1e-3
    images = [load(out / f"{name}_space-midspace.nii.gz", checks=False) for name in ("one", "two")]
    again = resample(scan, images[0].grid, found[0], antialias=True)
    assert np.abs(again.data - images[0].data).max() < 1e-3 * np.ptp(scan.data)  # interpolated once
    assert np.corrcoef(images[0].data.ravel(), images[1].data.ravel())[0, 1] > 0.98
    record = json.loads((out / "midspace_registration.json").read_text())
    assert (record["Type"], record["Pose"]) == ("rigid", "native")
    assert [image["Decision"] for image in record["Images"]] == ["ok", "ok"]


def test_a_template_is_as_large_as_its_group_and_names_what_it_left_out(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = [str(shared_data / "heads" / f"{name}.nii.gz") for name in
             ("bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm", "IXI012-HH-1211_T1w_2mm")]  # fmt: skip
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    code = main(["template", *heads, str(tmp_path / "broken.nii.gz"), str(out), "--no-refine", "--average", "median",
                 "--res", "4", "--threads", "1"])  # fmt: skip
    said = capsys.readouterr()
    assert code == 1  # the template stands, but not everyone is in it
    assert "broken" in said.err
    record = json.loads((out / "template_registration.json").read_text())
    assert list(record["LeftOut"]) == ["broken"]
    assert record["MeanTransform"]["LargestEntryOfMeanLogarithm"] < 1e-9
    image = load(out / "template_image.nii.gz", checks=False)
    brain = load(out / "template_desc-brain_mask.nii.gz", checks=False)
    stripped = load(out / "template_desc-brain_image.nii.gz", checks=False)
    assert np.array_equal(stripped.data, np.where(brain.data > 0, image.data, 0))
    assert 90 < image.data[brain.data > 0].mean() < 120  # tissue of every image has a mean of 110
    stretch = []
    for name in record["Images"]:
        transform = read_transform(out / f"{XFM.format(name['Name'], 'template')}.mat")
        stretch.append(np.log(np.linalg.det(transform.matrix[:3, :3])))  # type: ignore[attr-defined]
    assert abs(np.mean(stretch)) < 1e-6  # as large as the heads are on average
    assert (out / "template_overlay.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*_space-template.nii.gz"))  # only with --images
    again = ["template", *heads, str(out / "template_image.nii.gz"), str(out), "--no-refine", "--threads", "1"]
    assert main(again) == 2  # the template is no member of its own group, and would be replaced
    assert "template_image.nii.gz: looks like an output of an earlier run" in capsys.readouterr().err


def test_a_bent_group_is_written_as_fields_and_velocities(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bend, "BendSettings", partial(bend.BendSettings, steps=((4, 0),)))
    names = ("bisweb_sag_T1w_2mm", "IXI012-HH-1211_T1w_2mm")
    heads = [str(shared_data / "heads" / f"{name}.nii.gz") for name in names]
    out = tmp_path / "out"
    assert main(["register", "--group", *heads, str(out), "--type", "svf", "--no-refine", "--res", "4",
                 "--threads", "1"]) == 0  # fmt: skip
    record = json.loads((out / "group_registration.json").read_text())
    assert record["Type"] == "svf"
    assert record["MeanVelocity"]["LongestVector"] < 1e-5
    velocities = []
    for name, head, image in zip(names, heads, record["Images"], strict=True):
        assert image["LocalCorrelation"] > image["LocalCorrelationBefore"]
        assert image["FoldedVoxels"] == 0
        chain = read_transform(out / f"from-{name}_to-group_mode-image_desc-velocity_xfm.nii.gz")
        assert isinstance(chain, Chain)
        velocities.append(split(chain)[1].vectors)
        made = load(out / f"{name}_space-group.nii.gz", checks=False)
        again = resample(load(head), made.grid, chain, antialias=True)
        assert np.abs(again.data - made.data).max() < 1e-2 * np.ptp(made.data)
        points = np.random.default_rng(0).uniform((-40, -58, -30), (40, 22, 50), (200, 3))
        for ending in ("nii.gz", "h5"):
            there = read_transform(out / f"{XFM.format(name, 'group')}.{ending}")
            back = read_transform(out / f"{XFM.format('group', name)}.{ending}")
            assert np.abs(there.apply(points) - chain.apply(points)).max() < 0.1
            assert np.linalg.norm(back.apply(chain.apply(points)) - points, axis=1).mean() < 0.1
    assert np.abs(np.mean(velocities, axis=0)).max() < 1e-5


def test_what_a_pair_cannot_have_is_refused_before_the_work(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(alignment, "view", work)
    heads = [str(shared_data / "heads" / f"{name}.nii.gz") for name in ("bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm")]
    taken = tmp_path / "taken"
    taken.write_text("a file")
    out = tmp_path / "out"
    for more, message in (
        ([str(taken)], "this names a file"), ([str(out), "--type", "tps", "--stiffness", "-1"], "stiffness is -1.0"),
        ([str(out), "--fixed-lesion", str(tmp_path / "lesion.nii.gz")], "lesion.nii.gz: no such file"),
        ([str(out), "--type", "svf", "--network", str(tmp_path / "n.safetensors")], "n.safetensors: no such"),
    ):  # fmt: skip
        assert main(["register", *heads, *more]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_keypoints_that_no_image_confirms_are_to_be_checked(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two persons of different size, rigidly: the images refuse the fit, and nobody may call it good."""
    names = ("bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm")
    heads = [str(shared_data / "heads" / f"{name}.nii.gz") for name in names]
    assert main(["register", *heads, str(tmp_path / "pair"), "--type", "rigid", "--threads", "1"]) == 0
    assert "check: the images share too little contrast" in capsys.readouterr().out
    record = json.loads((tmp_path / "pair" / f"from-{names[0]}_to-{names[1]}_registration.json").read_text())
    assert record["Decision"] == "check"
    assert main(["register", *heads, str(tmp_path / "alone"), "--type", "rigid", "--no-refine", "--threads", "1"]) == 0
    assert "check" not in capsys.readouterr().out  # keypoints alone are what was asked for
    session = open_session("npp", "cpu", 1)
    fit = align_group([look_at(session, load(Path(head)), head) for head in heads], GroupSettings("rigid", "native"))
    assert fit.confirmed == (False, False)
    assert "too little contrast" in fit.doubt(0)
    assert not fit.good(1)


@pytest.fixture(scope="module")
def persons(shared_data: Path) -> tuple[list[Member], list[Affine], Volume]:
    """Label maps 19 and 20, each drawn twice and carried by known affines."""
    session, members, places = open_session("npp", "cpu", 1), [], []
    for number in (19, 20):
        labels = load(shared_data / "labels" / "synthseg_training" / f"training_seg_{number}.nii.gz", checks=False)
        for visit in range(2):
            place = truth(10 * number + visit, 15.0, 0.06)
            drawn = moved(rendered(labels, number + visit), place)
            members.append(look_at(session, drawn, f"{number}-{visit}"))
            places.append(place)
    return members, places, labels


def test_rendered_heads_meet_where_they_must(persons: tuple[list[Member], list[Affine], Volume]) -> None:
    members, places, _ = persons
    fit = align_group(members, GroupSettings("affine", rounds=4, pairs_up_to=3))
    assert fit.bias < 1e-12
    for first in (0, 2):  # two images of one person: how they lie to one another is known
        judged = members[first].view.judged
        points = judged.grid.voxel_to_world(np.argwhere(judged.data > 0)[::300])
        found = fit.transforms[first + 1].apply(fit.transforms[first].inverse().apply(points))
        right = places[first + 1].apply(places[first].inverse().apply(points))
        assert np.linalg.norm(found - right, axis=1).mean() < 1.0
    grid = Grid.centered((50, 60, 50), 4.0, (0, -18, 10))
    brains = [resample(one.view.judged, grid, at, order=0).data for one, at in
              zip(members, fit.transforms, strict=True)]  # fmt: skip
    assert min(dice_by_label(brains[0].astype(int), other.astype(int))[1] for other in brains[1:]) > 0.93


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["register", "a.nii", "b.nii", "c.nii", "out"], "more than two images need"),
        (["register", "a.nii", "b.nii", "out", "--res", "2"], "--res has no effect"),
        (["register", "a.nii", "b.nii", "out", "--pose", "native"], "--pose has no effect"),
        (["register", "--group", "a.nii", "b.nii", "out", "--type", "tps"], "--type tps has no effect"),
        (["register", "--group", "a.nii", "b.nii", "out", "--fixed-lesion", "l.nii"], "--fixed-lesion has no effect"),
        (["register", "--group", "--longitudinal", "a.nii", "b.nii", "out"], "not allowed with"),
        (["register", "a.nii", "b.nii", "out", "--type", "tps", "--also", "x5"], "--also has no effect"),
        (["register", "--longitudinal", "a.nii", "b.nii", "out", "--type", "svf"], "--type svf has no effect"),
        (["register", "--group", "a.nii", "b.nii", "out", "--stiffness", "1"], "--stiffness has no effect"),
        (["template", "a.nii", "b.nii", "out", "--stiffness", "1"], "--stiffness has no effect"),
        (["template", "a.nii", "b.nii", "out", "--type", "svf", "--also", "x5"], "--also has no effect"),
        (["register", "--group", "absent.nii", "absent2.nii", "out"], "two images that can be used"),
        (["template", "absent.nii", "out"], "two images that can be used"),
        (["template", "a.nii", "b.nii", "out", "--res", "0"], "resolution of 0.0 mm is out of range"),
        (["register", "--longitudinal", "a.nii", "b.nii", "out", "--res", "-1"], "resolution of -1.0 mm is out of"),
        (["register", "a.nii", "b.nii"], "arguments are required: OUT\n"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
