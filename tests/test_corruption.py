"""Every odd or broken file gives a defined volume, checked against the truth, or an `InputError` naming the file."""

from __future__ import annotations

import gzip
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
from samples import affine_matrix

SHAPE = (44, 43, 42)
AFFINE = affine_matrix((0, 0, 0.2), (1.0, 1.1, 1.2), (-20, -25, -22))
DATA = np.random.default_rng(0).integers(1, 100, SHAPE).astype(np.int16)

# Byte positions in a NIfTI-1 header, and their struct codes.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim0": (40, "h"), "dim1": (42, "h"), "dim2": (44, "h"), "dim3": (46, "h"),
    "dim4": (48, "h"), "datatype": (70, "h"), "bitpix": (72, "h"), "qfac": (76, "f"), "pixdim1": (80, "f"),
    "pixdim2": (84, "f"), "pixdim3": (88, "f"), "vox_offset": (108, "f"), "slope": (112, "f"), "inter": (116, "f"),
    "units": (123, "B"), "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern_b": (256, "f"),
    "qoffset_x": (268, "f"), "srow_x0": (280, "f"), "srow_y0": (296, "f"), "srow_z0": (312, "f"),
}


def good(data: np.ndarray = DATA, affine: np.ndarray = AFFINE) -> bytes:
    """Bytes of a plain NIfTI-1 file with qform and sform."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def edited(content: bytes | None = None, **values: float) -> bytes:
    """A good file with header fields overwritten."""
    raw = bytearray(good() if content is None else content)
    for name, value in values.items():
        position, code = FIELDS[name]
        struct.pack_into(f"<{code}", raw, position, value)
    return bytes(raw)


def scaled_srow(factor: float) -> dict[str, float]:
    """Header fields of an sform of the good file times a factor, with no qform."""
    raw = good()
    values: dict[str, float] = {"qform_code": 0}
    for row, name in enumerate(("srow_x0", "srow_y0", "srow_z0")):
        for column in range(4):
            FIELDS[f"srow{row}{column}"] = (FIELDS[name][0] + 4 * column, "f")
            (value,) = struct.unpack_from("<f", raw, FIELDS[f"srow{row}{column}"][0])
            values[f"srow{row}{column}"] = value * factor
    return values


def with_values(*pairs: tuple[tuple[int, int, int], float]) -> bytes:
    data = DATA.astype(np.float32)
    for voxel, value in pairs:
        data[voxel] = value
    return good(data)


def expected(**at: float) -> np.ndarray:
    return DATA.astype(np.float32) * at.get("slope", 1) + at.get("inter", 0)


def gz(content: bytes) -> bytes:
    return gzip.compress(content, 1)


def bomb() -> bytes:
    """The good image, and then 50 MB of zeros (50 kB on disk)."""
    return gz(good() + bytes(50_000_000))


def nifti2(*shape: int) -> bytes:
    raw = bytearray(nib.Nifti2Image(DATA, AFFINE).to_bytes())
    struct.pack_into("<3q", raw, 24, *shape)
    return bytes(raw)


def mgh(**values: float) -> bytes:
    image = nib.MGHImage(DATA.astype(np.float32), AFFINE)
    raw = bytearray(image.to_bytes())
    positions = {"version": (0, "i"), "width": (4, "i"), "type": (20, "i"), "good_ras": (28, "h"), "dx": (30, "f")}
    for name, value in values.items():
        position, code = positions[name]
        struct.pack_into(f">{code}", raw, position, value)
    return bytes(raw)


def rgb(dtype: list[tuple[str, str]]) -> bytes:
    data = np.zeros(SHAPE, dtype)
    data["R"], data["G"], data["B"] = DATA, DATA // 2, 7
    return nib.Nifti1Image(data, AFFINE).to_bytes()


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
    "mgh-is-nifti": ("a.mgz", lambda: gz(good()), "not MGH"),
    "pair-without-data": ("a.hdr", lambda: good()[:348], "other half"),
    "nrrd": ("a.nrrd", lambda: b"NRRD0004\n", "unsupported"),
    "dicom": ("a.dcm", lambda: bytes(128) + b"DICM", "dcm2niix"),
    "bz2": ("a.nii.bz2", lambda: b"BZh9", "unpack"),
    "no-ending": ("scan", good, "unsupported"),
}


def vector_image() -> bytes:
    image = nib.Nifti1Image(np.zeros((*SHAPE, 1, 3), np.float32), AFFINE)
    image.header["intent_code"] = 1007
    return image.to_bytes()


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


def overflowing() -> np.ndarray:
    data = DATA.astype(np.float64)
    data[0, 0, 0] = 1e300
    return data


def zeroed(*voxels: tuple[int, int, int]) -> np.ndarray:
    data = expected()
    for voxel in voxels:
        data[voxel] = 0
    return data


def luminance() -> np.ndarray:
    return (0.299 * DATA + 0.587 * (DATA // 2) + 0.114 * 7).astype(np.float32)


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
    assert len(REFUSED) + len(ACCEPTED) >= 45
