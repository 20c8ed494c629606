"""One stack to one NIfTI file: dcm2niix decodes the pixels, the tags say where they lie, and the two must agree.

dcm2niix (Li et al., J Neurosci Methods 264:47, 2016) knows the vendors' ways of storing pixels. It also writes a file
where slices are missing or the gantry leans, with a warning; so its geometry is compared with the tags of every slice,
and its values with the stored pixels of every slice that can be read without a decoder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuralprep.dicom.layout import UPRIGHT_DEGREES, Layout, straightened
from neuralprep.dicom.stacks import Slice
from neuralprep.dicom.tags import DAMAGED, quiet, require_pydicom
from neuralprep.errors import InputError
from neuralprep.grid import FloatArray, Grid, transform_points
from neuralprep.volume import Volume, save, smallest_type
from neuralprep.voxels import read_image

TIME_LIMIT_S = 600.0
#: dcm2niix holds the stored pixels and a few copies of them
_MEMORY_BASE, _MEMORY_PER_VOXEL = 1 << 30, 32
_AGREE_MM, _AGREE_STEPS = 0.25, 0.5  # dcm2niix takes the first gap for all: rounded tags add up
_PLAIN_SYNTAXES = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"}
_SYNTAXES = _PLAIN_SYNTAXES | {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)}
_LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91)}
_COMPRESSED = "its pixels are compressed in a way that is not read; decompress it first (dcmdjpeg, gdcmconv)"
_OTHER_VERSIONS = ("_Tilt", "_Eq")


def dcm2niix_program() -> str:
    """Path of dcm2niix: of its Python package, or of the system.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import dcm2niix
    except ImportError:
        found = shutil.which("dcm2niix")
        if found is None:
            raise InputError("reading DICOM needs dcm2niix, which is not installed: pip install 'neuralprep[dicom]'; "
                             "or convert the series to NIfTI on another machine") from None
        return found
    return str(dcm2niix.bin)


def convert(files: Sequence[Path], layout: Layout, target: Path, time_limit_s: float = TIME_LIMIT_S) -> tuple[str, ...]:
    """Convert the files of one stack.

    Parameters
    ----------
    files : sequence of Path
        They hold the slices of the layout and no others.
    layout : Layout
        Where the slices lie.
    target : Path
        NIfTI file to write, in an existing folder; work files lie beside it and are removed.
    time_limit_s : float
        dcm2niix is stopped after this time.

    Returns
    -------
    tuple of str
        What was decided, in words.

    Raises
    ------
    InputError
        It cannot be converted, or the result contradicts the tags. The message names no file.
    """
    syntaxes = {part.instance.syntax for part in layout.slices}
    if not syntaxes <= _SYNTAXES:
        raise InputError(_COMPRESSED)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".dicom-") as name:
        work = Path(name)
        _stage(files, work / "in")
        (work / "out").mkdir()
        size = int(np.prod(layout.shape))
        _run(work / "in", work / "out", time_limit_s, _MEMORY_BASE + _MEMORY_PER_VOXEL * size)
        image = _single_image(work / "out")
        values, header = read_image(image, None, checks=False)
    if header.shape != layout.shape:
        made, promised = (" x ".join(map(str, shape)) for shape in (header.shape, layout.shape))
        raise InputError(f"dcm2niix made an image of {made} voxels of it, its tags promise {promised}; files are "
                         "damaged, export the series again")
    values = _in_order(values, header.affine, layout)
    _check_values(values, layout.slices)
    notes = ["the pixels were stored with loss (JPEG)"] if syntaxes & _LOSSY else []
    if not layout.even:
        notes += _explained(layout)
        values, layout = straightened(values, layout)
    flipped = layout.affine @ np.array([[1, 0, 0, 0], [0, -1, 0, layout.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    volume = Volume(values[:, ::-1], Grid(layout.shape, flipped))  # rows upwards, as dcm2niix writes them
    save(volume, target, dtype=smallest_type(values))
    return tuple(notes)


def _stage(files: Sequence[Path], folder: Path) -> None:
    """The files of the stack alone in a folder, under numbers: nothing else can get into the conversion."""
    folder.mkdir()
    for number, file in enumerate(files):
        link = folder / f"{number:06d}.dcm"
        try:
            link.symlink_to(file.resolve())
        except OSError:  # file systems and users without links
            try:
                shutil.copyfile(file, link)
            except OSError:
                raise InputError("one of its files cannot be read now; check the disk and the permissions") from None


def _run(source: Path, out: Path, time_limit_s: float, memory: int) -> None:
    """Run dcm2niix; what it prints is dropped, because it quotes tags."""
    command = [dcm2niix_program(), "-g", "i", "-b", "n", "-z", "n", "-m", "1", "-x", "i", "-c", "", "-f", "image",
               "-o", str(out), str(source)]  # fmt: skip
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise InputError(f"dcm2niix cannot be started ({error.strerror}); install it again") from error
    with process:
        _limit_memory(process.pid, memory)
        try:
            said, _ = process.communicate(timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            raise InputError(f"dcm2niix took longer than {time_limit_s:g} s; convert the series by hand") from None
        finally:
            process.kill()
    if b"nsupported transfer syntax" in said:
        raise InputError(_COMPRESSED)
    if process.returncode != 0:
        raise InputError(f"dcm2niix could not convert it (exit code {process.returncode}); files are damaged or of an "
                         "unusual kind; export the series again")


def _limit_memory(process: int, memory: int) -> None:
    """Let a damaged file not take the machine's memory; where the system has no such limit, none is set."""
    if os.name != "posix":
        return
    import resource

    if hasattr(resource, "prlimit"):
        with suppress(OSError, ValueError):
            resource.prlimit(process, resource.RLIMIT_AS, (memory, memory))


def _single_image(folder: Path) -> Path:
    """The image dcm2niix made; its own straightened versions do not count."""
    images = [path for path in folder.glob("*.nii") if not any(part in path.stem for part in _OTHER_VERSIONS)]
    if len(images) != 1:
        raise InputError(f"dcm2niix made {len(images)} images of it, where one was expected; files are damaged or the "
                         "series mixes several images: export it again, or convert it by hand")
    return images[0]


def _in_order(values: NDArray[np.float32], affine: FloatArray, layout: Layout) -> NDArray[np.float32]:
    """Values as (column, row, slice) in the order of the layout, after comparing dcm2niix's geometry with the tags."""
    columns, rows, count = layout.shape
    values = values[:, ::-1]
    unflipped = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, rows - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    # uneven and leaning stacks are not what dcm2niix's matrix says; of these only the first slice can be compared
    last = count - 1 if layout.even else 0
    corners = np.array([(c, r, s) for c in (0, columns - 1) for r in (0, rows - 1) for s in {0, last}], dtype=float)
    turned = corners * (1, 1, -1) + (0, 0, count - 1)
    wanted = transform_points(layout.affine, corners)
    limit = max(_AGREE_MM, _AGREE_STEPS * float(np.linalg.norm(layout.affine[:3, 2])))
    away, away_turned = (
        float(np.linalg.norm(transform_points(unflipped, at) - wanted, axis=1).max()) for at in (corners, turned)
    )
    if away <= limit:
        return values
    if layout.even and away_turned <= limit:
        return values[:, :, ::-1]
    raise InputError("dcm2niix puts it in another place than its tags say; convert the series by hand and check it")


def _check_values(values: NDArray[np.float32], slices: Sequence[Slice]) -> None:
    """Compare every slice with the stored pixels of its file, up to scale and offset."""
    pydicom = require_pydicom()
    opened: tuple[Path | None, NDArray] = (None, np.empty(0))
    for number, part in enumerate(slices):
        if part.instance.syntax not in _PLAIN_SYNTAXES:
            continue
        if opened[0] != part.instance.path:
            with quiet():
                try:
                    opened = part.instance.path, np.asarray(pydicom.dcmread(part.instance.path).pixel_array)
                except DAMAGED:
                    fault = "the pixels of a slice are damaged or incomplete; export the series again"
                    raise InputError(fault) from None
        stored = opened[1] if opened[1].ndim == 2 else opened[1][part.index]
        if not _same_but_for_scale(stored.T.astype(np.float64), values[:, :, number]):
            raise InputError("dcm2niix changed the values of a slice; convert the series by hand and check it")


def _same_but_for_scale(stored: NDArray[np.float64], values: NDArray[np.float32]) -> bool:
    low, high = np.unravel_index(stored.argmin(), stored.shape), np.unravel_index(stored.argmax(), stored.shape)
    spread = stored[high] - stored[low]
    if spread == 0:
        return bool(np.ptp(values) == 0)
    scale = (float(values[high]) - float(values[low])) / spread
    if not np.isfinite(scale) or scale <= 0:
        return False
    expected = (stored - stored[low]) * scale + float(values[low])
    return bool(np.abs(expected - values).max() <= 1e-4 * max(1.0, abs(scale) * spread))


def _explained(layout: Layout) -> list[str]:
    thickness = abs(np.linalg.det(layout.affine[:3, :3])) / np.prod(np.linalg.norm(layout.affine[:3, :2], axis=0))
    gaps = np.diff(layout.offsets) * thickness
    notes = []
    if layout.tilt > UPRIGHT_DEGREES:
        notes.append(f"gantry tilt of {layout.tilt:.1f} degrees: slices shifted in their plane to a box with right "
                     "angles")
    if np.ptp(gaps) > 0.1:
        notes.append(f"slices {gaps.min():.2f} to {gaps.max():.2f} mm apart: interpolated to even steps of "
                     f"{thickness:.2f} mm")
    return notes

