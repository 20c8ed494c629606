"""A folder, or a file, to the anatomical series in it.

Series get neutral names: the name of the folder that the user gave, a patient number where there are several people
(in the order of the paths), and the number of the series. Neither descriptions nor names of files and folders below the
given one are shown, because all of them may name a person.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuralprep.dicom.choice import is_derived, why_not
from neuralprep.dicom.convert import convert, dcm2niix_program
from neuralprep.dicom.layout import Layout, lay_out
from neuralprep.dicom.stacks import Stack, stacks_of
from neuralprep.dicom.tags import is_dicom, read_instance, require_pydicom
from neuralprep.errors import InputError
from neuralprep.headers import MIN_EXTENT_MM

MARK = "_series-"
_MAX_NUMBER = 99_999
_SHOWN = 12
_INDEX_FILE = "DICOMDIR"


@dataclass(frozen=True, eq=False)
class Series:
    """One anatomical volume.

    Attributes
    ----------
    root : Path
        The folder or file that the user gave.
    path : Path
        A path that stands for the series below the root: no file of this name exists.
    label : str
        What to call it in messages, for example ``series 3``.
    files : tuple of Path
        Its files.
    layout : Layout
        Where its slices lie; a fault there says why it cannot be converted.
    """

    root: Path
    path: Path
    label: str
    files: tuple[Path, ...]
    layout: Layout

    @property
    def name(self) -> str:
        """Name for its outputs."""
        return self.path.name

    @property
    def fault(self) -> str:
        """Why it cannot be converted, with the folder and the series; "" if it can."""
        return f"{self.root}: {self.label}: {self.layout.fault}" if self.layout.fault else ""

    def convert(self, target: Path) -> tuple[str, ...]:
        """Write it to a NIfTI file; what was decided, in words.

        Raises
        ------
        InputError
            It cannot be converted; the message names the folder and the series.
        """
        if self.fault:
            raise InputError(self.fault)
        try:
            return convert(self.files, self.layout, target)
        except InputError as error:
            raise InputError(f"{self.root}: {self.label}: {error}") from None

    def fingerprint(self) -> dict[str, int]:
        """Size and newest change of its files: a changed series is processed again.

        Raises
        ------
        InputError
            A file is gone.
        """
        try:
            known = [file.stat() for file in self.files]
        except OSError:
            fault = "one of its files cannot be read now; check the disk"
            raise InputError(f"{self.root}: {self.label}: {fault}") from None
        return {"files": len(known), "size": sum(info.st_size for info in known),
                "mtime_ns": max(info.st_mtime_ns for info in known)}  # fmt: skip


@dataclass
class Found:
    """What a folder holds.

    Attributes
    ----------
    series : list of Series
        The anatomical ones.
    messages : list of str
        What was left out and why.
    """

    series: list[Series] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM, or a folder holds any."""
    return is_dicom(path) if path.is_file() else any(is_dicom(file) for file in _files(path))


def series_of(virtual: Path) -> Series | None:
    """The series that a path made by `find` stands for; None if it stands for none."""
    if MARK not in virtual.name or virtual.exists() or not virtual.parent.is_dir():
        return None
    roots = [virtual.parent, *(file for file in sorted(virtual.parent.iterdir()) if _root_name(file) and is_dicom(file)
                               and virtual.name.startswith(f"{_root_name(file)}{MARK}"))]  # fmt: skip
    for root in roots:
        if holds_dicom(root):
            for series in find(root).series:
                if series.path == virtual:
                    return series
    return None


def find(root: Path) -> Found:
    """The anatomical series of a folder (with all below it), a DICOMDIR, or one multi-frame file.

    Raises
    ------
    InputError
        There is none; the message says what the series are instead. Or a package is missing.
    """
    require_pydicom()
    dcm2niix_program()
    root = Path(os.path.normpath(root.absolute()))
    if root.is_file() and root.name.upper() == _INDEX_FILE:
        root = root.parent
    candidates = [root] if root.is_file() else [file for file in _files(root) if is_dicom(file)]
    read = [read_instance(file) for file in candidates if file.name.upper() != _INDEX_FILE]
    instances = [instance for instance in read if instance is not None]
    found = Found()
    if len(instances) < len(read):
        count = len(read) - len(instances)
        found.messages.append(f"{root}: left out {count} DICOM {'file' if count == 1 else 'files'} without an image or "
                              "with damaged tags")
    if not instances:
        raise InputError(f"{root}: holds no DICOM image that can be read ({'; '.join(found.messages) or 'no image'}); "
                         "export the series again")
    if root.is_file() and len(instances[0].frames) == 1:
        raise InputError(f"{root}: is one slice of a series; give the folder that holds all its slices")
    all_stacks, copies = stacks_of(instances)
    if copies:
        found.messages.append(f"{root}: left out {copies} {'copy' if copies == 1 else 'copies'} of other files")
    _choose(root, all_stacks, found)
    return found


def _choose(root: Path, all_stacks: Sequence[Sequence[Stack]], found: Found) -> None:
    """Sort the stacks into anatomical series and others with a reason."""
    labels = _labels(all_stacks)
    good: list[tuple[Stack, str]] = []
    skipped: list[str] = []
    for stacks in all_stacks:
        for stack in stacks:
            reason = why_not(stack)
            if reason:
                skipped.append(f"{labels[id(stack)]} skipped: {reason}")
            else:
                good.append((stack, labels[id(stack)]))
    originals = {stack.first.study for stack, _ in good if not is_derived(stack)}
    for stack, label in good:
        if is_derived(stack) and stack.first.study in originals:
            skipped.append(f"{label} skipped: derived from other images")
            continue
        if is_derived(stack):
            found.messages.append(f"{root}: {label} is marked as derived; it is used, as nothing original is there")
        layout = lay_out(stack)
        if not layout.fault and stack.shared_file:
            layout = Layout(layout.slices, layout.affine, layout.offsets, fault="one multi-frame file holds several "
                            "images (echoes, phases or times); convert it by hand (dcm2niix) and give the NIfTI images")
        if not layout.fault and min(layout.extent) < MIN_EXTENT_MM:
            skipped.append(f"{label} skipped: covers only {min(layout.extent):.0f} mm; at least {MIN_EXTENT_MM:g} mm "
                           "are needed")
            continue
        words = label.split()
        name = "_".join([_root_name(root), *map("-".join, zip(words[::2], words[1::2], strict=True))])
        path = (root if root.is_dir() else root.parent) / name
        found.series.append(Series(root, path, label, stack.files, layout))
    found.messages += [f"{root}: {text}" for text in skipped]
    if not found.series:
        shown = "; ".join(skipped[:_SHOWN]) + (f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else "")
        raise InputError(f"{root}: holds no anatomical series of a head: {shown}. Convert the one you want with "
                         "dcm2niix and give the NIfTI image")


def _labels(all_stacks: Sequence[Sequence[Stack]]) -> dict[int, str]:
    """What to call each stack: patient (if there are several), number of the series, part (if it is not alone)."""
    patients = list(dict.fromkeys(stacks[0].first.patient for stacks in all_stacks))
    numbered: list[tuple[Stack, str]] = []
    for stacks in all_stacks:
        first = stacks[0].first
        number = first.number if first.number is not None and 0 <= first.number <= _MAX_NUMBER else 0
        person = f"patient {patients.index(first.patient) + 1} " if len(patients) > 1 else ""
        numbered += [(stack, f"{person}series {number}") for stack in stacks]
    counts, seen = Counter(text for _, text in numbered), Counter[str]()
    labels = {}
    for stack, text in numbered:
        seen[text] += 1
        labels[id(stack)] = f"{text} part {seen[text]}" if counts[text] > 1 else text
    return labels


def _root_name(root: Path) -> str:
    """What the user called it."""
    return root.stem if root.is_file() else root.name or "dicom"


def _files(folder: Path) -> Iterator[Path]:
    """All visible files below a folder, sorted."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)
