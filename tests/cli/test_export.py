"""``neuralprep export`` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import main

AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Folders ``t1``, ``flair``, ``labels``, ``raw`` of six cases."""
    for name in ("t1", "flair", "labels", "raw"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for case in range(6):
        image = rng.random((10, 12, 8), np.float32)
        labels = np.zeros(image.shape, np.uint8)
        labels[2:7, 3:8, 2:6], labels[4:6, 4:6, 3:5] = 1, 4
        for folder, data, kind in (("t1", image, "T1w"), ("flair", image, "FLAIR"), ("labels", labels, "seg")):
            nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / folder / f"sub-{case}_{kind}.nii.gz")
    return tmp_path


def export(study: Path, *flags: str, inputs: tuple[str, ...] = ("T1w=t1", "FLAIR=flair")) -> int:
    given = []
    for text in inputs:
        channel, equals, folder = text.rpartition("=")
        given.append(f"{channel}{equals}{study / folder}")
    return main(["export", "nnunet", *given, str(study / "raw"), "--id", "42", "--name", "Demo", *flags])


def test_there_and_back(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--labels", str(study / "labels"), "--label-map", "1=1;4=2", "--classes", "edema=1;core=2", "--folds", "3"]
    assert export(study, *flags) == 0
    printed = capsys.readouterr().out
    assert "6 cases for training in 3 folds, 0 for testing" in printed
    assert "nnUNetv2_plan_and_preprocess -d 42 -pl nnUNetPlannerResEncL --verify_dataset_integrity" in printed
    assert "nnUNetv2_train 42 3d_fullres FOLD -p nnUNetResEncUNetLPlans" in printed
    dataset = study / "raw" / "Dataset042_Demo"
    assert json.loads((dataset / "dataset.json").read_text())["labels"] == {"background": 0, "edema": 1, "core": 2}
    back = ["export", "nnunet-predictions", str(dataset / "labelsTr"), str(study / "back"), "--dataset", str(dataset)]
    assert main(back) == 0
    for case in range(6):
        ours = nib.load(study / "back" / f"sub-{case}_dseg.nii.gz").get_fdata()
        np.testing.assert_array_equal(ours, nib.load(study / "labels" / f"sub-{case}_seg.nii.gz").get_fdata())
    assert main(back) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert main([*back[:3], str(dataset / "dataset.json"), *back[4:]]) == 2
    assert "choose another output folder" in capsys.readouterr().err
    (dataset / "labelsTr" / "sub-0.nii.gz").rename(dataset / "labelsTr" / "other.nii.gz")
    assert main([*back, "--overwrite"]) == 1
    assert "failed: other: " in capsys.readouterr().out


def test_offered_label_map_works(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--labels", str(study / "labels")]
    assert export(study, *flags) == 2
    fault = capsys.readouterr().err
    assert not list((study / "raw").iterdir())
    assert export(study, *flags, "--label-map", fault.split('"')[1]) == 0


def test_table_with_semicolons(study: Path) -> None:
    table = study / "study.csv"
    rows = [f"sub-{i};t1/sub-{i}_T1w.nii.gz;labels/sub-{i}_seg.nii.gz;{i % 2};{'x'}" for i in range(6)]
    table.write_text("case;T1w;label;fold;site\n" + "\n".join(rows))
    flags = ["--channels", "T1w", "--label-map", "1=1;4=1"]
    assert export(study, *flags, inputs=("study.csv",)) == 0
    parts = json.loads((study / "raw" / "Dataset042_Demo" / "splits_final.json").read_text())
    assert parts[1]["val"] == ["sub-1", "sub-3", "sub-5"]


@pytest.mark.parametrize(
    ("inputs", "flags", "fault"),
    [
        (("study.csv",), ["--key", "x"], "--key has no effect on a table"),
        (("study.csv",), ["--labels", "labels"], "write a column label"),
        (("T1w=t1",), ["--output", "preproc"], "--output has no effect on CHANNEL=FOLDER"),
        (("T1w=t1",), ["--channels", "T1w"], "--channels has no effect"),
        (("T1w=t1",), ["--test-only", "--folds", "3"], "have no effect with --test-only"),
        (("T1w=t1",), ["--folds", "1"], "--folds 0 or at least 2"),
        (("T1w=t1",), ["--folds", "0", "--seed", "1"], "--seed has no effect with --folds 0"),
        (("t1", "flair"), [], "give one table, one run folder"),
        (("nothing.txt",), [], "is no table"),
        (("t1",), ["--labels-on", "T1w"], "have no effect on a run folder without --labels"),
        (("T1w=t1",), ["--channels", "a,a"], "no list of different names"),
    ],
)
def test_flags_without_effect_are_errors(
    study: Path, inputs: tuple[str, ...], flags: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "study.csv").write_text("case,T1w\na,b\n")
    with pytest.raises(SystemExit) as stop:
        export(study, *flags, inputs=inputs)
    assert stop.value.code == 2
    assert fault in capsys.readouterr().err


def test_wrong_inputs_name_the_file(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for inputs, flags, fault in (
        (("t1",), [], "is no output folder of neuralprep run"),
        (("T1w=missing",), [], "no such folder"),
        (("T1w=t1", "T1w=flair"), [], "a channel of its own"),
        (("T1w=t1",), [], "nothing to train on"),
        (("T1w=t1",), ["--classes", "core"], "is no region"),
    ):
        assert export(study, *flags, inputs=inputs) == 2
        assert fault in capsys.readouterr().err
    (study / "study.csv").write_text("case,T1w,label,fold\na,b,c,0\n")
    assert export(study, "--folds", "3", inputs=("study.csv",)) == 2
    assert "names the folds" in capsys.readouterr().err
