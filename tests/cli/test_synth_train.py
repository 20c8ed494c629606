"""The verbs synth and train from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.synthesis.atlas import load_atlas, save_atlas
from neuralprep.synthesis.classes import FREESURFER
from neuralprep.synthesis.phantom import phantom_head

SMALL = ["--size", "32", "--spacing", "6"]


def test_synth_writes_samples_that_can_be_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", str(tmp_path / "a"), "--count", "2", "--look", "T2w", "--seed", "5", *SMALL]) == 0
    images = [Path(line) for line in capsys.readouterr().out.split()]
    assert [p.name for p in images] == ["sample-005_T2w.nii.gz", "sample-006_T2w.nii.gz"]
    first = nib.load(images[0])
    assert first.header["qform_code"] == first.header["sform_code"] == 2
    distance = nib.load(tmp_path / "a" / "sample-005_T2w_desc-icv_distance.nii.gz").get_fdata()
    mask = nib.load(tmp_path / "a" / "sample-005_T2w_desc-icv_mask.nii.gz").get_fdata()
    assert np.array_equal(distance < 0, mask > 0)
    record = tmp_path / "a" / "sample-005_T2w_record.json"
    assert json.loads(record.read_text())["look"] == "T2w"
    assert main(["synth", str(tmp_path / "b"), "--record", str(record), "--seed", "5"]) == 0
    again = nib.load(tmp_path / "b" / "sample-005_T2w.nii.gz")
    assert np.array_equal(again.get_fdata(), first.get_fdata())


def test_synth_refuses_unknown_looks_and_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", str(tmp_path), "--look", "T3w", *SMALL]) == 2
    assert "choose one of random, T1w" in capsys.readouterr().err
    assert main(["synth", str(tmp_path), "--head", "nobody", *SMALL]) == 2
    assert "no head 'nobody'; it has phantom" in capsys.readouterr().err


def test_pack_train_resume_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = {c: n for n, c in FREESURFER.items()}
    head = phantom_head(spacing_mm=3.0)
    labels = np.vectorize(number.get)(head.labels).astype(np.int32)
    folder = tmp_path / "labels"
    folder.mkdir()
    nib.save(nib.Nifti1Image(labels, head.affine), folder / "someone.nii.gz")
    atlas = tmp_path / "atlas.npz"
    assert main(["train", "--pack", str(folder), "--atlas", str(atlas)]) == 0
    (packed,) = load_atlas(atlas)
    assert packed.name == "someone"
    # The phantom lies roughly in template space, so its fitted pose must be near the identity.
    assert np.abs(packed.template_from_world[:3, 3]).max() < 25
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'name = "own"\ntrain_heads = ["someone"]\nvalidation_heads = []\n[network]\nwidths = [8, 8, 8]\n'
        "field_widths = [8, 8]\nblocks = 1\n[[stages]]\nsteps = 3\nsize = 16\nspacing_mm = 12.0\nbatch = 1\n"
    )
    run = ["train", str(recipe), "--atlas", str(atlas), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*run, "--minutes", "0"]) == 0
    assert "step 0 of 3; run again to go on" in capsys.readouterr().out
    weights = tmp_path / "own.safetensors"
    assert main([*run, "--export", str(weights)]) == 0
    assert "step 3 of 3" in capsys.readouterr().out
    assert json.loads(weights.with_suffix(".json").read_text())["recipe"] == "own"


def test_train_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "npp"]) == 2
    assert "training needs --atlas" in capsys.readouterr().err
    save_atlas([phantom_head(spacing_mm=6.0)], tmp_path / "atlas.npz")
    assert main(["train", "npp", "--atlas", str(tmp_path / "atlas.npz"), "--out", str(tmp_path / "run")]) == 2
    assert "the atlas has no head training_seg_01" in capsys.readouterr().err
