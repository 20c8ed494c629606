"""Overlap of two masks on one grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Overlap:
    """Counts of a mask against a reference, and the ratios made from them.

    A ratio whose denominator is zero is 1: there was nothing to get wrong.

    Attributes
    ----------
    true_positive, false_positive, false_negative, true_negative
        Numbers of voxels.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def dice(self) -> float:
        """Twice the common volume over the sum of both (Dice 1945)."""
        return _ratio(2 * self.true_positive, self.false_positive + self.false_negative)

    @property
    def jaccard(self) -> float:
        """Common volume over the union."""
        return _ratio(self.true_positive, self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> float:
        """Share of the reference that the mask covers."""
        return _ratio(self.true_positive, self.false_negative)

    @property
    def specificity(self) -> float:
        """Share of the reference's outside that the mask leaves out; depends on the field of view."""
        return _ratio(self.true_negative, self.false_positive)

    @property
    def precision(self) -> float:
        """Share of the mask that lies in the reference."""
        return _ratio(self.true_positive, self.false_positive)


def overlap(mask: ArrayLike, reference: ArrayLike) -> Overlap:
    """Count the agreement of two masks.

    Parameters
    ----------
    mask, reference
        Arrays of one shape; every non-zero element belongs to the mask.

    Returns
    -------
    Overlap

    Raises
    ------
    ValueError
        If the shapes differ or an array holds NaN.
    """
    first, second = as_masks(mask, reference)
    common = int(np.count_nonzero(first & second))
    in_first, in_second = int(np.count_nonzero(first)), int(np.count_nonzero(second))
    return Overlap(
        true_positive=common,
        false_positive=in_first - common,
        false_negative=in_second - common,
        true_negative=first.size - in_first - in_second + common,
    )


def dice(mask: ArrayLike, reference: ArrayLike) -> float:
    """Dice of two masks (see `overlap`), 0 to 1; two empty masks agree (1)."""
    return overlap(mask, reference).dice


def sensitivity(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of `reference` that `mask` covers (see `overlap`)."""
    return overlap(mask, reference).sensitivity


def specificity(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of the outside of `reference` that `mask` leaves out (see `overlap`)."""
    return overlap(mask, reference).specificity


def dice_by_label(labels: ArrayLike, reference: ArrayLike) -> dict[int, float]:
    """Dice of every label that occurs in either integer map; 0 is background and left out.

    Parameters
    ----------
    labels, reference
        Integer arrays of one shape.

    Returns
    -------
    dict[int, float]
        Label to Dice, in rising order of the labels.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    first, second = np.asarray(labels), np.asarray(reference)
    check_shapes(first, second)
    sizes, other, common = label_sizes(first), label_sizes(second), label_sizes(first[first == second])
    return {
        name: 2 * common.get(name, 0) / (sizes.get(name, 0) + other.get(name, 0))
        for name in sorted(sizes.keys() | other.keys())
    }


def label_sizes(labels: ArrayLike) -> dict[int, int]:
    """Number of voxels of every label that occurs, in rising order; 0 is background and left out.

    Raises
    ------
    ValueError
        If the values are not whole numbers.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "bui":
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            raise ValueError("a label map holds values that are not whole numbers; is it an image or a probability?")
        array = whole.astype(np.int64)
    if not array.size:
        return {}
    low = int(array.min())
    # counting is ten times as fast as sorting, as long as the range of labels is not absurd
    if int(array.max()) - low < 1 << 20:
        counts = np.bincount((array.astype(np.int64, copy=False) - low).ravel())
        found = np.flatnonzero(counts)
        return {int(k) + low: int(counts[k]) for k in found if k + low}
    names, sizes = np.unique(array, return_counts=True)
    return {int(name): int(size) for name, size in zip(names, sizes, strict=True) if name}


def as_masks(mask: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two arrays as booleans of one shape; ValueError if the shapes differ or NaN occurs."""
    first, second = np.asarray(mask), np.asarray(reference)
    check_shapes(first, second)
    for array in (first, second):
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            raise ValueError("a mask holds NaN; decide first what belongs to it")
    return first != 0, second != 0


def check_shapes(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    """Refuse arrays that do not share a shape."""
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape} differ; resample one to the other's grid")


def _ratio(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else 1.0
