"""Second opinions on an alignment of two heads, which ask neither its keypoints nor its fit.

An exhaustive search turns the moving brain through all orientations and keeps what the fixed brain explains best; the
two masks say whether the brains come to lie on one another. An alignment that went wrong seldom convinces both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuralprep.alignment import AlignKind, Alignment, View, head_target, intensity_bins
from neuralprep.registration.affine import prepare_target, refine, search
from neuralprep.resample import resample
from neuralprep.transform import least_squares_affine

ROTATIONS = 600
"""Turns tried: no orientation is further than about 27 degrees from one of them."""
APART_MM = 10.0
"""Where both are right, a similarity found at 8 mm and the alignment are 1 to 5 mm apart."""
LEAST_OVERLAP = 0.9
"""Dice of whole brains is 0.94 and more after an affine; turned upside down or by 60 degrees it is 0.77 to 0.89."""
_SPACINGS_MM = (10.0, 8.0)
_CANDIDATES = 4
_BETTER, _CLEARLY_BETTER = 0.01, 0.05
"""Of the brain's inside and of the whole: where images explain little of each other (an objective of 0.65, not 0.9)
wrong turns come within 0.035 of the right one, on either side of it."""


@dataclass(frozen=True)
class SecondOpinion:
    """What else is known of an alignment.

    Attributes
    ----------
    search_mm : float
        Mean distance, over the fixed brain's keypoints, between the alignment and the best answer of the search.
    search_explains_more : bool
        Whether that answer also fits the images better than the alignment does.
    centroids_mm : float
        Distance between the fixed brain's centre and where the alignment puts the moving brain's.
    overlap : float
        Dice of the fixed brain and the carried one, 0 to 1.
    """

    search_mm: float
    search_explains_more: bool
    centroids_mm: float
    overlap: float

    def doubt(self, kind: AlignKind) -> str:
        """Why an alignment of this kind should be looked at, in words; "" when nothing speaks against it.

        The search convicts only if it also explains more: of a brain that the image cuts it knows little. Rigid fits
        leave brains of two persons in their sizes, so for those overlap says nothing.
        """
        if self.search_explains_more and self.search_mm > APART_MM:
            return f"a search without keypoints finds a better fit {self.search_mm:.0f} mm away"
        if kind != "rigid" and self.overlap < LEAST_OVERLAP:
            return f"the brains overlap by {self.overlap:.2f} only: one is cut by its image, or the fit is wrong"
        return ""


def second_opinion(moving: View, fixed: View, found: Alignment) -> SecondOpinion:
    """Ask a search and the masks about an alignment."""
    brain = moving.head.with_data(np.where(moving.judged.data > 0, moving.head.data, np.float32(0)))
    stripped = prepare_target(intensity_bins(fixed.head, fixed.judged), fixed.judged, _SPACINGS_MM)
    starts = search(stripped, brain, n=ROTATIONS, criterion="tissue", candidates=_CANDIDATES)
    points = fixed.keypoints.scan[fixed.keypoints.weights > 0.02]
    linear = least_squares_affine(points, found.fixed_from_moving.apply(points))
    # A brain looks much the same upside down; with skull and face around it, as the alignment saw it, it does not.
    whole = head_target(fixed, _SPACINGS_MM[-1:])
    told, *tried = (refine(whole, moving.head, start, "similarity", spacings=_SPACINGS_MM[-1:], criterion="tissue")
                    for start in (linear, *(one.transform for one in starts)))
    best = max(tried, key=lambda fit: fit.objective + fit.score)
    # Upside down the outline alone may fit better, or the inside alone: only both together tell.
    more = best.objective > told.objective + _CLEARLY_BETTER and best.score > told.score + _BETTER
    away = np.linalg.norm(best.transform.apply(points) - found.fixed_from_moving.apply(points), axis=1)
    mask = moving.judged.with_data((moving.judged.data > 0).astype(np.float32))
    carried = resample(mask, fixed.judged.grid, found.fixed_from_moving).data
    there = (fixed.judged.data > 0).astype(np.float32)
    overlap = 2 * float(np.minimum(carried, there).sum()) / max(float(carried.sum() + there.sum()), 1e-6)
    apart = np.linalg.norm(_center(carried) - _center(there))
    return SecondOpinion(
        float(away.mean()), more,
        float(apart * np.mean(fixed.judged.grid.spacing)), overlap,
    )


def _center(weights: np.ndarray) -> np.ndarray:
    """Centre of mass, voxels."""
    total = max(float(weights.sum()), 1e-6)
    sums = [weights.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return np.array([float(one @ np.arange(len(one))) / total for one in sums])
