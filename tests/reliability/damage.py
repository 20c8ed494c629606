"""Good image files and ways to damage them, with the truth beside them."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np

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


def parallel_axes() -> dict[str, float]:
    """Header fields of an sform whose first two columns point the same way, with no qform."""
    values = scaled_srow(1)
    for row in range(3):
        values[f"srow{row}1"] = values[f"srow{row}0"]
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


def vector_image() -> bytes:
    image = nib.Nifti1Image(np.zeros((*SHAPE, 1, 3), np.float32), AFFINE)
    image.header["intent_code"] = 1007
    return image.to_bytes()


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
