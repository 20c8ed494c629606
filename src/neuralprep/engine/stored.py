"""A scan's own stored values under a mask: the type, the scale and the header of its file stay as they are.

What the file held inside the mask is what the new file holds, to the bit; outside stands the stored value nearest to
the fill. Where that cannot be (another format, a header that had to be repaired) the values keep at least their type,
and where the type cannot hold them or the fill they become float32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.files import open_source
from neuralprep.headers import Header
from neuralprep.nifti_io import DATA_OFFSET
from neuralprep.voxels import read_header

_NIFTI = (".nii", ".nii.gz")
#: types that all formats have
_PLAIN = tuple(map(np.dtype, ("u1", "i2", "i4", "f4")))
#: where the shape stands in the header, its type, and the same for voxel sizes, by the header's length
_FIELDS = {348: (40, "8h", 76, "8f"), 540: (16, "8q", 104, "8d")}
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}


class StoredScan:
    """The bytes of an image file: header and frames.

    Parameters
    ----------
    path
        An image that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, data_path = read_header(path)
        self._single = data_path == path and path.name.lower().endswith(_NIFTI)
        self._raw = b""
        if self._single:
            with open_source(path) as source:
                self._raw = source.exactly(self.header.offset, "header")

    def fits(self, target: Path, fill: float | str) -> bool:
        """Whether the stored values can go to a file of this name with this value outside."""
        same = self._single and target.name.lower().endswith(_NIFTI) and not self.header.notes
        return same and (fill == "min" or self._stored_fill(fill) is not None)

    def plain_type(self, fill: float | str) -> np.dtype | None:
        """Type that holds the values of the scan and the fill in any format, if the stored values are the values."""
        header = self.header
        plain = header.samples == 1 and header.slope == 1 and header.intercept == 0
        kind = header.dtype.newbyteorder("=")
        if not plain or kind not in _PLAIN or (fill != "min" and self._stored_fill(fill) is None):
            return None
        return kind

    def _stored_fill(self, fill: float | str) -> float | None:
        """What is stored for a value outside, None if the type cannot hold it."""
        header = self.header
        wanted = ((0.0 if fill == "zero" else float(fill)) - header.intercept) / header.slope
        if header.dtype.kind not in "iu":
            return wanted
        limits = np.iinfo(header.dtype)
        wanted = float(np.rint(wanted))
        return wanted if limits.min <= wanted <= limits.max else None

    def head(self, shape: tuple[int, ...]) -> bytes:
        """The bytes before the voxels of a file like this one, of another shape."""
        order, size = self._form()
        start, kind, _, _ = _FIELDS[size]
        raw = bytearray(self._raw)
        struct.pack_into(order + kind, raw, start, len(shape), *shape, *[1] * (7 - len(shape)))
        return bytes(raw)

    def frame_step_s(self) -> float:
        """Seconds between two frames, 0 where the header does not say."""
        if not self._single:
            return 0.0
        order, size = self._form()
        _, _, start, kind = _FIELDS[size]
        step = float(struct.unpack_from(order + kind, self._raw, start)[4])
        units = self._raw[123] if size == 348 else struct.unpack_from(order + "i", self._raw, 500)[0]
        return step * _SECONDS.get(units & 0x38, 1.0) if np.isfinite(step) and step > 0 else 0.0

    def _form(self) -> tuple[str, int]:
        """Byte order and length of the header."""
        length = int.from_bytes(self._raw[:4], "little")
        return ("<", length) if length in _FIELDS else (">", int.from_bytes(self._raw[:4], "big"))

    def frames(self, start: int = 0) -> Iterator[NDArray]:
        """Stored values of each frame from ``start`` on: (voxels, samples), first axis of the volume fastest."""
        header = self.header
        size = header.frame_voxels * header.voxel_bytes
        with open_source(self.path) as source:
            source.skip(header.offset + start * size, "header")
            for _ in range(start, header.frames):
                raw = source.exactly(size, "image data")
                yield np.frombuffer(raw, header.dtype).reshape(header.frame_voxels, header.samples)

    def masked(self, stored: NDArray, mask: NDArray, fill: float | str) -> NDArray:
        """Stored values of a frame, replaced outside of a mask (X, Y, Z), and where they are not numbers."""
        outside = (mask.reshape(-1, order="F") == 0)[:, None]
        if self.header.dtype.kind in "fc":
            outside = outside | ~np.isfinite(stored)
        value = _darkest(stored, self.header) if fill == "min" else self._stored_fill(fill)
        if value is None:
            raise InputError(f"{self.path}: its data type {self.header.dtype} cannot hold the fill {fill}")
        out = stored.copy()
        np.copyto(out, np.asarray(value).astype(stored.dtype), where=outside)
        return out


def _darkest(stored: NDArray, header: Header) -> float:
    """Stored value of the darkest voxel of a frame."""
    if header.dtype.kind == "c":
        return 0.0
    known = stored[np.isfinite(stored)] if header.dtype.kind == "f" else stored
    if not known.size:
        return 0.0
    return float(known.min() if header.slope > 0 else known.max())


def with_frame_step(head: bytes, seconds: float) -> bytes:
    """A header built by `neuralprep.nifti_io.build_header` with the time between two frames written into it."""
    raw = bytearray(head)
    assert len(raw) == DATA_OFFSET
    struct.pack_into("<f", raw, _FIELDS[348][2] + 4 * 4, seconds)
    return bytes(raw)
