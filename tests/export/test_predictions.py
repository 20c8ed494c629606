"""Predictions back on the scans: exact where spaces are equal, through the saved transform where they are not."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from export.study import GRID, Study, label_ball
from neuralprep.errors import InputError
from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.export.cases import read_outputs, read_table, with_labels
from neuralprep.export.checks import NnunetOptions
from neuralprep.export.nnunet import export_nnunet
from neuralprep.export.predictions import restore_predictions
from neuralprep.transform import Affine
from neuralprep.volume import Volume, save
from samples import affine_matrix

OPTIONS = NnunetOptions(7, "Study", label_map={1: 1, 2: 2, 4: 3}, folds=2)


def test_equal_spaces_come_back_voxel_for_voxel(study: Study, raw: Path, tmp_path: Path) -> None:
    done = export_nnunet(read_table(study.table), raw, OPTIONS)
    # the training labels stand for a perfect prediction
    out = tmp_path / "native"
    restored = list(restore_predictions(done.folder / "labelsTr", out, done.folder))
    assert [(entry.scan, entry.interpolation, entry.fault) for entry in restored] == [
        (case, "none", "") for case in sorted(study.cases)
    ]
    for case in study.cases:
        ours, theirs = nib.load(out / f"{case}_dseg.nii.gz"), nib.load(study.folder / "labels" / f"{case}_dseg.nii.gz")
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        np.testing.assert_array_equal(ours.affine, theirs.affine)
    with pytest.raises(InputError, match="give --overwrite"):
        restore_predictions(done.folder / "labelsTr", out, done.folder)
    assert list(restore_predictions(done.folder / "labelsTr", out, done.folder, overwrite=True)) == restored


def test_headers_of_another_program_become_the_scans_own(study: Study, raw: Path, tmp_path: Path) -> None:
    done = export_nnunet(read_table(study.table), raw, OPTIONS)
    predictions = tmp_path / "predicted"
    predictions.mkdir()
    import SimpleITK as sitk  # what nnU-Net writes with

    image = sitk.ReadImage(str(done.folder / "labelsTr" / "sub-2.nii.gz"))
    sitk.WriteImage(image, str(predictions / "sub-2.nii.gz"))
    list(restore_predictions(predictions, tmp_path / "out", done.folder))
    back = nib.load(tmp_path / "out" / "sub-2_dseg.nii.gz")
    original = nib.load(study.folder / "labels" / "sub-2_dseg.nii.gz")
    np.testing.assert_array_equal(back.affine, original.affine)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(original.dataobj))


def test_template_space_comes_back_through_the_known_affine(
    study: Study, raw: Path, tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    transforms = {"T1w": Affine(affine_matrix((0.2, 0.1, 0), (1.1, 0.9, 1.0), (2, -1, 3))),
                  "FLAIR": Affine(affine_matrix((-0.1, 0.2, 0.1), (1.0, 1.05, 0.95), (-3, 4, 1)))}
    scans = {f"sub-2_{name}": (study.folder / kind / f"sub-2_{name}.nii.gz", transforms[name])
             for kind, name in (("t1", "T1w"), ("flair", "FLAIR"))}
    run = make_run(scans, 1.0)
    found = read_outputs(run, "space_preproc_brain")
    for path in (study.folder / "labels").glob("sub-[!2]*"):
        path.unlink()
    found = replace(found, cases=with_labels(found.cases, study.folder / "labels"))
    done = export_nnunet(found, raw, replace(OPTIONS, label_channel="FLAIR", folds=0))
    shutil.rmtree(run)  # the data set carries all that the way back needs
    out = tmp_path / "native"
    restored = list(restore_predictions(done.folder / "labelsTr", out, done.folder))
    assert [entry.scan for entry in restored] == ["sub-2_FLAIR", "sub-2_T1w"]
    truth = label_ball(GRID, 2)
    flair = read_labels(out / "sub-2_FLAIR_dseg.nii.gz")
    assert flair.grid.same_as(GRID, tol_mm=1e-4)
    scores = dice_by_label(flair.data, truth.data)
    assert set(scores) == {1, 2, 4}
    assert min(scores.values()) > 0.96
    # on the other scan it lies where that scan's own transform puts it, not where the FLAIR's does
    points = GRID.voxel_to_world(np.argwhere(truth.data > 0))
    there = transforms["T1w"].apply(transforms["FLAIR"].inverse().apply(points)).mean(0)
    t1 = read_labels(out / "sub-2_T1w_dseg.nii.gz")
    middle = GRID.voxel_to_world(np.argwhere(t1.data > 0)).mean(0)
    assert np.linalg.norm(middle - there) < 0.5
    assert np.linalg.norm(there - points.mean(0)) > 3
    only = list(restore_predictions(done.folder / "labelsTr", tmp_path / "one", done.folder, ("T1w",), "nearest"))
    assert [(entry.scan, entry.interpolation) for entry in only] == [("sub-2_T1w", "nearest")]


def test_bad_predictions_fail_alone(study: Study, raw: Path, tmp_path: Path) -> None:
    done = export_nnunet(read_table(study.table), raw, OPTIONS)
    predictions = tmp_path / "predicted"
    predictions.mkdir()
    good = read_labels(done.folder / "labelsTr" / "sub-2.nii.gz")
    save(good, predictions / "sub-2.nii.gz")
    save(good.with_data(good.data * 2), predictions / "sub-3.nii.gz")  # holds 4 and 6
    save(good, predictions / "stranger.nii.gz")
    save(good.cropped((0, 0, 0), (9, 9, 9)), predictions / "sub-4.nii.gz")
    (predictions / "sub-1_ses-1.nii.gz").write_bytes(b"no image at all")
    restored = {entry.case: entry for entry in restore_predictions(predictions, tmp_path / "out", done.folder)}
    assert restored["sub-2"].file == tmp_path / "out" / "sub-2_dseg.nii.gz"
    for case, fault in (("sub-3", "holds label 4"), ("stranger", "no case stranger"), ("sub-4", "not on the grid"),
                        ("sub-1_ses-1", "not one of an image")):
        assert fault in restored[case].fault
        assert restored[case].file is None
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.tsv").read_text().splitlines(), delimiter="\t"))
    assert {row["case"]: row["fault"] == "n/a" for row in rows} == {
        case: case == "sub-2" for case in ("sub-1_ses-1", "sub-2", "sub-3", "sub-4", "stranger")
    }


def test_wrong_folders(study: Study, raw: Path, tmp_path: Path) -> None:
    done = export_nnunet(read_table(study.table), raw, OPTIONS)
    empty = tmp_path / "empty"
    empty.mkdir()
    for predictions, dataset, channels, fault in (
        (tmp_path / "none", done.folder, (), "no such folder"),
        (empty, done.folder, (), "holds no .nii.gz"),
        (done.folder / "labelsTr", study.folder, (), "holds no neuralprep_export.json"),
        (done.folder / "labelsTr", done.folder, ("T2w",), "channel T2w is unknown"),
    ):
        with pytest.raises(InputError, match=fault):
            restore_predictions(predictions, tmp_path / "out", dataset, channels)
    record = done.folder / "neuralprep_export.json"
    content = json.loads(record.read_text())
    del content["cases"]["sub-2"]["grid"]
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is damaged"):
        restore_predictions(done.folder / "labelsTr", tmp_path / "out", done.folder)
    assert not (tmp_path / "out").exists()


def test_large_study_numbers_are_kept(study: Study, raw: Path, tmp_path: Path) -> None:
    data = np.where(label_ball(GRID).data == 4, 1007, 0).astype(np.int16)
    for case in study.cases:
        save(Volume(data, GRID), study.folder / "labels" / f"{case}_dseg.nii.gz")
    done = export_nnunet(read_table(study.table), raw, replace(OPTIONS, label_map={1007: 1}))
    list(restore_predictions(done.folder / "labelsTr", tmp_path / "out", done.folder))
    assert set(np.unique(read_labels(tmp_path / "out" / "sub-2_dseg.nii.gz").data)) == {0, 1007}
