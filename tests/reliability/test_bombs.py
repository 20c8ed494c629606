"""Small files that would grow without bound: refused at once, in little memory (measured in a process of its own)."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

GIGABYTE = 1_000_000_000
CODE = """
import resource, sys, time
from neuralprep.errors import InputError
from neuralprep.volume import load, load_frames
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, start = peak(), time.process_time()
try:
    if sys.argv[2] == "frames":
        for volume in load_frames(sys.argv[1]): pass
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
    path = zeros(folder / file_name, start())
    done = subprocess.run([sys.executable, "-c", CODE, str(path), how], capture_output=True, text=True, timeout=120,
                          check=True)  # fmt: skip
    seconds, mebibytes, said = done.stdout.split(maxsplit=2)
    assert said.startswith(str(path)), said
    assert words in said
    assert float(seconds) < 2, said
    assert float(mebibytes) < 100, said
