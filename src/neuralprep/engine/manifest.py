"""Lists of scans: one path a line, or a table with a row for each scan."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from neuralprep.errors import InputError

LIST_ENDINGS = (".txt", ".csv", ".tsv")
COLUMNS = {"path": ("path", "scan", "image"), "name": ("output_name",), "mask": ("mask",), "keep": ("keep_label",)}
"""What a table can say of a scan, and how the column may be called. Not "name" or "label": tables of studies have such
columns for people and diagnoses."""


@dataclass(frozen=True)
class Row:
    """What a list says of one scan.

    Parameters
    ----------
    path : Path
        The scan; relative entries start at the list's folder, like all others.
    name : str
        Of its outputs ("": the stem of the scan).
    mask, keep : Path, optional
        Its mask, and a label whose voxels belong to every mask.
    """

    path: Path
    name: str = ""
    mask: Path | None = None
    keep: Path | None = None

    @property
    def says_more(self) -> bool:
        """Whether there is more than the path."""
        return bool(self.name or self.mask or self.keep)


def read_list(path: Path, image_endings: tuple[str, ...]) -> list[Row]:
    """Read a list.

    ``.txt``: one path a line, ``#`` starts a comment line. ``.csv`` and ``.tsv``: the columns of `COLUMNS` by their
    header, in any order, others ignored; without a known header the first column is the path.

    Parameters
    ----------
    path : Path
        The list.
    image_endings : tuple of str
        Of scans: a first row that ends so is no header.

    Raises
    ------
    InputError
        The list is empty or not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}). Save the list as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check its permissions.") from error
    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in text.splitlines()]
        entries = [{"path": line} for line in lines if line and not line.startswith("#")]
    else:
        try:
            entries = _table(text, "\t" if path.suffix.lower() == ".tsv" else None, image_endings)
        except csv.Error as error:
            raise InputError(f"{path}: is no table that can be read ({error}). Write one path a line.") from error
    if any("\0" in cell for entry in entries for cell in entry.values()):
        raise InputError(f"{path}: holds NUL characters, so it is no list of paths. Save it as UTF-8 text.")
    if not entries:
        raise InputError(f"{path}: the list names no scan. Write one path a line (or a column 'path').")

    def file(entry: dict[str, str], column: str) -> Path | None:
        return path.parent / Path(entry[column]).expanduser() if entry.get(column) else None

    return [Row(file(entry, "path") or path, entry.get("name", ""), file(entry, "mask"), file(entry, "keep"))
            for entry in entries]


def _table(text: str, delimiter: str | None, image_endings: tuple[str, ...]) -> list[dict[str, str]]:
    """Cells of the known columns, for every row that has a path; "n/a" (BIDS) is an empty cell."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    if delimiter is None:
        delimiter = ";" if ";" in lines[0] and "," not in lines[0] else ","
    rows = list(csv.reader(lines, delimiter=delimiter))
    header = [cell.strip().lower() for cell in rows[0]]
    places = {column: header.index(title) for column, titles in COLUMNS.items()
              for title in titles[::-1] if title in header}
    body = rows[1:]
    if "path" not in places:
        # without a known title the first row is data when its first cell looks like an image
        places = {"path": 0}
        body = rows if header[0].endswith(image_endings) else rows[1:]
    found = ({column: row[place].strip() for column, place in places.items() if len(row) > place} for row in body)
    cells = [{column: "" if cell.lower() == "n/a" else cell for column, cell in entry.items()} for entry in found]
    return [entry for entry in cells if entry.get("path")]
