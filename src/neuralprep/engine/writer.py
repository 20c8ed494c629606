"""Write the outputs of one scan into a folder, under the names of the table in `neuralprep.bids.derivatives`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralprep.bids.derivatives import BY_OUTPUT, TABLE, Derivative, ScanName
from neuralprep.bids.sidecars import image_sidecar, transform_sidecar, write_json
from neuralprep.engine.images import Frame, write_image
from neuralprep.errors import NeuralprepError
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.pipeline import Result

#: gzip of float volumes is the cost; it releases the interpreter lock
_WRITE_THREADS = 2


@dataclass(frozen=True)
class Origin:
    """What sidecars say of the scan.

    Parameters
    ----------
    uri : str
        BIDS URI, or file name without folders.
    raw : mapping
        Its own metadata.
    """

    uri: str
    raw: Mapping[str, Any] = field(default_factory=dict)


def write_outputs(result: Result, folder: Path, files: ScanName, origin: Origin, frame: Frame = None,
                  space: str = "") -> None:
    """Write every requested output and its sidecars.

    Parameters
    ----------
    result : Result
        Outputs of the pipeline.
    folder : Path
        An existing folder.
    files : ScanName
        What the files are called.
    origin : Origin
        The scan, for the sidecars.
    frame : int, "mean", "each" or None
        Which frame of the scan the result is of; with "each" the images are there already.
    space : str
        What names say of the template space; by default its name.

    Raises
    ------
    NeuralprepError
        The pipeline did not give an output that the settings ask for.
    """
    space = space or result.settings.space
    tasks: list[Callable[[], None]] = []
    for row in _rows(result):
        value = result.outputs[row.output]
        if isinstance(value, Volume):
            tasks.append(_volume_task(result, row, folder, files, origin, frame, space))
        else:
            _write_affine(value, row, folder, files, origin.uri, space, result)
    with ThreadPoolExecutor(_WRITE_THREADS) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()


def _rows(result: Result) -> list[Derivative]:
    """Rows of the table to write: the requested ones, or all that the pipeline gave."""
    if result.settings.outputs is None:
        return [row for row in BY_OUTPUT.values() if row.output in result.outputs]
    missing = [output for output in result.settings.outputs if output not in result.outputs]
    if missing:
        raise NeuralprepError(f"the pipeline gave no {', '.join(missing)}, although the settings ask for it")
    return [BY_OUTPUT[output] for output in result.settings.outputs]


def _volume_task(
    result: Result, row: Derivative, folder: Path, scan: ScanName, origin: Origin, frame: Frame, space: str
) -> Callable[[], None]:
    """Work of one writer thread: an image and its sidecar."""
    stem = scan.stem(row, space)
    grid = result.outputs[row.output].grid  # type: ignore[union-attr]  # only volumes come here
    spacing = tuple(map(float, grid.spacing))
    sidecar = image_sidecar(row, source=origin.uri, space=result.settings.space, resolution=spacing,
                            raw=origin.raw)

    def write() -> None:
        if frame != "each":
            write_image(result, row.output, folder / f"{stem}.nii.gz", frame)
        write_json(folder / f"{stem}.json", sidecar)

    return write


def series_targets(outputs: Iterable[str], folder: Path, files: ScanName) -> dict[str, Path]:
    """Files of the images of one scan, by output, for `neuralprep.engine.frames`."""
    return {output: folder / f"{files.stem(BY_OUTPUT[output], '')}.nii.gz" for output in outputs}


def _template_grid(result: Result) -> Grid:
    """Grid of the template images of this result."""
    for row in TABLE:
        value = result.outputs.get(row.output)
        if row.in_template and isinstance(value, Volume):
            return value.grid
    from neuralprep.templates import space_grid

    return space_grid(result.settings.space, result.settings.resolution or 1.0)


def _write_affine(template_from_scan: Affine, row: Derivative, folder: Path, scan: ScanName, source: str, space: str,
                  result: Result) -> None:
    """Both directions of the affine in four formats, each direction with a sidecar."""
    from neuralprep.formats.sets import write_affine_set

    template, native = _template_grid(result), result.scan.grid
    for inverse in (False, True):
        affine = template_from_scan.inverse() if inverse else template_from_scan
        fixed, moving = (native, template) if inverse else (template, native)
        stem = scan.stem(row, space, inverse=inverse)
        write_affine_set(folder, stem, affine, fixed, moving)
        told = transform_sidecar(source=source, space=result.settings.space, inverse=inverse, native=scan.native)
        write_json(folder / f"{stem}.json", told)
