"""Outputs of BIDS scans in folders they share: names, sidecars, replacement, tables that several processes fill."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from engine.fake_processor import fake_job, write_scan_file
from neuralprep.bids.dataset import read_dataset
from neuralprep.bids.derivatives import TABLE, ScanName, available_outputs, expected_files
from neuralprep.bids.derived import IGNORED, check_places, raw_uri, write_dataset_files
from neuralprep.bids.sidecars import dataset_description, image_sidecar, read_json, write_json
from neuralprep.cli.bids import scans_of
from neuralprep.engine.record import (
    ScanRecord,
    bids_records,
    finished_scans,
    quality_path,
    read_status,
    write_status,
)
from neuralprep.engine.run import run_batch
from neuralprep.errors import InputError
from neuralprep.export.cases import read_outputs
from neuralprep.export.native import find_origin

EXPECTED = Path(__file__).parent.parent / "expected"
SPACE = "MNI152NLin2009aSym"
ALL = available_outputs(strip=True, normalize=True, register=True)
VISIT = "sub-01/ses-1/anat"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """One visit with two contrasts, and another participant."""
    root = tmp_path / "raw"
    for seed, name in enumerate(("sub-01_ses-1_T1w", "sub-01_ses-1_T2w", "sub-02_ses-1_run-1_T1w")):
        write_scan_file(root / name[:6] / "ses-1/anat" / f"{name}.nii.gz", seed)
    write_json(root / "dataset_description.json", {"Name": "r", "BIDSVersion": "1.9.0", "DatasetDOI": "doi:10.1/x"})
    write_json(root / "T1w.json", {"MagneticFieldStrength": 3, "EchoTime": 1, "PatientName": "secret"})
    write_json(root / VISIT / "sub-01_ses-1_T1w.json", {"EchoTime": 0.003})
    return root


def run(raw: Path, out: Path, *subjects: str, **changes: Any) -> list[ScanRecord]:
    return run_batch(scans_of(read_dataset(raw, subjects).images), fake_job(out, **changes))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_scans_of_a_visit_share_its_folder_without_clashes(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [record.status for record in run(raw, out)] == ["ok"] * 3
    expected = (EXPECTED / "bids_visit.txt").read_text().splitlines()
    assert listing(out / VISIT) == expected
    names = [ScanName.of(f"sub-01_ses-1_{suffix}", shared=True) for suffix in ("T1w", "T2w")]
    without_pages = [file for name in names for file in expected_files(name, ALL, SPACE)
                     if not file.endswith((".html", ".png"))]  # fmt: skip
    assert sorted(without_pages) == expected
    content = json.loads((out / VISIT / "sub-01_ses-1_T2w_quality.json").read_text())
    assert sorted([*content["files"], "sub-01_ses-1_T2w_quality.json"]) == [f for f in expected if "T2w" in f]
    assert not list(out.glob(".*partial*"))


def test_sidecars_name_the_raw_scan_and_keep_its_acquisition(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "out")
    content = read_json(tmp_path / "out" / VISIT / "sub-01_ses-1_desc-preproc_T1w.json")
    assert content["Sources"] == ["bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"]
    assert (content["EchoTime"], content["MagneticFieldStrength"]) == (0.003, 3)  # the nearest sidecar wins
    assert content["SkullStripped"] is False
    everything = "".join(path.read_text() for path in (tmp_path / "out").rglob("*_desc-*.json"))
    assert "secret" not in everything
    mask = read_json(tmp_path / "out" / VISIT / "sub-01_ses-1_desc-brain_mask.json")
    assert (mask["Type"], "EchoTime" in mask) == ("Brain", False)
    xfm = read_json(tmp_path / "out" / VISIT / f"sub-01_ses-1_from-T2w_to-{SPACE}_mode-image_xfm.json")
    assert (xfm["FromSpace"], xfm["ToSpace"]) == ("T2w", SPACE)
    assert f"from-{SPACE}_to-T2w" in xfm["Direction"]


def test_a_redo_replaces_the_files_of_its_scan_only(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    (out / VISIT / "sub-01_ses-1_note.txt").write_text("mine")
    other = {path: path.stat().st_mtime_ns for path in (out / VISIT).glob("*T2w*")}
    (tmp_path / "one").mkdir()
    scans = [scan for scan in scans_of(read_dataset(raw).images) if scan.name == "sub-01_ses-1_T1w"]
    (record,) = run_batch(scans, fake_job(out, outputs=("brain_mask",)))
    assert (record.status, record.reused) == ("ok", False)
    left = [name for name in listing(out / VISIT) if "T2w" not in name]
    assert left == ["sub-01_ses-1_T1w_quality.json", "sub-01_ses-1_desc-brain_mask.json",
                    "sub-01_ses-1_desc-brain_mask.nii.gz", "sub-01_ses-1_note.txt"]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in (out / VISIT).glob("*T2w*")} == other
    assert all(r.reused for r in run(raw, out, "02"))


def test_a_scan_without_its_record_is_done_again(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    quality_path(out, "sub-01_ses-1_T2w").unlink()  # what a run leaves that is killed while files move in
    assert [record.reused for record in run(raw, out)] == [True, False, True]


def _own_rows(out: Path, subject: int) -> None:
    records = []
    for visit in range(4):
        name = f"sub-{subject:02d}_ses-{visit}_T1w"
        path = out / f"sub-{subject:02d}/ses-{visit}/anat/{name}_quality.json"
        path.parent.mkdir(parents=True)
        write_json(path, {"status": "ok", "scan": name, "measures": {}})
        records.append(ScanRecord(name, "x", "ok"))
        write_status(out, records)


def test_processes_beside_each_other_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=_own_rows, args=(tmp_path, subject)) for subject in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    wanted = sorted(f"sub-{subject:02d}_ses-{visit}_T1w" for subject in range(4) for visit in range(4))
    assert [row["scan"] for row in read_status(tmp_path)] == wanted
    assert sorted(bids_records(tmp_path)) == wanted


def test_places_that_would_spoil_a_data_set_are_refused(raw: Path, tmp_path: Path) -> None:
    for wrong, said in ((raw, "the data set itself"), (raw / "sub-01" / "out", "within the data set"),
                        (raw.parent, "holds the data set")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            check_places(raw, wrong)
    link = tmp_path / "link"
    link.symlink_to(raw)
    with pytest.raises(InputError, match="the data set itself"):
        check_places(raw, link)
    other = tmp_path / "fmriprep"
    other.mkdir()
    write_json(other / "dataset_description.json", {"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fMRIPrep"}]})
    with pytest.raises(InputError, match=r"another data set \(fMRIPrep\)"):
        check_places(raw, other)
    for fine in (raw / "derivatives" / "neuralprep", tmp_path / "new"):
        check_places(raw, fine)


def test_contrasts_of_a_visit_are_channels_of_a_case_and_know_their_origin(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(raw, out)
    assert finished_scans(out)["sub-01_ses-1_T2w"] == str(raw / VISIT / "sub-01_ses-1_T2w.nii.gz")
    found = read_outputs(out, "space_preproc")
    channels = {case.name: sorted(case.channels) for case in found.cases}
    assert channels == {"sub-01_ses-1": ["T1w", "T2w"], "sub-02_ses-1_run-1": ["T1w"]}
    for suffix in ("T1w", "T2w"):
        image = next(case for case in found.cases if len(case.channels) == 2).channels[suffix]
        origin = find_origin(image)
        assert origin is not None
        assert (origin.scan, origin.space) == (f"sub-01_ses-1_{suffix}", SPACE)
        assert origin.transform.name == f"sub-01_ses-1_from-{suffix}_to-{SPACE}_mode-image_xfm.txt"
    assert find_origin(out / VISIT / "sub-01_ses-1_desc-preproc_T1w.nii.gz") is None


def test_an_output_folder_belongs_to_one_data_set(raw: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    run(raw, out)
    write_dataset_files(out, raw, {})
    other = tmp_path / "other"
    (other / "sub-01").mkdir(parents=True)
    check_places(raw, out)
    with pytest.raises(InputError, match="another data set"):
        check_places(other, out)
    raw.rename(tmp_path / "moved")  # the same data in a new place
    check_places(tmp_path / "moved", out)
    run_batch([write_scan_file(tmp_path / "scan.nii.gz")], fake_job(plain))
    with pytest.raises(InputError, match="outputs of `neuralprep run`"):
        check_places(other, plain)


def test_description_links_to_the_raw_data_and_outlives_a_plain_rewrite(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    out.mkdir(parents=True)
    (out / ".bidsignore").write_text("mine.txt\n")
    for _ in range(2):
        write_dataset_files(out, raw, read_json(raw / "dataset_description.json"))
    content = read_json(out / "dataset_description.json")
    assert content["DatasetType"] == "derivative"
    assert (out / content["DatasetLinks"]["raw"]).resolve() == raw
    assert content["SourceDatasets"] == [{"URL": "../../raw", "DOI": "doi:10.1/x"}]
    assert dataset_description(out) == content
    assert (out / ".bidsignore").read_text().splitlines() == ["mine.txt", *IGNORED]
    assert raw_uri("sub-01/x.nii.gz") == "bids:raw:sub-01/x.nii.gz"


def test_raw_metadata_go_to_images_of_the_scan_only() -> None:
    for row in TABLE:
        if row.kind != "xfm":
            content = image_sidecar(row, source="x", space=SPACE, raw={"EchoTime": 1, "PatientID": "1"})
            assert ("EchoTime" in content) == (row.kind == "image")
            assert "PatientID" not in content
