"""What to export: a table, a folder per channel, or the output folder of a run become cases with named channels."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from neuralprep.bids.derivatives import ANATOMICAL_SUFFIXES, BY_OUTPUT
from neuralprep.bids.layout import home_of
from neuralprep.bids.sidecars import is_own_dataset
from neuralprep.engine.inputs import IMAGE_ENDINGS, image_stem
from neuralprep.engine.record import finished_scans, read_quality, read_status
from neuralprep.errors import InputError
from neuralprep.evaluation.cases import case_name
from neuralprep.files import read_text

Split = Literal["train", "test"]

TABLE_ENDINGS = (".tsv", ".csv")
#: columns of a table that are no channels
KNOWN_COLUMNS = ("case", "label", "split", "fold", "subject")
_SPLITS: dict[str, Split] = {"train": "train", "training": "train", "tr": "train", "test": "test", "ts": "test"}
_EMPTY = ("", "n/a")
#: last parts of file names that say what a file is, not whose it is
_KINDS = frozenset(
    [suffix.lower() for suffix in ANATOMICAL_SUFFIXES]
    + ["t1", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2f", "adc", "dwi", "ncct", "cta", "cbf", "cbv", "mtt", "tmax"]
    + ["seg", "dseg", "label", "labels", "lesion", "mask", "roi", "tumor", "tumour"]
)
_SHOWN = 5
_TABLE_BYTES = 1 << 26


@dataclass(frozen=True)
class ExportCase:
    """One case of a data set.

    Attributes
    ----------
    name
        Of the case.
    channels
        Image of each channel, in order of the channels.
    label
        Its label map, if there is one.
    subject
        Cases of one subject never end up on two sides of a split.
    split
        For training or for testing.
    fold
        Fold that the case validates; None leaves that to the exporter.
    """

    name: str
    channels: Mapping[str, Path]
    label: Path | None = None
    subject: str = ""
    split: Split = "train"
    fold: int | None = None


@dataclass
class Found:
    """Cases, the names of their channels, and what was left out, in words."""

    cases: list[ExportCase]
    channels: tuple[str, ...]
    messages: list[str] = field(default_factory=list)


def subject_of(case: str) -> str:
    """Subject of a case: its BIDS entity ``sub-...``, else the case itself."""
    match = re.match(r"sub-[^_]+", case)
    return match.group() if match else case


def read_table(path: Path, channels: Sequence[str] | None = None) -> Found:
    """Cases of a table: columns ``case``, one per channel, and if wanted ``label``, ``subject``, ``split``, ``fold``.

    Parameters
    ----------
    path
        ``.tsv`` or ``.csv``; relative paths in it start at its folder. Without a column ``split``, cases without a
        label are for testing.
    channels
        Columns that are channels, in order; None takes every column that is not known otherwise.

    Raises
    ------
    InputError
        Columns or cells that are missing or twice, unknown splits, folds that are no numbers.
    """
    rows = _rows(path)
    titles = [cell.strip() for cell in rows[0]]
    twice = [title for title, count in Counter(titles).items() if count > 1]
    if "case" not in titles or twice:
        fault = f"has the column {twice[0]!r} twice" if twice else "has no column 'case'"
        raise InputError(f"{path}: {fault}; its columns are {', '.join(titles)}")
    named = tuple(channels) if channels else tuple(title for title in titles if title not in KNOWN_COLUMNS)
    missing = [name for name in named if name not in titles]
    if missing or not named:
        fault = f"has no column {missing[0]!r}" if missing else "has no column of a channel"
        raise InputError(f"{path}: {fault}; its columns are {', '.join(titles)}")
    cases = []
    for number, cells in enumerate(rows[1:], start=2):
        row = {title: cell.strip() for title, cell in zip(titles, cells, strict=False)}
        cases.append(_case_of_row(row, named, path, number, "split" in titles))
    unused = [title for title in titles if title not in (*KNOWN_COLUMNS, *named)]
    messages = [f"{path}: columns not exported: {', '.join(unused)}"] if unused else []
    return Found(cases, named, messages)


def read_folders(folders: Mapping[str, Path], key: str | None = None) -> Found:
    """Cases of one folder per channel, paired by the names of their files.

    Parameters
    ----------
    folders
        Channel to folder, in order.
    key
        Regular expression that finds the case in a file's name; None drops the last parts that say what a file is
        (``_T1w``, ``_seg``).

    Raises
    ------
    InputError
        A folder without images, or two files of one case.
    """
    found = {channel: by_case(folder, key) for channel, folder in folders.items()}
    names = sorted({name for files in found.values() for name in files})
    cases = [
        _unlabelled(name, {channel: files[name] for channel, files in found.items() if name in files})
        for name in names
    ]
    return Found(cases, tuple(folders))


def read_outputs(folder: Path, output: str, channels: Sequence[str] | None = None) -> Found:
    """Cases of the output folder of a run: the suffix of a scan is its channel, the rest of its name the case.

    Parameters
    ----------
    folder
        Of ``neuralprep run``.
    output
        Which of its images, e.g. ``space_preproc_brain``.
    channels
        Suffixes to export, in order; None takes all, in alphabetical order.

    Raises
    ------
    InputError
        No run made the folder, nothing in it is finished, or it lacks this output.
    """
    if not is_own_dataset(folder):
        raise InputError(f"{folder}: is no output folder of neuralprep run; give CHANNEL=FOLDER for a folder of images")
    row = BY_OUTPUT.get(output)
    if row is None or row.kind != "image":
        images = ", ".join(name for name, entry in BY_OUTPUT.items() if entry.kind == "image")
        raise InputError(f"--output {output}: is no image of a run; choose one of {images}")
    cases: dict[str, dict[str, Path]] = {}
    messages = []
    for scan in sorted(finished_scans(folder)):
        home = home_of(folder, scan)
        name, content = home.files, read_quality(home.quality) or {}
        space = str(content.get("settings", {}).get("space", ""))
        path = home.folder / f"{name.stem(row, space)}.nii.gz"
        if not path.is_file():
            raise InputError(f"{path}: missing; run again with --outputs {output}, or choose another --output")
        if content.get("status") == "check":
            messages.append(f"{scan}: exported, although its status is 'check'; look at its report")
        cases.setdefault(name.prefix, {})[name.suffix] = path
    messages += [f"{row['scan']}: left out, it failed" for row in read_status(folder) if row.get("status") == "failed"]
    if not cases:
        raise InputError(f"{folder}: holds no finished scan; run neuralprep first")
    present = Counter(channel for images in cases.values() for channel in images)
    named = tuple(channels) if channels else tuple(sorted(present))
    unused = [channel for channel in present if channel not in named]
    if unused:
        messages.append(f"{folder}: scans not exported: {', '.join(f'{present[name]} {name}' for name in unused)}")
    made = [_unlabelled(name, {c: images[c] for c in named if c in images}) for name, images in cases.items()]
    return Found([case for case in made if case.channels], named, messages)


def with_labels(cases: Iterable[ExportCase], labels: Path, key: str | None = None) -> list[ExportCase]:
    """Cases with their label maps from a folder; those that have one are for training, the others for testing.

    Raises
    ------
    InputError
        Label maps without a case, most likely because the names do not fit.
    """
    cases, found = list(cases), by_case(labels, key)
    lonely = sorted(found.keys() - {case.name for case in cases})
    if lonely:
        shown = ", ".join(found[name].name for name in lonely[:_SHOWN])
        raise InputError(
            f"{labels}: {len(lonely)} label maps belong to no case: {shown}; the cases are "
            f"{', '.join(case.name for case in cases[:_SHOWN])}, ...; rename the files, remove them, or give --key"
        )
    return [replace(case, label=found[case.name], split="train") if case.name in found else case for case in cases]


def by_case(folder: Path, key: str | None = None) -> dict[str, Path]:
    """Images of a folder by the name of their case; see `read_folders`.

    Raises
    ------
    InputError
        Not a folder, no image, or two images of one case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = None if path.name.startswith(".") else image_stem(path)
        if stem is None or not path.is_file():
            continue
        name = case_name(path, key) if key is not None else _without_kind(stem)
        if name in found:
            raise InputError(f"{path} and {found[name]}: both belong to the case {name}; keep one, or give --key")
        found[name] = path
    if not found:
        raise InputError(f"{folder}: holds no image; readable are {', '.join(IMAGE_ENDINGS)}")
    return found


def _unlabelled(name: str, images: Mapping[str, Path]) -> ExportCase:
    return ExportCase(name, images, subject=subject_of(name), split="test")


def _without_kind(stem: str) -> str:
    """``sub-01_T1w_dseg`` -> ``sub-01``."""
    head, _, last = stem.rpartition("_")
    return _without_kind(head) if head and last.lower() in _KINDS else stem


def _rows(path: Path) -> list[list[str]]:
    """Cells of a table, blank lines left out."""
    lines = [line for line in read_text(path, _TABLE_BYTES).removeprefix("\ufeff").splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{path}: holds no case; write a line of column names and a line per case")
    semicolons = ";" in lines[0] and "," not in lines[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ","
    return list(csv.reader(lines, delimiter=delimiter))


def _case_of_row(
    row: Mapping[str, str], channels: Sequence[str], path: Path, number: int, has_split: bool
) -> ExportCase:
    """One line of a table."""
    where = f"{path}, line {number}"
    name = row.get("case", "")
    if name in _EMPTY:
        raise InputError(f"{where}: the case has no name")
    images = {channel: row.get(channel, "") for channel in channels}
    label = row.get("label", "")
    split = _SPLITS.get(row.get("split", "").lower()) if has_split else "test" if label in _EMPTY else "train"
    if split is None:
        raise InputError(f"{where}: split {row.get('split', '')!r} is unknown; write train or test")
    fold = row.get("fold", "")
    if fold not in _EMPTY and not fold.isdecimal():
        raise InputError(f"{where}: fold {fold!r} is no whole number from 0")
    return ExportCase(
        name,
        {channel: path.parent / Path(cell).expanduser() for channel, cell in images.items() if cell not in _EMPTY},
        None if label in _EMPTY else path.parent / Path(label).expanduser(),
        row["subject"] if row.get("subject", "") not in _EMPTY else subject_of(name),
        split,
        None if fold in _EMPTY else int(fold),
    )
