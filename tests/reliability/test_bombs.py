"""Small files that would grow without bound: refused at once, in little memory (measured in a process of its own)."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from neuralprep import files
from neuralprep.formats import read_transform
from neuralprep.formats.itk_hdf5 import write_composite
from neuralprep.grid import Grid
from neuralprep.transform import Displacement

GIGABYTE = 1_000_000_000
CODE = """
import resource, sys, time
from neuralprep.errors import InputError
from neuralprep.volume import load, load_frames
from neuralprep.formats import read_transform
import h5py
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, start = peak(), time.process_time()
try:
    if sys.argv[2] == "frames":
        for volume in load_frames(sys.argv[1]): pass
    elif sys.argv[2] == "transform":
        read_transform(sys.argv[1])
    else:
        load(sys.argv[1], frame=None if sys.argv[2] == "one" else "mean")
    said = "loaded"
except InputError as error:
    said = str(error)
print(time.process_time() - start, (peak() - before) / 1024, said)
"""


def nifti(shape: tuple[int, ...], spacing: float = 1.0, offset: float = 352) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_sform(np.diag([spacing, spacing, spacing, 1]), 1)
    raw = bytearray(header.binaryblock) + bytes(4)
    struct.pack_into("<f", raw, 108, offset)
    return bytes(raw)


def mgh(shape: tuple[int, ...], spacing: float = 1.0) -> bytes:
    raw = bytearray(284)
    struct.pack_into(">6i", raw, 0, 1, *shape, *[1] * (4 - len(shape)), 0)
    struct.pack_into(">h3f9f", raw, 28, 1, *[spacing] * 3, 1, 0, 0, 0, 1, 0, 0, 0, 1)
    return bytes(raw)


def zeros(path: Path, start: bytes) -> Path:
    """The start, and then a gigabyte of zeros, in a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block, packed = bytes(10_000_000), []
    for part in (start, block):  # a full flush forgets what was before, so the same bytes can follow again and again
        packed.append(packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH))
    path.write_bytes(packed[0] + packed[1] * (GIGABYTE // len(block)) + packer.flush())
    assert path.stat().st_size < 1_100_000
    return path


CASES = {
    "small header": ("a.nii.gz", lambda: nifti((64, 64, 64)), "one", "every voxel has the value 0"),
    "huge header": ("a.nii.gz", lambda: nifti((1000, 1000, 999), 0.3), "one", "would expand to"),
    "beyond all": ("a.nii.gz", lambda: nifti((3000, 3000, 3000), 0.3), "one", "more than 1e+09"),
    "many frames": ("a.nii.gz", lambda: nifti((100, 100, 100, 999)), "mean", "would expand to"),
    "frame by frame": ("a.nii.gz", lambda: nifti((100, 100, 100, 999)), "frames", "would expand to"),
    "far offset": ("a.nii.gz", lambda: nifti((64, 64, 64), offset=9e8), "one", "would expand to"),
    "offset beyond": ("a.nii.gz", lambda: nifti((64, 64, 64), offset=9e11), "one", "truncated"),
    "small mgz": ("a.mgz", lambda: mgh((64, 64, 64)), "one", "every voxel has the value 0"),
    "huge mgz": ("a.mgz", lambda: mgh((1000, 1000, 999), 0.3), "one", "would expand to"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bombs")


@pytest.mark.skipif(os.name != "posix", reason="measures with POSIX calls")
@pytest.mark.parametrize("name", CASES)
def test_a_gigabyte_of_zeros(folder: Path, name: str) -> None:
    file_name, start, how, words = CASES[name]
    refused(zeros(folder / file_name, start()), how, words)


def refused(path: Path, how: str, words: str) -> None:
    """It is refused in these words, at once and in little memory."""
    done = subprocess.run([sys.executable, "-c", CODE, str(path), how], capture_output=True, text=True, timeout=120,
                          check=True)  # fmt: skip
    seconds, mebibytes, said = done.stdout.split(maxsplit=2)
    assert said.startswith(str(path)), said
    assert words in said
    assert float(seconds) < 2, said
    assert float(mebibytes) < 100, said


SIDE = 440  # 3 * 440 ** 3 single-precision numbers are a gigabyte
ITK_KIND = b"DisplacementFieldTransform_float_3_3"


def itk_file(path: Path) -> h5py.File:
    """An ITK file of one displacement field, without its parameters."""
    file = h5py.File(path, "w")
    group = file.create_group("TransformGroup/0")
    group["TransformType"] = np.array([ITK_KIND], dtype=object)
    group["TransformFixedParameters"] = np.array([SIDE, SIDE, SIDE, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1.0])
    return file


def x5_file(path: Path) -> h5py.File:
    """An X5 file of one displacement field, without the field."""
    file = h5py.File(path, "w")
    file.attrs["Format"] = "X5"
    group = file.create_group("TransformGroup/0")
    group.attrs.update({"Type": "nonlinear", "Representation": "displacements"})
    group["DimensionKinds"] = np.array([b"space"] * 3 + [b"vector"])
    group.update({"Domain/Grid": np.uint8(1), "Domain/Size": np.array([SIDE] * 3), "Domain/Mapping": np.eye(4)})
    return file


def never_written(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    """A few bytes: blocks that were never written are zero."""
    group.create_dataset(name, shape, "f4", chunks=True, compression="gzip")


def never_stored(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    """The same without any compression."""
    group.create_dataset(name, shape, "f4")


def zeros_in_blocks(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    """A megabyte: every block is there."""
    chunks = (8, *shape[1:]) if len(shape) > 1 else (1 << 20,)
    entry = group.create_dataset(name, shape, "f4", chunks=chunks, compression="gzip")
    packed = zlib.compress(bytes(4 * math.prod(chunks)), 9)
    for start in range(0, shape[0], chunks[0]):
        entry.id.write_direct_chunk((start, *(0,) * (len(shape) - 1)), packed)


def small_with_a_large_block(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    """Few values, in a block that is a gigabyte."""
    group.create_dataset(name, (1,) * len(shape), "f4", chunks=shape, maxshape=(None,) * len(shape), compression="gzip")


def twice(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    """Few values, says the file; its one block, expanded twice, is a gigabyte."""
    stored = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    stored.set_chunk((3,))
    stored.set_deflate(9)
    stored.set_deflate(9)
    space = h5py.h5s.create_simple((3,))
    entry = h5py.h5d.create(group.id, name.encode(), h5py.h5t.IEEE_F32LE, space, stored)
    entry.write_direct_chunk((0,), zlib.compress(packed_gigabyte(), 9))


@cache
def packed_gigabyte() -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(10_000_000)) for _ in range(100)) + packer.flush()


FIELDS = {"never written": (never_written, "would expand to"), "never stored": (never_stored, "would expand to"),
          "zeros": (zeros_in_blocks, "would expand to"), "block": (small_with_a_large_block, "would expand to"),
          "twice": (twice, "compressed more than once")}  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="measures with POSIX calls")
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("kind", ["h5", "x5"])
def test_a_field_of_a_gigabyte(folder: Path, kind: str, name: str) -> None:
    if kind == "x5":
        pytest.importorskip("nitransforms")
    store, words = FIELDS[name]
    path = folder / f"{name}.{kind}"
    with itk_file(path) if kind == "h5" else x5_file(path) as file:
        if kind == "h5":
            store(file["TransformGroup/0"], "TransformParameters", (3 * SIDE**3,))
        else:
            store(file["TransformGroup/0"], "Transform", (SIDE, SIDE, SIDE, 3))
    assert path.stat().st_size < 2_500_000
    refused(path, "transform", words)


@pytest.mark.skipif(os.name != "posix", reason="measures with POSIX calls")
def test_one_field_under_many_names(folder: Path) -> None:
    path = folder / "names.h5"
    with itk_file(path) as file:
        never_written(file["TransformGroup/0"], "TransformParameters", (3 * 200**3,))
        for number in range(1, 20):
            file[f"TransformGroup/{number}"] = file["TransformGroup/0"]
    refused(path, "transform", "would expand to")


@pytest.mark.parametrize("kind", ["h5", "x5"])
def test_a_field_without_any_motion_is_still_read(tmp_path: Path, kind: str) -> None:
    """Six million zeros in double precision shrink a thousandfold, and are a transform all the same."""
    if kind == "x5":
        pytest.importorskip("nitransforms")
    path, side = tmp_path / f"still.{kind}", 126
    packing = {"compression": "gzip", "compression_opts": 9, "chunks": True}
    with itk_file(path) if kind == "h5" else x5_file(path) as file:
        group, values = file["TransformGroup/0"], np.zeros((side, side, side, 3))
        if kind == "h5":
            group["TransformFixedParameters"][:3] = side
            group.create_dataset("TransformParameters", data=values.ravel(), **packing)
        else:
            group["Domain/Size"][:] = side
            group.create_dataset("Transform", data=values, **packing)
    assert path.stat().st_size < values.nbytes / 250
    moved = read_transform(path)
    assert isinstance(moved, Displacement)
    assert moved.grid.shape == (side, side, side)
    assert not moved.vectors.any()


@pytest.mark.parametrize("writer", ["ours", "SimpleITK", "gzip", "x5"])
def test_smooth_fields_are_read_whatever_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """Smooth fields shrink well, but by far not as much as would be refused; here small ones stand for large ones."""
    monkeypatch.setattr(files, "_BOMB_BYTES", 0)
    grid = Grid((72, 72, 72), np.diag([3.0, 3.0, 3.0, 1.0]))
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape)
    bump = 8 * np.exp(-3 * (x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2))
    vectors = np.stack([bump, np.full_like(bump, 2.5), np.zeros_like(bump)], axis=-1)
    field, path = Displacement(vectors, grid), tmp_path / f"smooth.{'x5' if writer == 'x5' else 'h5'}"
    if writer == "SimpleITK":
        written_by_simpleitk(path, field)
    elif writer == "x5":
        written_as_x5(path, field)
    else:
        write_composite(path, field)
    if writer == "gzip":  # what antsRegistration writes: all in double precision, packed as far as it goes
        with h5py.File(path, "a") as file:
            group = file["TransformGroup/0"]
            values = group["TransformParameters"][()].astype(np.float64)
            del group["TransformParameters"]
            group.create_dataset("TransformParameters", data=values, compression="gzip", compression_opts=9,
                                 shuffle=True)  # fmt: skip
    moved = read_transform(path)
    assert isinstance(moved, Displacement)
    np.testing.assert_allclose(moved.vectors, vectors, atol=1e-6)


def written_by_simpleitk(path: Path, field: Displacement) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(lps_vectors(field), isVector=True)
    image.SetSpacing([float(s) for s in field.grid.spacing])
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    both = sitk.CompositeTransform([sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))])
    sitk.WriteTransform(both, str(path))


def written_as_x5(path: Path, field: Displacement) -> None:
    io = pytest.importorskip("nitransforms.io.x5")
    domain = io.X5Domain(grid=True, size=field.grid.shape, mapping=field.grid.affine, coordinates="cartesian")
    io.to_filename(path, [io.X5Transform(
        type="nonlinear", representation="displacements", transform=field.vectors, domain=domain,
        dimension_kinds=("space", "space", "space", "vector"))])  # fmt: skip


def lps_vectors(field: Displacement) -> np.ndarray:
    return np.ascontiguousarray((field.vectors * np.array([-1, -1, 1], np.float32)).transpose(2, 1, 0, 3))
