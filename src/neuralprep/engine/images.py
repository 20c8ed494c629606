"""Reading scans and writing output images: one volume, or a series frame by frame without holding it in memory."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from neuralprep.bids.derivatives import BY_OUTPUT
from neuralprep.engine.inputs import Scan
from neuralprep.engine.stored import StoredScan, with_frame_step
from neuralprep.errors import InputError
from neuralprep.files import write_atomic
from neuralprep.nifti_io import build_header
from neuralprep.volume import Volume, save, smallest_type

if TYPE_CHECKING:
    from neuralprep.pipeline import Result

Frame = int | Literal["mean", "each"] | None
_BLOCK = 1 << 22


def read_scan(scan: Scan, frame: int | Literal["mean"] | None, folder: Path | None = None) -> Volume:
    """Read a scan, a DICOM series by way of a NIfTI file that is gone when this returns.

    Parameters
    ----------
    scan : Scan
        What to read.
    frame : int, "mean" or None
        Which frame of a 4-D image.
    folder : Path, optional
        Where the file of a series may stand meanwhile; a temporary folder by default.

    Raises
    ------
    InputError
        It cannot be read; the message names the file, or the folder and the series.
    """
    from neuralprep.volume import load

    if scan.series is None:
        return load(scan.path, frame)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".dicom-") as name:
        file = Path(name, f"{scan.name}.nii")
        notes = scan.series.convert(file)
        try:
            volume = load(file, frame)
        except InputError as error:
            raise InputError(str(error).replace(str(file), str(scan.path))) from None
    return replace(volume, source=scan.path, notes=(*notes, *volume.notes))


def write_image(result: Result, output: str, target: Path, frame: Frame = None) -> None:
    """Write one output image.

    Parameters
    ----------
    result : Result
        Outputs of the pipeline.
    output : str
        Which one; `brain_image` is written from the file of the scan, as it is stored there.
    target : Path
        File to write or replace; its ending chooses the format.
    frame : int, "mean" or None
        Which frame of the scan the result is of.
    """
    volume, row = result.outputs[output], BY_OUTPUT[output]
    assert isinstance(volume, Volume)
    dtype: np.dtype | str = row.dtype
    if output == "brain_image" and frame != "mean" and result.scan.source is not None and result.scan.source.is_file():
        scan, fill = StoredScan(result.scan.source), result.settings.fill
        if scan.fits(target, fill):
            _write_stored(scan, result, target, int(frame or 0))
            return
        dtype = scan.plain_type(fill) or dtype
    elif output == "brain_image" and frame != "mean":  # of DICOM there is no file any more
        dtype = smallest_type(volume.data)
    space = "template" if row.in_template else "native"
    save(volume, target, dtype=dtype, space=space, description=f"neuralprep {output}")


def _write_stored(scan: StoredScan, result: Result, target: Path, frame: int) -> None:
    """Write the stored values of the scan's file under the mask."""
    assert result.mask is not None
    fill = result.settings.fill
    flat = scan.masked(next(scan.frames(frame)), result.mask.data, fill).reshape(-1)
    head = scan.head(scan.header.shape[:3])
    blocks = [_block(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK)]
    write_atomic(target, [lambda: head, *blocks], gzip=target.name.lower().endswith(".gz"))


def _block(part: np.ndarray) -> Callable[[], bytes]:
    return part.tobytes


class SeriesWriter:
    """Writes 4-D images from the results of the frames, which come one after the other.

    The frames wait in a temporary file beside the targets, so memory holds one frame only.

    Parameters
    ----------
    scan : Path
        The 4-D scan.
    targets : mapping of output name to Path
        NIfTI files to write or replace.
    fill : "zero", "min" or float
        Value outside of the mask in `brain_image`.
    """

    def __init__(self, scan: Path, targets: dict[str, Path], fill: float | str) -> None:
        self._scan, self._targets, self._fill = StoredScan(scan), targets, fill
        self._stored: Iterator[np.ndarray] | None = None
        if "brain_image" in targets and self._scan.fits(targets["brain_image"], fill):
            self._stored = self._scan.frames()
        token = secrets.token_hex(6)
        self._waiting = {name: path.with_name(f".np-{token}-{name}.part") for name, path in targets.items()}
        self._count = 0

    def add(self, result: Result) -> None:
        """Take over the images of the next frame."""
        for name, path in self._waiting.items():
            if name == "brain_image" and self._stored is not None:
                assert result.mask is not None
                values = self._scan.masked(next(self._stored), result.mask.data, self._fill)
            else:
                volume = result.outputs[name]
                assert isinstance(volume, Volume)
                values = volume.data.astype(BY_OUTPUT[name].dtype, copy=False)
            with path.open("ab") as stream:
                stream.write(values.tobytes(order="F" if values.ndim == 3 else "C"))
        self._count += 1

    def finish(self, affine: np.ndarray) -> None:
        """Write the files."""
        shape = (*self._scan.header.shape[:3], self._count) if self._count > 1 else self._scan.header.shape[:3]
        for name, waiting in self._waiting.items():
            if name == "brain_image" and self._stored is not None:
                head = self._scan.head(shape)
            else:
                kind = np.dtype(BY_OUTPUT[name].dtype)
                head = build_header(shape, affine, kind, "native", f"neuralprep {name}")
                if self._count > 1:
                    head = with_frame_step(head, self._scan.frame_step_s())
            size = waiting.stat().st_size
            blocks = [_piece(waiting, start) for start in range(0, size, _BLOCK)]
            target = self._targets[name]
            write_atomic(target, [partial(bytes, head), *blocks], gzip=target.name.lower().endswith(".gz"))
        self.discard()

    def discard(self) -> None:
        """Remove the temporary files."""
        for path in self._waiting.values():
            path.unlink(missing_ok=True)


def _piece(path: Path, start: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(_BLOCK)

    return read
