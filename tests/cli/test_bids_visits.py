"""``neuralprep bids --visits``: what is brought together and what not, faults, resuming; visits of heads."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from engine.fake_processor import make_fake, write_data_set, write_scan_file
from neuralprep.bids.visits import find_visits
from neuralprep.cli import bids, main
from neuralprep.engine.inputs import Scan
from neuralprep.engine.visits import VisitScan, VisitWorker, visit_job, visit_scans
from neuralprep.engine.worker import Job
from neuralprep.formats import read_transform
from neuralprep.settings import Settings
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load, save

SPACE = "MNI152NLin2009aSym"
BOTH = ["--visits", "contrasts", "longitudinal"]
VISITS = ["sub-01_longitudinal", "sub-01_ses-1_contrasts", "sub-01_ses-2_contrasts"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two sessions of one participant, one of another in which an image fails."""
    names = ("sub-01_ses-1_T1w", "sub-01_ses-1_FLAIR", "sub-01_ses-2_T1w", "sub-01_ses-2_T2w", "sub-02_ses-1_T1w",
             "sub-02_ses-1_acq-bad_T2w")  # fmt: skip
    return write_data_set(tmp_path / "raw", names)


@pytest.fixture
def cheap_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single scans cost nothing, visits what they cost."""

    def job_from(args: Any) -> Any:
        from neuralprep.cli.run import job_from as real

        return replace(real(args), make_processor=make_fake, write_report=False)

    monkeypatch.setattr(bids, "job_from", job_from)


@pytest.fixture
def faults(cheap_scans: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Visits cost nothing either; one fails with the exception that a test puts here under its name."""
    wanted: dict[str, Exception] = {}

    def bring(_: VisitWorker, scan: VisitScan, folder: Path) -> tuple[dict[str, Any], list[str]]:
        for one in scan.members:
            place = folder if scan.name.endswith("contrasts") else folder / one.name.split("_")[1] / "anat"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{one.name}.coreg").write_text(scan.name)
        if scan.name in wanted:
            raise wanted[scan.name]
        return {"Method": "none"}, []

    monkeypatch.setattr(VisitWorker, "_contrasts", bring)
    monkeypatch.setattr(VisitWorker, "_sessions", bring)
    return wanted


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "status.tsv").open() as stream:
        return {row["scan"]: row for row in csv.DictReader(stream, delimiter="\t")}


def times(out: Path) -> dict[str, int]:
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.glob("sub-*/**/*")
            if path.is_file()}  # fmt: skip


def test_visits_are_rows_like_scans_and_are_done_once(
    raw: Path, tmp_path: Path, faults: dict[str, Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["bids", str(raw), str(out), "participant", *BOTH]
    assert main(command) == 1  # a scan fails; its visit has one image left
    told = " ".join(capsys.readouterr().err.split())
    assert "sub-02_ses-1: at most one of their images can be used" in told
    assert "sub-02: at most one session has an image that can be used" in told
    found = rows(out)
    assert [name for name in found if name.endswith(("contrasts", "longitudinal"))] == VISITS
    assert {found[name]["status"] for name in VISITS} == {"ok"}
    made = times(out)
    assert "sub-01/ses-2/anat/sub-01_ses-2_T2w.coreg" in made
    assert (out / "sub-01/ses-2/anat/sub-01_ses-2_T1w.coreg").read_text() == "sub-01_longitudinal"  # same fake name
    assert "sub-01/sub-01_longitudinal_quality.json" in made
    assert all(name in (out / "sub-01.html").read_text() for name in VISITS)
    assert "2 sessions were aligned" in (out / "logs/CITATION.md").read_text()
    assert "5 head scans were processed" in (out / "logs/CITATION.md").read_text()  # visits are no scans
    assert not list(out.glob(".partial*"))
    assert main([*command, "-q"]) == 1
    assert {name: time for name, time in times(out).items() if "bad" not in name} == made
    (out / "status.tsv").unlink()
    assert main([*command[:4], "--reports-only", "-q", "--participant-label", "01"]) == 0
    assert [name for name in rows(out) if name in VISITS] == VISITS
    assert main(["bids", str(raw), str(out), "group", "-q"]) == 0
    assert "contrasts" not in (out / "group.tsv").read_text()


def test_a_changed_image_concerns_its_visits_only(raw: Path, tmp_path: Path, faults: dict[str, Exception]) -> None:
    out = tmp_path / "out"
    command = ["bids", str(raw), str(out), "participant", *BOTH, "-q", "--participant-label", "01"]
    assert main(command) == 0
    before = times(out)
    write_scan_file(raw / "sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz", 99)
    assert main(command) == 0
    after = times(out)
    changed = {name for name in after if after[name] != before.get(name) and "coreg" in name}
    assert changed == {"sub-01/ses-2/anat/sub-01_ses-2_T1w.coreg", "sub-01/ses-2/anat/sub-01_ses-2_T2w.coreg"}
    (raw / "sub-01/ses-2/anat/sub-01_ses-2_PDw.nii.gz").write_bytes(b"no image")
    assert main(command) == 1
    found = rows(out)["sub-01_ses-2_contrasts"]
    assert (found["status"], found["reasons"]) == ("check", "left out sub-01_ses-2_PDw, which failed")
    assert main([*command, "--suffix", "T1w"]) == 0  # now there is nothing in a session to bring together
    assert main([*command, "--suffix", "T1w", "T2w", "--overwrite"]) == 0
    assert rows(out)["sub-01_ses-2_contrasts"]["status"] == "ok"


def test_a_visit_that_fails_leaves_nothing_and_stops_no_other(
    raw: Path, tmp_path: Path, faults: dict[str, Exception]
) -> None:
    out = tmp_path / "out"
    command = ["bids", str(raw), str(out), "participant", *BOTH, "-q", "--participant-label", "01"]
    faults["sub-01_ses-1_contrasts"] = ValueError("the numbers do not add up")
    assert main(command) == 1
    found = rows(out)
    assert {name: found[name]["status"] for name in VISITS} == dict(zip(VISITS, ("ok", "failed", "ok"), strict=True))
    assert "do not add up" in found["sub-01_ses-1_contrasts"]["reasons"]
    assert "Traceback" in (out / "sub-01_ses-1_contrasts.error.txt").read_text()
    assert not list(out.glob("sub-01/ses-1/anat/*contrasts*"))
    assert not (out / "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.coreg").exists()
    assert not list(out.glob(".partial*"))
    assert main(["bids", str(raw), str(out), "group", "-q"]) == 0  # all scans are there
    faults.clear()
    assert main(command) == 0
    assert rows(out)["sub-01_ses-1_contrasts"]["status"] == "ok"
    assert not (out / "sub-01_ses-1_contrasts.error.txt").exists()


def test_visits_travel_to_other_processes(tmp_path: Path) -> None:
    visits, _ = find_visits(["sub-1_T1w", "sub-1_T2w"], (), ["contrasts"])
    scans = visit_scans(visits, [Scan(tmp_path / f"{name}.nii.gz", name) for name in visits[0].members])
    job = visit_job(Job(Settings(), tmp_path, frame=1))
    assert pickle.loads(pickle.dumps(scans)) == scans
    assert isinstance(pickle.loads(pickle.dumps(replace(job, overwrite=True))).worker(), VisitWorker)
    assert (job.frame, scans[0].path.name) == (1, "sub-1_T1w.nii.gz")


@pytest.mark.parametrize(
    ("level", "flags", "said"),
    [
        ("participant", ["--visits", "contrasts", "--no-csf"], "--no-csf has no effect on --visits"),
        ("participant", ["--visits", "contrasts", "--mask", "."], "--mask has no effect on --visits"),
        ("participant", ["--visits", "longitudinal", "--keep-label", "."], "--keep-label has no effect on --visits"),
        ("participant", ["--visits", "runs"], "invalid choice"),
        ("participant", ["--visits", "contrasts", "--reports-only"], "--visits has no effect with --reports-only"),
        ("group", ["--visits", "contrasts"], "--visits has no effect on the group level"),
    ],
)
def test_what_cannot_take_effect_is_refused(
    raw: Path, tmp_path: Path, level: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bids", str(raw), str(tmp_path / "out"), level, *flags])
    assert stopped.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "status.tsv").exists()


def moved(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees)).as_matrix()
    matrix[:3, 3] = shift_mm
    return Affine(matrix)


#: image -> rigid motion of the head since the first
MOTIONS = {
    "ses-1/anat/sub-01_ses-1_T1w": moved((0, 0, 0), (0, 0, 0)),
    "ses-1/anat/sub-01_ses-1_T2w": moved((3, -4, 2), (2, -3, 4)),
    "ses-2/anat/sub-01_ses-2_run-1_T1w": moved((-6, 5, 8), (-7, 5, 3)),
    "ses-2/anat/sub-01_ses-2_ce-gd_T1w": moved((-4, 9, 6), (-5, 8, 1)),
}
EDGE_MM = 2.0


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Data set of one head that moved between four images, with broken images, and points of its brain in the first."""
    from neuralprep.demo import random_pose, render
    from neuralprep.grid import Grid
    from neuralprep.templates import load_template

    root = tmp_path_factory.mktemp("heads") / "raw"
    pose = random_pose(np.random.default_rng(0))
    grid = Grid.centered((102, 120, 108), EDGE_MM, pose.apply(np.array([[0.0, -8.0, -22.0]]))[0], codes="RAS")
    for seed, (name, motion) in enumerate(MOTIONS.items()):
        image, mask = render(load_template(), grid, Affine(motion.matrix @ pose.matrix), np.random.default_rng(seed))
        if "run" not in name and seed:  # dark where the first is bright
            image = image.with_data(np.where(image.data > 60, np.maximum(900 - image.data, 0), image.data))
        path = root / "sub-01" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(image, path, dtype="int16", space="native")
        if not seed:
            points = grid.voxel_to_world(np.argwhere(mask.data > 0)[::500])
    for name in ("sub-01/ses-2/anat/sub-01_ses-2_FLAIR", "sub-02/anat/sub-02_T2w"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.nii.gz").write_bytes(b"no image")
    shutil.copy(path, root / "sub-02/anat/sub-02_T1w.nii.gz")
    (root / "dataset_description.json").write_text('{"Name": "heads", "BIDSVersion": "1.9.0", "Authors": ["A", "B"]}')
    return root, points


def errors_of(folder: Path) -> list[str]:
    where = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("bids-validator-deno", path=where)
    if program is None:
        pytest.skip("the BIDS validator is not installed (bids-validator-deno, extra dev)")
    done = subprocess.run([program, str(folder), "--format", "json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["issues"]["issues"]
    return [f"{i['code']} {i['location']}" for i in found if i["severity"] == "error"]


def miss_mm(found: Affine, motion: Affine, points: np.ndarray) -> float:
    return float(np.linalg.norm(found.apply(points) - motion.apply(points), axis=1).mean())


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_scans")
def test_heads_that_moved_meet_again(heads: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """With the shipped network; the truth is the motion that the heads were drawn with."""
    root, points = heads
    out = tmp_path / "out"
    command = ["bids", str(root), str(out), "participant", "-q", *BOTH, "--output-spaces", f"{SPACE}:res-3",
               "--threads", "1"]  # fmt: skip
    assert main(command) == 1
    found = rows(out)
    assert {name: found[name]["status"] for name in VISITS} == dict(zip(VISITS, ("ok", "ok", "check"), strict=True))
    assert found[VISITS[2]]["reasons"] == "left out sub-01_ses-2_FLAIR, which failed"
    assert not [name for name in found if name.startswith("sub-02_c")]
    listing = [f"{name}/{file}" for name in VISITS for file in record(out, name)["files"]]
    expected = Path(__file__).parent.parent / "expected" / "bids_visits.txt"
    assert listing == expected.read_text().splitlines()
    before = times(out)
    assert main(command) == 1
    assert times(out) == before
    assert errors_of(out) == []
    motions = {Path(name).name: motion for name, motion in MOTIONS.items()}
    session_1, session_2 = out / "sub-01/ses-1/anat", out / "sub-01/ses-2/anat"
    within = read_transform(session_1 / "sub-01_ses-1_from-T2w_to-T1w_mode-image_desc-coreg_xfm.txt")
    assert miss_mm(within, motions["sub-01_ses-1_T2w"], points) < EDGE_MM / 2
    within = read_transform(session_2 / "sub-01_ses-2_ce-gd_from-orig_to-T1w_mode-image_desc-coreg_xfm.txt")
    first = motions["sub-01_ses-2_run-1_T1w"]
    there = Affine(motions["sub-01_ses-2_ce-gd_T1w"].matrix @ first.inverse().matrix)
    assert miss_mm(within, there, first.apply(points)) < EDGE_MM / 2
    ends = [read_transform(folder / f"{prefix}_from-T1w_to-midspace_mode-image_desc-coreg_xfm.txt")
            for folder, prefix in ((session_1, "sub-01_ses-1"), (session_2, "sub-01_ses-2_run-1"))]  # fmt: skip
    np.testing.assert_allclose(ends[0].matrix @ ends[1].matrix, np.eye(4), atol=1e-6)  # half way from either
    assert miss_mm(Affine(ends[1].matrix @ ends[0].inverse().matrix), first, points) < EDGE_MM / 2
    check_images(root, out)


def record(out: Path, name: str) -> dict[str, Any]:
    (path,) = out.glob(f"sub-01/**/{name}_quality.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def check_images(root: Path, out: Path) -> None:
    """One interpolation from the original, one mask for all, sidecars that say where an image lies."""
    from neuralprep.resample import resample

    folder = out / "sub-01/ses-1/anat"
    image = load(root / "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz")
    for space, told in (("T1w", "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"), (SPACE, SPACE)):
        made = load(folder / f"sub-01_ses-1_space-{space}_desc-coreg_T2w.nii.gz", checks=False)
        transform = read_transform(folder / f"sub-01_ses-1_from-T2w_to-{space}_mode-image_desc-coreg_xfm.txt")
        again: Volume = resample(image, made.grid, transform, antialias=True)
        assert np.abs(again.data - made.data).max() < 1e-3 * np.ptp(made.data)
        mask = load(folder / f"sub-01_ses-1_space-{space}_desc-coregbrain_mask.nii.gz", checks=False)
        brain = load(folder / f"sub-01_ses-1_space-{space}_desc-coregbrain_T2w.nii.gz", checks=False)
        assert np.array_equal(brain.data, np.where(mask.data > 0, made.data, 0))
        sidecar = json.loads((folder / f"sub-01_ses-1_space-{space}_desc-coregbrain_T2w.json").read_text())
        assert sidecar["SpatialReference"] == told
        assert sidecar["Sources"] == ["bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz"]
    reference = load(root / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    kept = load(folder / "sub-01_ses-1_space-T1w_desc-coreg_T1w.nii.gz", checks=False)
    assert np.array_equal(kept.data, reference.data)
    mean = json.loads((out / "sub-01/anat/sub-01_space-midspace_desc-mean_T1w.json").read_text())
    assert mean["SpatialReference"] == "bids::sub-01/anat/sub-01_space-midspace_desc-mean_T1w.nii.gz"
    assert len(mean["Sources"]) == 2
