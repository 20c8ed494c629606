"""What to process: files, folders, globs and lists become named scans."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.bids.derivatives import OTHER_SUFFIXES
from neuralprep.bids.layout import Home, home_in
from neuralprep.bids.sidecars import DESCRIPTION_FILE, is_own_dataset
from neuralprep.engine.manifest import LIST_ENDINGS, Row, read_list
from neuralprep.errors import InputError

if TYPE_CHECKING:
    from neuralprep.dicom.search import Series

IMAGE_ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
DICOM_ENDINGS = (".dcm", ".ima", ".dicom", "dicomdir")
ARCHIVE_ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".bz2", ".xz", ".zst")

#: names of files in the output folder, which a folder of a scan would be in the way of
_TAKEN_NAMES = {"status.tsv", "index.html", "neuralprep.log", "group.tsv", "group.json", "review.tsv", "logs",
                DESCRIPTION_FILE}  # fmt: skip
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
    folder : str
        Folder of its outputs below the output folder, shared with other scans ("" gives it one of its own).
    uri : str
        How sidecars name it ("": by its file name).
    sidecars : tuple of Path
        JSON files that describe it; a later one goes before an earlier one.
    series : Series, optional
        A DICOM series; `path` then only stands for it (`neuralprep.dicom.search`).
    mask, keep : Path, optional
        Its own mask, and label to keep, in place of those of the job.
    """

    path: Path
    name: str
    fault: str = ""
    folder: str = ""
    uri: str = ""
    sidecars: tuple[Path, ...] = ()
    series: Series | None = field(default=None, compare=False)
    mask: Path | None = None
    keep: Path | None = None

    def home(self, out_dir: Path) -> Home:
        """Where its outputs lie."""
        return home_in(out_dir, self.name, self.folder)


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


def expand(inputs: Sequence[str | Path | Scan], out_dir: Path, taken: Mapping[str, str] | None = None, *,
           dicom: bool = True) -> Inputs:
    """Expand files, folders, globs and lists into scans with distinct names.

    Parameters
    ----------
    inputs : sequence of str, Path or Scan
        As typed. ``~`` is expanded. Globs are for shells that do not expand them (and ``**``). A scan stays as it is.
    out_dir : Path
        Output folder: never searched for inputs.
    taken : mapping of str to str, optional
        Names already in the output folder and the source each stands for, so that a re-run finds its scans
        under the names they had and no other scan is put in their place.
    dicom : bool
        Whether the caller can read a scan that is a DICOM series; else such a scan has a fault.

    Raises
    ------
    InputError
        A folder or glob without any image, or a list that cannot be read.
    """
    found = Inputs()
    paths: list[tuple[Path, str]] = []
    ready = [item for item in inputs if isinstance(item, Scan)]
    given = [str(item) for item in inputs if not isinstance(item, Scan)]
    search = _Search(out_dir.absolute(), found.messages, alone=len(inputs) == 1)
    for text in search.without_single_slices(given):
        paths.extend(search.expand_one(text))
    # links are resolved to find repeats only: the name comes from the link (annexed data sets link to hashes)
    unique: dict[Path, tuple[Path, str]] = {}
    for path, fault in paths:
        key = _resolved(path)
        if key in unique:
            found.messages.append(f"{path} was given more than once: processed once")
        unique.setdefault(key, (Path(os.path.normpath(path.absolute())), fault))
    if not dicom:
        fault = "is a DICOM series, which only run and strip read; convert it to NIfTI first (dcm2niix)"
        unique |= {key: (path, f"{path}: {fault}") for key, (path, _) in unique.items() if path in search.series}
    rows = {Path(os.path.normpath(path.absolute())): row for path, row in search.rows.items()}
    wanted = {path: row.name for path, row in rows.items() if row.name}
    names = distinct_names([path for path, _ in unique.values()], taken or {}, found.messages, wanted)
    for path, fault in unique.values():
        row = rows.get(path, Row(path))
        series = search.series.get(path)
        ready.append(Scan(path, names[path], fault, series=series, mask=row.mask, keep=row.keep))
    found.scans = ready
    return found


class _Search:
    """What the arguments stand for.

    Parameters
    ----------
    out_dir : Path
        Never searched.
    messages : list of str
        Receives what was left out.
    alone : bool
        There is one argument only, so that a fault of a folder is a fault of the command.
    """

    def __init__(self, out_dir: Path, messages: list[str], *, alone: bool) -> None:
        self.series: dict[Path, Series] = {}
        self.rows: dict[Path, Row] = {}
        self._out_dir, self._messages, self._alone = out_dir, messages, alone

    def expand_one(self, text: str) -> list[tuple[Path, str]]:
        """One argument -> (path, fault) pairs."""
        path = Path(text).expanduser()
        if path.is_dir():
            images, others = _walk(path, self._out_dir, self._messages)
            if images:
                if others:
                    self._messages.append(f"{path}: left out {others} DICOM files, because there are images in other "
                                          "formats. Give the folder of the DICOM files as an input of its own.")
                return [(image, "") for image in images]
            return self._dicom(path)
        if path.is_file() and path.name.lower().endswith(LIST_ENDINGS):
            return [pair for row in read_list(path, IMAGE_ENDINGS) for pair in self._listed(row)]
        if not path.exists() and glob.has_magic(text):
            return self._matches(text, path)
        return self._entry(path, in_list=False)

    def _listed(self, row: Row) -> list[tuple[Path, str]]:
        """A row of a list, which may say more of its scan than where it is."""
        pairs = self._entry(row.path)
        if row.says_more and len(pairs) == 1:
            self.rows.setdefault(pairs[0][0], row)
        elif row.says_more:
            self._messages.append(f"{row.path}: holds {len(pairs)} series, so the name, mask and label of its row in "
                                  "the list are for none of them; list the series one by one")
        return pairs

    def without_single_slices(self, given: Sequence[str]) -> list[str]:
        """Arguments with the slices of a folder replaced by the folder: a shell gives each of them to ``dir/*``."""
        from neuralprep.dicom.tags import is_dicom

        slices = Counter(
            path.parent for path in map(Path, given)
            if path.is_file() and image_stem(path) is None and not path.name.lower().endswith(LIST_ENDINGS)
            and is_dicom(path)
        )  # fmt: skip
        several = {folder for folder, count in slices.items() if count > 1}
        self._messages += [f"{folder}: read as a folder, for {slices[folder]} DICOM files of it were given"
                           for folder in several]  # fmt: skip
        kept = (str(Path(text).parent) if Path(text).parent in several and Path(text).is_file()
                and image_stem(Path(text)) is None else text for text in given)  # fmt: skip
        return list(dict.fromkeys(kept)) if several else list(given)

    def _matches(self, text: str, path: Path) -> list[tuple[Path, str]]:
        """A pattern."""
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        kept = [match for match in matches if Path(match).is_dir() or image_stem(Path(match)) is not None]
        if not kept:
            raise InputError(f"{text}: no image matches this pattern. Check the folder and the spelling.")
        if len(kept) < len(matches):
            self._messages.append(f"{text}: left out {len(matches) - len(kept)} files that are no images")
        self._alone = self._alone and len(kept) == 1
        return [pair for match in kept for pair in self.expand_one(match)]

    def _entry(self, path: Path, *, in_list: bool = True) -> list[tuple[Path, str]]:
        """A path that is no pattern and no list; a folder only if a list names it."""
        from neuralprep.dicom.search import holds_dicom, series_of

        if (path.is_dir() and in_list) or (path.is_file() and image_stem(path) is None):
            if holds_dicom(path):
                return self._dicom(path)
        elif not path.exists() and (series := series_of(Path(os.path.normpath(path.absolute())))) is not None:
            self.series[series.path] = series
            return [(series.path, series.fault)]
        return [_checked(path)]

    def _dicom(self, path: Path) -> list[tuple[Path, str]]:
        """The anatomical series of a folder or a file."""
        from neuralprep.dicom.search import find, holds_dicom

        if path.is_dir() and not holds_dicom(path):
            raise InputError(
                f"{path}: no image found in this folder or below. Readable are {', '.join(IMAGE_ENDINGS)} and DICOM."
            )
        try:
            found = find(path)
        except InputError as error:
            if self._alone:
                raise
            return [(path, str(error))]
        self._messages += found.messages
        self.series |= {series.path: series for series in found.series}
        return [(series.path, series.fault) for series in found.series]


def _resolved(path: Path) -> Path:
    """Where links lead; a loop of links leads nowhere."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # Python 3.13 raises the one, before the other
        return path.absolute()


def _checked(path: Path) -> tuple[Path, str]:
    """Attach the fault of a path that cannot be an input."""
    if not path.exists():
        return path, f"{path}: no such file. Check the path; relative paths in a list start at the list's folder."
    if path.is_dir():
        return path, f"{path}: is a folder; a list names one image per line. Give the folder as an input of its own."
    if image_stem(path) is None:
        if path.name.lower().endswith(ARCHIVE_ENDINGS):
            return path, f"{path}: is an archive. Unpack it and give the folder."
        return path, f"{path}: not an image that can be read. Give one of {', '.join(IMAGE_ENDINGS)}, or DICOM."
    return path, ""


def _walk(folder: Path, out_dir: Path, messages: list[str]) -> tuple[list[Path], int]:
    """All images below a folder, sorted, and how many files have a name of DICOM.

    Hidden files, own outputs and non-anatomical BIDS files are left out.
    """
    images: list[Path] = []
    dicom = 0
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
                dicom += name.lower().endswith(DICOM_ENDINGS)
                continue
            suffix = stem.rpartition("_")[2].lower() if "_" in stem else ""
            if suffix in _OTHER_SUFFIXES:
                left_out[suffix] += 1
            else:
                images.append(parent / name)
    if left_out:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        messages.append(f"{folder}: left out files that are no anatomical image by their suffix: {counts}")
    return images, dicom


def distinct_names(
    paths: Iterable[Path], taken: Mapping[str, str], messages: list[str], wanted: Mapping[Path, str] | None = None
) -> dict[Path, str]:
    """Give each path a name of its own: its stem, with parent folders in front where stems clash.

    Parameters
    ----------
    paths : iterable of Path
        Distinct absolute paths.
    taken : mapping of str to str
        Names that already stand for a source file.
    messages : list of str
        Receives a line for each name that is not the plain stem.
    wanted : mapping of Path to str, optional
        Names that a list gives, in place of stems.
    """
    paths, wanted = list(paths), wanted or {}
    held = {source: name for name, source in taken.items()}
    names = {path: held[str(path)] for path in paths if str(path) in held}
    used = Counter(name.lower() for name in names.values())
    # names of other files that still exist are not free; a source that is gone was moved, and may be this one
    foreign = {name: Path(source) for name, source in taken.items() if name not in names.values()}
    used.update(name.lower() for name, source in foreign.items() if _is_there(source))
    open_paths = [path for path in paths if path not in names]
    stems = {path: _clean(wanted.get(path) or image_stem(path) or path.name) for path in open_paths}
    counts = Counter(stem.lower() for stem in stems.values())
    for path in open_paths:
        name = stems[path]
        if counts[name.lower()] > 1 or used[name.lower()]:
            name = _with_parents(path, name, used)
            messages.append(f"{path}: named {name}, because another scan is called {stems[path]}")
        names[path] = name
        used[name.lower()] += 1
    return names


def _is_there(source: Path) -> bool:
    """Whether the source of an earlier result exists; of a DICOM series that is the folder it was found in."""
    return source.exists() or (image_stem(source) is None and source.name != "" and source.parent.is_dir())


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
    """Replace what file systems or shells dislike; never empty, never hidden, never a formula in a table."""
    kept = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in text).lstrip(".-+")
    if kept.lower() in _TAKEN_NAMES:
        kept += "-scan"
    return kept or "scan"
