"""Contact with the stripped edge from files: one case, or a cohort with the share of cases that touch it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from scipy import stats

from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import SAME_PLACE_MM, Pair, read_mask
from neuralprep.evaluation.edge import BINS_MM, EdgeContact, EdgeVoxels, Regions, edge_voxels, stripped_mask
from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.parallel import each
from neuralprep.evaluation.statistics import LEVEL, Interval
from neuralprep.volume import Volume, load

#: compartment of every label, where the user names none
ALL = "all"
#: a map with more labels than this is a parcellation, or no label map at all
_MOST_LABELS = 100


@dataclass(frozen=True)
class EdgeSettings:
    """What counts as compartment and as outside.

    Attributes
    ----------
    regions
        Compartments by name; None takes every label of a map by itself, and all together.
    stripped
        The second file of a case is a stripped image, not a mask.
    fill
        Value outside the brain of stripped images, or "min" for each image's minimum.
    count_holes
        Fill values enclosed in the brain are outside too.
    threshold
        Masks are what is above it; None takes what is not zero.
    border_is_edge
        Beyond the array is outside.
    bins
        Upper bounds of the distance histogram, mm.
    """

    regions: Mapping[str, tuple[int, ...]] | None = None
    stripped: bool = False
    fill: float | Literal["min"] = 0.0
    count_holes: bool = False
    threshold: float | None = None
    border_is_edge: bool = False
    bins: tuple[float, ...] = BINS_MM


@dataclass(frozen=True)
class EdgeCase:
    """Result of one case.

    Attributes
    ----------
    name
        Of the case.
    contacts
        One per compartment; one that the case does not have counts no voxels, or is missing if none were named.
    present
        Labels of the map.
    fault
        Why the case could not be measured; "" if it was.
    """

    name: str
    contacts: tuple[EdgeContact, ...] = ()
    present: tuple[int, ...] = ()
    fault: str = ""

    def rows(self, bins: Sequence[float]) -> list[dict[str, Any]]:
        """One flat row per compartment, for a table."""
        return [{"case": self.name, **_flat(contact, bins)} for contact in self.contacts]


@dataclass(frozen=True)
class EdgeShare:
    """How many cases of a cohort touch the edge with a compartment.

    Attributes
    ----------
    compartment
        Its name.
    cases
        Cases that have the compartment.
    at_edge
        Those with at least one voxel at or beyond the edge.
    share
        at_edge / cases, with the exact binomial interval (Clopper and Pearson, Biometrika 26 (1934) 404).
    """

    compartment: str
    cases: int
    at_edge: int
    share: Interval


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """Label map and brain mask of a case on one grid, and the image if the mask was made from one."""

    labels: Volume
    mask: Volume
    image: Volume | None

    def voxels(self, members: Sequence[int], *, border_is_edge: bool = False) -> EdgeVoxels:
        """Measure the voxels of some labels; see `neuralprep.evaluation.edge.edge_voxels`."""
        return edge_voxels(
            self.labels.data, self.mask.data, self.labels.grid, members, border_is_edge=border_is_edge
        )


def load_case(pair: Pair, settings: EdgeSettings) -> LoadedCase:
    """Read a case.

    Parameters
    ----------
    pair
        Label map (``prediction``) and mask or stripped image (``truth``).
    settings
        What counts as outside.

    Raises
    ------
    InputError
        Unreadable, labels that are no whole numbers from 0 or all 0, different grids, or a mask without an edge.
    """
    labels = read_labels(pair.prediction)
    if not labels.data.any():
        raise InputError(f"{pair.prediction}: holds no label, every voxel is 0; give the label map of a lesion")
    image = load(pair.truth, checks=False) if settings.stripped else None
    mask = _mask_of(image, settings) if image is not None else read_mask(pair.truth, settings.threshold)
    if not labels.grid.same_as(mask.grid, tol_mm=SAME_PLACE_MM):
        raise InputError(
            f"{pair.prediction} and {pair.truth}: their grids differ ({_grid_text(labels)} against "
            f"{_grid_text(mask)}); bring the labels to the grid of the stripped image"
        )
    if not mask.data.any() or (mask.data.all() and not settings.border_is_edge):
        state = "is empty" if not mask.data.any() else "covers the whole field of view"
        raise InputError(f"{pair.truth}: the brain mask {state}, so there is no stripped edge; check the file")
    return LoadedCase(labels, mask, image)


def measure_case(pair: Pair, settings: EdgeSettings) -> EdgeCase:
    """Measure one case; faults as `load_case`."""
    case = load_case(pair, settings)
    present = tuple(int(number) for number in np.unique(case.labels.data) if number)
    if settings.regions is None and len(present) > _MOST_LABELS:
        raise InputError(
            f"{pair.prediction}: holds {len(present)} labels; name those to measure with --regions (or is it an image?)"
        )
    regions = settings.regions or default_regions(present)
    members = sorted({number for numbers in regions.values() for number in numbers})
    voxels = case.voxels(members, border_is_edge=settings.border_is_edge)
    contacts = tuple(voxels.compartment(name, numbers, settings.bins) for name, numbers in regions.items())
    return EdgeCase(pair.name, contacts, present)


def measure_cases(pairs: Sequence[Pair], settings: EdgeSettings, jobs: int = 1) -> Iterator[EdgeCase]:
    """Measure the cases of a cohort, in order; one that cannot be measured carries its fault and stops nobody.

    Parameters
    ----------
    pairs
        See `load_case`.
    settings
        For all cases.
    jobs
        Processes; every one holds a case in memory.
    """
    work = partial(_measured_or_fault, settings=settings)
    yield from each(work, pairs, jobs)


def default_regions(present: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Every label by itself, after all of them together."""
    return {ALL: tuple(present), **({str(number): (number,) for number in present} if len(present) > 1 else {})}


def check_regions(regions: Regions, cases: Sequence[EdgeCase]) -> None:
    """Refuse a compartment that no case has: its labels are most likely wrong.

    Raises
    ------
    InputError
        Naming the compartment and the labels that there are.
    """
    present = {number for case in cases for number in case.present}
    for name, numbers in regions.items():
        if present and not present & set(numbers):
            raise InputError(
                f"region {name}: no label map holds label {' or '.join(map(str, numbers))}; the labels are "
                f"{', '.join(map(str, sorted(present)))}"
            )


def edge_shares(cases: Sequence[EdgeCase], level: float = LEVEL) -> list[EdgeShare]:
    """Share of the cases that touch the edge, for every compartment; cases without it do not count."""
    found: dict[str, list[bool]] = {}
    for case in cases:
        for contact in case.contacts:
            touching = found.setdefault(contact.compartment, [])
            if contact.voxels:
                touching.append(contact.at_edge)
    return [
        EdgeShare(name, len(touching), sum(touching), proportion(sum(touching), len(touching), level))
        for name, touching in found.items()
        if touching
    ]


def proportion(hits: int, cases: int, level: float = LEVEL) -> Interval:
    """Share of hits with its exact (Clopper-Pearson) binomial interval.

    Raises
    ------
    ValueError
        No cases, or more hits than cases.
    """
    bounds = stats.binomtest(hits, cases).proportion_ci(level, method="exact")
    return Interval(hits / cases, float(bounds.low), float(bounds.high))


def _measured_or_fault(pair: Pair, settings: EdgeSettings) -> EdgeCase:
    try:
        return measure_case(pair, settings)
    except NeuralprepError as error:
        return EdgeCase(pair.name, fault=str(error))


def _mask_of(image: Volume, settings: EdgeSettings) -> Volume:
    # images are float32, and so must be what they are compared with
    fill = float(np.float32(image.data.min() if settings.fill == "min" else settings.fill))
    if not (image.data == fill).any():
        raise InputError(
            f"{image.source}: no voxel holds the fill value {fill:g} (its minimum is {image.data.min():g}); "
            "give --fill, or --mask"
        )
    mask = stripped_mask(image.data, fill, count_holes=settings.count_holes)
    if mask.all():
        raise InputError(
            f"{image.source}: no background of value {fill:g} reaches the border of the image; give --mask, or "
            "--count-holes to take every voxel of that value for background"
        )
    return image.with_data(mask)


def _flat(contact: EdgeContact, bins: Sequence[float]) -> dict[str, Any]:
    row = asdict(contact)
    volumes = row.pop("histogram_mm3")
    row = {"compartment": row.pop("compartment"), "at_edge": contact.at_edge, **row}
    starts, stops = [0.0, *bins], [*(f"{bound:g}" for bound in bins), "inf"]
    names = [f"distance_{start:g}_to_{stop}_mm_mm3" for start, stop in zip(starts, stops, strict=True)]
    return {**row, **dict(zip(names, volumes, strict=True))}


def _grid_text(volume: Volume) -> str:
    shape, spacing = " x ".join(map(str, volume.grid.shape)), " x ".join(f"{s:.3g}" for s in volume.grid.spacing)
    return f"{shape} voxels of {spacing} mm"
