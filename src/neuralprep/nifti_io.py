"""NIfTI-1 and NIfTI-2 headers: parsing with the rules below, and building.

Which affine is used: the sform if its code is positive and it is usable, else the qform if its code is positive, else
the voxel sizes with axes assumed to run right, anterior, superior. Everything but the plain case leaves a note.
Source: nifti1.h and nifti2.h (NIfTI Data Format Working Group).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.grid import FloatArray, Grid, check_matrix
from neuralprep.headers import VOXEL_RANGE_MM, Header, describe_content

SPACE_CODES = {"native": 1, "template": 4, "other": 2}
VECTOR_INTENT = 1007
DATA_OFFSET = 352
_SIZES = {1: 348, 2: 540}
_DISAGREE_MM = 0.1
_HALF_TURN = 1e-7
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_UNIT_NAME = {1: "metre", 3: "micron"}

_FIELDS_1 = [
    ("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"), ("session_error", "i2"),
    ("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", 8), ("intent_p", "f4", 3), ("intent_code", "i2"),
    ("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", 8), ("vox_offset", "f4"),
    ("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
    ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"), ("glmax", "i4"),
    ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2"),
    ("quatern", "f4", 3), ("qoffset", "f4", 3), ("srow", "f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4")]
_FIELDS_2 = [
    ("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", 8),
    ("intent_p", "f8", 3), ("pixdim", "f8", 8), ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8"),
    ("cal_max", "f8"), ("cal_min", "f8"), ("slice_duration", "f8"), ("toffset", "f8"), ("slice_start", "i8"),
    ("slice_end", "i8"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4"), ("sform_code", "i4"),
    ("quatern", "f8", 3), ("qoffset", "f8", 3), ("srow", "f8", (3, 4)), ("slice_code", "i4"), ("xyzt_units", "i4"),
    ("intent_code", "i4"), ("intent_name", "S16"), ("dim_info", "u1"), ("unused", "S15")]
_DTYPES = {1: np.dtype(_FIELDS_1), 2: np.dtype(_FIELDS_2)}

# code -> (numpy type of a sample, samples per voxel)
_TYPES = {2: ("u1", 1), 4: ("i2", 1), 8: ("i4", 1), 16: ("f4", 1), 32: ("c8", 1), 64: ("f8", 1), 128: ("u1", 3),
          256: ("i1", 1), 512: ("u2", 1), 768: ("u4", 1), 1024: ("i8", 1), 1280: ("u8", 1), 1792: ("c16", 1),
          2304: ("u1", 4)}
_CODES = {name: code for code, (name, samples) in _TYPES.items() if samples == 1}


def header_size(start: bytes, path: Path) -> int:
    """Length of the header whose first four bytes are given.

    Raises
    ------
    InputError
        They do not begin a NIfTI header.
    """
    return _SIZES[_version_and_order(start, path)[0]]


def parse_header(raw: bytes, path: Path) -> Header:
    """Header from its bytes (348 or 540).

    Raises
    ------
    InputError
        Not NIfTI, an unsupported data type, or no usable affine.
    """
    version, order = _version_and_order(raw, path)
    fields = np.frombuffer(raw, _DTYPES[version].newbyteorder(order), count=1)[0]
    magic = bytes(fields["magic"])[:3]
    if magic not in (b"n+%d" % version, b"ni%d" % version):
        raise InputError(f"{path}: has no NIfTI magic ({magic!r}; an Analyze 7.5 image does not say which way its axes "
                         "run); convert the original scan to NIfTI")
    code = int(fields["datatype"])
    if code not in _TYPES:
        raise InputError(f"{path}: holds NIfTI data type {code}, which is not supported; convert it to float32")
    sample, samples = _TYPES[code]
    notes: list[str] = []
    shape = _shape(fields, path)
    with np.errstate(invalid="ignore"):  # signalling NaNs in a damaged header
        affine = _affine(fields, shape, notes, path)
    affine = _in_millimetres(affine, int(fields["xyzt_units"]) & 7, notes)
    slope, intercept = _scaling(fields, notes)
    return Header(shape, affine, np.dtype(sample).newbyteorder(order), _offset(fields, magic, version, notes, path),
                  samples, slope, intercept, tuple(notes), int(fields["intent_code"]),
                  bytes(fields["intent_name"]).rstrip(b"\0 ").decode("ascii", "replace"))


def build_header(shape: tuple[int, ...], affine: FloatArray, dtype: np.dtype, space: str, description: str = "",
                 intent: int = 0, intent_name: str = "") -> bytes:
    """The 352 bytes before the data of a little-endian single-file NIfTI-1 image.

    Parameters
    ----------
    shape : tuple of int
        Array shape, at most 7 axes.
    affine : (4, 4)
        Voxel -> RAS mm, written as sform and as qform. An affine with sheared axes has no qform: its code is then 0,
        so that no reader finds two different geometries.
    dtype : numpy.dtype
        Type of the data.
    space : {"native", "template", "other"}
        Meaning of the world coordinates (codes 1, 4, 2).
    description : str
        Free text, cut at 79 characters.
    intent : int
        NIfTI intent code.
    intent_name : str
        What the values are called, cut at 15 characters.

    Raises
    ------
    InputError
        Unknown space, unsupported type, or an axis longer than the format allows.
    """
    if space not in SPACE_CODES:
        raise InputError(f"space {space!r} is not one of {', '.join(SPACE_CODES)}")
    name = np.dtype(dtype).newbyteorder("<").str[1:]
    if name not in _CODES:
        raise InputError(f"data type {dtype} cannot be stored as NIfTI; use uint8, int16, int32 or float32")
    if max(shape) > np.iinfo(np.int16).max:
        raise InputError(f"shape {shape} is too large for NIfTI-1")
    fields = np.zeros((), _DTYPES[1].newbyteorder("<"))
    fields["sizeof_hdr"], fields["magic"], fields["regular"] = 348, b"n+1", b"r"
    fields["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    fields["datatype"], fields["bitpix"] = _CODES[name], np.dtype(dtype).itemsize * 8
    fields["vox_offset"], fields["scl_slope"], fields["xyzt_units"] = DATA_OFFSET, 1, 2 | (8 if len(shape) > 3 else 0)
    fields["descrip"] = description.encode("ascii", "replace")[:79]
    fields["intent_code"], fields["intent_name"] = intent, intent_name.encode("ascii", "replace")[:15]
    quaternion, sign, exact = _quaternion(affine)
    fields["pixdim"] = [sign, *np.linalg.norm(affine[:3, :3], axis=0), *[1] * (len(shape) - 3), *[0] * (7 - len(shape))]
    fields["quatern"], fields["qoffset"], fields["srow"] = quaternion, affine[:3, 3], affine[:3]
    fields["sform_code"] = SPACE_CODES[space]
    fields["qform_code"] = SPACE_CODES[space] if exact else 0
    return fields.tobytes() + bytes(DATA_OFFSET - 348)


def _version_and_order(raw: bytes, path: Path) -> tuple[int, Literal["<", ">"]]:
    for version, size in _SIZES.items():
        if raw[:4] == size.to_bytes(4, "little"):
            return version, "<"
        if raw[:4] == size.to_bytes(4, "big"):
            return version, ">"
    raise InputError(f"{path}: is not NIfTI: {describe_content(raw)}")


def _shape(fields: np.void, path: Path) -> tuple[int, ...]:
    count = int(fields["dim"][0])
    if not 1 <= count <= 7:
        raise InputError(f"{path}: its header gives {count} dimensions; it is damaged, convert the scan again")
    shape = [int(n) for n in fields["dim"][1:count + 1]]
    if min(shape) < 1:
        raise InputError(f"{path}: its header gives the shape {' x '.join(map(str, shape))}; it is damaged, "
                         "convert the scan again")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _offset(fields: np.void, magic: bytes, version: int, notes: list[str], path: Path) -> int:
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and 0 <= offset < 2**40):
        raise InputError(f"{path}: its header puts the data at byte {offset:g}; it is damaged, convert the scan again")
    least = _SIZES[version] + 4 if magic.startswith(b"n+") else 0
    if offset < least:
        notes.append(f"data offset {offset:g} lies within the header; taken as {least}")
        return least
    return int(offset)


def _scaling(fields: np.void, notes: list[str]) -> tuple[float, float]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if np.isnan(slope):  # how some writers say "not scaled"
        return 1.0, 0.0
    if slope == 0 or np.isinf(slope):
        notes.append(f"scl_slope is {slope:g}: stored values taken as they are")
        return 1.0, 0.0
    if not np.isfinite(intercept):
        notes.append(f"scl_inter is {intercept}: taken as 0")
        intercept = 0.0
    return slope, intercept


def _affine(fields: np.void, shape: tuple[int, ...], notes: list[str], path: Path) -> FloatArray:
    """The affine that counts, in the file's units."""
    size = (*shape, 1, 1)[:3]
    qform, q_fault = (_qform(fields) if fields["qform_code"] > 0 else (None, "code 0"))
    if fields["sform_code"] > 0:
        sform = np.vstack([fields["srow"].astype(np.float64), (0, 0, 0, 1)])
        try:
            check_matrix(sform, "sform")
        except GeometryError as error:
            if qform is None:
                raise InputError(f"{path}: {error} and its qform cannot stand in ({q_fault}); correct the header or "
                                 "convert the scan again") from None
            notes.append(f"{error}; the qform is used")
            return qform
        if qform is not None:
            _note_disagreement(sform, qform, size, notes)
        return sform
    if qform is not None:
        return qform
    if fields["qform_code"] > 0:
        raise InputError(f"{path}: its qform is unusable ({q_fault}) and it has no sform; correct the header or "
                         "convert the scan again")
    spacing = _spacing(fields)
    if spacing is None:
        raise InputError(f"{path}: has no sform, no qform and no valid voxel size; convert the scan again")
    notes.append("no orientation in the header: axes assumed right, anterior, superior (left and right may be swapped)")
    try:
        return Grid.centered(size, spacing.tolist()).affine
    except GeometryError as error:
        raise InputError(f"{path}: {error}; convert the scan again") from None


def _note_disagreement(sform: FloatArray, qform: FloatArray, size: tuple[int, ...], notes: list[str]) -> None:
    x, y, z = size
    corners = [Grid((x, y, z), matrix).corners() for matrix in (sform, qform)]
    distance = float(np.linalg.norm(corners[0] - corners[1], axis=1).max())
    if distance > _DISAGREE_MM:
        notes.append(f"sform and qform disagree by up to {distance:.3g} mm: the sform is used")


def _spacing(fields: np.void) -> FloatArray | None:
    spacing = np.abs(fields["pixdim"][1:4].astype(np.float64))
    return spacing if np.isfinite(spacing).all() and (spacing > 0).all() else None


def _qform(fields: np.void) -> tuple[FloatArray | None, str]:
    """Matrix of the quaternion, or None and the fault."""
    spacing = _spacing(fields)
    b, c, d = (float(value) for value in fields["quatern"])  # Python floats: no warning on overflow
    offset = fields["qoffset"].astype(np.float64)
    if spacing is None:
        return None, "voxel sizes not positive"
    if not np.isfinite([b, c, d, *offset]).all():
        return None, "values not finite"
    length = b * b + c * c + d * d
    if length > 1.001:
        return None, "quaternion longer than 1"
    rest = 1 - length
    a = np.sqrt(rest) if rest > _HALF_TURN else 0.0  # as nifti1_io does: its root would blow up the rounding
    norm = np.sqrt(a * a + length)
    a, b, c, d = a / norm, b / norm, c / norm, d / norm
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c]])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * (spacing * (1, 1, -1 if fields["pixdim"][0] < 0 else 1))
    matrix[:3, 3] = offset
    try:
        return check_matrix(matrix, "qform"), ""
    except GeometryError as error:
        return None, str(error)


def _quaternion(affine: FloatArray) -> tuple[FloatArray, int, bool]:
    """Quaternion (b, c, d) of the rotation nearest to the affine's axes, qfac, and whether it is exact."""
    from scipy.spatial.transform import Rotation

    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sign = 1 if np.linalg.det(axes) > 0 else -1
    proper = axes * (1, 1, sign)
    left, _, right = np.linalg.svd(proper)
    rotation = left @ right
    b, c, d, a = Rotation.from_matrix(rotation).as_quat()
    quaternion = np.array([b, c, d]) * (-1 if a < 0 else 1)
    return quaternion, sign, bool(np.abs(rotation - proper).max() < 1e-5)


def _in_millimetres(affine: FloatArray, unit: int, notes: list[str]) -> FloatArray:
    """Affine in mm. Units that would make no sense while mm do are taken for a mistake in the header."""
    if unit not in _MM_PER_UNIT:
        return affine
    scaled = affine.copy()
    scaled[:3] *= _MM_PER_UNIT[unit]
    low, high = VOXEL_RANGE_MM
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    converted = spacing * _MM_PER_UNIT[unit]
    if ((spacing >= low) & (spacing <= high)).all() and not ((converted >= low) & (converted <= high)).all():
        notes.append(f"header units are {_UNIT_NAME[unit]}s, but voxels of {spacing.round(3).tolist()} are in mm: "
                     "taken as mm")
        return affine
    notes.append(f"header units are {_UNIT_NAME[unit]}s: converted to mm")
    return scaled
