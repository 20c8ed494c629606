"""Scans frame by frame, labels to keep in a batch, and one scan to named files: scheduling and faults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from engine.fake_processor import SHAPE, FakeProcessor, FakeResult, fake_job, make_fake, write_scan_file
from neuralprep.engine.frames import judged_together, process_frames
from neuralprep.engine.record import quality_path, read_quality
from neuralprep.engine.run import run_batch
from neuralprep.engine.single import check_targets
from neuralprep.errors import InputError
from neuralprep.pipeline import Settings
from neuralprep.stages.quality import Quality
from neuralprep.volume import Volume, save

STRIP = {"normalize": False, "register": False, "quick": True, "outputs": ("brain_image", "brain_mask")}


class Stripper(FakeProcessor):
    """The fake with what stripping gives; a frame that is brighter than 1000 cannot be stripped."""

    def again(self, settings: Settings) -> Stripper:
        return Stripper(settings)

    def run(self, volume: Volume) -> FakeResult:
        if volume.data.max() > 1000:
            raise InputError("no brain was found")
        made = super().run(volume)
        mask = made.outputs["brain_mask"]
        if self.settings.keep is not None:
            mask = mask.with_data((mask.data > 0) | (self.settings.keep.data > 0))
        odd = ("too small",) if volume.data.mean() < 50 else ()
        made = replace(made, outputs=made.outputs | {"brain_image": volume, "brain_mask": mask},
                       quality=Quality({"brain_ml": float(mask.data.sum())}, "check" if odd else "ok", odd))
        object.__setattr__(made, "mask", mask)
        return made


def strip_job(out: Path, **changes: Any) -> Any:
    return fake_job(out, make_processor=Stripper, **(STRIP | changes))


def series(path: Path, levels: tuple[float, ...] = (100, 110, 120)) -> Path:
    data = np.stack([np.random.default_rng(i).uniform(0, 2 * v, SHAPE) for i, v in enumerate(levels)], axis=3)
    image = nib.Nifti1Image(data.astype(np.int16), np.diag([5, 5, 5, 1.0]))
    nib.save(image, path)
    return path


def test_each_frame_in_a_batch(tmp_path: Path) -> None:
    scan, single = series(tmp_path / "bold.nii.gz"), write_scan_file(tmp_path / "t1.nii.gz")
    records = run_batch([scan, single], strip_job(tmp_path / "out", frame="each"))
    assert [record.status for record in records] == ["ok", "ok"]
    content = read_quality(quality_path(tmp_path / "out", "bold"))
    assert content is not None
    assert content["measures"]["frames"] == 3
    files = ["bold_desc-brain_image.json", "bold_desc-brain_image.nii.gz", "bold_desc-brain_mask.json",
             "bold_desc-brain_mask.nii.gz"]  # fmt: skip
    assert content["files"] == files
    assert sorted(p.name for p in (tmp_path / "out" / "bold").iterdir()) == [*files, "bold_quality.json"]
    mask = nib.load(tmp_path / "out" / "bold" / files[3])
    data = np.asanyarray(nib.load(scan).dataobj)
    expected = np.stack([data[..., i] > data[..., i].astype(np.float32).mean() for i in range(3)], axis=3)
    assert np.array_equal(np.asanyarray(mask.dataobj), expected)
    assert nib.load(tmp_path / "out" / "t1" / "t1_desc-brain_mask.nii.gz").shape == SHAPE
    again = run_batch([scan, single], strip_job(tmp_path / "out", frame="each"))
    assert all(record.reused for record in again)
    assert not run_batch([scan], strip_job(tmp_path / "out", frame=0))[0].reused


def test_frames_are_judged_together(tmp_path: Path) -> None:
    job = strip_job(tmp_path / "out", frame="each")
    record = run_batch([series(tmp_path / "a.nii.gz", (100, 20, 110, 21, 22, 23))], job)[0]
    assert record.status == "check"
    assert record.reasons[0] == "frame 1: too small"
    assert record.reasons[-1] == "1 more of the 6 frames ask for a check."
    assert record.measures["frames_to_check"] == 4
    one = Quality({"icv_ml": 5.0}, "ok")
    assert judged_together([one]) is one


def test_a_frame_without_a_brain_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    scan = series(tmp_path / "a.nii.gz", (100, 900, 100))
    record = run_batch([scan], strip_job(tmp_path / "out", frame="each"))[0]
    assert record.status == "failed"
    assert "frame 1: no brain was found" in record.reasons[0]
    assert not (tmp_path / "out" / "a").exists()
    processor = Stripper(Settings(**STRIP))
    with pytest.raises(InputError, match="frame 1"):
        process_frames(scan, processor, {"brain_mask": tmp_path / "m.nii.gz"})
    with pytest.raises(InputError, match=r"m.mgz: a series of frames is written as NIfTI"):
        process_frames(scan, processor, {"brain_mask": tmp_path / "m.mgz"})
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.nii.gz"]


def label_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    from neuralprep.grid import Grid

    data = np.zeros(SHAPE, np.uint8)
    data[0] = 1
    save(Volume(data, Grid(SHAPE, np.diag([5.0, 5.0, 5.0, 1.0]))), path)
    return path


def test_a_folder_of_labels_serves_each_scan_its_own(tmp_path: Path) -> None:
    scans = [write_scan_file(tmp_path / f"{name}.nii.gz", i) for i, name in enumerate(("a", "b", "c"))]
    label_file(tmp_path / "labels" / "a.nii.gz")
    label_file(tmp_path / "labels" / "b_lesion.nii")
    records = run_batch(scans, strip_job(tmp_path / "out", keep=tmp_path / "labels"))
    assert [record.status for record in records] == ["ok", "ok", "failed"]
    assert "has no label for c.nii.gz. Expected c.nii.gz or c_lesion.nii.gz" in records[2].reasons[0]
    for name in "ab":
        mask = nib.load(tmp_path / "out" / name / f"{name}_desc-brain_mask.nii.gz")
        assert np.asanyarray(mask.dataobj)[0].all()
    with pytest.raises(InputError, match="one label cannot serve 3 scans"):
        run_batch(scans, strip_job(tmp_path / "other", keep=tmp_path / "labels" / "a.nii.gz"))


def test_a_changed_label_is_noticed(tmp_path: Path) -> None:
    scan, label = write_scan_file(tmp_path / "a.nii.gz"), label_file(tmp_path / "labels" / "a.nii.gz")
    job = strip_job(tmp_path / "out", keep=label)
    run_batch([scan], job)
    assert run_batch([scan], job)[0].reused
    save(Volume(np.ones(SHAPE, np.uint8), nib_grid(label)), label)
    assert not run_batch([scan], job)[0].reused
    content = json.loads(quality_path(tmp_path / "out", "a").read_text())
    assert content["keep"]["size"] == label.stat().st_size
    assert not run_batch([scan], strip_job(tmp_path / "out"))[0].reused


def nib_grid(path: Path) -> Any:
    from neuralprep.volume import load

    return load(path, checks=False).grid


def test_the_network_is_loaded_once_for_many_labels(tmp_path: Path) -> None:
    made = []

    def make(settings: Settings) -> Stripper:
        made.append(settings)
        return Stripper(settings)

    scans = [write_scan_file(tmp_path / f"{name}.nii.gz") for name in "abc"]
    for name in "abc":
        label_file(tmp_path / "labels" / f"{name}.nii.gz")
    job = strip_job(tmp_path / "out", keep=tmp_path / "labels")
    run_batch(scans, replace(job, make_processor=make))
    assert len(made) == 1
    assert made[0].keep is None


def test_targets_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "scan.nii.gz")
    for targets, message in (
        ({"brain_image": scan}, "is the input itself"),
        ({"brain_image": tmp_path / "x" / "b.nii"}, "folder does not exist"),
        ({"brain_image": tmp_path / "b.txt"}, "not the name of an image"),
        ({"brain_image": tmp_path / "b.nii", "brain_mask": tmp_path / "b.nii"}, "named for brain_image already"),
    ):
        with pytest.raises(InputError, match=message):
            check_targets(scan, targets)
    assert make_fake(Settings()) is not None
