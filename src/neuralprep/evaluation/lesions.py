"""Lesion-wise Dice and 95 % Hausdorff distance, as the BraTS 2023 challenges define them.

Regions are unions of labels (WT, TC, ET: whole tumour, tumour core, enhancing tumour). In each region:

1. Voxels of the truth belong to one *lesion* if they are connected (26 neighbours) after the truth was dilated
   `dilation` times with 18 neighbours. The dilation decides only this and step 2; what is scored is not dilated.
2. A *component* of the prediction (26 neighbours) matches every lesion whose dilation it touches; all components that
   match a lesion are compared with it together, whole. One component may match several lesions and then counts in full
   against each.
3. A lesion scores Dice and HD95 against its matches, HD95 weighted by surface area (see `surface.element_distances`).
   A lesion without a match scores Dice 0 and the penalty. Lesions of `min_volume` or less are left out.
4. Every component that matches no lesion, however small, scores Dice 0 and the penalty. A component that matches only
   lesions that were left out is no false positive.
5. The region's score is the mean over what 3 and 4 leave; 1 and 0 mm if that is nothing.

Source: LaBella et al., MELBA 2025:003 and the challenges' published evaluation, whose results these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neuralprep.box import bounding_box
from neuralprep.evaluation.overlap import Overlap, check_shapes
from neuralprep.evaluation.surface import Surface, compare_elements, element_surface

PENALTY_MM = 374.0
"""HD95 of what has no counterpart: the diagonal of the challenge's 240 x 240 x 155 mm field of view."""
_FULL = np.ones((3, 3, 3), dtype=bool)
_EDGES = ndimage.generate_binary_structure(3, 2)
# headers hold voxel edges as float32: a lesion of exactly the limit must not pass for a larger one
_VOLUME_TOLERANCE = 1e-5
_PERCENTILE = 95

Labels = NDArray[np.integer]
Kind = Literal["found", "missed", "false positive"]


@dataclass(frozen=True)
class LesionRules:
    """How lesions are told apart, matched and scored.

    Attributes
    ----------
    regions
        Name of a region to its labels.
    dilation
        Times that the truth is dilated with 18 neighbours; 0 for none.
    min_volume
        mm^3; lesions of this volume or less are left out.
    penalty
        mm; HD95 of a missed lesion and of a false positive.

    Raises
    ------
    ValueError
        No region, a region without labels or with background, or a number that makes no sense.
    """

    regions: Mapping[str, tuple[int, ...]]
    dilation: int = 1
    min_volume: float = 0.0
    penalty: float = PENALTY_MM

    def __post_init__(self) -> None:
        if not self.regions or not all(self.regions.values()) or any(0 in group for group in self.regions.values()):
            raise ValueError(f"regions {dict(self.regions)} must each name labels other than 0")
        if self.dilation < 0:
            raise ValueError(f"dilation {self.dilation} must not be negative")
        if not 0 <= self.min_volume < np.inf:
            raise ValueError(f"smallest volume {self.min_volume} mm3 must be finite and not negative")
        if not 0 < self.penalty < np.inf:
            raise ValueError(f"penalty {self.penalty} mm must be finite and positive")

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels of the regions, rising."""
        return tuple(sorted({label for group in self.regions.values() for label in group}))


_BRATS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}

PRESETS: dict[str, LesionRules] = {
    "brats-gli": LesionRules(_BRATS, dilation=3, min_volume=50),
    "brats-ssa": LesionRules(_BRATS, dilation=3, min_volume=50),
    "brats-ped": LesionRules(_BRATS, dilation=3, min_volume=50),
    "brats-men": LesionRules(_BRATS, dilation=1, min_volume=50),
    "brats-met": LesionRules(_BRATS, dilation=1, min_volume=2),
}
"""Rules of the BraTS 2023 challenges."""


@dataclass(frozen=True)
class Lesion:
    """A lesion of the truth, or a component of the prediction that matches none.

    Attributes
    ----------
    kind
        "found" (something matches), "missed" or "false positive".
    counted
        Whether it enters the score of the region.
    volume, predicted_volume
        mm^3; of the lesion and of all that matches it.
    dice, hd95
        HD95 in mm, the penalty where there is no counterpart.
    components
        Number of components of the prediction that match (1 for a false positive).
    center
        Voxel indices of the centre of gravity, of the lesion or of the false positive.
    """

    kind: Kind
    counted: bool
    volume: float
    predicted_volume: float
    dice: float
    hd95: float
    components: int
    center: tuple[float, float, float]


@dataclass(frozen=True)
class RegionScore:
    """Scores of one region of one case.

    Attributes
    ----------
    lesions
        Lesions of the truth in the order in which the array meets them, then false positives.
    legacy_dice, legacy_hd95
        Of the whole region, without telling lesions apart; HD95 in mm, the penalty if one side is empty.
    sensitivity, specificity
        Of voxels; specificity depends on the field of view. 0 for 0 / 0, except that the sensitivity of nothing found
        where nothing is to find is 1.
    volume, predicted_volume
        mm^3.
    """

    lesions: tuple[Lesion, ...]
    legacy_dice: float
    legacy_hd95: float
    sensitivity: float
    specificity: float
    volume: float
    predicted_volume: float

    @property
    def dice(self) -> float:
        """Lesion-wise Dice."""
        return self._mean([lesion.dice for lesion in self.lesions if lesion.counted], of_nothing=1.0)

    @property
    def hd95(self) -> float:
        """Lesion-wise HD95, mm."""
        return self._mean([lesion.hd95 for lesion in self.lesions if lesion.counted], of_nothing=0.0)

    @property
    def left_out(self) -> int:
        """Number of lesions that are too small to count."""
        return sum(not lesion.counted for lesion in self.lesions)

    def count(self, kind: Kind) -> int:
        """Number of counted lesions of a kind."""
        return sum(lesion.counted and lesion.kind == kind for lesion in self.lesions)

    @staticmethod
    def _mean(values: list[float], of_nothing: float) -> float:
        return sum(values) / len(values) if values else of_nothing


def score_lesions(
    prediction: ArrayLike, truth: ArrayLike, rules: LesionRules, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> dict[str, RegionScore]:
    """Score every region of a label map.

    Parameters
    ----------
    prediction, truth
        (X, Y, Z) integer label maps on one grid. Labels of no region are background.
    rules
        One of `PRESETS`, or others.
    spacing
        Voxel edges along the array axes, mm. The axes are taken as orthogonal.

    Returns
    -------
    dict[str, RegionScore]
        By name of the region, in the order of the rules.

    Raises
    ------
    ValueError
        If the arrays differ in shape, are not 3-D or hold no whole numbers, or a spacing is not positive.
    """
    maps = [np.asarray(prediction), np.asarray(truth)]
    check_shapes(*maps)
    if maps[0].ndim != 3 or any(labels.dtype.kind not in "biu" for labels in maps):
        raise ValueError(f"label maps are 3-D arrays of whole numbers, not {maps[0].ndim}-D {maps[0].dtype}")
    # what is dilated at the array's edge must find the edge, and elsewhere room
    box = bounding_box((maps[0] != 0) | (maps[1] != 0), rules.dilation) or (slice(0, 1 + rules.dilation),) * 3
    found, expected = (np.ascontiguousarray(labels[box]) for labels in maps)
    corner = [edge.start for edge in box]
    return {
        name: _score_region(np.isin(found, group), np.isin(expected, group), rules, spacing, corner, maps[0].size)
        for name, group in rules.regions.items()
    }


class _Components:
    """Numbered parts of a mask, no two of which are neighbours, and their surfaces.

    Parameters
    ----------
    labels : (X, Y, Z) int
        Number of the part of each voxel, from 1; 0 outside.
    count
        How many parts there are.
    spacing
        Voxel edges, mm.
    corner
        Index of the first voxel in the array that the labels were cut out of.
    """

    def __init__(self, labels: Labels, count: int, spacing: Sequence[float], corner: Sequence[int]) -> None:
        where = np.nonzero(labels)
        numbers = labels[where]
        self.labels, self.count = labels, count
        self.sizes = np.bincount(numbers, minlength=count + 1)
        self.voxel_volume = float(np.prod(np.asarray(spacing, dtype=np.float64)))
        self._sums = [np.bincount(numbers, axis + first, count + 1) for axis, first in zip(where, corner, strict=True)]
        self.surface = element_surface(labels != 0, spacing)
        # an element sees the voxels of one part only, as no two parts are neighbours
        padded, (x, y, z) = np.pad(labels, 1), self.surface.points.T
        owners = np.zeros(len(self.surface.points), dtype=np.intp)
        for i, j, k in np.ndindex(2, 2, 2):
            np.maximum(owners, padded[x + i, y + j, z + k], out=owners)
        bounds = np.cumsum(np.bincount(owners, minlength=count + 1))[:-1]
        self._members = np.split(np.argsort(owners, kind="stable"), bounds)
        self._surfaces: dict[tuple[int, ...], Surface] = {}

    def volume(self, number: int) -> float:
        """Volume of a part, mm^3."""
        return int(self.sizes[number]) * self.voxel_volume

    def center(self, number: int) -> tuple[float, float, float]:
        """Centre of gravity of a part in the whole array, voxels."""
        x, y, z = (float(total[number] / self.sizes[number]) for total in self._sums)
        return x, y, z

    def surface_of(self, numbers: tuple[int, ...]) -> Surface:
        """Surface of some parts together; kept, because several lesions may match the same."""
        if numbers not in self._surfaces:
            chosen = np.concatenate([self._members[number] for number in numbers])
            whole = self.surface
            self._surfaces[numbers] = Surface(whole.points[chosen], whole.areas[chosen], whole.spacing)
        return self._surfaces[numbers]


def _score_region(
    found: NDArray[np.bool_],
    expected: NDArray[np.bool_],
    rules: LesionRules,
    spacing: Sequence[float],
    corner: Sequence[int],
    voxels: int,
) -> RegionScore:
    """Score masks that were cut out of an array of `voxels` voxels at `corner`."""
    dilated, count = _dilated_components(expected, rules.dilation)
    truth = _Components(np.where(expected, dilated, 0), count, spacing, corner)
    prediction = _Components(*_components(found), spacing, corner)
    matches: dict[int, list[int]] = {number: [] for number in range(1, truth.count + 1)}
    for number, component in _pairs(dilated, prediction.labels):
        matches[number].append(component)
    touching = {component for group in matches.values() for component in group}
    common = _pairs(truth.labels, prediction.labels)
    lesions = [
        _lesion(truth, number, prediction, tuple(group), sum(common.get((number, part), 0) for part in group), rules)
        for number, group in matches.items()
    ]
    lesions += [
        Lesion("false positive", True, 0.0, prediction.volume(part), 0.0, rules.penalty, 1, prediction.center(part))
        for part in range(1, prediction.count + 1)
        if part not in touching
    ]
    return _region(lesions, truth, prediction, sum(common.values()), rules, voxels)


def _lesion(
    truth: _Components, number: int, prediction: _Components, matched: tuple[int, ...], shared: int, rules: LesionRules
) -> Lesion:
    """Score a lesion of the truth against the matching components, which share `shared` voxels with it."""
    size, found = int(truth.sizes[number]), int(prediction.sizes[list(matched)].sum())
    hd95 = rules.penalty
    if matched:
        distances = compare_elements(prediction.surface_of(matched), truth.surface_of((number,)))
        hd95 = distances.hausdorff(_PERCENTILE)
    return Lesion(
        kind="found" if matched else "missed",
        counted=truth.volume(number) > rules.min_volume * (1 + _VOLUME_TOLERANCE),
        volume=truth.volume(number),
        predicted_volume=found * prediction.voxel_volume,
        dice=2 * shared / (size + found),
        hd95=hd95,
        components=len(matched),
        center=truth.center(number),
    )


def _region(
    lesions: Sequence[Lesion], truth: _Components, prediction: _Components, shared: int, rules: LesionRules, voxels: int
) -> RegionScore:
    """Put the lesions of a region together with the scores that do not tell them apart."""
    in_truth, in_prediction = int(truth.sizes.sum()), int(prediction.sizes.sum())
    counts = Overlap(
        true_positive=shared,
        false_positive=in_prediction - shared,
        false_negative=in_truth - shared,
        true_negative=voxels - in_truth - in_prediction + shared,
    )
    hausdorff = compare_elements(prediction.surface, truth.surface).hausdorff(_PERCENTILE)
    return RegionScore(
        lesions=tuple(lesions),
        legacy_dice=counts.dice,
        legacy_hd95=hausdorff if np.isfinite(hausdorff) else rules.penalty,
        sensitivity=counts.sensitivity if in_truth or not in_prediction else 0.0,
        specificity=counts.specificity if in_truth < voxels else 0.0,
        volume=in_truth * truth.voxel_volume,
        predicted_volume=in_prediction * truth.voxel_volume,
    )


def _components(mask: NDArray[np.bool_]) -> tuple[Labels, int]:
    """Number the components of a mask by 26 neighbours."""
    labels, count = ndimage.label(mask, _FULL)
    return labels, int(count)


def _dilated_components(mask: NDArray[np.bool_], dilation: int) -> tuple[Labels, int]:
    """Number the components of a dilated mask; each is the dilation of one lesion."""
    # scipy takes 0 iterations for "until nothing changes"
    return _components(ndimage.binary_dilation(mask, _EDGES, iterations=dilation) if dilation else mask)


def _pairs(first: Labels, second: Labels) -> dict[tuple[int, int], int]:
    """Pairs of numbers that meet in a voxel, rising, and in how many voxels they do; 0 is left out."""
    both = (first != 0) & (second != 0)
    width = int(second.max(initial=0)) + 1
    codes, counts = np.unique(first[both].astype(np.int64) * width + second[both], return_counts=True)
    return {
        (int(code) // width, int(code) % width): int(count) for code, count in zip(codes, counts, strict=True)
    }
