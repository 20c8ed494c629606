"""The verb train: what its options do, and which combinations it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.synthesis.atlas import pack_label_map, save_atlas
from neuralprep.synthesis.classes import CLASSES, FREESURFER, INDEX
from neuralprep.synthesis.label_table import read_table
from neuralprep.synthesis.phantom import phantom_head

TINY_STRIP = (
    'name = "own"\ntask = "strip"\ntrain_heads = ["phantom"]\nvalidation_heads = []\n[network]\nwidths = [8, 8, 8]\n'
    "blocks = 1\n[[stages]]\nsteps = 2\nsize = 16\nspacing_mm = 12.0\nbatch = 1\n"
)


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    path = tmp_path / "atlas.npz"
    save_atlas([phantom_head(spacing_mm=6.0)], path)
    return path


def test_own_numbering_is_packed_through_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = phantom_head(size=0.6, spacing_mm=3.0)
    folder = tmp_path / "labels"
    folder.mkdir()
    source = folder / "someone.nii.gz"
    nib.save(nib.Nifti1Image(head.labels.astype(np.int32) + 20_000, head.affine), source)
    pack = ["train", "--pack", str(folder), "--atlas", str(tmp_path / "own.npz")]
    assert main(pack) == 2
    message = capsys.readouterr().err
    for number, count in zip(*np.unique(head.labels, return_counts=True), strict=True):
        assert f"{20_000 + int(number)} ({count} voxels in 1 maps)" in message
    assert "--table" in message
    rows = [f"{20_000 + k}\t{name}\n" for k, name in enumerate(CLASSES) if k in set(FREESURFER.values())]
    table = tmp_path / "table.tsv"
    table.write_text("label\tclass\n" + "".join(row for row in rows if "\teye\n" not in row))
    assert main([*pack, "--table", str(table)]) == 2
    message = capsys.readouterr().err
    assert f"unknown labels {20_000 + INDEX['eye']} (" in message
    assert message.count("voxels in 1 maps") == 1
    table.write_text("label\tclass\n" + "".join(rows))
    own = pack_label_map(source, np.eye(4), read_table(table))
    for name in ("eye", "cerebral_gm", "cortical_bone"):  # 3 mm voxels have become 27 of 1 mm
        assert (own.labels == INDEX[name]).sum() == 27 * (head.labels == INDEX[name]).sum(), name


def test_train_fine_tune_and_export(tmp_path: Path, atlas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(TINY_STRIP)
    run = ["train", str(recipe), "--atlas", str(atlas), "--device", "cpu"]
    first = tmp_path / "first.safetensors"
    assert main([*run, "--out", str(tmp_path / "a"), "--export", str(first)]) == 0
    card = json.loads(first.with_suffix(".json").read_text())
    assert (card["task"], card["steps"], card["started_from"]) == ("strip", 2, None)
    tuned = [*run, "--out", str(tmp_path / "b"), "--init", str(first)]
    assert main(tuned) == 0
    state = json.loads((tmp_path / "b" / "checkpoint" / "state.json").read_text())
    assert (state["init"], state["step"]) == (card["sha256"], 2)
    capsys.readouterr()
    assert main([*run, "--out", str(tmp_path / "a"), "--init", str(first)]) == 2
    assert "did not start from" in capsys.readouterr().err
    before = first.read_bytes()
    assert main([*tuned, "--export", str(first)]) == 2  # what the run started from would be gone
    assert "first.safetensors: is the input itself" in capsys.readouterr().err
    assert first.read_bytes() == before


def test_shapes_need_no_atlas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "own.toml"
    text = TINY_STRIP.replace('train_heads = ["phantom"]\n', "shapes = 1.0\n")
    recipe.write_text(text.replace("steps = 2", "steps = 1"))
    run = ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*run, "--minutes", "0"]) == 0
    assert "step 0 of 1" in capsys.readouterr().out
    assert main([*run, "--atlas", str(tmp_path / "atlas.npz")]) == 2
    assert "makes its heads itself; leave out --atlas" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["npp", "--table", "x.tsv"], "--table names the labels of --pack"),
    (["--pack", "x", "--atlas", "y", "--init", "npp"], "--pack does not use init"),
    (["strip", "--pack", "x", "--atlas", "y"], "--pack does not use recipe"),
    (["--pack", "x"], "--pack needs --atlas"),
    (["--smoke", "--real-share", "0.5"], "--smoke does not use real-share"),
    (["npp", "--smoke"], "--smoke does not use recipe"),
    (["npp", "--variant", "unet"], "has no variants; use the recipe 'ablation'"),
    (["npp", "--real-share", "0.5"], "--real-share needs --real"),
    (["npp", "--real", "x.tsv", "--real-share", "1.5"], "--real-share 1.5 must be above 0 and at most 1"),
    (["strip"], "training needs --atlas"),
    (["ablation", "--variant", "npp"], "training needs --atlas"),
])
def test_options_that_cannot_take_effect_are_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_gpu_is_said_before_anything_is_trained(
    tmp_path: Path, atlas: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    recipe = tmp_path / "own.toml"
    recipe.write_text(TINY_STRIP)
    assert main(["train", str(recipe), "--atlas", str(atlas), "--device", "cuda"]) == 2
    assert "device 'cuda' is not available" in capsys.readouterr().err
