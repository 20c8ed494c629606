"""``neuralprep bids``: options, exit codes, what a run and the group level leave, and the official validator."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.fake_processor import make_fake, write_data_set, write_scan_file
from neuralprep.cli import bids, main
from neuralprep.engine.worker import Job

SPACE = "MNI152NLin2009aSym"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three participants; the name of the last says that it fails."""
    names = ("sub-01_ses-1_T1w", "sub-01_ses-1_FLAIR", "sub-01_ses-2_T1w", "sub-02_ses-1_run-1_T1w",
             "sub-02_ses-1_run-2_T1w", "sub-03_ses-1_acq-bad_T1w")  # fmt: skip
    return write_data_set(tmp_path / "raw", names)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs that were run, with a processor that costs nothing."""
    jobs: list[Job] = []

    def job_from(args: Any) -> Job:
        from dataclasses import replace

        from neuralprep.cli.run import job_from as real

        jobs.append(replace(real(args), make_processor=make_fake, write_report=False))
        return jobs[-1]

    monkeypatch.setattr(bids, "job_from", job_from)
    return jobs


def rows(out: Path, name: str = "status.tsv") -> dict[str, dict[str, str]]:
    with (out / name).open() as stream:
        return {row["scan"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_participant_then_group(raw: Path, tmp_path: Path, made: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["bids", str(raw), str(out), "participant", "--skip-bids-validation"]) == 1
    found = rows(out)
    assert len(found) == 6
    assert found["sub-03_ses-1_acq-bad_T1w"]["status"] == "failed"
    for page in ("index.html", "sub-01.html", "sub-02.html", "sub-03.html", "logs/CITATION.md", "README.md"):
        assert (out / page).is_file(), page
    assert "5 head scans were processed" in (out / "logs/CITATION.md").read_text()
    assert "sub-01_ses-2" in (out / "sub-01.html").read_text()
    assert "sub-02" not in (out / "sub-01.html").read_text()
    capsys.readouterr()
    shutil.rmtree(raw)  # the group level needs no images
    (out / "status.tsv").rename(out / "kept.tsv")
    assert main(["bids", str(raw), str(out), "group"]) == 0
    (out / "kept.tsv").rename(out / "status.tsv")
    assert main(["bids", str(raw), str(out), "group"]) == 1
    assert "5 scans, 1 failed" in capsys.readouterr().out
    table = rows(out, "group.tsv")
    assert {name: row["status"] for name, row in table.items()} == {n: r["status"] for n, r in found.items()}
    assert table["sub-02_ses-1_run-2_T1w"]["run"] == "2"
    assert table["sub-01_ses-1_FLAIR"]["brain_ml"] == found["sub-01_ses-1_FLAIR"]["brain_ml"]
    described = json.loads((out / "group.json").read_text())
    assert list(described) == list(next(iter(table.values())))
    assert all(column["Description"] for column in described.values())
    assert (out / "group_FLAIR.html").is_file()
    assert 'href="group_T1w.html"' in (out / "group.html").read_text()


@pytest.mark.parametrize(
    ("flags", "scans"),
    [
        (["--participant-label", "01", "sub-02", "--session-id", "ses-1", "--run-id", "2"], ["sub-02_ses-1_run-2_T1w"]),
        (["--suffix", "FLAIR"], ["sub-01_ses-1_FLAIR"]),
        (["--participant_label", "01", "--session-label", "2", "--random-seed", "7"], ["sub-01_ses-2_T1w"]),
    ],
)
def test_selection(raw: Path, tmp_path: Path, made: list[Job], flags: list[str], scans: list[str]) -> None:
    assert main(["bids", str(raw), str(tmp_path / "out"), "participant", "-q", *flags]) == 0
    assert sorted(rows(tmp_path / "out")) == scans


def test_filter_file_and_runs_side_by_side_on_one_folder(raw: Path, tmp_path: Path, made: list[Job]) -> None:
    path, out = tmp_path / "filter.json", tmp_path / "out"
    path.write_text('{"t1w": {"acquisition": null}, "flair": {"session": "9"}}')
    for label in ("01", "02"):
        flags = ["--participant-label", label, "--bids-filter-file", str(path), "--nprocs", "1", "-q"]
        assert main(["bids", str(raw), str(out), "participant", *flags]) == 0
    kept = ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_ses-1_run-1_T1w", "sub-02_ses-1_run-2_T1w"]
    assert sorted(rows(out)) == kept
    assert all(name in (out / "index.html").read_text() for name in kept)


@pytest.mark.parametrize(
    ("flags", "space", "resolution", "register"),
    [
        ([], SPACE, None, True),
        (["--output-spaces", f"{SPACE}:res-2", "T1w"], SPACE, 2.0, True),
        (["--output-spaces", "native"], SPACE, None, False),
        (["--space", SPACE, "--res", "1.5"], SPACE, 1.5, True),
    ],
)
def test_spaces(
    raw: Path, tmp_path: Path, made: list[Job], flags: list[str], space: str, resolution: float | None, register: bool
) -> None:
    assert main(["bids", str(raw), str(tmp_path / "out"), "participant", "--suffix", "FLAIR", "-q", *flags]) == 0
    settings = made[0].settings
    assert (settings.space, settings.resolution, settings.register) == (space, resolution, register)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output-spaces", "MNI152NLin2009cAsym"], f"MNI152NLin2009cAsym cannot be made. There are {SPACE}"),
        (["--output-spaces", f"{SPACE}:cohort-1"], "no 'cohort-1'"),
        (["--output-spaces", f"{SPACE}:res-99"], "99 mm is outside"),
        (["--output-spaces", f"{SPACE}:res-1", f"{SPACE}:res-2", "--no-register"], "say the same"),
        (["--output-spaces", "native", "--no-register"], "say the same"),
        (["--output-spaces", "native", "--outputs", "space_preproc"], "cannot be made with --no-register"),
        (["-w", "work"], "--work-dir has no effect: there are no working files"),
        (["--suffix", "bold"], "--suffix bold is no anatomical image"),
        (["--no-strip", "--border", "2"], "--border has no effect with --no-strip"),
        (["--participant-label", "9"], "has no participant 9. There are 01, 02, 03."),
        (["--suffix", "T2w"], "no image to process: left out 1 images: FLAIR, not among"),
        (["--bids-filter-file", "nowhere.json"], "nowhere.json: no such file"),
        (["--reports-only"], "has no finished scan"),
        (["--reports-only", "--border", "2"], "no effect with --reports-only"),
    ],
)
def test_what_cannot_take_effect_is_refused(
    raw: Path, tmp_path: Path, made: list[Job], capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    try:
        code: Any = main(["bids", str(raw), str(tmp_path / "out"), "participant", *flags])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert not (tmp_path / "out" / "status.tsv").exists()


def test_the_group_level_takes_no_flags_of_the_other_and_needs_results(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in (["--participant-label", "01"], ["--no-strip"], ["--omp-nthreads", "2"], ["--nprocs", "2"]):
        with pytest.raises(SystemExit):
            main(["bids", str(raw), str(tmp_path / "out"), "group", *flag])
        assert "has no effect on the group level" in capsys.readouterr().err
    assert main(["bids", str(raw), str(tmp_path / "out"), "group"]) == 2
    assert "no results of the participant level" in capsys.readouterr().err


def test_output_within_the_data_set_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (raw, raw / "sub-01" / "out"):
        assert main(["bids", str(raw), str(wrong), "participant"]) == 2
        assert "derivatives" in capsys.readouterr().err
    assert not (raw / "sub-01" / "out").exists()


def test_plain_scans_are_not_mixed_into_derivatives(
    raw: Path, tmp_path: Path, made: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["bids", str(raw), str(out), "participant", "--participant-label", "01", "-q"]) == 0
    before = (out / "status.tsv").read_text()
    scan = write_scan_file(tmp_path / "scan.nii.gz")
    assert main(["run", str(scan), str(out), "-q"]) == 2
    assert "holds outputs of `neuralprep bids`" in capsys.readouterr().err
    assert (out / "status.tsv").read_text() == before
    assert not (out / "scan").exists()


def test_reports_only_writes_the_pages_again(raw: Path, tmp_path: Path, made: list[Job]) -> None:
    out = tmp_path / "out"
    flags = ["participant", "--participant-label", "01", "-q"]
    assert main(["bids", str(raw), str(out), *flags]) == 0
    for gone in ("index.html", "sub-01.html", "status.tsv", "logs/CITATION.md"):
        (out / gone).unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert main(["bids", str(raw), str(out), *flags, "--reports-only"]) == 0
    assert len(rows(out)) == 3
    assert (out / "index.html").is_file()
    assert (out / "sub-01.html").is_file()
    assert (out / "logs/CITATION.md").is_file()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before


def test_a_broken_sidecar_and_a_link_to_nowhere_stop_nothing_else(raw: Path, tmp_path: Path, made: list[Job]) -> None:
    (raw / "T1w.json").write_text("{ not json")
    (raw / "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz").symlink_to("../.git/annex/objects/x")
    out = tmp_path / "out"
    assert main(["bids", str(raw), str(out), "participant", "--participant-label", "01", "-q"]) == 1
    found = rows(out)
    assert [name for name, row in found.items() if row["status"] == "failed"] == ["sub-01_ses-1_T2w"]
    assert "fetch the data" in found["sub-01_ses-1_T2w"]["reasons"]
    content = json.loads((out / "sub-01/ses-1/anat/sub-01_ses-1_T1w_quality.json").read_text())
    assert any("T1w.json is not valid JSON" in note for note in content["notes"])


def _validator() -> str:
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("bids-validator-deno", path=folders)
    if program is None:
        pytest.skip("the BIDS validator is not installed (bids-validator-deno, extra dev)")
    return program


def issues(folder: Path, severity: str) -> list[str]:
    done = subprocess.run([_validator(), str(folder), "--format", "json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["issues"]["issues"]
    return [f"{i['code']} {i.get('subCode', '')} {i['location']}" for i in found if i["severity"] == severity]


def test_the_validator_finds_no_fault_with_any_contrast(raw: Path, tmp_path: Path, made: list[Job]) -> None:
    """With the outputs of the fake processor; the names and sidecars are the real ones."""
    _validator()
    folder = raw / "sub-02/ses-1/anat"
    for seed, suffix in enumerate(("acq-a_ce-gd_rec-n_T2w", "part-mag_T2starw", "PDw", "UNIT1", "inplaneT2",
                                   "T2star", "echo-1_PDw", "chunk-1_T1w", "angio", "T1map")):  # fmt: skip
        write_scan_file(folder / f"sub-02_ses-1_{suffix}.nii.gz", seed)
    filters = tmp_path / "f.json"
    filters.write_text('{"angio": {}, "t1map": {}}')
    out = raw / "derivatives" / "neuralprep"
    main(["bids", str(raw), str(out), "participant", "-q", "--bids-filter-file", str(filters)])
    main(["bids", str(raw), str(out), "group", "-q"])
    assert len(rows(out)) == 16
    assert issues(out, "error") == []
    assert {issue.split()[0] for issue in issues(out, "warning")} <= {"TOO_FEW_AUTHORS", "SIDECAR_KEY_RECOMMENDED"}


@pytest.mark.slow
def test_a_data_set_of_heads_with_broken_ones(tmp_path: Path) -> None:
    """The whole chain with the shipped network on rendered heads."""
    from neuralprep.demo import random_pose, render
    from neuralprep.grid import Grid
    from neuralprep.templates import load_template
    from neuralprep.volume import save

    root, out = tmp_path / "raw", tmp_path / "out"
    heads = {"sub-01/ses-1/anat/sub-01_ses-1_T1w": 2.0, "sub-01/ses-2/anat/sub-01_ses-2_T2w": 2.5}
    for seed, (name, edge) in enumerate(heads.items()):
        rng = np.random.default_rng(seed)
        pose = random_pose(rng)
        shape = (round(204 / edge), round(240 / edge), round(216 / edge))
        grid = Grid.centered(shape, edge, pose.apply(np.array([[0.0, -8.0, -22.0]]))[0], codes="RAS")
        (root / name).parent.mkdir(parents=True)
        save(render(load_template(), grid, pose, rng)[0], root / f"{name}.nii.gz", dtype="int16", space="native")
    whole = (root / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz").read_bytes()
    for name, content in {"sub-02_T1w": whole[: len(whole) // 2], "sub-03_T1w": b"", "sub-04_T1w": b"no image"}.items():
        (root / name[:6] / "anat").mkdir(parents=True)
        (root / name[:6] / "anat" / f"{name}.nii.gz").write_bytes(content)
    (root / "dataset_description.json").write_text('{"Name": "heads", "BIDSVersion": "1.9.0", "Authors": ["A", "B"]}')
    command = ["bids", str(root), str(out), "participant", "-q", "--output-spaces", f"{SPACE}:res-2", "--threads", "1"]
    assert main(command) == 1
    found = rows(out)
    assert {name: row["status"] != "failed" for name, row in found.items()} == {
        "sub-01_ses-1_T1w": True, "sub-01_ses-2_T2w": True, "sub-02_T1w": False, "sub-03_T1w": False,
        "sub-04_T1w": False}  # fmt: skip
    assert all(row["reasons"] != "n/a" for row in found.values() if row["status"] == "failed")
    listing = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert listing == (Path(__file__).parent.parent / "expected" / "bids_heads.txt").read_text().splitlines()
    before = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*")}
    assert main(command) == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*")} == before
    assert main(["bids", str(root), str(out), "group", "-q"]) == 1
    text = (out / "logs/CITATION.md").read_text()
    assert "2 head scans were processed" in text
    assert "2 mm voxels" in text
    assert issues(out, "error") == []
