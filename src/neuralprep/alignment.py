"""Registration of one head to another: keypoints of both, a closed-form fit, a short refinement on the images.

Each image is looked at by itself, so any contrast meets any other, and any pose. The refinement compares brains by the
correlation ratio (Roche et al., MICCAI 1998): the moving image is explained by smooth functions of the fixed one's
intensity, which asks nothing of their contrasts. Linear fits are made in both directions and averaged, so exchanging
the images gives the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy import linalg

from neuralprep.errors import InputError
from neuralprep.registration.affine import prepare_target, refine
from neuralprep.registration.landmarks import LandmarkKind, fit_landmarks
from neuralprep.resample import resample
from neuralprep.stages.affine import inside_skull, normalised_head
from neuralprep.stages.conform import windowed
from neuralprep.stages.keypoints import Keypoints, find_keypoints
from neuralprep.stages.look import Look, find_brain
from neuralprep.transform import Affine
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.inference.session import Session
    from neuralprep.thin_plate import ThinPlateSpline

AlignKind = Literal["rigid", "similarity", "affine", "tps"]
INTENSITY_BINS = 6
SPACINGS_MM = (8.0, 4.0, 2.0)
MARGIN_MM = 3.0
AGREEMENT_LIMIT_MM = 6.0
"""Keypoints and refined fit lie 1 to 3 mm apart where both are right; further apart, one of them is wrong."""
MIN_KEYPOINTS = 12
LEAST_SEEN = 40
"""Keypoints that a head shows, of 128; half a brain has about 60, things that are no head have fewer than 40."""
LEAST_SCORE = 0.5
"""Below this the images share too little contrast to improve on the keypoints."""


@dataclass(frozen=True)
class AlignSettings:
    """How to align.

    Parameters
    ----------
    kind
        "rigid" (6 numbers), "similarity" (7), "affine" (12), or "tps" (thin-plate spline through the keypoints).
    stiffness
        Of the spline: 0 passes through every keypoint, 10 is nearly the affine.
    refine
        Improve linear fits on the images; without it the keypoints alone decide.
    """

    kind: AlignKind = "affine"
    stiffness: float = 0.1
    refine: bool = True

    def __post_init__(self) -> None:
        """Refuse values that do not exist."""
        if self.kind not in get_args(AlignKind):
            raise InputError(f"alignment of kind '{self.kind}' is unknown; there are {', '.join(get_args(AlignKind))}")
        if not (np.isfinite(self.stiffness) and self.stiffness >= 0):
            raise InputError(f"stiffness is {self.stiffness}; it must be zero or positive")


@dataclass(frozen=True, eq=False)
class View:
    """One image as alignment sees it: its keypoints, its normalised head on a 2 mm grid, and the brain in it."""

    look: Look
    keypoints: Keypoints
    head: Volume
    judged: Volume

    def without(self, lesion: Volume) -> View:
        """The same with a lesion (mask, on any grid) taken out of the refinement."""
        inside = resample(lesion.with_data((lesion.data > 0).astype(np.float32)), self.judged.grid).data > 0
        return replace(self, judged=self.judged.with_data(np.where(inside, np.uint8(0), self.judged.data)))


@dataclass(frozen=True, eq=False)
class Alignment:
    """What `align_views` found.

    Attributes
    ----------
    fixed_from_moving : Affine or ThinPlateSpline
        Pull-back, fixed mm -> moving mm: carries the moving image onto the fixed one.
    score : float
        Square root of the correlation ratio in the brain, 0 to 1, at 4 mm; NaN without refinement.
    agreement_mm : float
        Mean distance between the keypoints' linear fit and the final one in the brain.
    keypoints : int
        How many were seen in both images.
    method : str
    """

    fixed_from_moving: Affine | ThinPlateSpline
    score: float
    agreement_mm: float
    keypoints: int
    method: str

    @property
    def good(self) -> bool:
        """Whether keypoints and images tell the same."""
        return self.agreement_mm < AGREEMENT_LIMIT_MM and self.keypoints >= 2 * MIN_KEYPOINTS


def view(session: Session, image: Volume, threads: int = 1, lam: float = 0.1) -> View:
    """Look at an image once; a view serves any number of alignments.

    Raises
    ------
    InputError
        No brain is found.
    """
    _, found = find_brain(session, windowed(image), lam, threads)
    keypoints = find_keypoints(found)
    if not found.plausible or np.count_nonzero(keypoints.weights > 0.05) < LEAST_SEEN:
        name = image.source or "the image"
        raise InputError(f"{name}: no brain was found; is it a head scan, with the right voxel size?")
    head = normalised_head(found)
    return View(found, keypoints, head, head.with_data(inside_skull(found).astype(np.uint8)))


def align_views(moving: View, fixed: View, settings: AlignSettings | None = None) -> Alignment:
    """Align two images that have been looked at."""
    settings = settings or AlignSettings()
    weights = np.sqrt(fixed.keypoints.weights * moving.keypoints.weights)
    seen = int(np.count_nonzero(weights > 0.02))
    if seen < MIN_KEYPOINTS:
        raise InputError(f"only {seen} of {len(weights)} keypoints are seen in both images; their views hardly overlap")
    kind: LandmarkKind = settings.kind
    points = fixed.keypoints.scan, moving.keypoints.scan
    if kind == "tps":
        linear = fit_landmarks(*points, "affine", weights)
        spline = fit_landmarks(*points, "tps", weights, settings.stiffness)
        away = np.linalg.norm(spline.apply(points[0]) - linear.apply(points[0]), axis=1)
        distance = float((weights * away).sum() / weights.sum())
        return Alignment(spline, float("nan"), distance, seen, f"spline through {seen} keypoints")
    start = fit_landmarks(*points, kind, weights)
    assert isinstance(start, Affine)
    if not settings.refine:
        return Alignment(start, float("nan"), 0.0, seen, f"{kind} fit to {seen} keypoints")
    there, score = _refined(fixed, moving, start, settings)
    back, other = _refined(moving, fixed, start.inverse(), settings)
    if min(score, other) < LEAST_SCORE:
        return Alignment(start, min(score, other), 0.0, seen, f"{kind} fit to {seen} keypoints: too little contrast")
    found = midpoint(there, back.inverse())
    agreement = start.distance(found, fixed.keypoints.scan[weights > 0.02])
    method = f"{seen} keypoints, then {kind} fit (correlation ratio)"
    return Alignment(found, min(score, other), agreement, seen, method)


def midpoint(first: Affine, second: Affine) -> Affine:
    """Half way from one affine to another in the group: of two rigid motions the midpoint is rigid."""
    step = linalg.sqrtm(np.linalg.solve(first.matrix, second.matrix))
    return Affine(first.matrix @ np.real(step))


def _refined(fixed: View, moving: View, start: Affine, settings: AlignSettings) -> tuple[Affine, float]:
    """Judged in the fixed brain; images keep their skulls, so real edges are compared and not those of two masks."""
    target = prepare_target(intensity_bins(fixed.head, fixed.judged), fixed.judged, SPACINGS_MM, MARGIN_MM)
    kind = settings.kind
    assert kind != "tps"
    fit = refine(target, moving.head, start, kind=kind, spacings=SPACINGS_MM, criterion="tissue")
    return fit.transform, fit.score


def intensity_bins(image: Volume, brain: Volume, count: int = INTENSITY_BINS) -> list[Volume]:
    """Soft histogram bins of an image: fractions that sum to one.

    A function of intensity that is linear between the bins' centres (quantiles of the brain) is a weighted sum of them.
    """
    centers = np.quantile(image.data[brain.data > 0], np.linspace(0.02, 0.98, count))
    centers = np.maximum.accumulate(centers + 1e-6 * np.arange(count))
    return [image.with_data(np.interp(image.data, centers, one).astype(np.float32)) for one in np.eye(count)]
