"""Several voxel sizes in standard space from one run of ``neuralprep bids``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.test_bids_verb import issues
from engine.fake_processor import make_fake, write_scan_file
from neuralprep.bids.derivatives import output_files, with_resolution
from neuralprep.bids.entities import split_name
from neuralprep.bids.layout import home_in
from neuralprep.cli import bids, main
from neuralprep.demo import random_pose, render
from neuralprep.errors import InputError
from neuralprep.formats import read_transform
from neuralprep.formats.fsl import read_mat
from neuralprep.grid import Grid
from neuralprep.pipeline import Preprocessor, Settings, template_images
from neuralprep.templates import SPACES, load_template, space_grid
from neuralprep.transform import Affine
from neuralprep.volume import load

SPACE = "MNI152NLin2009aSym"
IMAGES = ("space_preproc", "space_preproc_brain", "space_brain_mask")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two contrasts of one participant (voxels of 5 mm), and a processor that costs nothing."""
    from neuralprep.cli.run import job_from as real

    root = tmp_path / "raw"
    for seed, name in enumerate(("sub-01_chunk-1_T1w", "sub-01_T2w")):
        write_scan_file(root / "sub-01" / "anat" / f"{name}.nii.gz", seed)
    (root / "dataset_description.json").write_text('{"Name": "r", "BIDSVersion": "1.9.0"}')
    monkeypatch.setattr(bids, "job_from", lambda args: replace(real(args), make_processor=make_fake))
    return root


def run(raw: Path, out: Path, *spaces: str, more: tuple[str, ...] = ()) -> int:
    return main(["bids", str(raw), str(out), "participant", "-q", *more, "--output-spaces", *spaces])


def files_of(out: Path, name: str, outputs: tuple[str, ...], space: str) -> list[Path]:
    home = home_in(out, name, "sub-01/anat")
    return [home.folder / file for output in outputs for file in output_files(home.files, output, space)]


def test_each_resolution_has_its_images_transforms_and_sidecars(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(raw, out, f"{SPACE}:res-2.5", SPACE, "native", f"{SPACE}:res-native") == 0
    assert (out / f"sub-01/anat/sub-01_space-{SPACE}_chunk-1_res-2p5_desc-preproc_T1w.nii.gz").is_file()
    matrices = []
    for label, size in (("2.5", 2.5), ("native", 5.0)):
        space, grid = with_resolution(SPACE, 2.5 if label == "2.5" else label), space_grid(SPACE, size)
        for name in ("sub-01_chunk-1_T1w", "sub-01_T2w"):
            for path in files_of(out, name, IMAGES, space):
                if path.suffix == ".json":
                    told = json.loads(path.read_text())
                    assert told["SpatialReference"] == SPACE
                    assert told["Resolution"] == f"{size:g}x{size:g}x{size:g} mm"
                elif "preprocbrain" not in path.name and "mask" not in path.name:
                    assert load(path, checks=False).grid.same_as(grid)
                assert split_name(path.name.partition(".")[0])[0]["res"] == ("2p5" if label == "2.5" else "native")
            moving = load(raw / "sub-01/anat" / f"{name}.nii.gz").grid
            for path in files_of(out, name, ("template_from_scan",), space):
                if path.name.endswith(".fsl.mat"):  # its meaning depends on the grids of both images
                    there = "_from-T" in path.name
                    pair = (grid, moving) if there else (moving, grid)
                    made = read_mat(path, *pair)
                    matrices.append((made if there else made.inverse()).matrix)
                elif path.suffix == ".lta":
                    there = "_from-T" in path.name
                    read = read_transform(path)
                    assert isinstance(read, Affine)
                    matrices.append((read if there else read.inverse()).matrix)
                else:
                    assert path.is_file()
    np.testing.assert_allclose(matrices, [np.diag([1.1, 1.0, 0.9, 1.0])] * len(matrices), atol=1e-4)
    assert len(matrices) == 16
    plain = files_of(out, "sub-01_T2w", (*IMAGES, "template_from_scan"), SPACE)
    assert all(path.is_file() for path in plain)
    page = (out / "sub-01/anat/sub-01_T2w_report.html").read_text()
    row = page.partition(f"sub-01_space-{SPACE}_res-2p5_desc-preproc_T2w.nii.gz")[2][:200]
    assert "in template space" in row
    assert "(1 mm voxels and 2.5 mm voxels and voxels as fine" in (out / "logs/CITATION.md").read_text()


def test_other_resolutions_are_another_run_and_leave_nothing_of_the_earlier_one(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    listing = lambda: {path.name: path.stat().st_mtime_ns for path in out.glob("sub-01/anat/*")}  # noqa: E731
    assert run(raw, out, SPACE, f"{SPACE}:res-2") == 0
    first = listing()
    assert run(raw, out, f"{SPACE}:res-2", SPACE, f"{SPACE}:res-2") == 0
    assert listing() == first
    assert run(raw, out, SPACE, f"{SPACE}:res-3") == 0
    assert sorted(listing()) == sorted(name.replace("_res-2_", "_res-3_") for name in first)
    assert run(raw, out, SPACE) == 0
    assert sorted(listing()) == sorted(name for name in first if "_res-" not in name)
    record = json.loads((out / "sub-01/anat/sub-01_T2w_quality.json").read_text())
    assert "more_resolutions" not in record["settings"]
    assert main(["bids", str(raw), str(out), "participant", "-q", "--reports-only"]) == 0


def test_the_validator_finds_no_fault(raw: Path) -> None:
    out = raw / "derivatives" / "neuralprep"
    run(raw, out, SPACE, f"{SPACE}:res-2", f"{SPACE}:res-1.5")
    assert len(list(out.glob("sub-01/anat/*_res-*_desc-brain_mask.nii.gz"))) == 2
    assert issues(out, "error") == []


@pytest.mark.parametrize(("spaces", "outputs", "said"), [
    ((SPACE, f"{SPACE}:res-2"), "space_preproc,preproc", "add template_from_scan to --outputs"),
    ((SPACE, f"{SPACE}:res-2"), "preproc,template_from_scan", "no effect without an image in standard space"),
    ((SPACE, "Other:res-2"), "", f"one standard space at a time can be made, not {SPACE}, Other"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    spaces: tuple[str, ...], outputs: str, said: str,
) -> None:
    monkeypatch.setitem(SPACES, "Other", SPACES[SPACE])
    with pytest.raises(SystemExit) as stopped:
        run(raw, tmp_path / "out", *spaces, more=("--outputs", outputs) if outputs else ())
    assert stopped.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_images_are_those_of_a_run_with_this_resolution() -> None:
    """To the bit, with the shipped network."""
    rng = np.random.default_rng(3)
    pose = random_pose(rng)
    grid = Grid.centered((96, 100, 90), 2.5, pose.apply(np.array([[0.0, -8.0, -22.0]]))[0], codes="PSR")
    head = render(load_template(), grid, pose, rng)[0]
    settings = Settings(device="cpu", threads=1, no_csf=True)
    processor = Preprocessor(settings)
    result = processor.run(head)
    expected = processor.again(replace(settings, resolution=3.0)).run(head)
    made = template_images(result, 3.0)
    assert set(made.outputs) == {*IMAGES, "template_from_scan"}
    for name in IMAGES:
        np.testing.assert_array_equal(made.outputs[name].data, expected.outputs[name].data)  # type: ignore[union-attr]
    mask = made.outputs["space_brain_mask"].data  # type: ignore[union-attr]
    assert 900_000 < mask.sum() * 27 < 2_100_000  # mm^3
    with pytest.raises(InputError, match="made from preproc: name it"):
        template_images(replace(result, outputs={"template_from_scan": result.outputs["template_from_scan"]}), 3.0)
