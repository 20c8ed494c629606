"""Files to stacks: the slices of one series that belong to one volume.

A series may hold several: echoes, magnitude and phase, the three directions of a localiser, repetitions in time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuralprep.dicom.tags import DAMAGED, Frame, Instance, quiet, require_pydicom

_SAME_DIRECTION = 2e-3
_SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class Slice:
    """One frame of one file."""

    instance: Instance
    index: int
    frame: Frame


@dataclass(frozen=True)
class Stack:
    """Slices of one series with the same shape, direction and contrast.

    Attributes
    ----------
    slices : tuple of Slice
        In no particular order; repetitions in time are among them.
    others : int
        Stacks that the series holds besides this one.
    shared_file : bool
        Some of its files hold slices of other stacks too.
    fault : str
        Why it cannot be used whatever it shows ("" if it can).
    """

    slices: tuple[Slice, ...]
    others: int = 0
    shared_file: bool = False
    fault: str = ""

    @property
    def first(self) -> Instance:
        """One of its files; what is equal for all can be asked of it."""
        return self.slices[0].instance

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, sorted."""
        return tuple(sorted({part.instance.path for part in self.slices}))

    @property
    def volumes(self) -> int:
        """How often the place that is taken most often is taken."""
        return _volumes(self.slices)

    @property
    def kind(self) -> tuple[str, ...]:
        """Image types of all slices."""
        return tuple(dict.fromkeys(word for part in self.slices for word in part.frame.kind))


def stacks_of(instances: Iterable[Instance]) -> tuple[list[list[Stack]], int]:
    """Stacks of each series, and how many files were copies of others.

    Returns
    -------
    series : list of list of Stack
        In order of the first file of each series.
    copies : int
        Files left out because another file holds the same image.
    """
    by_series: dict[tuple[str, str, str], list[Instance]] = defaultdict(list)
    for instance in instances:
        by_series[instance.patient, instance.study, instance.series].append(instance)
    found, copies = [], 0
    for members in by_series.values():
        kept, fault = _without_copies(members)
        copies += len(members) - len(kept)
        found.append(_split(kept, fault))
    return found, copies


def _without_copies(members: Sequence[Instance]) -> tuple[list[Instance], str]:
    """One file per image; and a fault if two different images carry one identifier."""
    first: dict[str, Instance] = {}
    kept, fault = [], ""
    for instance in members:
        other = first.get(instance.uid) if instance.uid else None
        if other is None:
            first[instance.uid] = instance
            kept.append(instance)
        elif other.frames != instance.frames or not _same_pixels(other.path, instance.path):
            fault = "two different images carry the same identifier (SOP Instance UID); export it again"
    return kept, fault


def _same_pixels(one: Path, other: Path) -> bool:
    """Whether two files hold the same stored pixels."""
    pydicom = require_pydicom()
    with quiet():
        try:
            pixels = [pydicom.dcmread(path, specific_tags=["PixelData"]).get("PixelData") for path in (one, other)]
        except DAMAGED:
            return False
    return pixels[0] is not None and pixels[0] == pixels[1]


def _split(members: Sequence[Instance], fault: str) -> list[Stack]:
    """The slices of a series by shape and direction, and by kind and contrast where they lie at the same places."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    directions: list[np.ndarray] = []
    for instance in members:
        for index, frame in enumerate(instance.frames):
            key = (instance.shape, instance.samples, instance.modality, instance.sop_class, frame.kind[:2],
                   _rounded(frame.spacing or ()), _direction(frame, directions))  # fmt: skip
            groups[key].append(Slice(instance, index, frame))
    parts = list(groups.values())
    for differing in (lambda part: part.frame.kind, lambda part: _rounded(part.frame.contrast)):
        parts = [piece for part in parts for piece in (_apart(part, differing) if _volumes(part) > 1 else [part])]
    owners = Counter(path for slices in parts for path in {part.instance.path for part in slices})
    return [
        Stack(tuple(slices), len(parts) - 1, any(owners[part.instance.path] > 1 for part in slices), fault)
        for slices in parts
    ]


def _apart(slices: Sequence[Slice], differing: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    """Slices in groups that agree in something."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for part in slices:
        groups[differing(part)].append(part)
    return list(groups.values())


def _volumes(slices: Sequence[Slice]) -> int:
    """How often the place that is taken most often is taken; 1 where places are not known."""
    if any(part.frame.position is None for part in slices):
        return 1
    return max(Counter(_place(part.frame) for part in slices).values())


def _direction(frame: Frame, known: list[np.ndarray]) -> int:
    """Number of the direction of a slice among those met so far."""
    if frame.rows_cols is None:
        return -1
    vector = np.array(frame.rows_cols)
    for number, other in enumerate(known):
        if np.abs(vector - other).max() < _SAME_DIRECTION:
            return number
    known.append(vector)
    return len(known) - 1


def _rounded(values: Iterable[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else round(value, 2) for value in values)


def _place(frame: Frame) -> tuple[int, ...]:
    assert frame.position is not None
    return tuple(round(value / _SAME_POSITION_MM) for value in frame.position)
