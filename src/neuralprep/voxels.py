"""Reading the values of an image file: one frame, as float32, with what is not a number taken out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuralprep import mgh_io, nifti_io
from neuralprep.errors import InputError
from neuralprep.files import Source, expands_too_far, open_source
from neuralprep.headers import Header, check_affine, check_plausible, check_readable, with_axes_note

_BLOCK_VOXELS = 1 << 19
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_FOREIGN = {".dcm": "give the folder of the DICOM series to run or strip, or convert it first (dcm2niix)",
            ".nrrd": "convert it to NIfTI", ".nhdr": "convert it to NIfTI", ".mha": "convert it to NIfTI",
            ".mhd": "convert it to NIfTI", ".mnc": "convert it to NIfTI (mnc2nii)",
            ".bz2": "unpack it first", ".xz": "unpack it first", ".zst": "unpack it first", ".zip": "unpack it first",
            ".par": "convert it to NIfTI (dcm2niix)", ".rec": "convert it to NIfTI (dcm2niix)"}


def read_image(path: Path, frame: int | str | None = None, checks: bool = True) -> tuple[NDArray[np.float32], Header]:
    """Values and header of one frame of an image file; the header's notes tell what was done.

    Parameters
    ----------
    path : Path
        .nii, .nii.gz, .hdr, .img (each also with .gz), .mgh or .mgz.
    frame : int, "mean" or None
        Frame of a 4-D image.
    checks : bool
        Refuse what cannot be a head scan (see `neuralprep.volume.load`).

    Raises
    ------
    InputError
        Anything wrong with the file.
    """
    header, data_path = read_header(path)
    check_readable(header, path)
    wanted = _wanted_frames(header, frame, path)
    header = replace(header, affine=check_affine(header.affine, path))
    if checks:
        check_plausible(header.shape, header.affine, path)
    header = with_axes_note(header)
    with open_source(data_path) as source:
        notes = list(header.notes)
        if data_path.name.lower().endswith((".gz", ".mgz")) != source.compressed:
            notes.append(f"{'' if source.compressed else 'not '}compressed, whatever its name says")
        values, more = _read_frames(source, header, wanted)
    if frame == "mean" and header.frames > 1:
        notes.append(f"mean of {header.frames} frames")
    elif header.frames > 1:
        notes.append(f"frame {wanted.start} of {header.frames} (counted from 0)")
    values, repaired = sanitised(values, path, checks)
    shape = header.shape[:3]
    return values.reshape(shape, order="F"), replace(header, shape=shape, notes=(*notes, *more, *repaired))


def read_frames(path: Path, checks: bool = True) -> Iterator[tuple[NDArray[np.float32], Header]]:
    """Values and header of every frame of an image file in order, each as `read_image` gives it, in one pass.

    Raises
    ------
    InputError
        Anything wrong with the file, when the frame that shows it is reached.
    """
    header, data_path = read_header(path)
    check_readable(header, path)
    _wanted_frames(header, "mean", path)
    header = replace(header, affine=check_affine(header.affine, path))
    if checks:
        check_plausible(header.shape, header.affine, path)
    header = with_axes_note(header)
    shape = header.shape[:3]
    with open_source(data_path) as source:
        _check_size(source, header, header.frames)
        source.skip(header.offset, "header")
        for index in range(header.frames):
            values, notes = _read_frame(source, header)
            values, repaired = sanitised(values, path, checks)
            counted = [f"frame {index} of {header.frames} (counted from 0)"] if header.frames > 1 else []
            more = (*header.notes, *counted, *notes, *repaired)
            yield values.reshape(shape, order="F"), replace(header, shape=shape, notes=more)
        source.read(1)


def read_vectors(path: Path) -> tuple[NDArray[np.float32], Header]:
    """Vectors (X, Y, Z, 3) float32 and header of a NIfTI file with one 3-vector per voxel, stored as (X, Y, Z, 1, 3).

    Raises
    ------
    InputError
        Unreadable, of another shape, or vectors that are not finite.
    """
    header, data_path = read_header(path)
    if len(header.shape) != 5 or header.shape[3:] != (1, 3) or header.dtype.kind != "f":
        raise InputError(f"{path}: has shape {' x '.join(map(str, header.shape))} and type {header.dtype}; a "
                         "displacement field is real and X x Y x Z x 1 x 3")
    check_readable(header, path)
    header = replace(header, affine=check_affine(header.affine, path))
    vectors = np.empty((*header.shape[:3], 3), dtype=np.float32, order="F")
    with open_source(data_path) as source:
        _check_size(source, header, header.frames)
        source.skip(header.offset, "header")
        for component in range(3):
            values, _ = _read_frame(source, header)
            vectors[..., component] = values.reshape(header.shape[:3], order="F")
        source.read(1)
    if not np.isfinite(vectors).all():
        raise InputError(f"{path}: holds vectors that are not finite; write the field again")
    return vectors, header


def read_header(path: Path) -> tuple[Header, Path]:
    """Header of an image file, and the file that holds its data (another one for .hdr/.img pairs).

    Raises
    ------
    InputError
        Unknown ending, or the header cannot be read.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".mgh", ".mgz")):
        with open_source(path) as source:
            return mgh_io.parse_header(source.exactly(mgh_io.HEADER_SIZE, "header"), path), path
    if not name.endswith((".nii", ".hdr", ".img")):
        with open_source(path):  # a missing file is the more useful message
            fix = next((fix for ending, fix in _FOREIGN.items() if name.endswith(ending)),
                       "give .nii, .nii.gz, .hdr/.img, .mgh or .mgz")
            raise InputError(f"{path}: is of an unsupported kind; {fix}")
    header_path, data_path = (path, path) if name.endswith(".nii") else (_partner(path, ".hdr"), _partner(path, ".img"))
    with open_source(header_path) as source:
        start = source.read(4)
        rest = source.read(344) if len(start) == 4 else b""
        size = nifti_io.header_size(start + rest, header_path)
        if len(start) + len(rest) < 348:
            raise InputError(f"{header_path}: ends within its header (truncated); copy or convert the file again")
        raw = start + rest + (source.exactly(size - 348, "header") if size > 348 else b"")
    header = nifti_io.parse_header(raw, header_path)
    return header, data_path


def sanitised(values: NDArray[np.float32], path: Path, checks: bool) -> tuple[NDArray[np.float32], list[str]]:
    """Values with NaN and infinities set to 0 (in place), and notes; constant images are refused if `checks`."""
    low, high = float(values.min()), float(values.max())
    notes = []
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(values)
        nan = int(np.isnan(values).sum())
        infinite = int(bad.sum()) - nan
        if nan:
            notes.append(f"{nan} NaN voxels set to 0")
        if infinite:
            notes.append(f"{infinite} infinite voxels set to 0")
        values[bad] = 0
        low, high = float(values.min()), float(values.max())
    if checks and low == high:
        cause = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"{path}: every voxel has the value {low:g}{cause}; it holds no image, convert the scan again")
    return values, notes


def real_values(stored: NDArray) -> tuple[NDArray[np.float32], list[str]]:
    """Array of any kind as a new float32 array: magnitude of complex numbers, luminance of RGB records; and notes."""
    if stored.dtype.names is not None:
        planes = [stored[name] for name in stored.dtype.names[:3]]
        total = sum(weight * plane for weight, plane in zip(_LUMINANCE, planes, strict=True))
        return np.asarray(total, dtype=np.float32), ["RGB converted to luminance"]
    if stored.dtype.kind == "c":
        return np.abs(stored).astype(np.float32), ["complex values replaced by their magnitude"]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(stored, dtype=np.float32), []


def _partner(path: Path, ending: str) -> Path:
    """The header or data file of a pair."""
    name = path.name
    packed = name.lower().endswith(".gz")
    stem = name[:-3] if packed else name
    if stem.lower().endswith(ending):
        return path
    same = path.with_name(stem[:-4] + ending + (name[-3:] if packed else ""))
    other = path.with_name(stem[:-4] + ending + ("" if packed else ".gz"))
    if not same.exists() and not other.exists():
        raise InputError(f"{path}: its other half {same.name} is missing; copy both files of the pair")
    return same if same.exists() else other


def _wanted_frames(header: Header, frame: int | str | None, path: Path) -> range:
    count = header.frames
    if len(header.shape) == 5 and header.shape[3] == 1 and header.intent in (nifti_io.VECTOR_INTENT, 1006):
        raise InputError(f"{path}: is a displacement field, not a scan")
    if frame == "mean":
        return range(count)
    if frame is None:
        if count > 1:
            raise InputError(f"{path}: has {count} frames (shape {' x '.join(map(str, header.shape))}); say which "
                             "one to use: a number from 0, or 'mean'")
        return range(1)
    if isinstance(frame, str) or not 0 <= frame < count:
        raise InputError(f"{path}: frame {frame!r} does not exist; it has frames 0 to {count - 1}, or use 'mean'")
    return range(frame, frame + 1)


def _read_frames(source: Source, header: Header, wanted: range) -> tuple[NDArray[np.float32], list[str]]:
    """Mean of the wanted frames (one is the frame itself), flat float32."""
    frame_bytes = header.frame_voxels * header.voxel_bytes
    _check_size(source, header, wanted.stop)
    source.skip(header.offset + frame_bytes * wanted.start, "header")
    values, notes = _read_frame(source, header)
    if len(wanted) > 1:
        total = np.zeros(header.frame_voxels)
        for index in wanted:
            if index > wanted.start:
                values, notes = _read_frame(source, header)
            total += np.nan_to_num(values, nan=0, posinf=0, neginf=0)
        values = (total / len(wanted)).astype(np.float32)
    if wanted.stop == header.frames:
        source.read(1)  # comes to the end of the stream, where its checksum is compared
    return values, notes


def _check_size(source: Source, header: Header, frames: int) -> None:
    """Refuse a file too small for what its header promises, before any memory is set aside."""
    needed = header.offset + header.frame_voxels * header.voxel_bytes * frames
    if source.most() < needed:
        raise InputError(f"{source.path}: has {source.size} bytes, but its header promises {needed} bytes of image "
                         "(truncated); copy or convert the file again")
    if source.compressed and expands_too_far(source.size, needed):
        raise InputError(f"{source.path}: its {source.size} bytes would expand to {needed}, which no scan does; it is "
                         "damaged or holds next to nothing, convert the scan again")


def _read_frame(source: Source, header: Header) -> tuple[NDArray[np.float32], list[str]]:
    """One frame, flat, scaled."""
    if header.samples == 1 and header.dtype.kind != "c":
        out = np.empty(header.frame_voxels, dtype=np.float32)
        for part, stored in _blocks(source, header):
            _convert(stored, out[part], header)
        return out, []
    out = np.empty(header.frame_voxels, dtype=np.float32)
    for part, stored in _blocks(source, header):
        if header.dtype.kind == "c":
            out[part] = np.abs(stored * header.slope + header.intercept)
        else:
            out[part] = stored.reshape(-1, header.samples)[:, :3] @ _LUMINANCE
    note = "complex values replaced by their magnitude" if header.dtype.kind == "c" else "RGB converted to luminance"
    return out, [note]


def _blocks(source: Source, header: Header) -> Iterator[tuple[slice, NDArray]]:
    """The frame in blocks small enough for the processor's cache: where they belong, and the stored samples."""
    for start in range(0, header.frame_voxels, _BLOCK_VOXELS):
        stop = min(start + _BLOCK_VOXELS, header.frame_voxels)
        raw = source.exactly((stop - start) * header.voxel_bytes, "image data")
        yield slice(start, stop), np.frombuffer(raw, dtype=header.dtype)


def _convert(stored: NDArray, out: NDArray[np.float32], header: Header) -> None:
    """Write stored * slope + intercept into `out`; in double precision where float32 cannot hold the stored values."""
    scaled = header.slope != 1 or header.intercept != 0
    with np.errstate(over="ignore", invalid="ignore"):
        if scaled and stored.dtype.itemsize > 2:
            out[:] = stored * np.float64(header.slope) + header.intercept
            return
        out[:] = stored
        if scaled:
            out *= np.float32(header.slope)
            out += np.float32(header.intercept)
