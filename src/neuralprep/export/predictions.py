"""Predicted label maps back on the grid and with the label numbers of the scans they belong to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuralprep.bids.sidecars import write_text
from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import SAME_PLACE_MM
from neuralprep.evaluation.labels import read_labels
from neuralprep.export.checks import grid_text
from neuralprep.export.native import Interpolation, carry_labels
from neuralprep.export.nnunet import ENDING
from neuralprep.export.record import ExportedCase, ExportRecord, Source, read_record
from neuralprep.volume import Volume, save

TABLE_FILE = "predictions.tsv"
_COLUMNS = ("case", "scan", "file", "prediction", "interpolation", "fault")


@dataclass(frozen=True)
class Restored:
    """One prediction on one scan, or why there is none.

    Attributes
    ----------
    case, scan
        Names; the scan is the case where no run of neuralprep made the images.
    prediction
        File that was predicted.
    file
        What was written; None after a fault.
    interpolation
        "none" where the voxels are the scan's own.
    fault
        What is wrong with the prediction; "" if nothing is.
    """

    case: str
    scan: str
    prediction: Path
    file: Path | None = None
    interpolation: str = ""
    fault: str = ""


def restore_predictions(
    predictions: Path, out: Path, dataset: Path, channels: tuple[str, ...] = (), interpolation: Interpolation = "vote",
    overwrite: bool = False,
) -> Iterator[Restored]:
    """Bring the predictions of a folder back to the scans.

    Every scan of a case that has a grid of its own gets a label map ``<scan>_dseg.nii.gz``; cases whose images lie on
    the scans' own grid get one, voxel for voxel as it was predicted. Label numbers are those of the study. Predictions
    that cannot be used carry a fault and stop nobody.

    Parameters
    ----------
    predictions
        Folder of ``CASE.nii.gz``.
    out
        Folder to write to; made if need be. A table of what was done is written too.
    dataset
        Folder that `neuralprep.export.nnunet.export_nnunet` wrote.
    channels
        Only the scans of these channels; all by default.
    interpolation
        See `neuralprep.export.native.carry_labels`.
    overwrite
        Replace the results of an earlier call.

    Raises
    ------
    InputError
        Not a folder, no prediction in it, a data set of others, an unknown channel, or results that exist already.
    """
    if not predictions.is_dir():
        raise InputError(f"{predictions}: no such folder; give the folder that nnUNetv2_predict wrote")
    files = sorted(path for path in predictions.glob(f"*{ENDING}") if not path.name.startswith("."))
    if not files:
        raise InputError(f"{predictions}: holds no {ENDING} file; give the folder that nnUNetv2_predict wrote")
    record = read_record(dataset)
    known = {source.channel for case in record.cases.values() for source in case.sources}
    unknown = [name for name in channels if name not in known]
    if unknown:
        raise InputError(f"channel {unknown[0]} is unknown; the data set has {', '.join(sorted(known))}")
    if (out / TABLE_FILE).exists() and not overwrite:
        raise InputError(f"{out / TABLE_FILE}: exists; choose another output folder, or give --overwrite")
    return _restored(files, out, record, channels, interpolation)


def _restored(
    files: list[Path], out: Path, record: ExportRecord, channels: tuple[str, ...], interpolation: Interpolation
) -> Iterator[Restored]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); choose another output folder") from error
    done = []
    for path in files:
        name = path.name.removesuffix(ENDING)
        try:
            labels, case = _read(path, name, record)
            for source in _targets(case, channels):
                done.append(_write(labels, path, case, source, out, interpolation))
                yield done[-1]
        except NeuralprepError as error:
            done.append(Restored(name, "", path, fault=str(error)))
            yield done[-1]
    _write_table(out, done)


def _read(path: Path, name: str, record: ExportRecord) -> tuple[Volume, ExportedCase]:
    """A prediction with the study's label numbers, and its case."""
    case = record.cases.get(name)
    if case is None:
        raise InputError(f"{path}: the data set has no case {name}; give the data set that the images came from")
    labels = read_labels(path)
    if not labels.grid.same_as(case.grid, tol_mm=SAME_PLACE_MM):
        raise InputError(f"{path}: is not on the grid of its images ({grid_text(labels.grid)} against "
                         f"{grid_text(case.grid)}); predict from the images that were exported")
    declared = {0, *(number for numbers in record.classes.members.values() for number in numbers)}
    strange = [int(number) for number in np.unique(labels.data) if int(number) not in declared]
    if strange and record.classes.members:
        raise InputError(f"{path}: holds label {strange[0]}, which the data set does not have; was another model used?")
    return Volume(record.classes.unmapped(labels.data), case.grid, path), case


def _targets(case: ExportedCase, channels: tuple[str, ...]) -> list[Source]:
    """Scans to write for: all that have a transform, else the one grid that all channels share."""
    wanted = [source for source in case.sources if not channels or source.channel in channels]
    return [source for source in wanted if source.transform is not None] or wanted[:1]


def _write(
    labels: Volume, path: Path, case: ExportedCase, source: Source, out: Path, interpolation: Interpolation
) -> Restored:
    scan, used = source.scan or case.name, "none"
    if source.transform is not None:
        used = interpolation
        # the saved matrix takes template points to scan points; a label map goes the other way
        labels = carry_labels(labels, source.native, source.transform.inverse(), interpolation)
    target = out / f"{scan}_dseg{ENDING}"
    save(labels, target, dtype=np.uint8 if labels.data.max() < 256 else np.int32)
    return Restored(case.name, scan, path, target, used)


def _write_table(out: Path, done: list[Restored]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in done:
        cells = (entry.case, entry.scan, entry.file.name if entry.file else "", entry.prediction, entry.interpolation,
                 " ".join(entry.fault.split()))
        writer.writerow([str(cell) or "n/a" for cell in cells])
    write_text(out / TABLE_FILE, text.getvalue())
