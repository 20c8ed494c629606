"""What a file format's header tells about an image, in one form for all formats, and the checks made on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.grid import FloatArray, Grid, check_matrix

MAX_VOXELS = 1_000_000_000
MIN_VOXELS = 8
MIN_EXTENT_MM = 40.0
VOXEL_RANGE_MM = (0.1, 10.0)
_SHEAR_DEGREES = 1.0


@dataclass(frozen=True, eq=False)
class Header:
    """Geometry and encoding of the image in a file.

    Attributes
    ----------
    shape : tuple of int
        Array shape as stored, first axis fastest, of any length.
    affine : (4, 4) float64
        Voxel -> RAS mm.
    dtype : numpy.dtype
        Stored type of one sample, with its byte order.
    samples : int
        Samples per voxel: 1, or 3 and 4 for RGB and RGBA.
    offset : int
        Bytes before the first voxel in the data file.
    slope, intercept : float
        value = stored * slope + intercept.
    notes : tuple of str
        What had to be decided or repaired while reading the header.
    intent : int
        NIfTI intent code; 0 none.
    intent_name : str
        What its writer calls the values.
    """

    shape: tuple[int, ...]
    affine: FloatArray
    dtype: np.dtype
    offset: int
    samples: int = 1
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    intent: int = 0
    intent_name: str = ""

    @property
    def frames(self) -> int:
        """Number of 3-D frames."""
        return math.prod(self.shape[3:])  # Python integers: a damaged header must not overflow

    @property
    def frame_voxels(self) -> int:
        """Voxels of one frame."""
        return math.prod(self.shape[:3])

    @property
    def voxel_bytes(self) -> int:
        """Stored bytes of one voxel."""
        return self.dtype.itemsize * self.samples


def check_readable(header: Header, path: Path) -> None:
    """Refuse images that are not volumes or are too large to be read.

    Raises
    ------
    InputError
        Fewer than three dimensions, a single slice, or more than `MAX_VOXELS` voxels per frame.
    """
    shape = " x ".join(map(str, header.shape))
    if len(header.shape) < 3 or min(header.shape[:3]) < 2:
        raise InputError(f"{path}: holds a single slice ({shape} voxels); a 3-D volume is needed")
    if header.frame_voxels > MAX_VOXELS:
        raise InputError(f"{path}: has {shape} voxels, more than {MAX_VOXELS:.0e} per volume; resample it, or check "
                         "whether its header is damaged")


def check_plausible(shape: tuple[int, ...], affine: FloatArray, path: Path) -> None:
    """Refuse volumes that cannot be a head scan: few voxels, a small field of view, voxels of an absurd size.

    Raises
    ------
    InputError
        With the fault and what to check.
    """
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    sizes = " x ".join(f"{s:.3g}" for s in grid.spacing)
    if max(grid.spacing) > VOXEL_RANGE_MM[1] or min(grid.spacing) < VOXEL_RANGE_MM[0]:
        raise InputError(f"{path}: has voxels of {sizes} mm; {VOXEL_RANGE_MM[0]} to {VOXEL_RANGE_MM[1]:g} mm are "
                         "expected, so its units are likely wrong; correct the voxel size in the header")
    if min(grid.shape) < MIN_VOXELS:
        raise InputError(f"{path}: has only {' x '.join(map(str, grid.shape))} voxels; at least {MIN_VOXELS} on each "
                         "axis are needed, so it is no scan of a head (a localiser?)")
    if min(grid.extent) < MIN_EXTENT_MM:
        extent = " x ".join(f"{length:.3g}" for length in grid.extent)
        raise InputError(f"{path}: covers only {extent} mm; at least {MIN_EXTENT_MM:g} mm on each axis are needed to "
                         "find a brain (is the voxel size right?)")


def check_affine(affine: FloatArray, path: Path) -> FloatArray:
    """The affine, or an `InputError` that says why it cannot be used."""
    try:
        return check_matrix(affine, "voxel-to-world affine")
    except GeometryError as error:
        raise InputError(f"{path}: {error}; correct the header or convert the scan again") from None


def with_axes_note(header: Header) -> Header:
    """Header with a note if its axes are not at right angles (a tilted CT gantry)."""
    axes = header.affine[:3, :3] / np.linalg.norm(header.affine[:3, :3], axis=0)
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
    degrees = float(np.degrees(np.arcsin(min(1.0, cosine))))
    if degrees <= _SHEAR_DEGREES:
        return header
    return replace(header, notes=(*header.notes, f"voxel axes are {degrees:.1f} degrees off a right angle"))


def describe_content(start: bytes) -> str:
    """What the first bytes of a file that is not an image look like, for messages."""
    text = start[:200].lstrip().lower()
    if start[128:132] == b"DICM":
        return "it is a DICOM file; give the folder of its series to run or strip, or convert it first (dcm2niix)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it holds a web page or XML (a failed download?); fetch the image again"
    if text.startswith(b"version https://git-lfs") or b"/annex/objects/" in text:
        return "it is a pointer to data that were not fetched; run git lfs pull or git annex get"
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "it is an HDF5 or MINC file; convert it to NIfTI"
    if start[257:262] == b"ustar" or start[:2] == b"PK":
        return "it is an archive; unpack it first"
    return "its header is not one of an image; copy or convert the file again"
