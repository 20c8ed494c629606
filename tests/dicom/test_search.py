"""Folders, files and lists of DICOM as inputs of a run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom.phantom import enhanced, write_series
from engine.fake_processor import fake_job, write_scan_file
from neuralprep.dicom.search import find, series_of
from neuralprep.engine.inputs import expand
from neuralprep.engine.run import run_batch
from neuralprep.engine.single import one_scan
from neuralprep.errors import InputError


def names(found) -> list[str]:
    return [scan.name for scan in found.scans]


def test_a_folder_with_everything_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "exam"
    write_series(folder, number=2, ending="", start=0)
    write_series(folder, number=5, ending=".IMA", start=100, EchoTime=90.0)
    write_series(folder, number=1, start=200, SeriesDescription="localizer")
    enhanced(folder)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\xff" * 50)
    (folder / ".hidden.dcm").write_bytes(bytes(128) + b"DICM")
    found = expand([folder], tmp_path / "out")
    assert names(found) == ["exam_series-2", "exam_series-5", "exam_series-7"]
    assert not any(scan.fault for scan in found.scans)
    text = "\n".join(found.messages)
    assert "left out 1 DICOM file without an image or with damaged tags" in text
    assert "series 1 skipped: a localiser" in text


def test_dicomdir_stands_for_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "disc" / "DATA" / "A1", ending="")
    (tmp_path / "disc" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(300))
    for given in (tmp_path / "disc", tmp_path / "disc" / "DICOMDIR"):
        found = expand([given], tmp_path / "out")
        assert names(found) == ["disc_series-3"]
        assert not found.messages


def test_one_file(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "in")
    assert names(expand([path], tmp_path / "out")) == ["enhanced_series-7"]
    (first, *_) = write_series(tmp_path / "classic")
    with pytest.raises(InputError, match=r"0000\.dcm: is one slice of a series; give the folder"):
        expand([first], tmp_path / "out")


def test_slices_that_a_shell_lists_are_their_folder(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    found = expand(paths, tmp_path / "out")
    assert names(found) == ["in_series-3"]
    assert "read as a folder" in found.messages[0]


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tgz", ".7z"])
def test_archives_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scans{ending}"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    (scan,) = expand([path], tmp_path / "out").scans
    assert "is an archive. Unpack it" in scan.fault


def test_copies_are_left_out(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    for path in paths[:4]:
        shutil.copy(path, tmp_path / "in" / f"copy-{path.name}")
    found = find(tmp_path / "in")
    assert "left out 4 copies" in found.messages[0]
    assert not found.series[0].fault
    assert len(found.series[0].files) == 24


def test_one_identifier_for_two_images_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    tags = pydicom.dcmread(paths[3])
    tags.PixelData = bytes(len(tags.PixelData))
    tags.save_as(tmp_path / "in" / "other.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="two different images carry the same identifier"):
        find(tmp_path / "in")


def test_people_get_numbers_and_not_names(tmp_path: Path) -> None:
    for person, number in (("Zoe", 3), ("Anna", 4)):
        write_series(tmp_path / "all" / person, number=number, PatientID=person, PatientName=person)
    found = expand([tmp_path / "all"], tmp_path / "out")
    assert names(found) == ["all_patient-1_series-4", "all_patient-2_series-3"]
    found = expand([tmp_path / "all" / "Zoe", tmp_path / "all" / "Anna"], tmp_path / "out")
    assert names(found) == ["Zoe_series-3", "Anna_series-4"]  # these names the user gave


def test_equal_series_numbers_stay_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", number=3)
    write_series(tmp_path / "in" / "b", number=3)
    assert names(expand([tmp_path / "in"], tmp_path / "out")) == ["in_series-3_part-1", "in_series-3_part-2"]


@pytest.mark.parametrize("number", [-1, 10**8])
def test_odd_series_numbers(tmp_path: Path, number: int) -> None:
    write_series(tmp_path / "in", number=number)
    assert names(expand([tmp_path / "in"], tmp_path / "out")) == ["in_series-0"]


def test_no_series_number(tmp_path: Path) -> None:
    write_series(tmp_path / "in", SeriesNumber=None)
    assert names(expand([tmp_path / "in"], tmp_path / "out")) == ["in_series-0"]


def test_a_list_of_folders(tmp_path: Path) -> None:
    write_series(tmp_path / "one")
    write_series(tmp_path / "two", SeriesDescription="localizer")
    write_scan_file(tmp_path / "plain.nii.gz")
    (tmp_path / "list.txt").write_text("one\ntwo\nplain.nii.gz\nnothing\n")
    (tmp_path / "nothing").mkdir()
    found = expand([tmp_path / "list.txt", tmp_path / "plain.nii.gz"], tmp_path / "out")
    assert names(found) == ["one_series-3", "two", "plain", "nothing"]
    faults = [scan.fault for scan in found.scans]
    assert [bool(fault) for fault in faults] == [False, True, False, True]
    assert "no anatomical series of a head: series 3 skipped: a localiser" in faults[1]


def test_verbs_that_read_no_dicom_say_so(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    write_scan_file(tmp_path / "a.nii.gz")
    found = expand([tmp_path / "in", tmp_path / "a.nii.gz"], tmp_path / "out", dicom=False)
    assert "is a DICOM series, which only run and strip read; convert it" in found.scans[0].fault
    assert not found.scans[1].fault


def test_images_go_before_dicom_with_a_word(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "raw")
    write_scan_file(tmp_path / "in" / "a.nii.gz")
    found = expand([tmp_path / "in"], tmp_path / "out")
    assert names(found) == ["a"]
    assert "left out 24 DICOM files" in found.messages[0]


def test_a_series_can_be_named_by_its_source(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", number=2)
    write_series(tmp_path / "in" / "b", number=6)
    source = expand([tmp_path / "in"], tmp_path / "out").scans[1].path
    found = expand([source], tmp_path / "out")
    assert names(found) == ["in_series-6"]
    assert found.scans[0].series is not None
    assert series_of(tmp_path / "in" / "in_series-9") is None
    assert one_scan(source).name == "in_series-6"
    with pytest.raises(InputError, match=r"holds 2 scans \(in_series-2, in_series-6\)"):
        one_scan(tmp_path / "in")


def test_a_batch_runs_resumes_and_notices_changes(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    out = tmp_path / "out"
    (record,) = run_batch([tmp_path / "in"], fake_job(out))
    assert (record.scan, record.status, record.reused) == ("in_series-3", "ok", False)
    assert record.source == str(tmp_path / "in" / "in_series-3")
    assert not [path for path in out.rglob("*") if "dicom-" in path.name or path.suffix == ".dcm"]
    (record,) = run_batch([tmp_path / "in"], fake_job(out))
    assert record.reused
    tags = pydicom.dcmread(paths[5])
    tags.PixelData = np.full(40 * 36, 7, "<i2").tobytes()
    tags.save_as(paths[5])
    (record,) = run_batch([tmp_path / "in"], fake_job(out))
    assert not record.reused


def test_two_folders_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place in ("a", "b"):
        write_series(tmp_path / place / "dicom")
        run_batch([tmp_path / place / "dicom"], fake_job(out))
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["b_dicom_series-3".replace("b_", "dicom_"),
                                                                             "dicom_series-3"]  # fmt: skip


def test_a_fault_of_one_series_leaves_the_others(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in" / "a", number=2)
    paths[9].unlink()
    write_series(tmp_path / "in" / "b", number=4)
    write_series(tmp_path / "in" / "c", number=5)
    records = run_batch([tmp_path / "in"], fake_job(tmp_path / "out"), jobs=2)  # series travel to other processes
    assert [record.status for record in records] == ["failed", "ok", "ok"]
    assert "series 2: 1 slice is missing" in records[0].reasons[0]


def test_files_that_go_while_it_runs(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    (scan,) = expand([tmp_path / "in"], tmp_path / "out").scans
    paths[4].unlink()
    (record,) = run_batch([scan], fake_job(tmp_path / "out"))
    assert record.status == "failed"
    assert str(paths[4]) not in record.reasons[0]
    assert "Traceback" not in record.reasons[0]


@pytest.mark.parametrize("package", ["pydicom", "dcm2niix"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    write_series(tmp_path / "in")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'neuralprep\[dicom\]'"):
        expand([tmp_path / "in"], tmp_path / "out")
