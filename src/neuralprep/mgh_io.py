"""FreeSurfer MGH headers (big-endian; MGZ is the same, compressed).

Source: FreeSurfer file format description (surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuralprep.errors import InputError
from neuralprep.grid import FloatArray
from neuralprep.headers import Header, describe_content

HEADER_SIZE = 284
_FIELDS = np.dtype([
    ("version", ">i4"), ("dim", ">i4", 4), ("type", ">i4"), ("dof", ">i4"), ("good_ras", ">i2"), ("delta", ">f4", 3),
    ("directions", ">f4", (3, 3)), ("center", ">f4", 3)])
_TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_CODES = {"u1": 0, "i4": 1, "f4": 3, "i2": 4}
_DEFAULT_DIRECTIONS = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=float)  # columns: L, I, A


def parse_header(raw: bytes, path: Path) -> Header:
    """Header from its 284 bytes.

    Raises
    ------
    InputError
        Not MGH, or an unsupported data type.
    """
    fields = np.frombuffer(raw, _FIELDS, count=1)[0]
    if fields["version"] != 1:
        raise InputError(f"{path}: is not MGH: {describe_content(raw)}")
    code = int(fields["type"])
    if code not in _TYPES:
        raise InputError(f"{path}: holds MGH data type {code}, which is not supported; convert it with mri_convert")
    shape = [int(n) for n in fields["dim"]]
    if min(shape) < 1:
        raise InputError(f"{path}: its header gives the shape {' x '.join(map(str, shape))}; it is damaged, "
                         "convert the scan again")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    notes = []
    with np.errstate(invalid="ignore"):  # signalling NaNs in a damaged header
        delta, center = fields["delta"].astype(float), fields["center"].astype(float)
        directions = fields["directions"].T.astype(float)  # stored column after column
    if fields["good_ras"] <= 0:
        notes.append("no orientation in the header: FreeSurfer's default (coronal, 1 mm) assumed")
        delta, center, directions = np.ones(3), np.zeros(3), _DEFAULT_DIRECTIONS
    affine = np.eye(4)
    affine[:3, :3] = directions * delta
    affine[:3, 3] = center - affine[:3, :3] @ (np.array(shape[:3]) / 2)
    return Header(tuple(shape), affine, np.dtype(_TYPES[code]), HEADER_SIZE, notes=tuple(notes))


def build_header(shape: tuple[int, ...], affine: FloatArray, dtype: np.dtype) -> tuple[bytes, np.dtype]:
    """The 284 bytes before the data, and the type that the data must have.

    Raises
    ------
    InputError
        The format has no such data type.
    """
    name = np.dtype(dtype).str[1:]
    if name not in _CODES:
        raise InputError(f"data type {dtype} cannot be stored as MGH; use uint8, int16, int32 or float32")
    fields = np.zeros((), _FIELDS)
    fields["version"], fields["good_ras"], fields["type"] = 1, 1, _CODES[name]
    fields["dim"] = [*shape, 1]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    fields["delta"], fields["directions"] = spacing, (affine[:3, :3] / spacing).T
    fields["center"] = affine[:3, :3] @ (np.array(shape) / 2) + affine[:3, 3]
    return fields.tobytes() + bytes(HEADER_SIZE - _FIELDS.itemsize), np.dtype(_TYPES[_CODES[name]])
