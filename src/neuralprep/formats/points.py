"""Tables of points: comma- or tab-separated text with columns x, y, z in mm; other columns are kept."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from neuralprep.errors import InputError
from neuralprep.files import read_text, write_atomic
from neuralprep.grid import FloatArray

MAX_BYTES = 1 << 28
_AXES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class PointTable:
    """Points with everything else that stood in their file.

    Attributes
    ----------
    points : (N, 3) float64
        mm, in the file's own axes.
    rows : list of list of str
        All cells, without the header.
    columns : (int, int, int)
        Where x, y and z stand.
    header : list of str or None
    delimiter : str
    """

    points: FloatArray
    rows: list[list[str]]
    columns: tuple[int, int, int]
    header: list[str] | None
    delimiter: str


def read_points(path: str | PathLike[str]) -> PointTable:
    """Read a .csv or .tsv of points.

    A header must name x, y and z (any case); without a header the first three columns are taken.

    Raises
    ------
    InputError
        Missing file, no points, a header without x, y, z, or a cell that is no finite number (line named).
    """
    path = Path(path)
    text = read_text(path, MAX_BYTES).removeprefix("\ufeff")
    delimiter = "\t" if "\t" in text.split("\n", 1)[0] else ","
    lines = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    if not lines:
        raise InputError(f"{path}: holds no points")
    header, columns = None, (0, 1, 2)
    if not _is_number(lines[0][0]) or not all(_is_number(cell) for cell in lines[0][:3]):
        header = lines[0]
        names = [cell.strip().lower() for cell in header]
        if any(names.count(axis) != 1 for axis in _AXES):
            raise InputError(f"{path}: the header {', '.join(header)} must name x, y and z, once each")
        columns = (names.index("x"), names.index("y"), names.index("z"))
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: holds a header but no points")
    points = np.empty((len(lines), 3))
    for number, row in enumerate(lines):
        try:
            points[number] = [float(row[column]) for column in columns]
        except (ValueError, IndexError):
            raise InputError(f"{path}: point {number + 1} ({delimiter.join(row)}) has no three numbers") from None
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(1))[0]) + 1
        raise InputError(f"{path}: point {bad} is not finite")
    return PointTable(points, lines, columns, header, delimiter)


def write_points(path: str | PathLike[str], table: PointTable, points: FloatArray) -> None:
    """Write a table with its x, y and z replaced; micrometre precision, everything else as it was."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=table.delimiter, lineterminator="\n")
    if table.header is not None:
        writer.writerow(table.header)
    for row, point in zip(table.rows, points, strict=True):
        cells = list(row)
        for column, value in zip(table.columns, point, strict=True):
            cells[column] = f"{value:.6f}"
        writer.writerow(cells)
    write_atomic(Path(path), [lambda: out.getvalue().encode()])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
