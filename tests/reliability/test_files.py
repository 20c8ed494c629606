"""Every odd or broken file gives a defined volume, checked against the truth, or an `InputError` naming the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.files import Source
from neuralprep.volume import load
from reliability.damage import (
    AFFINE,
    DATA,
    SHAPE,
    bomb,
    edited,
    expected,
    good,
    gz,
    luminance,
    mgh,
    nifti2,
    overflowing,
    parallel_axes,
    rgb,
    scaled_srow,
    vector_image,
    with_values,
    zeroed,
)

SIZE = DATA.nbytes * 2  # stored as float32

# name -> (file name, content, words that the message must hold)
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("a.nii", lambda: b"", "empty"),
    "empty-gz": ("a.nii.gz", lambda: b"", "empty"),
    "one-byte": ("a.nii", lambda: b"\x5c", "not NIfTI"),
    "header-cut": ("a.nii", lambda: good()[:200], "truncated"),
    "header-only": ("a.nii", lambda: good()[:352], "truncated"),
    "data-cut": ("a.nii", lambda: good()[:-1], "truncated"),
    "gz-cut-early": ("a.nii.gz", lambda: gz(good())[:100], "truncated"),
    "gz-cut-late": ("a.nii.gz", lambda: gz(good())[:-5000], "truncated"),
    "gz-trailer-cut": ("a.nii.gz", lambda: gz(good())[:-4], "truncated"),
    "gz-of-cut-data": ("a.nii.gz", lambda: gz(good()[:-100]), "truncated"),
    "gz-magic-only": ("a.nii.gz", lambda: b"\x1f\x8b", "truncated"),
    "gz-bad-block": ("a.nii.gz", lambda: (c := gz(good()))[:2000] + b"\xff" * 500 + c[2500:], "damaged"),
    "gz-bad-checksum": ("a.nii.gz", lambda: (c := gz(good()))[:-8] + b"\0\0\0\0" + c[-4:], "damaged"),
    "gz-bad-method": ("a.nii.gz", lambda: b"\x1f\x8b\x07" + gz(good())[3:], "damaged"),
    "gz-promises-too-much": ("a.nii.gz", lambda: gz(edited(dim1=990, dim2=990, dim3=990)[:5000]), "truncated"),
    "random": ("a.nii", lambda: np.random.default_rng(1).bytes(100_000), "not NIfTI"),
    "zeros": ("a.nii", lambda: bytes(100_000), "not NIfTI"),
    "text": ("a.nii", lambda: b"this is a text file\n" * 100, "not NIfTI"),
    "web-page": ("a.nii.gz", lambda: b"<!DOCTYPE html><html>404</html>" * 20, "web page"),
    "lfs-pointer": ("a.nii.gz", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs"),
    "annex-pointer": ("a.nii.gz", lambda: b"/annex/objects/SHA256E-s1--00.nii.gz\n", "git annex"),
    "dicom-named-nii": ("a.nii", lambda: bytes(128) + b"DICM" + bytes(1000), "DICOM"),
    "hdf5": ("a.nii", lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000), "HDF5"),
    "zip": ("a.nii", lambda: b"PK\x03\x04" + bytes(1000), "archive"),
    "analyze": ("a.hdr", lambda: edited()[:344] + b"\0\0\0\0", "no NIfTI magic|other half"),
    "wrong-magic": ("a.nii", lambda: good()[:344] + b"abc\0" + good()[348:], "magic"),
    "wrong-size-field": ("a.nii", lambda: edited(sizeof_hdr=349), "not NIfTI"),
    "nifti2-size-nifti1-body": ("a.nii", lambda: edited(sizeof_hdr=540), "magic"),
    "dim0-zero": ("a.nii", lambda: edited(dim0=0), "dimensions"),
    "dim0-large": ("a.nii", lambda: edited(dim0=9), "dimensions"),
    "dim-zero": ("a.nii", lambda: edited(dim2=0), "damaged"),
    "dim-negative": ("a.nii", lambda: edited(dim2=-5), "damaged"),
    "two-dimensional": ("a.nii", lambda: edited(dim0=2), "slice"),
    "single-slice": ("a.nii", lambda: good(DATA[:, :, :1]), "slice"),
    "series-of-slices": ("a.nii", lambda: good(DATA[:, :, None]), "slice"),
    "four-dimensional": ("a.nii", lambda: good(np.stack([DATA] * 3, -1)), "3 frames"),
    "datatype-unknown": ("a.nii", lambda: edited(datatype=77), "data type 77"),
    "datatype-binary": ("a.nii", lambda: edited(datatype=1), "data type 1"),
    "datatype-longdouble": ("a.nii", lambda: edited(datatype=1536), "data type 1536"),
    "offset-nan": ("a.nii", lambda: edited(vox_offset=float("nan")), "byte nan"),
    "offset-negative": ("a.nii", lambda: edited(vox_offset=-10), "byte -10"),
    "offset-beyond-end": ("a.nii", lambda: edited(vox_offset=1e8), "truncated"),
    "nifti2-overflowing-shape": ("a.nii", lambda: nifti2(2**40, 2**40, 2**40), "1e\\+09"),
    "huge": ("a.nii", lambda: edited(dim1=30000, dim2=30000, dim3=30000), "1e\\+09"),
    "constant": ("a.nii", lambda: good(np.full(SHAPE, 7, np.int16)), "value 7"),
    "all-zero": ("a.nii.gz", lambda: gz(good(np.zeros(SHAPE, np.int16))), "value 0"),
    "all-nan": ("a.nii", lambda: good(np.full(SHAPE, np.nan, np.float32)), "NaN"),
    "slope-tiny-to-constant": ("a.nii", lambda: edited(slope=1e-44, inter=5), "value 5"),
    "few-voxels": ("a.nii", lambda: good(DATA[:, :, :7], AFFINE @ np.diag([1, 1, 8, 1])), "at least 8"),
    "small-field-of-view": ("a.nii", lambda: good(DATA[:20, :20, :20]), "40 mm"),
    "voxels-in-metres": ("a.nii", lambda: edited(**scaled_srow(0.001)), "units"),
    "voxels-of-a-metre": ("a.nii", lambda: edited(**scaled_srow(1000)), "units"),
    "sform-nan-no-qform": ("a.nii", lambda: edited(srow_x0=float("nan"), qform_code=0), "finite"),
    "sform-nan-bad-qform": ("a.nii", lambda: edited(srow_x0=float("nan"), quatern_b=float("nan")), "finite"),
    "sform-zero-no-qform": ("a.nii", lambda: edited(**scaled_srow(0)), "singular"),
    "qform-nan-no-sform": ("a.nii", lambda: edited(sform_code=0, quatern_b=float("inf")), "qform"),
    "qform-long-no-sform": ("a.nii", lambda: edited(sform_code=0, quatern_b=3), "longer than 1"),
    "no-orientation-no-size": ("a.nii", lambda: edited(sform_code=0, qform_code=0, pixdim2=0), "voxel size"),
    "no-orientation-nan-size": ("a.nii", lambda: edited(sform_code=0, qform_code=0, pixdim3=np.nan), "voxel size"),
    "displacement-field": ("a.nii", lambda: vector_image(), "displacement field"),
    "mgh-wrong-version": ("a.mgh", lambda: mgh(version=2), "not MGH"),
    "mgh-bad-type": ("a.mgh", lambda: mgh(type=8), "type 8"),
    "mgh-cut": ("a.mgz", lambda: gz(mgh()[:5000]), "truncated"),
    "mgh-header-cut": ("a.mgh", lambda: mgh()[:100], "truncated"),
    "mgh-negative": ("a.mgh", lambda: mgh(width=-4), "damaged"),
    "mgh-nan-size": ("a.mgh", lambda: mgh(dx=float("nan")), "finite"),
    "mgh-signalling-nan": ("a.mgh", lambda: (m := mgh())[:30] + b"\x7f\x80\x00\x01" + m[34:], "finite"),
    "mgh-infinite-center": ("a.mgh", lambda: (m := mgh())[:78] + b"\x7f\x80\x00\x00" + m[82:], "finite"),
    "mgh-zero-directions": ("a.mgh", lambda: (m := mgh())[:42] + bytes(36) + m[78:], "singular"),
    "mgh-zero-size": ("a.mgh", lambda: mgh(dx=0), "singular"),
    "mgh-huge": ("a.mgh", lambda: mgh(width=2_000_000), "1e\\+09"),
    "mgh-empty": ("a.mgz", lambda: b"", "empty"),
    "mgh-text": ("a.mgh", lambda: b"hello " * 200, "not MGH"),
    "mgh-dicom": ("a.mgh", lambda: bytes(128) + b"DICM" + bytes(1000), "not MGH"),
    "mgh-two-frames": ("a.mgh", lambda: (m := mgh())[:16] + b"\0\0\0\2" + m[20:] + m[284:], "2 frames"),
    "mgh-gz-bad-checksum": ("a.mgz", lambda: (c := gz(mgh()[:284 + SIZE]))[:-8] + bytes(4) + c[-4:], "damaged"),
    "nifti2-cut": ("a.nii", lambda: nifti2(*SHAPE)[:400], "truncated"),
    "nifti2-negative": ("a.nii", lambda: nifti2(-1, 43, 42), "damaged"),
    "nifti2-bad-magic": ("a.nii", lambda: (c := nifti2(*SHAPE))[:4] + b"n+1\0" + c[8:], "magic"),
    "srow-huge": ("a.nii", lambda: edited(srow_x0=1e30, qform_code=0), "absurdly large"),
    "two-axes-parallel": ("a.nii", lambda: edited(**parallel_axes()), "singular"),
    "pixdim-infinite": ("a.nii", lambda: edited(sform_code=0, qform_code=0, pixdim1=np.inf), "voxel size"),
    "qform-signalling-nan": ("a.nii", lambda: (c := edited(sform_code=0))[:256] + b"\x01\0\xa0\x7f" + c[260:], "qform"),
    "gz-of-gz": ("a.nii.gz", lambda: gz(gz(good())), "not NIfTI"),
    "gz-of-text": ("a.nii.gz", lambda: gz(b"text" * 1000), "not NIfTI"),
    "gz-of-nothing": ("a.nii.gz", lambda: gz(b""), "not NIfTI|truncated|empty"),
    "xml": ("a.nii", lambda: b"<?xml version='1.0'?><a/>" * 40, "web page or XML"),
    "tar": ("a.nii", lambda: bytes(257) + b"ustar" + bytes(300), "archive"),
    "mgh-is-nifti": ("a.mgz", lambda: gz(good()), "not MGH"),
    "pair-without-data": ("a.hdr", lambda: good()[:348], "other half"),
    "nrrd": ("a.nrrd", lambda: b"NRRD0004\n", "unsupported"),
    "dicom": ("a.dcm", lambda: bytes(128) + b"DICM", "dcm2niix"),
    "bz2": ("a.nii.bz2", lambda: b"BZh9", "unpack"),
    "no-ending": ("scan", good, "unsupported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    file_name, content, words = REFUSED[name]
    path = tmp_path / file_name
    path.write_bytes(content())
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    assert len(message) < 400


# name -> (file name, content, expected values, words of a note or None for no note at all)
ACCEPTED: dict[str, tuple[str, Callable[[], bytes], Callable[[], np.ndarray], str | None]] = {
    "plain": ("a.nii", good, expected, None),
    "gz-named-nii": ("a.nii", lambda: gz(good()), expected, "compressed, whatever"),
    "plain-named-gz": ("a.nii.gz", good, expected, "not compressed"),
    "gz-two-members": ("a.nii.gz", lambda: gz(good()[:5000]) + gz(good()[5000:]), expected, None),
    "gz-padded": ("a.nii.gz", lambda: gz(good()) + bytes(100), expected, None),
    "trailing-bytes": ("a.nii", lambda: good() + b"tail", expected, None),
    "bomb-is-not-expanded": ("a.nii.gz", bomb, expected, None),
    "offset-zero": ("a.nii", lambda: edited(vox_offset=0), expected, "offset"),
    "extension": ("a.nii", lambda: edited(good()[:348] + b"\1\0\0\0" + struct.pack("<ii", 32, 6) + bytes(24)
                                          + good()[352:], vox_offset=384), expected, None),
    "bitpix-wrong": ("a.nii", lambda: edited(bitpix=8), expected, None),
    "trailing-singletons": ("a.nii", lambda: good(DATA[..., None, None]), expected, None),
    "nan": ("a.nii", lambda: with_values(((0, 0, 0), np.nan), ((1, 2, 3), np.nan)),
            lambda: zeroed((0, 0, 0), (1, 2, 3)), "2 NaN voxels"),
    "infinite": ("a.nii.gz", lambda: gz(with_values(((4, 4, 4), np.inf), ((1, 2, 3), -np.inf))),
                 lambda: zeroed((4, 4, 4), (1, 2, 3)), "2 infinite voxels"),
    "overflows-float32": ("a.nii", lambda: good(overflowing()), lambda: zeroed((0, 0, 0)), "1 infinite voxels"),
    "slope-zero": ("a.nii", lambda: edited(slope=0, inter=5), expected, "scl_slope is 0"),
    "slope-nan": ("a.nii", lambda: edited(slope=float("nan"), inter=float("nan")), expected, None),
    "slope-infinite": ("a.nii", lambda: edited(slope=float("inf")), expected, "scl_slope is inf"),
    "inter-nan": ("a.nii", lambda: edited(slope=2, inter=float("nan")), lambda: expected(slope=2), "scl_inter"),
    "slope-negative": ("a.nii", lambda: edited(slope=-2, inter=3), lambda: expected(slope=-2, inter=3), None),
    "int32-scaled": ("a.nii", lambda: edited(good(DATA.astype(np.int32)), slope=0.5, inter=1),
                     lambda: expected(slope=0.5, inter=1), None),
    "rgb": ("a.nii", lambda: rgb([(name, "u1") for name in "RGB"]), lambda: luminance(), "luminance"),
    "rgba": ("a.nii", lambda: rgb([(name, "u1") for name in "RGBA"]), lambda: luminance(), "luminance"),
    "complex": ("a.nii", lambda: good((DATA * (3 + 4j)).astype(np.complex64)), lambda: expected(slope=5), "magnitude"),
    "complex128": ("a.nii", lambda: good(DATA * (3 + 4j)), lambda: expected(slope=5), "magnitude"),
    "sform-wins": ("a.nii", lambda: edited(qoffset_x=-13), expected, "disagree by up to 7 mm"),
    "sform-nan-qform": ("a.nii", lambda: edited(srow_x0=float("nan")), expected, "qform is used"),
    "sform-zero-qform": ("a.nii", lambda: edited(**{**scaled_srow(0), "qform_code": 1}), expected, "qform is used"),
    "qform-only": ("a.nii", lambda: edited(sform_code=0), expected, None),
    "qform-bad-sform-good": ("a.nii", lambda: edited(quatern_b=float("nan")), expected, None),
    "pixdim-negative": ("a.nii", lambda: edited(sform_code=0, pixdim2=-1.1), expected, None),
    "metres": ("a.nii", lambda: edited(**scaled_srow(0.001), units=1), expected, "metres: converted"),
    "microns": ("a.nii", lambda: edited(**scaled_srow(1000), units=3), expected, "microns: converted"),
    "metres-by-mistake": ("a.nii", lambda: edited(units=1), expected, "taken as mm"),
    "units-unknown": ("a.nii", lambda: edited(units=0), expected, None),
    "mgh": ("a.mgh", mgh, expected, None),
    "mgz": ("a.mgz", lambda: gz(mgh()), expected, None),
    "nifti2": ("a.nii", lambda: nib.Nifti2Image(DATA, AFFINE).to_bytes(), expected, None),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_defined_result(tmp_path: Path, name: str) -> None:
    file_name, content, values, note = ACCEPTED[name]
    path = tmp_path / file_name
    path.write_bytes(content())
    volume = load(path)
    np.testing.assert_allclose(volume.data, values(), rtol=1e-5)
    np.testing.assert_allclose(volume.grid.affine, AFFINE, atol=1e-3)
    assert volume.data.dtype == np.float32
    text = "; ".join(volume.notes)
    if note is None:
        assert text == ""
    else:
        assert note in text, text


def test_no_orientation_is_taken_as_ras_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(edited(sform_code=0, qform_code=0))
    volume = load(path)
    assert volume.grid.axis_codes == "RAS"
    np.testing.assert_allclose(volume.grid.spacing, (1, 1.1, 1.2), rtol=1e-6)
    np.testing.assert_allclose(volume.grid.center, 0, atol=1e-6)
    assert "left and right may be swapped" in volume.notes[0]


def test_mgh_without_orientation_takes_the_default(tmp_path: Path) -> None:
    path = tmp_path / "a.mgh"
    path.write_bytes(mgh(good_ras=0))
    volume = load(path)
    assert volume.grid.axis_codes == "LIA"
    assert "default" in volume.notes[0]


def test_no_more_is_expanded_than_the_header_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(bomb())
    expanded = []
    expand = Source._expand

    def counting(source: Source, count: int) -> bytes:
        data = expand(source, count)
        expanded.append(len(data))
        return data

    monkeypatch.setattr(Source, "_expand", counting)
    load(path)
    assert sum(expanded) <= 348 + 352 + DATA.nbytes + 1  # the header is read twice


def test_frames(tmp_path: Path) -> None:
    path = tmp_path / "series.nii.gz"
    series = np.stack([DATA, DATA * 2, DATA * 6], axis=-1)
    path.write_bytes(gz(good(series)))
    for frame, factor in ((0, 1), (1, 2), (2, 6), ("mean", 3)):
        volume = load(path, frame=frame)  # type: ignore[arg-type]
        np.testing.assert_allclose(volume.data, DATA * factor)
        assert ("mean of 3" if frame == "mean" else f"frame {frame} of 3") in volume.notes[0]
    for frame in (3, -1, "last"):
        with pytest.raises(InputError, match=r"series\.nii\.gz: frame"):
            load(path, frame=frame)
    path.write_bytes(gz(good(series)[: 352 + DATA.nbytes * 2]))  # only two frames are there
    np.testing.assert_array_equal(load(path, frame=1).data, DATA * 2)
    with pytest.raises(InputError, match="truncated"):
        load(path, frame=2)


def test_mean_ignores_what_is_not_a_number(tmp_path: Path) -> None:
    series = np.stack([DATA, DATA], axis=-1).astype(np.float32)
    series[0, 0, 0, 0] = np.nan
    (tmp_path / "a.nii").write_bytes(good(series))
    assert load(tmp_path / "a.nii", frame="mean").data[0, 0, 0] == DATA[0, 0, 0] / 2


def test_frame_zero_of_a_single_volume(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(good())
    np.testing.assert_array_equal(load(tmp_path / "a.nii", frame=0).data, DATA)
    np.testing.assert_array_equal(load(tmp_path / "a.nii", frame="mean").data, DATA)
    with pytest.raises(InputError, match="frame"):
        load(tmp_path / "a.nii", frame=1)


def test_checks_can_be_switched_off_for_maps(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii"
    path.write_bytes(good(np.zeros((6, 6, 6), np.uint8)))
    assert load(path, checks=False).data.max() == 0
    path.write_bytes(b"x")
    with pytest.raises(InputError):
        load(path, checks=False)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder.nii.gz"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.nii\.gz: is a folder"):
        load(folder)
    with pytest.raises(InputError, match=r"absent\.nii: no such file"):
        load(tmp_path / "absent.nii")
    link = tmp_path / "link.nii.gz"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"link\.nii\.gz: is a link"):
        load(link)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / ("n" * 300 + ".nii"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(InputError, match="not a regular file"):
        load(tmp_path / "pipe.nii")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.nii"
    path.write_bytes(good())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(InputError, match=r"secret\.nii: may not be read"):
            load(path)


def test_a_read_error_of_the_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gz(good()))

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("neuralprep.files.Source._expand", fail)
    with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be read"):
        load(path)


def test_every_truncation_of_a_header_is_refused(tmp_path: Path) -> None:
    content = good()
    path = tmp_path / "cut.nii"
    for length in range(0, 352, 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.nii"):
            load(path)


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "hurt.nii"
    plain, packed = good(), gz(good())
    for trial in range(300):
        content = bytearray(plain if trial % 3 else packed)
        limit = 348 if trial % 3 else len(content)
        for position in rng.integers(0, limit, rng.integers(1, 6)):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            volume = load(path)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert np.isfinite(volume.data).all()
            assert np.isfinite(volume.grid.affine).all()


def test_there_are_enough_cases() -> None:
    from reliability import test_bombs, test_places, test_worlds

    files = len(REFUSED) + len(ACCEPTED)
    places = 2 * len(test_places.NAMES) + len(test_places.LISTS)
    assert files >= 125
    assert files + places + len(test_worlds.SAME) + len(test_worlds.CODES) + len(test_bombs.CASES) >= 200
