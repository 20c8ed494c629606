"""What an exported data set says about itself: the files it was made from, and the way back to each scan.

``neuralprep_export.json`` is for programs (it also marks the folder as ours), ``sources.tsv`` the same for people.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import neuralprep
from neuralprep.bids.sidecars import GENERATOR, write_json, write_text
from neuralprep.errors import InputError
from neuralprep.export.classes import Classes
from neuralprep.files import read_text
from neuralprep.formats.text import read_matrix
from neuralprep.grid import Grid
from neuralprep.transform import Affine

RECORD_FILE = "neuralprep_export.json"
SOURCES_FILE = "sources.tsv"
TRANSFORM_FOLDER = "transforms"
_COLUMNS = ("case", "split", "subject", "fold", "role", "file", "source", "action", "space", "transform", "note")
_LARGEST = 1 << 28


@dataclass(frozen=True, eq=False)
class Source:
    """One image of an exported case.

    Attributes
    ----------
    channel
        Its channel.
    scan
        Name of the scan; "" if no run of neuralprep made the image.
    transform
        Template mm -> scan mm; None if the image lies on the scan's own grid.
    native
        Grid of the scan.
    """

    channel: str
    scan: str
    transform: Affine | None
    native: Grid


@dataclass(frozen=True, eq=False)
class ExportedCase:
    """One case of an exported data set: the grid of its images, and where they came from."""

    name: str
    grid: Grid
    sources: tuple[Source, ...]


@dataclass(frozen=True, eq=False)
class ExportRecord:
    """Content of the record that matters for the way back."""

    cases: dict[str, ExportedCase]
    classes: Classes


def grid_json(grid: Grid) -> dict[str, Any]:
    """A grid as JSON."""
    return {"shape": list(grid.shape), "affine": grid.affine.tolist()}


def write_record(folder: Path, content: dict[str, Any]) -> None:
    """Write the record of a data set, with the version that made it."""
    maker = {"Name": GENERATOR, "Version": neuralprep.__version__}
    write_json(folder / RECORD_FILE, {"GeneratedBy": maker, **content})


def write_sources(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table of files and their sources."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="n/a", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "n/a" if value in (None, "") else value for key, value in row.items()} for row in rows)
    write_text(folder / SOURCES_FILE, text.getvalue())


def read_record(folder: Path) -> ExportRecord:
    """Read the record of a data set.

    Raises
    ------
    InputError
        The folder was not exported by neuralprep, or its record or a transform is damaged.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise InputError(f"{folder}: holds no {RECORD_FILE}; give the data set folder that neuralprep export wrote")
    try:
        content = json.loads(read_text(path, _LARGEST))
        cases = {name: _case(folder, name, entry) for name, entry in content["cases"].items()}
        mapping = content["label_map"]
        members = {name: tuple(numbers) for name, numbers in content["classes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); export the data set again") from error
    mapping = None if mapping is None else {int(source): int(target) for source, target in mapping.items()}
    return ExportRecord(cases, Classes(members, mapping))


def _case(folder: Path, name: str, entry: dict[str, Any]) -> ExportedCase:
    grid = _grid(entry["grid"])
    sources = []
    for channel, image in entry["channels"].items():
        transform = read_matrix(folder / image["transform"]) if image["transform"] else None
        native = _grid(image["native"]) if image["native"] else grid
        sources.append(Source(channel, image["scan"], transform, native))
    return ExportedCase(name, grid, tuple(sources))


def _grid(entry: dict[str, Any]) -> Grid:
    return Grid(tuple(entry["shape"]), entry["affine"])
