"""Random damage to good files: an image with finite values on a usable grid, or an `InputError` naming the file."""

from __future__ import annotations

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralprep.errors import InputError
from neuralprep.volume import load
from reliability.damage import AFFINE, DATA, FIELDS, good, mgh

NIFTI, MGH = good(), mgh()
PACKED, PACKED_MGH = gzip.compress(NIFTI, 1), gzip.compress(MGH, 1)
LIMITS = {"b": 8, "B": 8, "h": 16, "i": 32}
bounded = settings(max_examples=120, deadline=None, derandomize=True,
                   suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip


def check(content: bytes, ending: str) -> None:
    """Read it; whatever comes back is sound."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, f"scan{ending}")
        path.write_bytes(content)
        try:
            volume = load(path)
        except InputError as error:
            message = str(error)
            assert message.startswith(str(path)), message
            assert "\n" not in message
            assert len(message) < 500
            return
        assert np.isfinite(volume.data).all()
        assert volume.data.dtype == np.float32
        assert np.isfinite(volume.grid.affine).all()
        assert abs(np.linalg.det(volume.grid.affine[:3, :3])) > 0
        if content[:352] == NIFTI[:352] and ending == ".nii" and len(content) >= len(NIFTI):
            np.testing.assert_array_equal(volume.grid.affine, load_good().grid.affine)


def load_good():  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "good.nii")
        path.write_bytes(NIFTI)
        return load(path)


flips = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=8)


def flipped(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    raw = bytearray(content)
    for position, mask in changes:
        raw[position % len(raw)] ^= mask
    return bytes(raw)


@bounded
@given(flips)
def test_nifti_bytes(changes: list[tuple[int, int]]) -> None:
    check(flipped(NIFTI, changes), ".nii")


@bounded
@given(flips)
def test_mgh_bytes(changes: list[tuple[int, int]]) -> None:
    check(flipped(MGH, [(position % 300, mask) for position, mask in changes]), ".mgh")


@bounded
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4), st.booleans())
def test_packed_bytes(changes: list[tuple[int, int]], is_mgh: bool) -> None:
    check(flipped(PACKED_MGH if is_mgh else PACKED, changes), ".mgz" if is_mgh else ".nii.gz")


@bounded
@given(st.sampled_from([(".nii", NIFTI), (".mgh", MGH), (".nii.gz", PACKED), (".mgz", PACKED_MGH)]), st.floats(0, 1))
def test_truncations(which: tuple[str, bytes], share: float) -> None:
    ending, content = which
    check(content[: int(len(content) * share)], ending)


def values(kind: str) -> st.SearchStrategy[float]:
    if kind == "f":
        return st.floats(width=32) | st.sampled_from([0.0, -1.0, 1e-30, 1e30, 352.0, 1e9])
    bits = LIMITS[kind]
    low, high = (0, 2**bits - 1) if kind == "B" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high) | st.sampled_from([0, 1, 2, 3, 7, 16, 64])


fields = st.lists(
    st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), values(FIELDS[name][1]))),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(bounded, max_examples=250)
@given(fields, st.booleans())
def test_header_fields(changes: list[tuple[str, float]], packed: bool) -> None:
    raw = bytearray(NIFTI)
    for name, value in changes:
        position, code = FIELDS[name]
        struct.pack_into(f"<{code}", raw, position, value)
    check(gzip.compress(bytes(raw), 1) if packed else bytes(raw), ".nii.gz" if packed else ".nii")


@settings(bounded, max_examples=60)
@given(st.binary(max_size=700), st.sampled_from([".nii", ".nii.gz", ".mgh", ".mgz"]))
def test_noise(content: bytes, ending: str) -> None:
    check(content, ending)


@settings(bounded, max_examples=60)
@given(st.binary(max_size=400), st.sampled_from([(348, ".nii"), (540, ".nii"), (1, ".mgh")]))
def test_noise_after_a_good_start(content: bytes, which: tuple[int, str]) -> None:
    start = struct.pack("<i" if which[1] == ".nii" else ">i", which[0])
    magic = b"n+1\0" if which[0] == 348 else b"n+2\0\r\n\x1a\n"
    raw = bytearray(start + content.ljust(600, b"\0"))
    if which[1] == ".nii":
        raw[344:348] = magic[:4]
        if which[0] == 540:
            raw[4:12] = magic
    check(bytes(raw) + bytes(DATA.nbytes), which[1])


def test_the_good_files_are_good() -> None:
    volume = load_good()
    np.testing.assert_allclose(volume.grid.affine, AFFINE, atol=1e-4)
    np.testing.assert_array_equal(volume.data, DATA)
