"""Registration of one head to another: keypoints of both, a closed-form fit, a short refinement on the images.

Each image is looked at by itself, so any contrast meets any other, and any pose. The refinement compares brains by the
correlation ratio (Roche et al., MICCAI 1998): the moving image is explained by smooth functions of the fixed one's
intensity, one within the brain and one outside, which asks nothing of their contrasts. Linear fits are made in both
directions, and those that are trusted are averaged, so exchanging the images gives the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.registration.affine import AffineFit, Target, prepare_target, refine
from neuralprep.registration.averages import halves, midpoint
from neuralprep.registration.deformable import DeformableSettings, deform
from neuralprep.registration.gauss_newton import Kind
from neuralprep.registration.landmarks import LandmarkKind, fit_landmarks
from neuralprep.registration.pyramid import FixedLevel
from neuralprep.resample import resample
from neuralprep.stages.affine import inside_skull, normalised_head
from neuralprep.stages.conform import windowed
from neuralprep.stages.keypoints import Keypoints, find_keypoints
from neuralprep.stages.look import Look, find_brain
from neuralprep.transform import Affine, Chain
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.inference.pair_session import PairSession
    from neuralprep.inference.session import Session
    from neuralprep.thin_plate import ThinPlateSpline

AlignKind = Literal["rigid", "similarity", "affine", "tps", "svf"]
INTENSITY_BINS = 6
EDGE_VOX = 0.6
"""Blur of the border between inside and outside of the brain, voxels of 2 mm."""
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
        "rigid" (6 numbers), "similarity" (7), "affine" (12), "tps" (thin-plate spline through the keypoints) or "svf"
        (an affine, then a stationary velocity field between the brains).
    stiffness
        Of what bends: 0 passes through every keypoint or bends freely, 10 is nearly the affine.
    refine
        Improve linear fits on the images; without it the keypoints alone decide.
    steps
        Of the velocity on the images, on each of two grids, at most; 0 trusts the network alone.
    """

    kind: AlignKind = "affine"
    stiffness: float = 0.1
    refine: bool = True
    steps: int = 20

    def __post_init__(self) -> None:
        """Refuse values that do not exist."""
        if self.kind not in get_args(AlignKind):
            raise InputError(f"alignment of kind '{self.kind}' is unknown; there are {', '.join(get_args(AlignKind))}")
        if not (np.isfinite(self.stiffness) and self.stiffness >= 0):
            raise InputError(f"stiffness is {self.stiffness}; it must be zero or positive")


@dataclass(frozen=True, eq=False)
class View:
    """One image as alignment sees it: its keypoints, its normalised head on a 2 mm grid, and the brain in it."""

    keypoints: Keypoints
    head: Volume
    judged: Volume

    def without(self, lesion: Volume) -> View:
        """The same with a lesion (mask, on any grid) taken out of the refinement."""
        inside = resample(lesion.with_data((lesion.data > 0).astype(np.float32)), self.judged.grid).data > 0
        return replace(self, judged=self.judged.with_data(np.where(inside, np.uint8(0), self.judged.data)))

    def compact(self, margin_mm: float = 14.0) -> View:
        """The same without what lies further than `margin_mm` from the brain: a few megabytes, for large groups."""
        inside = np.argwhere(self.judged.data > 0)
        margin = np.ceil(margin_mm / np.asarray(self.head.grid.spacing)).astype(int)
        low = np.maximum(inside.min(0) - margin, 0)
        high = np.minimum(inside.max(0) + 1 + margin, self.head.grid.shape)
        cut = [volume.cropped(low.tolist(), high.tolist()) for volume in (self.head, self.judged)]
        head, judged = (volume.with_data(np.array(volume.data)) for volume in cut)  # a copy lets go of the whole
        return replace(self, head=head, judged=judged)


@dataclass(frozen=True, eq=False)
class Alignment:
    """What `align_views` found.

    Attributes
    ----------
    fixed_from_moving : Affine, ThinPlateSpline or Chain (of an affine's half, a velocity and the other half)
        Pull-back, fixed mm -> moving mm: carries the moving image onto the fixed one.
    score : float
        Square root of the correlation ratio in the brain, 0 to 1, at 2 mm; of both directions the lower one that was
        used; of a velocity, root mean square local correlation; NaN without refinement.
    agreement_mm : float
        Mean distance between the keypoints' linear fit and the final one in the brain.
    keypoints : int
        How many were seen in both images.
    method : str
    refined : bool
        Whether the images improved on the keypoints.
    """

    fixed_from_moving: Affine | ThinPlateSpline | Chain
    score: float
    agreement_mm: float
    keypoints: int
    method: str
    refined: bool = False

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
    found = find_brain(session, windowed(image), lam, threads, mirrored=False)[1]
    return view_of(found, str(image.source or "the image"))


def view_of(found: Look, name: str) -> View:
    """View of an image that has been looked at; `name` is for the message.

    Raises
    ------
    InputError
        No brain is found.
    """
    keypoints = find_keypoints(found)
    if not found.plausible or np.count_nonzero(keypoints.weights > 0.05) < LEAST_SEEN:
        raise InputError(f"{name}: no brain was found; is it a head scan, with the right voxel size?")
    head = normalised_head(found)
    return View(keypoints, head, head.with_data(inside_skull(found).astype(np.uint8)))


def align_views(
    moving: View, fixed: View, settings: AlignSettings | None = None, pair: PairSession | None = None
) -> Alignment:
    """Align two images that have been looked at; `pair` gives velocities their start."""
    settings = settings or AlignSettings()
    if settings.kind == "svf":
        return _bent(moving, fixed, settings, pair)
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
    there, score = _refined(fixed, moving, start, kind)
    back, other = _refined(moving, fixed, start.inverse(), kind)
    # One contrast may explain the other and not the reverse (FLAIR is dark in fluid and in bone, T2w only in bone).
    trusted = [(one, at) for one, at in ((there, score), (back.inverse(), other)) if at >= LEAST_SCORE]
    if not trusted:
        return Alignment(start, max(score, other), 0.0, seen, f"{kind} fit to {seen} keypoints: too little contrast")
    found = midpoint(trusted[0][0], trusted[-1][0])
    agreement = start.distance(found, fixed.keypoints.scan[weights > 0.02])
    ways = "" if len(trusted) == 2 else ", one way"
    method = f"{seen} keypoints, then {kind} fit (correlation ratio{ways})"
    return Alignment(found, min(at for _, at in trusted), agreement, seen, method, refined=True)


def _bent(moving: View, fixed: View, settings: AlignSettings, pair: PairSession | None) -> Alignment:
    """The affine, then what a velocity adds to it in the brains."""
    linear = align_views(moving, fixed, replace(settings, kind="affine"))
    assert isinstance(linear.fixed_from_moving, Affine)
    affine = linear.fixed_from_moving
    fit = deform(fixed.head, moving.head, (fixed.judged, moving.judged), affine,
                 DeformableSettings(settings.stiffness, (settings.steps, settings.steps)),
                 predict=None if pair is None else pair.predict, upright=_upright(moving, fixed, affine))
    start = "" if pair is None else ", begun by the network"
    gain = f"local correlation {fit.before:.2f} to {fit.correlation:.2f}"
    method = f"{linear.method}; then a velocity field{start} ({gain})"
    return replace(linear, fixed_from_moving=fit.fixed_from_moving, score=fit.correlation**0.5, method=method)


def _upright(moving: View, fixed: View, affine: Affine) -> Affine:
    """Rigid motion from the affine's mid-space to the template's axes, by the keypoints of both images alike."""
    to_middle, from_middle = halves(affine)
    middle = (to_middle.apply(fixed.keypoints.scan) + from_middle.inverse().apply(moving.keypoints.scan)) / 2
    weights = np.sqrt(fixed.keypoints.weights * moving.keypoints.weights)
    found = fit_landmarks(middle, fixed.keypoints.template, "rigid", weights)
    assert isinstance(found, Affine)
    return found


def _refined(fixed: View, moving: View, start: Affine, kind: Kind) -> tuple[Affine, float]:
    """Judged in the fixed brain; images keep their skulls, so real edges are compared and not those of two masks.

    Twelve unknowns at the coarsest level can run away between different contrasts, six or seven do not: an affine is
    also tried by way of a rigid and a similarity fit, and the better of the two is carried on with.
    """
    target = thinned(head_target(fixed, SPACINGS_MM))
    coarse, middle, fine = SPACINGS_MM

    def fitted(at: Affine, of: Kind, *spacings: float) -> AffineFit:
        return refine(target, moving.head, at, kind=of, spacings=spacings, criterion="tissue")

    best = fitted(start, kind, coarse, middle)
    if kind == "affine":
        sized = fitted(fitted(start, "rigid", coarse).transform, "similarity", coarse, middle)
        other = fitted(sized.transform, "affine", middle)
        best = max(best, other, key=lambda fit: fit.objective)
    fit = fitted(best.transform, kind, fine)
    return fit.transform, fit.score


def head_target(fixed: View, spacings: Sequence[float]) -> Target:
    """What other heads are fitted to: soft bins of intensity, judged in the brain, at these spacings (mm)."""
    inside = ndimage.gaussian_filter(fixed.judged.data.astype(np.float32), EDGE_VOX)
    return prepare_target(regional_bins(fixed.head, fixed.judged, inside), fixed.judged, spacings, MARGIN_MM)


def thinned(target: Target, step: int = 3) -> Target:
    """The target with every third (`step`) point of its finest level: a dozen unknowns need no more."""
    levels = dict(target.levels)
    for spacing, level in levels.items():
        if spacing <= SPACINGS_MM[-1]:
            points, values, depth = level.points[::step], level.values[:, ::step], level.depth[::step]
            levels[spacing] = FixedLevel(points, values, depth, spacing)
    return Target(levels, target.center, target.radius)


def regional_bins(image: Volume, brain: Volume, inside: NDArray[np.floating]) -> list[Volume]:
    """Soft bins of intensity, within the brain and outside it: fractions that sum to one.

    What is dark may be fluid in the brain and bone outside, which another contrast tells apart: no one function of
    intensity explains it, two do.

    Parameters
    ----------
    image, brain : Volume
        The image, and the mask whose intensities place the bins.
    inside : (X, Y, Z)
        Share of brain in each voxel, 0 to 1.
    """
    bins = intensity_bins(image, brain)
    return [one.with_data((one.data * share).astype(np.float32)) for share in (inside, 1 - inside) for one in bins]


def intensity_bins(image: Volume, brain: Volume, count: int = INTENSITY_BINS) -> list[Volume]:
    """Soft histogram bins of an image: fractions that sum to one.

    A function of intensity that is linear between the bins' centres (quantiles of the brain) is a weighted sum of them.
    """
    centers = np.quantile(image.data[brain.data > 0], np.linspace(0.02, 0.98, count))
    centers = np.maximum.accumulate(centers + 1e-6 * np.arange(count))
    return [image.with_data(np.interp(image.data, centers, one).astype(np.float32)) for one in np.eye(count)]
