"""Groups of heads in one common space that none of them biases: templates between persons, mid-spaces within one.

Every image is looked at once. Keypoints put all of them into a common space in closed form (the mean of their points is
the space's own shape); images then refine this: in small groups every pair is aligned and one set of transforms found
that agrees best with all pairs, in large ones every image is aligned to the group's mean image, again and again. After
every step the common space is moved so that the mean of all transforms is the identity, so it neither drifts nor
shrinks and no image is the reference.

Members are worked on in the order of their contents, never in the order given: the result depends on the set of images
alone, to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from neuralprep.alignment import MARGIN_MM, AlignSettings, View, align_views, regional_bins, thinned, view_of
from neuralprep.errors import InputError
from neuralprep.grid import FloatArray, Grid
from neuralprep.registration.affine import Target, prepare_target, refine
from neuralprep.registration.averages import bias, consensus, unbiased
from neuralprep.registration.landmarks import LandmarkKind, fit_landmarks
from neuralprep.resample import resample
from neuralprep.stages.affine import inside_skull
from neuralprep.stages.conform import windowed
from neuralprep.stages.intensity import normalise
from neuralprep.stages.look import Look, find_brain
from neuralprep.transform import Affine
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.inference.session import Session

GroupKind = Literal["rigid", "similarity", "affine"]
Pose = Literal["native", "standard"]
AGREEMENT_LIMIT_MM = 6.0
MISS_LIMIT_MM = 2.0  # pairs of a good small group disagree with their consensus by less
UNCONFIRMED = "the images share too little contrast to improve on the keypoints, which err by 2 to 4 mm"
_ROUNDS = ((8.0, 4.0), (4.0,), (2.0,))
"""Levels, mm, of the rounds in which images are aligned to their mean; the last is repeated."""
_MEAN_MARGIN_MM = 26.0  # from the keypoints to the border of the mean image
_EVALUATIONS = 4
"""Steps per level and round: the mean changes after them, so more would only fit an image better to a worse mean."""
_THINNED = 5
"""Of the finest level's points every fifth is compared: errors of single images average out in the group."""
_OWN_LEAST = 5
"""A contrast with fewer images than this is no target for its own: each would find mostly itself in their mean."""


@dataclass(frozen=True)
class GroupSettings:
    """How a group is aligned.

    Parameters
    ----------
    kind
        "rigid" for one person, "similarity" or "affine" between persons.
    pose
        "native": the common space is the mean of the images' own spaces. "standard": each head is first thought upright
        in the pose of the standard space, so where heads lie in their scanners does not count.
    refine
        Improve on the keypoints with the images.
    rounds
        At most this many rounds of mean image and alignment to it.
    tolerance_mm
        Rounds end when no image moves further than this, on average over its brain.
    pairs_up_to
        Groups up to this size align every pair; larger ones align each image to the mean image.
    """

    kind: GroupKind = "affine"
    pose: Pose = "standard"
    refine: bool = True
    rounds: int = 3
    tolerance_mm: float = 0.1
    pairs_up_to: int = 6

    def __post_init__(self) -> None:
        """Refuse values that do not exist."""
        for name, value, known in (("kind", self.kind, GroupKind), ("pose", self.pose, Pose)):
            if value not in get_args(known):
                raise InputError(f"group {name} '{value}' is unknown; there are {', '.join(get_args(known))}")
        if self.rounds < 1 or not self.tolerance_mm > 0:
            raise InputError("a group needs at least one round and a positive tolerance")


@dataclass(frozen=True, eq=False)
class Member:
    """One image of a group, a few megabytes: the image itself stays on disk.

    Attributes
    ----------
    path : Path
        The image.
    frame : int, "mean" or None
    name : str
        Of its outputs.
    contrast : str
        Images of one contrast are averaged with one another.
    digest : str
        Checksum of voxels and geometry: the order of the group's members.
    view : View
        What alignment sees, cut to the brain.
    grid : Grid
        Of the image.
    gain, offset : Volume, float
        ``gain * (image - offset)`` is bias corrected, with a mean of brain tissue of 110; the gain is smooth and kept
        on a grid of 4 mm.
    """

    path: Path
    frame: int | str | None
    name: str
    contrast: str
    digest: str
    view: View
    grid: Grid
    gain: Volume
    offset: float


@dataclass(frozen=True, eq=False)
class GroupFit:
    """What `align_group` found.

    Attributes
    ----------
    transforms : tuple of Affine
        Pull-backs, common space -> image, in the order of the members given.
    agreement_mm : tuple of float
        Mean distance between each image's keypoint fit and its final transform in the brain.
    scores : tuple of float
        Square root of the correlation ratio with the mean image at the finest level; NaN where pairs were aligned.
    misses_mm : tuple of float
        Disagreement of each image's pairs with the consensus; NaN where the mean image was used.
    confirmed : tuple of bool
        Whether images improved on an image's keypoints, in one of its pairs at least; True where they were not asked.
    points : (K, 3) float64
        The group's mean keypoints in the common space, mm.
    bias : float
        Largest entry of the mean logarithm of the transforms (seen from the pose): 0 to rounding.
    rounds : int
    last_move_mm : float
        How far the last round still moved the image that moved most.
    method : str
    """

    transforms: tuple[Affine, ...]
    agreement_mm: tuple[float, ...]
    scores: tuple[float, ...]
    misses_mm: tuple[float, ...]
    confirmed: tuple[bool, ...]
    points: FloatArray
    bias: float
    rounds: int
    last_move_mm: float
    method: str

    def good(self, index: int) -> bool:
        """Whether keypoints and images (and pairs, where there are any) tell the same of an image."""
        return not self.doubt(index)

    def doubt(self, index: int) -> str:
        """Why an image should be looked at, in words; "" when all is well."""
        if self.agreement_mm[index] >= AGREEMENT_LIMIT_MM:
            return "keypoints and images disagree"
        if self.misses_mm[index] > MISS_LIMIT_MM:
            return "its pairs contradict one another"
        return "" if self.confirmed[index] else UNCONFIRMED


def look_at(
    session: Session, image: Volume, name: str, contrast: str = "image", frame: int | str | None = None,
    threads: int = 1,
) -> Member:
    """Look at one image of a group.

    Raises
    ------
    InputError
        No brain is found.
    """
    found = find_brain(session, windowed(image), 0.1, threads, mirrored=False)[1]
    return member_of(found, image, name, contrast, frame)


def member_of(
    found: Look, image: Volume, name: str, contrast: str = "image", frame: int | str | None = None
) -> Member:
    """One image of a group that has been looked at.

    Raises
    ------
    InputError
        No brain is found.
    """
    view = view_of(found, str(image.source or name)).compact()
    gain, offset = _gain(found)
    digest = hashlib.sha256(repr((contrast, image.grid.shape)).encode())
    digest.update(np.ascontiguousarray(image.grid.affine).tobytes())
    digest.update(np.ascontiguousarray(image.data).tobytes())
    path = image.source or Path(name)
    return Member(path, frame, name, contrast, digest.hexdigest(), view, image.grid, gain, offset)


def _gain(found: Look) -> tuple[Volume, float]:
    """The smooth gain of an image on a grid of 4 mm, and the offset that is taken off before."""
    working, seen = found.working, (slice(None, None, 2),) * 3
    raw = working.image[seen] * np.float32(working.high - working.low) + np.float32(working.low)
    x, y, z = raw.shape
    scan = Volume(raw, Grid((x, y, z), working.grid.affine @ np.diag([2.0, 2, 2, 1])))
    tissue = inside_skull(found) & (found.prediction.distances[0] < 0)
    made = normalise(scan, found, found.prediction.log_gain, scan.with_data(tissue[seen].astype(np.uint8)))
    return made.gain, made.offset


def align_group(
    members: Sequence[Member], settings: GroupSettings | None = None, progress: Callable[[str], None] = lambda _: None
) -> GroupFit:
    """Transforms of all images from one unbiased common space.

    Parameters
    ----------
    members
        Two or more, in any order.
    settings
    progress
        Told in words what goes on.

    Raises
    ------
    InputError
        Fewer than two images.
    GeometryError
        Images that lie so differently that their spaces have no mean (`pose` "native").
    """
    settings = settings or GroupSettings()
    if len(members) < 2:
        raise InputError(f"a group needs at least two images, not {len(members)}")
    order = sorted(range(len(members)), key=lambda index: members[index].digest)
    state = _State([members[index] for index in order], settings)
    state.fit_keypoints()
    by_keypoints = list(state.transforms)
    method = f"{settings.kind} fits to keypoints"
    nothing = [float("nan")] * len(members)
    scores, misses, rounds, moved = nothing, nothing, 0, 0.0
    if settings.refine and len(members) <= settings.pairs_up_to:
        misses = state.fit_pairs(progress)
        method = f"keypoints, then consensus of all {len(members) * (len(members) - 1) // 2} {settings.kind} pairs"
    elif settings.refine:
        scores, rounds, moved = state.fit_to_means(progress)
        method = f"keypoints, then {settings.kind} fits to the mean image, {rounds} rounds"
    away = [new.distance(old, state.points) for new, old in zip(state.transforms, by_keypoints, strict=True)]
    back = np.argsort(order)
    return GroupFit(
        tuple(state.transforms[k] for k in back), tuple(away[k] for k in back), tuple(scores[k] for k in back),
        tuple(misses[k] for k in back), tuple(state.confirmed[k] for k in back), state.points, state.bias(), rounds,
        moved, method,
    )  # fmt: skip


class _State:
    """A group while it is aligned: sorted members, their transforms, and mean keypoints of the common space."""

    def __init__(self, members: list[Member], settings: GroupSettings) -> None:
        self.members, self.settings = members, settings
        self.seen = np.stack([one.view.keypoints.weights for one in members])
        self.poses: list[Affine] = []
        for one in members:
            keypoints = one.view.keypoints
            pose = fit_landmarks(keypoints.template, keypoints.scan, "rigid", keypoints.weights)
            assert isinstance(pose, Affine)
            self.poses.append(pose)
        self.transforms = list(self.poses)
        self.points = members[0].view.keypoints.template
        self.confirmed = [not settings.refine] * len(members)

    def fit_keypoints(self) -> None:
        """Fit every image's keypoints to the group's mean ones, until the mean stays."""
        kind: LandmarkKind = self.settings.kind
        for _ in range(30):
            before = self.points
            for index, one in enumerate(self.members):
                fit = fit_landmarks(self.points, one.view.keypoints.scan, kind, self.seen[index])
                assert isinstance(fit, Affine)
                self.transforms[index] = fit
            self._update_points()
            self._centre()
            if np.linalg.norm(self.points - before, axis=1).mean() < 1e-3:
                break

    def fit_pairs(self, progress: Callable[[str], None]) -> list[float]:
        """Align every pair and find the transforms that agree best with all of them."""
        settings = AlignSettings(self.settings.kind)
        relations = {}
        for i, j in combinations(range(len(self.members)), 2):
            progress(f"aligning {self.members[i].name} and {self.members[j].name}")
            found = align_views(self.members[j].view, self.members[i].view, settings)
            assert isinstance(found.fixed_from_moving, Affine)
            trusted = found.good and found.refined
            relations[i, j] = (found.fixed_from_moving, 1.0 if trusted else 0.05)
            self.confirmed = [known or (trusted and k in (i, j)) for k, known in enumerate(self.confirmed)]
        self.transforms, misses = consensus(relations, self.transforms, self.points)
        self._centre()
        return misses

    def fit_to_means(self, progress: Callable[[str], None]) -> tuple[list[float], int, float]:
        """Align every image to the mean of all, make a new mean, and again."""
        settings = self.settings
        scores = [0.0] * len(self.members)
        moved, done = np.inf, 0
        for done in range(1, settings.rounds + 1):
            spacings = _ROUNDS[min(done, len(_ROUNDS)) - 1]
            targets = self._targets(spacings)
            before = list(self.transforms)
            for index, one in enumerate(self.members):
                fit = refine(targets[one.contrast], one.view.head, self.transforms[index], settings.kind,
                             spacings=spacings, iterations=_EVALUATIONS, criterion="tissue")
                if fit.score > 0:
                    self.transforms[index], scores[index] = fit.transform, fit.score
                    self.confirmed[index] = True
            self._centre()
            moved = max(a.distance(b, self.points) for a, b in zip(self.transforms, before, strict=True))
            progress(f"round {done}: the image that moved most moved {moved:.2f} mm")
            if done >= len(_ROUNDS) and moved < settings.tolerance_mm:
                break
        return scores, done, float(moved)

    def bias(self) -> float:
        """How far the mean transform is from the identity."""
        poses = self._reference_poses()
        seen = self.transforms
        if poses is not None:
            seen = [Affine(pose.inverse().matrix @ one.matrix) for pose, one in zip(poses, seen, strict=True)]
        return bias(seen)

    def _reference_poses(self) -> list[Affine] | None:
        return self.poses if self.settings.pose == "standard" else None

    def _centre(self) -> None:
        """Move the common space so that the mean transform is the identity."""
        shift = unbiased(self.transforms, self._reference_poses())
        self.transforms = [Affine(one.matrix @ shift.matrix) for one in self.transforms]
        self.points = shift.inverse().apply(self.points)

    def _update_points(self) -> None:
        """Weighted mean of all images' keypoints in the common space; a point that none shows stays."""
        total, weight = np.zeros_like(self.points), np.zeros(len(self.points))
        for index, one in enumerate(self.members):
            total += self.seen[index][:, None] * self.transforms[index].inverse().apply(one.view.keypoints.scan)
            weight += self.seen[index]
        shown = weight > 1e-6
        self.points = np.where(shown[:, None], total / np.maximum(weight, 1e-6)[:, None], self.points)

    def _targets(self, spacings: Sequence[float]) -> dict[str, Target]:
        """For images of every contrast the fixed image: means of contrasts in soft bins of intensity."""
        grid = Grid.around(self.points, spacings[-1], _MEAN_MARGIN_MM)
        sums: dict[str, FloatArray] = {}
        known: dict[str, FloatArray] = {}
        brain = np.zeros(grid.shape, np.float64)
        for one, transform in zip(self.members, self.transforms, strict=True):
            image, seen = _carried(one, grid, transform)
            sums[one.contrast] = sums.get(one.contrast, 0) + image
            known[one.contrast] = known.get(one.contrast, 0) + seen
            judged = one.view.judged
            soft = judged.with_data(judged.data.astype(np.float32))
            brain += resample(soft, grid, transform, antialias=True).data
        mask = Volume((brain >= len(self.members) / 2).astype(np.uint8), grid)
        bins = {}
        for contrast in sorted(sums):
            mean = Volume((sums[contrast] / np.maximum(known[contrast], 1)).astype(np.float32), grid)
            bins[contrast] = regional_bins(mean, mask, brain / len(self.members))
        made: dict[tuple[str, ...], Target] = {}
        targets = {}
        for contrast in bins:
            few = sum(one.contrast == contrast for one in self.members) < _OWN_LEAST
            chosen = tuple(other for other in bins if other != contrast or not few) or (contrast,)
            if chosen not in made:
                channels = [channel for other in chosen for channel in bins[other]]
                made[chosen] = thinned(prepare_target(channels, mask, spacings, MARGIN_MM), _THINNED)
            targets[contrast] = made[chosen]
        return targets


def _carried(one: Member, grid: Grid, transform: Affine) -> tuple[FloatArray, FloatArray]:
    """A member's normalised head on a grid with its brain's mean at 1, and where it is known."""
    head = one.view.head
    level = float(head.data[one.view.judged.data > 0].mean())
    image = resample(head, grid, transform, fill=np.nan, antialias=True).data
    known = np.isfinite(image)
    return np.where(known, image / max(level, 1e-6), 0).astype(np.float64), known.astype(np.float64)
