"""The conversion itself: what goes wrong in it is told, cleaned up and bounded."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from dicom.phantom import write_series
from neuralprep.dicom import convert as conversion
from neuralprep.dicom.search import Series, find
from neuralprep.errors import InputError


def series_in(folder: Path) -> Series:
    (series,) = find(folder).series
    return series


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a program in the place of dcm2niix."""
    path = tmp_path / "fake-dcm2niix"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(conversion, "dcm2niix_program", lambda: str(path))


def refused(series: Series, tmp_path: Path, words: str) -> None:
    out = tmp_path / "work"
    out.mkdir(exist_ok=True)
    with pytest.raises(InputError, match=words) as caught:
        series.convert(out / "made.nii")
    assert str(caught.value).startswith(f"{series.root}: series 3: ")
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exit 7", r"could not convert it \(exit code 7\)"),
        ("kill -SEGV $$", r"could not convert it \(exit code -11\)"),
        ("exit 0", "made 0 images"),
        ("echo \"Unsupported transfer syntax '1.2'\"; exit 1", "compressed in a way that is not read"),
        ("for a in \"$@\"; do :; done; while [ $# -gt 1 ]; do [ \"$1\" = -o ] && out=$2; shift; done; "
         "echo x > $out/image.nii; echo y > $out/image_e2.nii", "made 2 images"),
        ("while [ $# -gt 1 ]; do [ \"$1\" = -o ] && out=$2; shift; done; echo x > $out/image.nii", "not NIfTI"),
    ],
)  # fmt: skip
def test_a_failing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    write_series(tmp_path / "in")
    program(tmp_path, monkeypatch, text)
    refused(series_in(tmp_path / "in"), tmp_path, words)


def test_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in")
    program(tmp_path, monkeypatch, "exec sleep 60")
    series = series_in(tmp_path / "in")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"longer than 0\.5 s"):
        conversion.convert(series.files, series.layout, tmp_path / "made.nii", time_limit_s=0.5)
    assert time.perf_counter() - start < 20
    assert not list(tmp_path.glob(".dicom-*"))


@pytest.mark.skipif(os.name != "posix", reason="memory of a process is limited on POSIX systems")
def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in")
    program(tmp_path, monkeypatch, "sleep 0.3; exec python3 -c 'bytearray(3 << 30)'")
    refused(series_in(tmp_path / "in"), tmp_path, "could not convert it")


def test_values_that_dcm2niix_changes_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in")
    series = series_in(tmp_path / "in")
    run = conversion._run

    def spoil(source: Path, out: Path, limit: float, memory: int) -> None:
        run(source, out, limit, memory)
        (path,) = out.glob("*.nii")
        raw = bytearray(path.read_bytes())
        raw[-2 * 36 * 40 * 3 + 900] ^= 0x40  # one voxel of a slice near the end
        path.write_bytes(raw)

    monkeypatch.setattr(conversion, "_run", spoil)
    refused(series, tmp_path, "changed the values of a slice")


def test_slices_that_dcm2niix_moves_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in")
    series = series_in(tmp_path / "in")
    run = conversion._run

    def move(source: Path, out: Path, limit: float, memory: int) -> None:
        run(source, out, limit, memory)
        (path,) = out.glob("*.nii")
        image = nib.load(path)
        affine = image.affine @ np.diag([1, 1, 1.05, 1])
        nib.save(nib.Nifti1Image(image.get_fdata().astype(np.int16), affine, image.header), path)

    monkeypatch.setattr(conversion, "_run", move)
    refused(series, tmp_path, "in another place than its tags say")


@pytest.mark.parametrize("share", [0.4, 0.9, 0.999])
def test_a_truncated_slice(tmp_path: Path, share: float) -> None:
    paths = write_series(tmp_path / "in")
    raw = paths[7].read_bytes()
    paths[7].write_bytes(raw[: int(len(raw) * share)])
    refused(series_in(tmp_path / "in"), tmp_path, "damaged")


def test_a_slice_cut_within_its_tags_is_a_missing_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    paths[7].write_bytes(paths[7].read_bytes()[:700])
    found = find(tmp_path / "in")
    assert "damaged tags" in found.messages[0]
    refused(found.series[0], tmp_path, "1 slice is missing")


def test_damaged_files_never_raise_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    paths = write_series(tmp_path / "in")
    good = [path.read_bytes() for path in paths]
    truth = None
    for trial in range(25):
        for path, content in zip(paths, good, strict=True):
            path.write_bytes(content)
        for which in rng.integers(0, len(paths), 2):
            raw = bytearray(good[which])
            for position in rng.integers(132, 1500, 3 if trial else 0):
                raw[position] = rng.integers(0, 256)
            paths[which].write_bytes(raw)
        try:
            found = find(tmp_path / "in")
            for series in found.series:
                series.convert(tmp_path / "made.nii")
                image = nib.load(tmp_path / "made.nii")
                truth = image if truth is None else truth
                if image.shape == truth.shape and len(found.series) == 1:
                    np.testing.assert_allclose(image.affine, truth.affine, atol=0.2)
        except InputError as error:
            assert str(tmp_path / "in") in str(error)  # noqa: PT017


def test_run_length_compression(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in")
    series_in(tmp_path / "in").convert(tmp_path / "plain.nii")
    for path in paths:
        tags = pydicom.dcmread(path)
        tags.compress(RLELossless, generate_instance_uid=False)
        tags.save_as(path)
    series_in(tmp_path / "in").convert(tmp_path / "packed.nii")
    assert (tmp_path / "packed.nii").read_bytes() == (tmp_path / "plain.nii").read_bytes()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.100", "1.2.3.4"])
def test_a_compression_that_is_not_read(tmp_path: Path, syntax: str) -> None:
    def encoded(tags: pydicom.Dataset, index: int) -> None:
        tags.file_meta.TransferSyntaxUID = syntax
        tags.PixelData = encapsulate([tags.PixelData])
        tags["PixelData"].is_undefined_length = True

    write_series(tmp_path / "in", edit=encoded)
    refused(series_in(tmp_path / "in"), tmp_path, "compressed in a way that is not read")


def test_deflated_files_are_not_expanded(tmp_path: Path) -> None:
    def deflated(tags: pydicom.Dataset, index: int) -> None:
        tags.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"

    write_series(tmp_path / "in", edit=deflated)
    with pytest.raises(InputError, match="holds no DICOM image that can be read"):
        find(tmp_path / "in")


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in")
    series = series_in(tmp_path / "in")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    series.convert(tmp_path / "made.nii")
    assert (tmp_path / "made.nii").exists()


def test_a_header_holds_nothing_of_the_tags(tmp_path: Path) -> None:
    write_series(tmp_path / "in", ImageComments="Secret^Comment", AcquisitionTime="123456.789")
    series_in(tmp_path / "in").convert(tmp_path / "made.nii")
    header = nib.load(tmp_path / "made.nii").header
    for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert not bytes(header[name]).strip(b"\0"), name
