"""The data set on disk: layout, numbers, sources, refusals - and, where it is installed, nnU-Net's own verifier."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from export.study import GRID, Study, label_ball
from neuralprep.errors import InputError
from neuralprep.export.cases import Found, read_folders, read_outputs, read_table, with_labels
from neuralprep.export.checks import NnunetOptions
from neuralprep.export.native import carry_labels
from neuralprep.export.nnunet import commands, export_nnunet
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume, save
from samples import affine_matrix

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
MAPPED = {"label_map": {1: 1, 2: 2, 4: 3}, "classes": REGIONS, "folds": 3}


def options(**changes: object) -> NnunetOptions:
    return NnunetOptions(501, "Study", **{**MAPPED, **changes})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sources.tsv").read_text().splitlines(), delimiter="\t"))


def test_layout_and_descriptions(study: Study, raw: Path) -> None:
    rows = study.rows()
    rows[4]["label"] = ""
    done = export_nnunet(read_table(study.write_table(rows)), raw, options())
    trained = study.cases[:4]
    images = [f"imagesTr/{case}_{channel:04d}.nii.gz" for case in trained for channel in (0, 1)]
    assert names(done.folder) == sorted([
        "dataset.json", "neuralprep_export.json", "sources.tsv", "splits_final.json", *images,
        *(f"labelsTr/{case}.nii.gz" for case in trained), "imagesTs/sub-4_0000.nii.gz", "imagesTs/sub-4_0001.nii.gz",
    ])  # fmt: skip
    assert json.loads((done.folder / "dataset.json").read_text()) == {
        "name": "Study", "channel_names": {"0": "T1w", "1": "FLAIR"},
        "labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3}, "regions_class_order": [2, 1, 3],
        "numTraining": 4, "file_ending": ".nii.gz",
    }  # fmt: skip
    parts = json.loads((done.folder / "splits_final.json").read_text())
    assert len(parts) == done.folds == 3
    together = next(part["val"] for part in parts if "sub-1_ses-1" in part["val"])
    assert "sub-1_ses-2" in together
    # images as they were, labels with new numbers
    source, target = study.folder / "flair" / "sub-2_FLAIR.nii.gz", done.folder / "imagesTr" / "sub-2_0001.nii.gz"
    assert source.read_bytes() == target.read_bytes()
    label = nib.load(done.folder / "labelsTr" / "sub-2.nii.gz")
    before = nib.load(study.folder / "labels" / "sub-2_dseg.nii.gz")
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(label.affine, before.affine)
    np.testing.assert_array_equal(np.array([0, 1, 2, 0, 3])[np.asarray(before.dataobj)], np.asarray(label.dataobj))
    (row,) = [row for row in table(done.folder) if row["case"] == "sub-2" and row["role"] == "FLAIR"]
    assert (row["source"], row["action"], row["subject"]) == (str(source), "copied", "sub-2")
    lines = commands(done, 501)
    assert lines[0] == "nnUNetv2_plan_and_preprocess -d 501 -pl nnUNetPlannerResEncL --verify_dataset_integrity"
    assert lines[2] == "nnUNetv2_train 501 3d_fullres FOLD -p nnUNetResEncUNetLPlans"


def test_hard_links_share_the_file_and_copies_do_not(study: Study, raw: Path) -> None:
    found = read_table(study.table)
    source = study.folder / "t1" / "sub-2_T1w.nii.gz"
    done = export_nnunet(found, raw, options())
    assert not (done.folder / "imagesTr" / "sub-2_0000.nii.gz").samefile(source)
    done = export_nnunet(found, raw, options(hard_links=True, overwrite=True))
    assert (done.folder / "imagesTr" / "sub-2_0000.nii.gz").samefile(source)
    assert not any(path.name.startswith(".") for path in raw.iterdir())


def test_what_nnunet_would_read_otherwise_is_written_anew(study: Study, raw: Path) -> None:
    image = nib.load(study.folder / "t1" / "sub-2_T1w.nii.gz")
    data = np.asarray(image.dataobj)
    holes = data.copy()
    holes[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(holes, image.affine), study.folder / "t1" / "sub-2_T1w.nii.gz")
    disagreeing = nib.Nifti1Image(data, image.affine)
    disagreeing.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), code=1)
    disagreeing.set_sform(image.affine, code=1)
    nib.save(disagreeing, study.folder / "flair" / "sub-2_FLAIR.nii.gz")
    nib.save(nib.Nifti1Image(data[..., None], image.affine), study.folder / "t1" / "sub-3_T1w.nii.gz")
    rounded = image.affine.copy()
    rounded[:3, 3] += 0.004
    nib.save(nib.Nifti1Image(data, rounded), study.folder / "flair" / "sub-3_FLAIR.nii.gz")
    plain = study.folder / "t1" / "sub-4_T1w.nii"
    nib.save(nib.Nifti1Image(data, image.affine), plain)
    (study.folder / "t1" / "sub-4_T1w.nii.gz").unlink()
    rows = study.rows()
    rows[4]["T1w"] = f"t1/{plain.name}"
    done = export_nnunet(read_table(study.write_table(rows)), raw, options())
    notes = {row["file"]: row["note"] for row in table(done.folder) if row["action"] == "written"}
    for file, note in (("sub-2_0000", "1 NaN voxels"), ("sub-2_0001", "sform and qform disagree"),
                       ("sub-3_0000", "more than three"), ("sub-3_0001", "rounded"), ("sub-4_0000", "no .nii.gz")):
        made = nib.load(done.folder / "imagesTr" / f"{file}.nii.gz")
        assert note in notes.pop(f"imagesTr/{file}.nii.gz")
        assert made.shape == GRID.shape
        assert np.isfinite(made.get_fdata()).all()
        np.testing.assert_allclose(made.get_qform(), made.get_sform(), atol=1e-5)
        np.testing.assert_allclose(made.affine, image.affine, atol=1e-5)
    assert all(file.startswith("labelsTr") for file in notes)


def test_labels_drawn_on_the_scan_are_carried_to_template_space(
    study: Study, raw: Path, make_run: Callable[..., Path]
) -> None:
    transforms = {name: Affine(affine_matrix(turn, (1.1, 0.9, 1.0), (2, -1, 3)))
                  for name, turn in (("T1w", (0.2, 0.1, 0)), ("FLAIR", (-0.1, 0.2, 0.1)))}
    scans = {f"{case}_{channel}": (study.folder / kind / f"{case}_{channel}.nii.gz", transforms[channel])
             for case in ("sub-2", "sub-3") for kind, channel in (("t1", "T1w"), ("flair", "FLAIR"))}
    found = read_outputs(make_run(scans), "space_preproc_brain")
    for path in (study.folder / "labels").glob("sub-[14]*"):
        path.unlink()
    found = replace(found, cases=with_labels(found.cases, study.folder / "labels"))
    with pytest.raises(InputError, match="say with --labels-on"):  # both scans have one grid, but not one transform
        export_nnunet(found, raw, options(folds=2))
    done = export_nnunet(found, raw, options(folds=2, label_channel="FLAIR"))
    label = nib.load(done.folder / "labelsTr" / "sub-2.nii.gz")
    image = nib.load(done.folder / "imagesTr" / "sub-2_0001.nii.gz")
    np.testing.assert_array_equal(label.affine, image.affine)
    grid = Grid(label.shape, label.affine)
    expected = carry_labels(label_ball(GRID, 2), grid, transforms["FLAIR"]).data
    np.testing.assert_array_equal(np.array([0, 1, 2, 0, 3])[expected], np.asarray(label.dataobj))
    rows = {(row["case"], row["role"]): row for row in table(done.folder)}
    assert rows["sub-2", "label"]["note"].startswith("carried from the grid of its scan")
    assert rows["sub-2", "label"]["transform"] == rows["sub-2", "FLAIR"]["transform"]
    transform = done.folder / rows["sub-2", "FLAIR"]["transform"]
    np.testing.assert_allclose(np.loadtxt(transform), transforms["FLAIR"].matrix, atol=1e-6)
    assert rows["sub-2", "T1w"]["transform"] != rows["sub-2", "FLAIR"]["transform"]


def test_existing_data_sets_are_safe(study: Study, raw: Path) -> None:
    found = read_table(study.table)
    (raw / "Dataset501_Other").mkdir()
    with pytest.raises(InputError, match="has the number 501 already"):
        export_nnunet(found, raw, options())
    (raw / "Dataset501_Other").rename(raw / "Dataset501_Study")
    with pytest.raises(InputError, match="exists; give --overwrite"):
        export_nnunet(found, raw, options())
    with pytest.raises(InputError, match="not written by neuralprep export"):
        export_nnunet(found, raw, options(overwrite=True))
    (raw / "Dataset501_Study").rmdir()
    first = export_nnunet(found, raw, options())
    kept = {name: (first.folder / name).stat().st_mtime_ns for name in names(first.folder)}
    with pytest.raises(InputError, match="says nothing of label 4"):
        export_nnunet(found, raw, options(overwrite=True, label_map={1: 1, 2: 2}))
    assert {name: (first.folder / name).stat().st_mtime_ns for name in names(first.folder)} == kept
    smaller = Found(found.cases[:3], ("T1w",))
    second = export_nnunet(smaller, raw, options(overwrite=True, folds=2))
    assert len(names(second.folder)) == 4 + 3 + 3


def test_all_faulty_cases_are_named_at_once(study: Study, raw: Path) -> None:
    rows = study.rows()
    rows[0]["FLAIR"] = ""
    save(Volume(np.zeros(GRID.shape, np.float32), Grid.centered(GRID.shape, 2.0)),
         study.folder / "flair" / "sub-1_ses-2_FLAIR.nii.gz")
    fractions = label_ball(GRID).data * np.float32(0.5)
    save(Volume(fractions, GRID), study.folder / "labels" / "sub-2_dseg.nii.gz")
    moved = Grid(GRID.shape, GRID.affine + np.eye(4, k=3))
    save(label_ball(moved), study.folder / "labels" / "sub-3_dseg.nii.gz")
    (study.folder / "t1" / "sub-4_T1w.nii.gz").unlink()
    with pytest.raises(InputError) as error:
        export_nnunet(read_table(study.write_table(rows)), raw, options())
    text = str(error.value)
    for part in ("5 of 5 cases", "sub-1_ses-1: has no image of channel FLAIR", "FLAIR.nii.gz is not on the grid of",
                 "no whole numbers (0.5", "sub-3_dseg.nii.gz is not on the grid of its images", "no such file"):
        assert part in text
    assert not list(raw.iterdir())


def test_other_refusals(study: Study, raw: Path) -> None:
    found = read_table(study.table)
    first = found.cases[0]
    for cases, changes, fault in (
        ([first, replace(first, name="SUB-1_ses-1")], {}, "is there twice"),
        ([replace(first, name="a b")], {}, "use letters"),
        ([], {}, "no case to export"),
        ([replace(first, label=None)], {}, "is for training"),
        ([replace(first, label=None, split="test")], {}, "nothing to train on"),
        (found.cases, {"label_map": None}, "label 4 has no name"),
        (found.cases, {"label_map": None, "classes": None}, 'give --label-map "1=1;2=2;4=3"'),
        (found.cases, {"folds": 5}, "4 subjects cannot make 5 folds"),
        (found.cases, {"label_channel": "T2w"}, "is no channel"),
        ([replace(first, split="test"), *found.cases[1:]], {}, "put all cases of a subject on one side"),
    ):
        with pytest.raises(InputError, match=fault):
            export_nnunet(Found(cases, found.channels), raw, options(**changes))
    with pytest.raises(InputError, match="no such folder"):
        export_nnunet(found, raw / "missing", options())
    assert not list(raw.iterdir())


def test_prediction_alone_needs_no_labels(study: Study, raw: Path) -> None:
    found = read_folders({"T1w": study.folder / "t1"})
    done = export_nnunet(found, raw, options(test_only=True, classes=None))
    assert (done.training, done.testing, done.folds) == (0, 5, 0)
    assert len(list((done.folder / "imagesTs").iterdir())) == 5
    assert not (done.folder / "splits_final.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is None, reason="nnunetv2 is not installed")
@pytest.mark.parametrize("sheared", [False, True])
def test_nnunet_accepts_the_data_set(study: Study, raw: Path, sheared: bool) -> None:
    if sheared:  # a tilted gantry, which ITK refuses to read: the last case, so that nnU-Net's own trial misses it
        shear = np.eye(4)
        shear[1, 2] = 0.2
        for path in study.folder.glob("*/sub-4*.nii.gz"):
            data = np.asarray(nib.load(path).dataobj)
            save(Volume(data, Grid(data.shape, GRID.affine @ shear)), path)
    done = export_nnunet(read_table(study.table), raw, options())
    command = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
    folders = {f"nnUNet_{kind}": str(raw.parent / kind) for kind in ("raw", "preprocessed", "results")}
    finished = subprocess.run(
        [command, "-d", "501", "-pl", "nnUNetPlannerResEncL", "--verify_dataset_integrity", "-npfp", "1", "--no_pp"],
        env={**os.environ, **folders}, capture_output=True, text=True, timeout=600, check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "verify_dataset_integrity Done." in finished.stdout
    assert "Warning" not in finished.stdout
    assert "rror:" not in finished.stdout
    assert ("NibabelIO" if sheared else "SimpleITKIO") in finished.stdout
    assert (raw.parent / "preprocessed" / done.folder.name / "nnUNetResEncUNetLPlans.json").is_file()
