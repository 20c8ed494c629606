"""Draw the page of a finished scan again, from its record, the files beside it and the scan itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from neuralprep.bids.derivatives import BY_OUTPUT, XFM_FORMATS
from neuralprep.bids.layout import Home
from neuralprep.engine.images import read_scan
from neuralprep.engine.inputs import Scan
from neuralprep.engine.worker import VOLUMES, input_fingerprint, scan_settings
from neuralprep.errors import InputError
from neuralprep.formats import read_transform
from neuralprep.pipeline import Result, Settings
from neuralprep.stages.quality import Quality
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load

#: images that the page shows
_SHOWN = ("brain_mask", "nocsf_mask", "preproc", "multiplier", "space_preproc")
_AGAIN = "Process it again with --overwrite."
#: timings of the worker, which the page does not list
_OWN_TIMINGS = ("read", "write")


def redraw(scan: Scan, home: Home, record: Mapping[str, Any]) -> Path:
    """Write the page and the overview picture of a finished scan again; nothing is computed.

    Parameters
    ----------
    scan : Scan
        The scan as it lies in the data set now.
    home : Home
        Where its outputs are.
    record : mapping
        Its quality record.

    Returns
    -------
    The page.

    Raises
    ------
    InputError
        What the page shows is not there any more, has changed since, or cannot be read; which, and what to do.
    """
    from neuralprep.report import write_scan

    try:
        result = _result(scan, home, record)
        told = {"source": str(record["source"]), "seconds": float(record["seconds"])}
        files = [str(name) for name in record["files"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        fault = f"{home.quality}: no page can be made of this record ({type(error).__name__}: {error}). {_AGAIN}"
        raise InputError(fault) from error
    return write_scan(result, home.folder, scan.name, told, files=home.files, written=files)


def _result(scan: Scan, home: Home, record: Mapping[str, Any]) -> Result:
    """What the pipeline returned when the record was written, as far as the page shows it."""
    if input_fingerprint(scan) != record["input"]:
        raise InputError(f"{scan.path}: has changed since it was processed. {_AGAIN}")
    chosen = dict(record["settings"])
    frame, native = chosen.pop("frame"), bool(chosen.pop("native_resolution"))
    if frame == "each":
        raise InputError(f"{scan.path}: all its frames were processed, and no page shows them. {_AGAIN}")
    volume = read_scan(scan, frame)
    settings = scan_settings(_settings(chosen, record, volume), volume, native_resolution=native)
    outputs = {name: _output(name, home, settings.space, volume) for name in record["outputs"]}
    notes, first = tuple(record["notes"]), len(volume.notes)
    judged = Quality(
        {name: math.nan if value is None else float(value) for name, value in record["measures"].items()},
        "check" if record["status"] == "check" else "ok",
        tuple(record["reasons"]),
        notes[first:] if notes[:first] == volume.notes else notes,
    )
    timings = {step: float(seconds) for step, seconds in record["timings"].items() if step not in _OWN_TIMINGS}
    return Result(volume, settings, outputs, judged, timings, dict(record["provenance"]))


def _settings(chosen: Mapping[str, Any], record: Mapping[str, Any], volume: Volume) -> Settings:
    """The settings of a record. Pages name the user's mask and label and show neither: the scan stands in for them."""
    given: Mapping[str, str] = record.get("given", {})  # records of earlier versions do not say
    known = {item.name for item in fields(Settings)}
    kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                            for name, value in {**chosen, **record.get("execution", {})}.items() if name in known}
    for role in VOLUMES:
        if record.get(role) is not None:
            kept[role] = replace(volume, source=Path(given[role]) if role in given else None)
    return Settings(**kept)


def _output(name: str, home: Home, space: str, volume: Volume) -> Volume | Affine:
    """An output as it was written; the scan stands in for an image that the page only counts."""
    row = BY_OUTPUT[name]
    path = home.folder / f"{home.files.stem(row, space)}.{XFM_FORMATS[0] if row.kind == 'xfm' else 'nii.gz'}"
    if row.kind != "xfm":
        return load(path, checks=False) if name in _SHOWN else volume
    affine = read_transform(path)
    if not isinstance(affine, Affine):
        raise InputError(f"{path}: holds no affine any more. {_AGAIN}")
    return affine
