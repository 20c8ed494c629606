"""What to process: files, folders, globs and lists become named scans."""

from __future__ import annotations

import csv
import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuralprep.bids.derivatives import OTHER_SUFFIXES
from neuralprep.bids.sidecars import is_own_dataset
from neuralprep.errors import InputError

IMAGE_ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
LIST_ENDINGS = (".txt", ".csv", ".tsv")
PATH_COLUMNS = ("path", "scan", "image")

_OTHER_SUFFIXES = frozenset(suffix.lower() for suffix in OTHER_SUFFIXES)


@dataclass(frozen=True)
class Scan:
    """One input.

    Parameters
    ----------
    path : Path
        The image, absolute.
    name : str
        Name of its folder and of its files: the stem, made distinct where two inputs share it.
    fault : str
        Why it cannot be processed ("" when it can): recorded as a failed scan.
    """

    path: Path
    name: str
    fault: str = ""


@dataclass
class Inputs:
    """Expanded inputs.

    Parameters
    ----------
    scans : list of Scan
        In the order given; folders sorted by path.
    messages : list of str
        What was left out or renamed, in words.
    """

    scans: list[Scan] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def image_stem(path: Path) -> str | None:
    """File name without image ending, or None when the file is no image that can be read."""
    lowered = path.name.lower()
    for ending in IMAGE_ENDINGS:
        if lowered.endswith(ending) and len(lowered) > len(ending):
            return path.name[: -len(ending)]
    return None


def expand(inputs: Sequence[str | Path], out_dir: Path, taken: Mapping[str, str] | None = None) -> Inputs:
    """Expand files, folders, globs and lists into scans with distinct names.

    Parameters
    ----------
    inputs : sequence of str or Path
        As typed. ``~`` is expanded. Globs are for shells that do not expand them (and ``**``).
    out_dir : Path
        Output folder: never searched for inputs.
    taken : mapping of str to str, optional
        Names already in the output folder and the source each stands for, so that a re-run finds its scans
        under the names they had and no other scan is put in their place.

    Raises
    ------
    InputError
        A folder or glob without any image, or a list that cannot be read.
    """
    found = Inputs()
    paths: list[tuple[Path, str]] = []
    for text in inputs:
        paths.extend(_expand_one(str(text), out_dir.absolute(), found.messages))
    # links are resolved to find repeats only: the name comes from the link (annexed data sets link to hashes)
    unique: dict[Path, tuple[Path, str]] = {}
    for path, fault in paths:
        key = path.resolve()
        if key in unique:
            found.messages.append(f"{path} was given more than once: processed once")
        unique.setdefault(key, (Path(os.path.normpath(path.absolute())), fault))
    names = distinct_names([path for path, _ in unique.values()], taken or {}, found.messages)
    found.scans = [Scan(path, names[path], fault) for path, fault in unique.values()]
    return found


def _expand_one(text: str, out_dir: Path, messages: list[str]) -> list[tuple[Path, str]]:
    """One argument -> (path, fault) pairs."""
    path = Path(text).expanduser()
    if path.is_dir():
        return [(image, "") for image in _walk(path, out_dir, messages)]
    if path.is_file() and path.name.lower().endswith(LIST_ENDINGS):
        return [_checked(entry) for entry in read_list(path)]
    if not path.exists() and glob.has_magic(text):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        kept = [match for match in matches if Path(match).is_dir() or image_stem(Path(match)) is not None]
        if not kept:
            raise InputError(f"{text}: no image matches this pattern. Check the folder and the spelling.")
        if len(kept) < len(matches):
            messages.append(f"{text}: left out {len(matches) - len(kept)} files that are no images")
        return [pair for match in kept for pair in _expand_one(match, out_dir, messages)]
    return [_checked(path)]


def _checked(path: Path) -> tuple[Path, str]:
    """Attach the fault of a path that cannot be an input."""
    if not path.exists():
        return path, f"{path}: no such file. Check the path; relative paths in a list start at the list's folder."
    if path.is_dir():
        return path, f"{path}: is a folder; a list names one image per line. Give the folder as an input of its own."
    if image_stem(path) is None:
        return path, f"{path}: not an image that can be read. Give one of {', '.join(IMAGE_ENDINGS)}."
    return path, ""


def _walk(folder: Path, out_dir: Path, messages: list[str]) -> list[Path]:
    """All images below a folder, sorted; hidden files, own outputs and non-anatomical BIDS files left out."""
    images: list[Path] = []
    left_out: Counter[str] = Counter()
    for parent_text, folders, files in os.walk(folder):
        parent = Path(parent_text)
        if parent.absolute() == out_dir or is_own_dataset(parent):
            if parent == folder:
                raise InputError(f"{folder}: is the output folder. Give the folder of the raw scans as input.")
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            stem = None if name.startswith(".") else image_stem(parent / name)
            if stem is None:
                continue
            suffix = stem.rpartition("_")[2].lower() if "_" in stem else ""
            if suffix in _OTHER_SUFFIXES:
                left_out[suffix] += 1
            else:
                images.append(parent / name)
    if left_out:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        messages.append(f"{folder}: left out files that are no anatomical image by their suffix: {counts}")
    if not images:
        raise InputError(
            f"{folder}: no image found in this folder or below. Readable are {', '.join(IMAGE_ENDINGS)}; "
            "convert DICOM first, for example with dcm2niix."
        )
    return images


def read_list(path: Path) -> list[Path]:
    """Read the paths of a list.

    ``.txt``: one path a line, ``#`` starts a comment line. ``.csv`` and ``.tsv``: column ``path``, ``scan`` or
    ``image`` by its header, else the first column.

    Parameters
    ----------
    path : Path
        The list; relative entries start at its folder.

    Raises
    ------
    InputError
        The list is empty or not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}). Save the list as UTF-8.") from error
    if path.suffix.lower() == ".txt":
        entries = [line.strip() for line in text.splitlines()]
        entries = [line for line in entries if line and not line.startswith("#")]
    else:
        entries = _table_column(text, "\t" if path.suffix.lower() == ".tsv" else None)
    if not entries:
        raise InputError(f"{path}: the list names no scan. Write one path a line (or a column 'path').")
    return [path.parent / Path(entry).expanduser() for entry in entries]


def _table_column(text: str, delimiter: str | None) -> list[str]:
    """Entries of the path column of a table."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    if delimiter is None:
        delimiter = ";" if ";" in lines[0] and "," not in lines[0] else ","
    rows = list(csv.reader(lines, delimiter=delimiter))
    header = [cell.strip().lower() for cell in rows[0]]
    column = next((header.index(title) for title in PATH_COLUMNS if title in header), None)
    if column is None:
        # without a known title the first row is data when its first cell looks like an image
        body = rows if image_stem(Path(rows[0][0].strip())) is not None else rows[1:]
        column = 0
    else:
        body = rows[1:]
    cells = [row[column].strip() for row in body if len(row) > column]
    return [cell for cell in cells if cell]


def distinct_names(paths: Iterable[Path], taken: Mapping[str, str], messages: list[str]) -> dict[Path, str]:
    """Give each path a name of its own: its stem, with parent folders in front where stems clash.

    Parameters
    ----------
    paths : iterable of Path
        Distinct absolute paths.
    taken : mapping of str to str
        Names that already stand for a source file.
    messages : list of str
        Receives a line for each name that is not the plain stem.
    """
    paths = list(paths)
    held = {source: name for name, source in taken.items()}
    names = {path: held[str(path)] for path in paths if str(path) in held}
    used = Counter(name.lower() for name in names.values())
    # names of other files that still exist are not free; a source that is gone was moved, and may be this one
    used.update(name.lower() for name, source in taken.items() if name not in names.values() and Path(source).exists())
    open_paths = [path for path in paths if path not in names]
    stems = {path: _clean(image_stem(path) or path.name) for path in open_paths}
    counts = Counter(stem.lower() for stem in stems.values())
    for path in open_paths:
        name = stems[path]
        if counts[name.lower()] > 1 or used[name.lower()]:
            name = _with_parents(path, name, used)
            messages.append(f"{path}: named {name}, because another scan is called {stems[path]}")
        names[path] = name
        used[name.lower()] += 1
    return names


def _with_parents(path: Path, stem: str, used: Counter[str]) -> str:
    """Prefix parent folders (nearest first) until the name is free, then a number."""
    name = stem
    for parent in path.parents:
        if not parent.name:
            break
        name = f"{_clean(parent.name)}_{name}"
        if not used[name.lower()]:
            return name
    number = 2
    while used[f"{stem}-{number}".lower()]:
        number += 1
    return f"{stem}-{number}"


def _clean(text: str) -> str:
    """Replace what file systems or shells dislike; never empty, never hidden."""
    kept = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in text).lstrip(".-")
    return kept or "scan"
