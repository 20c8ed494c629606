"""Cases from tables, folders and runs, and what is said about those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.study import Study
from neuralprep.errors import InputError
from neuralprep.export.cases import by_case, read_folders, read_outputs, read_table, subject_of, with_labels
from neuralprep.transform import Affine


def test_table_gives_channels_labels_and_subjects(study: Study) -> None:
    found = read_table(study.table)
    assert found.channels == ("T1w", "FLAIR")
    assert [case.name for case in found.cases] == list(study.cases)
    first = found.cases[0]
    assert first.channels["FLAIR"] == study.folder / "flair" / "sub-1_ses-1_FLAIR.nii.gz"
    assert (first.subject, first.split, first.fold) == ("sub-1", "train", None)
    assert read_table(study.table, ["FLAIR"]).channels == ("FLAIR",)


def test_table_splits_and_folds(study: Study) -> None:
    rows = [{**row, "split": split, "fold": fold, "subject": "n/a"}
            for row, split, fold in zip(study.rows(), ("train", "Train", "tr", "test", "test"), "0102n", strict=True)]
    for row in rows:
        row["fold"] = row["fold"].replace("n", "n/a")
    rows[4]["label"] = ""
    found = read_table(study.write_table(rows))
    assert [case.split for case in found.cases] == ["train"] * 3 + ["test"] * 2
    assert [case.fold for case in found.cases] == [0, 1, 0, 2, None]
    assert found.cases[4].label is None
    without = [{key: value for key, value in row.items() if key != "split"} for row in rows]
    assert [case.split for case in read_table(study.write_table(without)).cases] == ["train"] * 4 + ["test"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name,T1w\na,b.nii\n", "no column 'case'"),
        ("case,T1w,T1w\na,b,c\n", "column 'T1w' twice"),
        ("case,label\na,b\n", "no column of a channel"),
        ("case,T1w\n", "holds no case"),
        ("case,T1w,split\na,b,validation\n", "line 2: split 'validation' is unknown"),
        ("case,T1w,fold\na,b,x\n", "line 2: fold 'x'"),
        ("case,T1w\n,b\n", "line 2: the case has no name"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, fault: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=fault):
        read_table(table)
    table.write_text(text.replace(",", ";"))
    with pytest.raises(InputError, match=fault):
        read_table(table)


def test_folders_are_paired_by_name(study: Study) -> None:
    found = read_folders({"T1w": study.folder / "t1", "FLAIR": study.folder / "flair"})
    cases = with_labels(found.cases, study.folder / "labels")
    by_table = read_table(study.table).cases
    assert [(c.name, c.channels, c.label, c.subject, c.split) for c in cases] == [
        (c.name, c.channels, c.label, c.subject, c.split) for c in by_table
    ]
    (study.folder / "labels" / "sub-2_dseg.nii.gz").unlink()
    cases = with_labels(found.cases, study.folder / "labels")
    assert {case.name: case.split for case in cases}["sub-2"] == "test"


def test_names_without_their_kind(tmp_path: Path) -> None:
    for name in ("sub-01_ses-2_T1w_dseg", "BraTS20_Training_0012_flair", "patient_0003", "T1w"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "notes.txt").touch()
    assert set(by_case(tmp_path)) == {"sub-01_ses-2", "BraTS20_Training_0012", "patient_0003", "T1w"}
    (tmp_path / "sub-01_ses-2_seg.nii").touch()
    with pytest.raises(InputError, match="both belong to the case sub-01_ses-2"):
        by_case(tmp_path)


def test_labels_of_nobody_are_refused(study: Study) -> None:
    found = read_folders({"T1w": study.folder / "t1"})
    (study.folder / "labels" / "sub-9_dseg.nii.gz").touch()
    with pytest.raises(InputError, match=r"1 label maps belong to no case: sub-9_dseg.nii.gz"):
        with_labels(found.cases, study.folder / "labels")


def test_run_folder_gives_suffixes_as_channels(study: Study, make_run: Callable[..., Path]) -> None:
    t1, flair = (study.folder / kind / f"sub-2_{name}.nii.gz" for kind, name in (("t1", "T1w"), ("flair", "FLAIR")))
    same = Affine.identity()
    out = make_run({"sub-2_T1w": (t1, same), "sub-2_FLAIR": (flair, same), "sub-3_T1w": (t1, same)})
    found = read_outputs(out, "space_preproc_brain")
    assert found.channels == ("FLAIR", "T1w")
    assert {case.name: tuple(case.channels) for case in found.cases} == {"sub-2": ("FLAIR", "T1w"), "sub-3": ("T1w",)}
    assert found.cases[0].channels["T1w"].name == "sub-2_space-MNI152NLin2009aSym_desc-preprocbrain_T1w.nii.gz"
    only = read_outputs(out, "preproc_brain", ["T1w"])
    assert only.channels == ("T1w",)
    assert "1 FLAIR" in only.messages[0]
    for output, fault in (("space_preproc", "missing; run again with --outputs space_preproc"),
                          ("brain_mask", "choose one of")):
        with pytest.raises(InputError, match=fault):
            read_outputs(out, output)
    with pytest.raises(InputError, match="no output folder of neuralprep run"):
        read_outputs(study.folder, "preproc_brain")


def test_subject_is_the_bids_entity_or_the_case() -> None:
    assert subject_of("sub-01_ses-2_run-1") == "sub-01"
    assert subject_of("patient7") == "patient7"
