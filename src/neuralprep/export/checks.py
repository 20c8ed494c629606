"""Cases checked before anything is written: every fault of every case is found at once, each with its fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import SAME_PLACE_MM
from neuralprep.evaluation.labels import read_labels
from neuralprep.export.cases import ExportCase, Found
from neuralprep.export.native import Origin, find_origin, header_grid
from neuralprep.formats.itk import check_itk_grid
from neuralprep.grid import Grid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SHOWN = 8

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class NnunetOptions:
    """How to export.

    Attributes
    ----------
    number, name
        Of the data set: ``Dataset<number>_<name>``.
    classes
        Names of the labels, or regions (see `neuralprep.export.classes.make_classes`).
    label_map
        Numbers of the study to numbers of the data set.
    label_channel
        Channel on whose scan the labels were drawn, if they lie on the scan's grid and the images in template space;
        None finds it by the grids.
    folds, seed
        Of the cross-validation; 0 folds write no split.
    hard_links
        Link files that need no change instead of copying them.
    overwrite
        Replace a data set that an earlier export wrote.
    test_only
        All cases are for prediction; labels are not needed.
    jobs
        Cases worked on at a time.
    """

    number: int
    name: str
    classes: Mapping[str, Sequence[int]] | None = None
    label_map: Mapping[int, int] | None = None
    label_channel: str | None = None
    folds: int = 5
    seed: int = 0
    hard_links: bool = False
    overwrite: bool = False
    test_only: bool = False
    jobs: int = 1

    @property
    def folder(self) -> str:
        """Name of the data set's folder."""
        return f"Dataset{self.number:03d}_{self.name}"


@dataclass(frozen=True, eq=False)
class Checked:
    """A case that can be exported.

    Attributes
    ----------
    case
        What was asked for.
    grid
        Of its images.
    origins
        Per channel, for images that a run put into template space.
    found
        Labels of its label map.
    carried_from
        Origin whose scan the labels were drawn on, if they have to be carried to the images' grid.
    sheared
        The voxel axes are not at right angles, which ITK cannot read.
    """

    case: ExportCase
    grid: Grid
    origins: Mapping[str, Origin]
    found: tuple[int, ...] = ()
    carried_from: Origin | None = None
    sheared: bool = False


def check_names(found: Found, raw: Path, options: NnunetOptions) -> None:
    """Refuse names that clash or that a file system or nnU-Net would stumble over."""
    if not raw.is_dir():
        raise InputError(f"{raw}: no such folder; make it and set nnUNet_raw to it")
    if not 1 <= options.number <= 999 or not _NAME.fullmatch(options.name):
        raise InputError(f"data set {options.number} {options.name!r}: give --id 1 to 999 and a --name of letters, "
                         "digits, and . _ + -")
    others = [path.name for path in raw.glob(f"Dataset{options.number:03d}_*") if path.name != options.folder]
    if others:
        raise InputError(f"{raw / others[0]}: has the number {options.number} already; choose another --id")
    seen: dict[str, str] = {}
    for case in found.cases:
        if not _NAME.fullmatch(case.name):
            raise InputError(f"case {case.name!r}: use letters, digits, and . _ + - in names of cases")
        if case.name.lower() in seen:
            raise InputError(f"the case {case.name} is there twice (as {seen[case.name.lower()]}); give every case a "
                             "name of its own")
        seen[case.name.lower()] = case.name
    if not found.cases:
        raise InputError("there is no case to export")
    if options.label_channel is not None and options.label_channel not in found.channels:
        raise InputError(f"--labels-on {options.label_channel}: is no channel; they are {', '.join(found.channels)}")


def check_cases(found: Found, options: NnunetOptions) -> list[Checked]:
    """Every case checked, or all faults together."""
    faults: list[str] = []

    def work(case: ExportCase) -> Checked | None:
        try:
            return _check_case(case, found.channels, options)
        except NeuralprepError as error:
            faults.append(f"{case.name}: {error}")
            return None

    checked = [entry for entry in each(found.cases, work, options.jobs) if entry is not None]
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        shown = "\n  ".join(sorted(faults)[:_SHOWN])
        raise InputError(f"{len(faults)} of {len(found.cases)} cases cannot be exported:\n  {shown}{more}")
    return checked


def _check_case(case: ExportCase, channels: Sequence[str], options: NnunetOptions) -> Checked:
    missing = [name for name in channels if name not in case.channels]
    if missing:
        raise InputError(f"has no image of channel {', '.join(missing)}; add it or leave the case out")
    grids = {name: header_grid(case.channels[name]) for name in channels}
    first = grids[channels[0]]
    for name, grid in grids.items():
        if not grid.same_as(first, tol_mm=SAME_PLACE_MM):
            raise InputError(
                f"{case.channels[name]} is not on the grid of {case.channels[channels[0]]} ({grid_text(grid)} against "
                f"{grid_text(first)}); export images in one space, for example --output space_preproc_brain of a run"
            )
    origins = {name: origin for name in channels if (origin := find_origin(case.channels[name])) is not None}
    if options.test_only:
        case = replace(case, label=None, split="test")
    if case.label is None:
        if case.split == "train":
            raise InputError("has no label map but is for training; add one, or make it a test case")
        return Checked(case, first, origins, sheared=_sheared(first))
    labels = read_labels(case.label)
    drawn_on = None
    if not labels.grid.same_as(first, tol_mm=SAME_PLACE_MM):
        drawn_on = _drawn_on(case.label, labels.grid, origins, options)
        if drawn_on is None:
            raise InputError(
                f"{case.label} is not on the grid of its images ({grid_text(labels.grid)} against {grid_text(first)}), "
                "nor on that of a scan they were made from; draw or resample it there"
            )
    numbers = tuple(int(number) for number in np.unique(labels.data))
    return Checked(case, first, origins, numbers, drawn_on, _sheared(first))


def _drawn_on(label: Path, grid: Grid, origins: Mapping[str, Origin], options: NnunetOptions) -> Origin | None:
    """The scan on whose grid a label map lies; which one must be said where scans share a grid but not a transform."""
    fitting = {name: origin for name, origin in origins.items() if grid.same_as(origin.native, tol_mm=SAME_PLACE_MM)}
    if options.label_channel is not None:
        return fitting.get(options.label_channel)
    if len(fitting) > 1:
        raise InputError(
            f"{label} lies on the grid of the scans of {' and '.join(fitting)}; say with --labels-on on which of them "
            "the labels were drawn"
        )
    return next(iter(fitting.values()), None)


def each(items: Iterable[_Item], work: Callable[[_Item], _Answer], jobs: int) -> list[_Answer]:
    """Do something with every item, `jobs` at a time; answers in order."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(work, items))


def _sheared(grid: Grid) -> bool:
    try:
        check_itk_grid(grid, Path())
    except InputError:
        return True
    return False


def grid_text(grid: Grid) -> str:
    """A grid in words."""
    return f"{' x '.join(map(str, grid.shape))} voxels of {' x '.join(f'{s:.3g}' for s in grid.spacing)} mm"
