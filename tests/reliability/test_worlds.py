"""One head stored in many ways is one head: the same voxels of the world are bright, wherever the file puts them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine.fake_processor import fake_job
from neuralprep.engine.run import run_batch
from neuralprep.errors import InputError
from neuralprep.volume import load
from reliability.damage import edited
from samples import affine_matrix

SHAPE = (42, 46, 44)
AFFINE = affine_matrix((0.1, -0.2, 0.3), (1.0, 1.1, 1.2), (-21, -25, -30))
THRESHOLD = 500
CODES = ["".join(codes) for order in permutations(range(3)) for codes in product(*("RAS"[i] + "LPI"[i] for i in order))]


def head() -> np.ndarray:
    """A ball with a smaller one on its right and front: no symmetry hides a flip."""
    index = np.indices(SHAPE, dtype=float)
    ball = ((index - np.array([20, 23, 22])[:, None, None, None]) ** 2).sum(0) < 14**2
    nose = ((index - np.array([32, 33, 27])[:, None, None, None]) ** 2).sum(0) < 6**2
    return np.where(ball | nose, 900, 20).astype(np.int16)


DATA = head()


def bright(values: np.ndarray, affine: np.ndarray, start: np.ndarray = AFFINE) -> set[tuple[int, ...]]:
    """Where the bright voxels lie in the world, as voxels of the good file."""
    world = nib.affines.apply_affine(affine, np.argwhere(values > THRESHOLD))
    index = nib.affines.apply_affine(np.linalg.inv(start), world)
    assert np.abs(index - np.rint(index)).max() < 0.01
    return set(map(tuple, np.rint(index).astype(int).tolist()))


TRUTH = bright(DATA, AFFINE)


def reoriented(codes: str) -> nib.Nifti1Image:
    start = nib.orientations.axcodes2ornt("RAS")
    image = nib.Nifti1Image(DATA, AFFINE)
    return image.as_reoriented(nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(tuple(codes))))


def with_forms(image: nib.Nifti1Image) -> nib.Nifti1Image:
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def same_head(values: np.ndarray, affine: np.ndarray) -> None:
    assert bright(values, affine) == TRUTH


@pytest.mark.parametrize("codes", CODES)
def test_orientations(tmp_path: Path, codes: str) -> None:
    image = with_forms(reoriented(codes))
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    volume = load(path)
    assert not volume.notes
    same_head(volume.data, volume.grid.affine)


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_types_and_byte_orders(tmp_path: Path, kind: str, order: str, version: int) -> None:
    data = (DATA // 10 if kind in ("u1", "i1") else DATA).astype(kind)
    make = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = make.header_class(endianness=order)
    header.set_data_dtype(np.dtype(kind))
    image = make(data, AFFINE, header, dtype=np.dtype(kind))
    image.header["scl_slope"], image.header["scl_inter"] = 1, 0
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    volume = load(tmp_path / "a.nii")
    same_head(volume.data * (10 if kind in ("u1", "i1") else 1), volume.grid.affine)


def form_only(which: str) -> bytes:
    image = nib.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, 1 if which == "sform" else 0)
    image.set_qform(AFFINE, 1 if which == "qform" else 0)
    return image.to_bytes()


def code(value: int) -> bytes:
    image = nib.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, value)
    image.set_qform(AFFINE, value)
    return image.to_bytes()


def scaled(slope: float, inter: float) -> bytes:
    stored = np.rint((DATA - inter) / slope).astype(np.int16)
    image = with_forms(nib.Nifti1Image(stored, AFFINE))
    raw = bytearray(image.to_bytes())
    struct.pack_into("<2f", raw, 112, slope, inter)
    return bytes(raw)


def sheared(angle: float) -> tuple[bytes, np.ndarray]:
    affine = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, np.tan(angle), 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(DATA, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    return image.to_bytes(), affine


SAME: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{f"{form} alone": ("a.nii", lambda form=form: form_only(form)) for form in ("sform", "qform")},
    **{f"code {value}": ("a.nii", lambda value=value: code(value)) for value in (1, 2, 3, 4, 5)},
    **{f"slope {s} inter {i}": ("a.nii", lambda s=s, i=i: scaled(s, i))
       for s, i in ((0.5, 0), (2, 0), (0.1, -1000), (3, 700), (-1, 0), (-0.5, 100))},
    **{f"gzip level {n}": ("a.nii.gz", lambda n=n: gzip.compress(code(1), n)) for n in (0, 1, 6, 9)},
    "gzip with a name": ("a.nii.gz", lambda: gzip_with_name(code(1))),
    "gzip in members": ("a.nii.gz", lambda: b"".join(gzip.compress(code(1)[i:i + 9001])
                                                      for i in range(0, len(code(1)), 9001))),
    "one frame of four dimensions": ("a.nii", lambda: with_forms(nib.Nifti1Image(DATA[..., None], AFFINE)).to_bytes()),
    "seven dimensions": ("a.nii", lambda: with_forms(
        nib.Nifti1Image(DATA[..., None, None, None, None], AFFINE)).to_bytes()),
    "half a turn": ("a.nii", lambda: with_forms(reoriented("LAI")).to_bytes()),
    "MGH": ("a.mgh", lambda: nib.MGHImage(DATA.astype(np.int16), AFFINE).to_bytes()),
    "MGZ": ("a.mgz", lambda: gzip.compress(nib.MGHImage(DATA.astype(np.float32), AFFINE).to_bytes())),
    "MGH turned": ("a.mgh", lambda: nib.MGHImage(np.ascontiguousarray(reoriented("LIA").dataobj, dtype=np.float32),
                                                 reoriented("LIA").affine).to_bytes()),
}  # fmt: skip


def gzip_with_name(content: bytes) -> bytes:
    """A gzip header with all optional fields: extra, name, comment."""
    packed = gzip.compress(content, 1)
    return packed[:3] + b"\x1c" + packed[4:10] + b"\x04\x00abcd" + b"name\0" + b"comment\0" + packed[10:]


@pytest.mark.parametrize("name", SAME)
def test_encodings(tmp_path: Path, name: str) -> None:
    file_name, content = SAME[name]
    (tmp_path / file_name).write_bytes(content())
    volume = load(tmp_path / file_name)
    same_head(volume.data, volume.grid.affine)


def test_pairs_of_files(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(DATA, AFFINE), tmp_path / "a.hdr")
    for name in ("a.hdr", "a.img"):
        volume = load(tmp_path / name)
        same_head(volume.data, volume.grid.affine)


@pytest.mark.parametrize("angle", [-0.4, 0.05, 0.3])
def test_leaning_axes(tmp_path: Path, angle: float) -> None:
    content, affine = sheared(angle)
    (tmp_path / "a.nii").write_bytes(content)
    volume = load(tmp_path / "a.nii")
    assert bright(volume.data, volume.grid.affine, affine) == bright(DATA, affine, affine)
    assert "off a right angle" in volume.notes[0]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR", "AIL", "SRP", "IAR"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz"])
def test_masks_that_are_written_lie_on_the_head(tmp_path: Path, codes: str, ending: str) -> None:
    image = with_forms(reoriented(codes))
    if ending == ".mgz":
        image = nib.MGHImage(np.ascontiguousarray(image.dataobj, dtype=np.float32), image.affine)
    nib.save(image, tmp_path / f"head{ending}")
    job = fake_job(tmp_path / "out", normalize=False, register=False, outputs=("brain_mask",))
    (record,) = run_batch([tmp_path / f"head{ending}"], job)
    assert record.status == "ok"
    mask = nib.load(tmp_path / "out" / "head" / "head_desc-brain_mask.nii.gz")
    assert int(mask.header["qform_code"]) == int(mask.header["sform_code"]) == 1
    np.testing.assert_allclose(mask.get_qform(), mask.get_sform(), atol=0.02)
    same_head(mask.get_fdata() * 1000, mask.affine)


@pytest.mark.parametrize("field", ["sizeof_hdr", "dim0", "dim1", "datatype", "vox_offset", "sform_code", "qfac"])
def test_extreme_header_fields_never_raise_another_error(tmp_path: Path, field: str) -> None:
    path = tmp_path / "a.nii"
    for value in (0, -1, 1, 7, 255, 32767, -32768):
        path.write_bytes(edited(**{field: value}))
        try:
            volume = load(path)
        except InputError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
        else:
            assert volume.data.shape == (44, 43, 42)  # nothing but a field that does not count was changed

