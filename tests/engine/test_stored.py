"""Images written under a mask keep what their file held: values to the bit, type, scale and header."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from engine.fake_processor import FakeResult
from neuralprep.engine.images import SeriesWriter, write_image
from neuralprep.engine.stored import StoredScan
from neuralprep.pipeline import Settings
from neuralprep.stages.intensity import masked
from neuralprep.stages.quality import Quality
from neuralprep.volume import Volume, load, load_frames

AFFINE = np.array([[-2.0, 0.1, 0, 60], [0.1, 2.1, 0, -70], [0, 0, 2.5, -40], [0, 0, 0, 1]])
SHAPE = (24, 22, 20)


def write(path: Path, data: np.ndarray, slope: float = 1.0, inter: float = 0.0, kind: Any = nib.Nifti1Image,
          order: str = "<") -> Path:
    """An image with everything in its header that a copy could lose."""
    image = kind(data, AFFINE)
    header = image.header.as_byteswapped(order) if order == ">" else image.header
    image = kind(data, AFFINE, header)
    image.set_sform(AFFINE, code=2)
    image.set_qform(None, code=0)
    image.header["descrip"] = b"as the scanner made it"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a note by the technician"))
    if data.ndim == 4:
        image.header["pixdim"][4] = 2200
        image.header.set_xyzt_units("mm", "msec")
    if np.dtype(data.dtype).kind in "iu":
        image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


def result_for(scan: Volume, mask: np.ndarray, fill: Any = "zero") -> Any:
    volume = scan.with_data(mask.astype(np.uint8))
    settings = Settings(normalize=False, register=False, quick=True, fill=fill, outputs=("brain_image", "brain_mask"))
    outputs = {"brain_image": masked(scan, volume, fill), "brain_mask": volume}
    result = FakeResult(scan, settings, outputs, Quality({}, "ok"))
    object.__setattr__(result, "mask", volume)
    return result


def half() -> np.ndarray:
    return np.random.default_rng(5).random(SHAPE) < 0.5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_values_types_and_headers_stay(tmp_path: Path, dtype: str, kind: Any, order: str) -> None:
    data = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    source = write(tmp_path / "scan.nii.gz", data, kind=kind, order=order)
    write_image(result_for(load(source, checks=False), half()), "brain_image", tmp_path / "brain.nii.gz")
    before, after = nib.load(source), nib.load(tmp_path / "brain.nii.gz")
    assert after.header.binaryblock == before.header.binaryblock
    assert [e.get_content() for e in after.header.extensions] == [e.get_content() for e in before.header.extensions]
    stored = np.asanyarray(after.dataobj)
    assert stored.dtype == np.asanyarray(before.dataobj).dtype
    assert np.array_equal(stored, np.where(half(), data, 0))


@pytest.mark.parametrize(("fill", "outside"), [("zero", 0.0), ("min", -1024.0), (-500, -500.0)])
def test_fill_is_a_value_of_the_scan_not_of_its_file(tmp_path: Path, fill: Any, outside: float) -> None:
    data = np.random.default_rng(0).integers(100, 3000, SHAPE).astype(np.int16)
    data[0, 0, 0] = 0
    source = write(tmp_path / "ct.nii", data, slope=0.5, inter=-1024)
    write_image(result_for(load(source, checks=False), half(), fill), "brain_image", tmp_path / "brain.nii")
    after = nib.load(tmp_path / "brain.nii")
    assert after.get_data_dtype() == np.int16
    values = after.get_fdata()
    assert np.array_equal(values[half()], data[half()] * 0.5 - 1024)
    assert (values[~half()] == outside).all()


def test_values_that_are_no_numbers_and_colours(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(1, 5, SHAPE).astype(np.float32)
    data[3, 3, 3] = np.nan
    mask = np.ones(SHAPE, bool)
    source = write(tmp_path / "scan.nii", data)
    write_image(result_for(load(source, checks=False), mask), "brain_image", tmp_path / "brain.nii")
    made = nib.load(tmp_path / "brain.nii").get_fdata()
    assert made[3, 3, 3] == 0
    assert np.array_equal(made[data == data], data[data == data])
    rgb = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    rgb["R"], rgb["B"] = 200, np.arange(20)
    source = tmp_path / "rgb.nii"
    nib.save(nib.Nifti1Image(rgb, AFFINE), source)
    write_image(result_for(load(source, checks=False), half()), "brain_image", tmp_path / "brain.nii")
    made = np.asanyarray(nib.load(tmp_path / "brain.nii").dataobj)
    assert np.array_equal(made[half()], rgb[half()])
    assert not made["R"][~half()].any()


def test_another_format_keeps_at_least_the_type(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.int16)
    source = tmp_path / "scan.mgz"
    nib.save(nib.MGHImage(data, AFFINE.astype(np.float32)), source)
    for target in ("brain.mgz", "brain.nii.gz"):
        write_image(result_for(load(source, checks=False), half()), "brain_image", tmp_path / target)
        after = nib.load(tmp_path / target)
        assert after.get_data_dtype().newbyteorder("=") == np.int16
        assert np.array_equal(np.asanyarray(after.dataobj), np.where(half(), data, 0))


@pytest.mark.parametrize(("target", "fill"), [("brain.mgz", -9), ("brain.nii.gz", 1e6), ("brain.nii.gz", -1)])
def test_what_cannot_stay_becomes_float(tmp_path: Path, target: str, fill: Any) -> None:
    data = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.uint8)
    source = write(tmp_path / "scan.nii.gz", data)
    write_image(result_for(load(source, checks=False), half(), fill), "brain_image", tmp_path / target)
    after = nib.load(tmp_path / target)
    assert after.get_data_dtype().newbyteorder("=") == np.float32
    assert np.array_equal(after.get_fdata(), np.where(half(), data.astype(float), 0 if fill == "zero" else fill))
    np.testing.assert_allclose(after.affine, AFFINE, atol=1e-5)


def test_a_repaired_header_is_not_copied(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "scan.nii")
    scan = load(tmp_path / "scan.nii", checks=False)
    assert scan.notes
    write_image(result_for(scan, half()), "brain_image", tmp_path / "brain.nii")
    np.testing.assert_allclose(nib.load(tmp_path / "brain.nii").affine, scan.grid.affine, atol=1e-6)


def test_one_frame_of_a_series(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 200, (*SHAPE, 4)).astype(np.int16)
    source = write(tmp_path / "bold.nii.gz", data)
    write_image(result_for(load(source, 2, checks=False), half()), "brain_image", tmp_path / "brain.nii.gz", 2)
    after = nib.load(tmp_path / "brain.nii.gz")
    assert after.shape == SHAPE
    assert np.array_equal(np.asanyarray(after.dataobj), np.where(half(), data[..., 2], 0))
    mean = result_for(load(source, "mean", checks=False), half())
    write_image(mean, "brain_image", tmp_path / "mean.nii.gz", "mean")
    made = nib.load(tmp_path / "mean.nii.gz").get_fdata()
    assert made == pytest.approx(np.where(half(), data.mean(3), 0), abs=1e-4)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_series_frame_by_frame(tmp_path: Path, kind: Any) -> None:
    data = np.random.default_rng(0).integers(0, 200, (*SHAPE, 3)).astype(np.uint16)
    source = write(tmp_path / "bold.nii.gz", data, kind=kind)
    targets = {"brain_image": tmp_path / "brain.nii.gz", "brain_mask": tmp_path / "mask.nii.gz"}
    writer = SeriesWriter(source, targets, "zero")
    masks = [half() ^ (np.indices(SHAPE)[0] == index) for index in range(3)]
    for volume, mask in zip(load_frames(source, checks=False), masks, strict=True):
        writer.add(result_for(volume, mask))
    writer.finish(load(source, 0, checks=False).grid.affine)
    brain, mask_image = nib.load(targets["brain_image"]), nib.load(targets["brain_mask"])
    stacked = np.stack(masks, axis=3)
    assert np.array_equal(np.asanyarray(brain.dataobj), np.where(stacked, data, 0))
    assert brain.header.binaryblock == nib.load(source).header.binaryblock
    assert np.array_equal(np.asanyarray(mask_image.dataobj), stacked)
    assert mask_image.header["pixdim"][4] == pytest.approx(2.2)  # seconds, whatever the scan counted in
    assert mask_image.header.get_xyzt_units() == ("mm", "sec")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bold.nii.gz", "brain.nii.gz", "mask.nii.gz"]
    assert StoredScan(source).frame_step_s() == pytest.approx(2.2)


def test_frames_are_those_of_load(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(50, 9, (*SHAPE, 3)).astype(np.float32)
    data[2, 2, 2, 1] = np.inf
    source = write(tmp_path / "dwi.nii.gz", data)
    for index, frame in enumerate(load_frames(source, checks=False)):
        alone = load(source, index, checks=False)
        assert np.array_equal(frame.data, alone.data)
        assert frame.notes == alone.notes
        assert frame.grid.same_as(alone.grid)
    single = list(load_frames(write(tmp_path / "one.nii", data[..., 0]), checks=False))
    assert len(single) == 1
    assert replace(single[0], source=None).notes == load(tmp_path / "one.nii", checks=False).notes
