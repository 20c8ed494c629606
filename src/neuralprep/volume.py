"""Volumes: an array with its place in the world, and how they are read and written.

Reading gives float32 in the file's own axis order. Whatever had to be repaired or decided is said in `Volume.notes`;
whatever cannot be repaired is an `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from neuralprep import mgh_io, nifti_io
from neuralprep.errors import GeometryError, InputError
from neuralprep.files import write_atomic
from neuralprep.grid import Grid
from neuralprep.headers import check_affine, check_plausible
from neuralprep.voxels import read_frames, read_image, real_values, sanitised

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

Frame = int | str | None
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Volume:
    """An image: values and geometry. Immutable; methods give new volumes that may share memory.

    Attributes
    ----------
    data : (X, Y, Z) array, read-only
        Real or boolean values.
    grid : Grid
        Where the voxels lie.
    source : Path or None
        File it was read from.
    notes : tuple of str
        What was repaired or decided while reading.

    Raises
    ------
    GeometryError
        The array is not 3-D, does not fit the grid, or is complex.
    """

    data: np.ndarray
    grid: Grid
    source: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        if data.shape != self.grid.shape:
            raise GeometryError(f"array of shape {data.shape} does not fit a grid of shape {self.grid.shape}")
        if data.dtype.kind not in "buif":
            raise GeometryError(f"array of type {data.dtype} is no image; real numbers are needed")
        view = data.view()
        view.flags.writeable = False
        object.__setattr__(self, "data", view)

    @classmethod
    def load(cls, path: str | PathLike[str], frame: Frame = None, checks: bool = True) -> Volume:
        """Read an image; see `load`."""
        return load(path, frame, checks)

    @classmethod
    def from_nibabel(cls, image: SpatialImage, frame: Frame = None, checks: bool = True) -> Volume:
        """Take over a nibabel image; see `from_nibabel`."""
        return from_nibabel(image, frame, checks)

    @classmethod
    def from_array(cls, array: ArrayLike, affine: ArrayLike) -> Volume:
        """Take over an array; see `from_array`."""
        return from_array(array, affine)

    def save(self, path: str | PathLike[str], dtype: DTypeLike | None = None, space: str = "native",
             description: str = "") -> None:
        """Write the image; see `save`."""
        save(self, path, dtype, space, description)

    def with_data(self, data: NDArray) -> Volume:
        """Other values on the same grid."""
        return replace(self, data=data)

    def oriented(self, codes: str) -> Volume:
        """Axes permuted and flipped to `codes`, for example ``"RAS"``; a view, no values are copied."""
        order, flips = self.grid.reorientation(codes)
        data = self.data.transpose(order)
        data = np.flip(data, tuple(axis for axis, flip in enumerate(flips) if flip))
        return replace(self, data=data, grid=self.grid.oriented(codes))

    def cropped(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """Voxels `start` (inclusive) to `stop` (exclusive); a view."""
        grid = self.grid.cropped(start, stop)
        return replace(self, data=self.data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))], grid=grid)

    def padded(self, before: Sequence[int], after: Sequence[int], fill: float = 0) -> Volume:
        """Voxels of value `fill` added before and after each axis."""
        data = np.pad(self.data, list(zip(before, after, strict=True)), constant_values=fill)
        return replace(self, data=data, grid=self.grid.padded(before, after))


def load(path: str | PathLike[str], frame: Frame = None, checks: bool = True) -> Volume:
    """Read a volume from .nii, .nii.gz, .hdr/.img, .mgh or .mgz.

    Parameters
    ----------
    path : path
        The file.
    frame : int, "mean" or None
        Which frame of a 4-D image (from 0), or their mean. None is an error for an image with several frames.
    checks : bool
        Refuse what cannot be a head scan: constant images, under 8 voxels or 40 mm on an axis, voxels of more than
        10 or less than 0.1 mm. Switch it off to read masks, maps and small templates.

    Returns
    -------
    Volume
        float32, in the axis order of the file. Values that are not finite are 0. RGB becomes luminance, complex
        numbers their magnitude.

    Raises
    ------
    InputError
        The file is missing, damaged, not an image or not a scan.
    """
    path = Path(path)
    data, header = read_image(path, frame, checks)
    return Volume(data, Grid(header.shape[:3], header.affine), path, header.notes)  # type: ignore[arg-type]


def load_frames(path: str | PathLike[str], checks: bool = True) -> Iterator[Volume]:
    """Read the frames of a 4-D volume one after the other, each as `load` gives it; a 3-D volume has one.

    Raises
    ------
    InputError
        As `load`, when the frame that shows it is reached.
    """
    path = Path(path)
    for data, header in read_frames(path, checks):
        yield Volume(data, Grid(header.shape[:3], header.affine), path, header.notes)  # type: ignore[arg-type]


def from_nibabel(image: SpatialImage, frame: Frame = None, checks: bool = True) -> Volume:
    """Take over a nibabel image, with the same rules as `load`.

    Raises
    ------
    InputError
        As `load`.
    """
    name = Path(image.get_filename() or "nibabel image")
    stored = np.asanyarray(image.dataobj)
    while stored.ndim > 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.ndim > 4 or (stored.ndim == 4 and frame is None):
        raise InputError(f"{name}: has shape {stored.shape}; say which frame to use (a number from 0, or 'mean')")
    if stored.ndim < 3:
        raise InputError(f"{name}: holds a single slice (shape {stored.shape}); a 3-D volume is needed")
    if stored.ndim == 4 and frame != "mean":
        frames = stored.shape[3]
        if not isinstance(frame, int) or not 0 <= frame < frames:
            raise InputError(f"{name}: frame {frame!r} does not exist; it has frames 0 to {frames - 1}")
        stored = stored[..., frame]
    affine = check_affine(np.asarray(image.affine), name)
    if checks:
        check_plausible(stored.shape, affine, name)
    values, notes = real_values(stored)
    values, more = sanitised(values, name, checks)
    if values.ndim == 4:
        values = values.mean(axis=3, dtype=np.float64).astype(np.float32)
    return Volume(values, Grid(values.shape, affine), None, (*notes, *more))


def from_array(array: ArrayLike, affine: ArrayLike) -> Volume:
    """Volume from an array (X, Y, Z) and its voxel-to-RAS-mm affine; keeps the dtype and makes no checks of content.

    Raises
    ------
    GeometryError
        The array is not 3-D or the affine is not usable.
    """
    data = np.asarray(array)
    if data.ndim != 3:
        raise GeometryError(f"array has shape {data.shape}; a 3-D array is needed")
    return Volume(data, Grid(data.shape, np.asarray(affine)))


def save(volume: Volume, path: str | PathLike[str], dtype: DTypeLike | None = None, space: str = "native",
         description: str = "") -> None:
    """Write a volume as .nii, .nii.gz, .mgh or .mgz, all or nothing.

    Parameters
    ----------
    volume : Volume
        What to write.
    path : path
        File to write or replace; its ending chooses the format.
    dtype : numpy type or None
        Stored type. None: uint8 for bool and uint8, int16 or int32 for other integers, float32 for real values.
        Values are never scaled; real values are rounded for an integer type.
    space : {"native", "template", "other"}
        Which world the coordinates mean (NIfTI codes 1, 4, 2).
    description : str
        NIfTI's free text.

    Raises
    ------
    InputError
        Unknown ending, values that do not fit the type, or a folder that cannot be written to.
    """
    path = Path(path)
    name = path.name.lower()
    stored = np.dtype(dtype) if dtype is not None else _natural_type(volume.data)
    _check_fits(volume.data, stored, path)
    if name.endswith((".nii", ".nii.gz")):
        header = nifti_io.build_header(volume.data.shape, volume.grid.affine, stored, space, description)
        stored = stored.newbyteorder("<")
    elif name.endswith((".mgh", ".mgz")):
        header, stored = mgh_io.build_header(volume.data.shape, volume.grid.affine, stored)
    else:
        raise InputError(f"{path}: unknown ending; write .nii, .nii.gz, .mgh or .mgz")
    write_array(path, header, volume.data, stored)


def write_array(path: Path, header: bytes, data: NDArray, stored: np.dtype) -> None:
    """Write a header and an array (first axis fastest) in blocks, compressed if the name ends in .gz or .mgz."""
    planes = max(1, _BLOCK // max(1, data[..., 0].size * stored.itemsize))
    starts = range(0, data.shape[-1], planes)
    blocks = [_block(data[..., start:start + planes], stored) for start in starts]
    write_atomic(path, [lambda: header, *blocks], gzip=path.name.lower().endswith((".gz", ".mgz")))


def _block(part: NDArray, stored: np.dtype) -> Callable[[], bytes]:
    def encode() -> bytes:
        values = np.rint(part) if stored.kind in "iu" and part.dtype.kind == "f" else part
        return values.astype(stored, order="F", copy=False).tobytes(order="F")

    return encode


def smallest_type(values: NDArray) -> np.dtype:
    """int16 or uint16 where real values are whole numbers that fit, else float32."""
    low, high = float(values.min()), float(values.max())
    fitting = [kind for kind in (np.int16, np.uint16) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
    return np.dtype(fitting[0] if fitting and np.array_equal(values, np.rint(values)) else np.float32)


def _natural_type(data: NDArray) -> np.dtype:
    if data.dtype.kind == "f":
        return np.dtype(np.float32)
    if data.dtype.kind == "b" or data.dtype == np.uint8:
        return np.dtype(np.uint8)
    low, high = int(data.min()), int(data.max())
    limits = np.iinfo(np.int16)
    return np.dtype(np.int16 if limits.min <= low and high <= limits.max else np.int32)


def _check_fits(data: NDArray, stored: np.dtype, path: Path) -> None:
    if data.dtype.kind == "f" and not np.isfinite(data).all() and stored.kind in "iu":
        raise InputError(f"{path}: values that are not finite cannot be written as {stored}")
    if stored.kind in "iu" and data.dtype.kind != "b" and data.dtype != stored:
        limits = np.iinfo(stored)
        low, high = np.rint(data.min()), np.rint(data.max())
        if low < limits.min or high > limits.max:
            raise InputError(f"{path}: values {low:g} to {high:g} do not fit {stored}; choose a wider type")
