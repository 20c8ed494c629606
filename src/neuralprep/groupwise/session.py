"""Contrasts of one visit: on one reference, in one template space, under one brain mask, each interpolated once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.grid import FloatArray, Grid
from neuralprep.groupwise.align import GroupFit, GroupSettings, Member, align_group, member_of
from neuralprep.registration.gauss_newton import KINDS, Kind, project_to_kind
from neuralprep.resample import resample
from neuralprep.stages.affine import TemplateFit, fit_template
from neuralprep.stages.brain import DISTANCE_LIMIT_MM
from neuralprep.stages.conform import windowed
from neuralprep.stages.look import Look, find_brain, main_component
from neuralprep.templates import load_template, space_grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.inference.session import Session

Strip = Literal["consensus", "reference", "none"]
BRATS_GRID = Grid((240, 240, 155), np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]))
"""Geometry of the images of the BraTS challenges and of their SRI24 atlas: 1 mm, ITK origin (0, -239, 0)."""
BRATS_BRAIN_CENTER_VOX = (119.5, 128.5, 71.5)
"""About where the middle of a brain's bounding box lies in BraTS images."""
MOST_PAIRED = 10
"""Up to this many images of a visit every pair is aligned: a mean image of different contrasts says little."""
_ENHANCED = ("t1c", "t1ce", "t1gd", "t1wce", "t1post")
_BRATS = "brats"


@dataclass(frozen=True)
class SessionSettings:
    """How the contrasts of a visit are brought together.

    Parameters
    ----------
    reference
        Name of the image that stays; None: the one with the finest voxels (with the BraTS grid a T1w after contrast
        agent, where there is one).
    strip
        "consensus": one mask, from the median of all contrasts' signed distances; "reference": from the reference
        alone; "none".
    space
        Template that the anatomy is aligned to.
    grid
        "template": the template's own grid; "brats": 240 x 240 x 155 voxels of 1 mm as in the BraTS challenges.
    kind
        Of the map from the reference to the template; None: affine, or rigid on the BraTS grid.
    resolution_mm
        Of the template's own grid.
    """

    reference: str | None = None
    strip: Strip = "consensus"
    space: str = "MNI152NLin2009aSym"
    grid: Literal["template", "brats"] = "template"
    kind: Kind | None = None
    resolution_mm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that do not exist."""
        if self.strip not in get_args(Strip):
            raise InputError(f"strip is '{self.strip}'; there are {', '.join(get_args(Strip))}")
        if self.grid not in ("template", _BRATS):
            raise InputError(f"grid is '{self.grid}'; there are template, brats")
        if self.kind is not None and self.kind not in KINDS:
            raise InputError(f"kind is '{self.kind}'; there are {', '.join(KINDS)}")

    @property
    def linear(self) -> Kind:
        """The kind of the map to the template."""
        return self.kind or ("rigid" if self.grid == _BRATS else "affine")

    @property
    def label(self) -> str:
        """Name of the output space in file names."""
        return "BraTS" if self.grid == _BRATS else self.space


@dataclass(frozen=True, eq=False)
class Contrast:
    """One image of a visit that has been looked at: the member of the group, and its look."""

    member: Member
    look: Look


@dataclass(frozen=True, eq=False)
class SessionFit:
    """What `align_session` found.

    Attributes
    ----------
    reference : int
        Which image stays.
    to_reference : tuple of Affine
        Pull-backs, reference -> image; the reference's own is the identity.
    to_space : tuple of Affine
        Pull-backs, output space -> image.
    grid : Grid
        Of the output space.
    template : TemplateFit
        How the reference was fitted to the template.
    distance : Volume or None
        Signed distance, mm, on the reference's grid; {distance <= 0} is the brain mask.
    group : GroupFit
    """

    reference: int
    to_reference: tuple[Affine, ...]
    to_space: tuple[Affine, ...]
    grid: Grid
    template: TemplateFit
    distance: Volume | None
    group: GroupFit

    def mask(self, grid: Grid, transform: Affine | None = None, threads: int = 1) -> Volume:
        """The brain mask on any grid; `transform` is the pull-back from its space to the reference's. uint8."""
        if self.distance is None:
            raise InputError("this session was not stripped, so there is no brain mask")
        carried = resample(self.distance, grid, transform, fill=DISTANCE_LIMIT_MM, threads=threads)
        return carried.with_data((carried.data <= 0).astype(np.uint8))


def look_at_contrast(
    session: Session, image: Volume, name: str, contrast: str = "image", frame: int | str | None = None,
    threads: int = 1,
) -> Contrast:
    """Look at one image of a visit.

    Raises
    ------
    InputError
        No brain is found.
    """
    found = find_brain(session, windowed(image), 0.1, threads)[1]
    return Contrast(member_of(found, image, name, contrast, frame), found)


def align_session(
    contrasts: Sequence[Contrast], settings: SessionSettings | None = None, threads: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> SessionFit:
    """Bring the contrasts of one visit together.

    All pairs are aligned rigidly and the transforms that agree best with all of them are used, so no contrast's errors
    go to the others through the reference.

    Raises
    ------
    InputError
        Fewer than two images, or a reference that is not among them.
    """
    settings = settings or SessionSettings()
    members = [one.member for one in contrasts]
    fit = align_group(members, GroupSettings("rigid", "native", pairs_up_to=MOST_PAIRED), progress)
    reference = choose_reference(members, settings)
    back = fit.transforms[reference].inverse()
    to_reference = [Affine(one.matrix @ back.matrix) for one in fit.transforms]
    to_reference[reference] = Affine.identity()
    template = fit_template(contrasts[reference].look, settings.space)
    center = _brain_center(settings.space)
    reference_from = Affine(project_to_kind(template.template_from_scan.matrix, settings.linear, center))
    grid = space_grid(settings.space, settings.resolution_mm)
    if settings.grid == _BRATS:
        grid = BRATS_GRID
        shift = np.eye(4)
        shift[:3, 3] = center - grid.voxel_to_world(BRATS_BRAIN_CENTER_VOX)
        reference_from = Affine(reference_from.matrix @ shift)
    to_space = [Affine(one.matrix @ reference_from.matrix) for one in to_reference]
    distance = None
    if settings.strip != "none":
        chosen = range(len(contrasts)) if settings.strip == "consensus" else [reference]
        judged = [(contrasts[k].look, to_reference[k]) for k in chosen]
        distance = consensus_distance(judged, members[reference].grid, threads)
    return SessionFit(reference, tuple(to_reference), tuple(to_space), grid, template, distance, fit)


def consensus_distance(looks: Sequence[tuple[Look, Affine]], grid: Grid, threads: int = 1) -> Volume:
    """Median over several looks of the signed distance to the inner skull.

    Parameters
    ----------
    looks : sequence of (Look, Affine)
        Looks at the images, each with the pull-back from the grid's space to its image.
    grid : Grid

    Returns
    -------
    Volume
        mm, negative inside, limited to +-15; {distance <= 0} is one piece without holes.
    """
    stack = np.empty((len(looks), *grid.shape), np.float32)
    for index, (found, transform) in enumerate(looks):
        distance = np.where(found.working.visible, found.prediction.distances[1], np.float32(np.nan))
        known = Volume(distance, found.working.grid)
        stack[index] = resample(known, grid, transform, fill=np.nan, threads=threads).data
    values = _known_median(stack)
    raw = values <= 0
    mask = ndimage.binary_fill_holes(main_component(raw))
    values = np.where(raw & ~mask, np.maximum(values, 0.5), values)
    values = np.where(mask & ~raw, np.minimum(values, -0.5), values)
    return Volume(np.clip(values, -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM).astype(np.float32), grid)


def _known_median(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median over the first axis of what is not NaN; far outside where nothing is known."""
    stack.sort(axis=0)  # unknown values come last
    seen = np.isfinite(stack).sum(0)
    low, high = (np.take_along_axis(stack, np.maximum(k, 0)[None], 0)[0] for k in ((seen - 1) // 2, seen // 2))
    return np.where(seen > 0, (low + np.where(seen % 2, low, high)) / 2, np.float32(DISTANCE_LIMIT_MM))


def choose_reference(members: Sequence[Member], settings: SessionSettings) -> int:
    """Which image stays: the named one, else the one with the finest voxels.

    Raises
    ------
    InputError
        The named one is not among them.
    """
    names = [one.name for one in members]
    if settings.reference is not None:
        if settings.reference not in names:
            raise InputError(f"the reference {settings.reference} is not among the images: {', '.join(names)}")
        return names.index(settings.reference)
    order = sorted(range(len(members)), key=lambda k: (*_coarseness(members[k].grid), members[k].digest))
    if settings.grid == _BRATS:
        enhanced = [k for k in order if names[k].lower().replace("-", "_").rpartition("_")[2] in _ENHANCED]
        order = enhanced or order
    return order[0]


def _coarseness(grid: Grid) -> tuple[float, float]:
    """Largest edge of the voxels, and their volume."""
    return round(max(grid.spacing), 2), round(grid.voxel_volume, 3)


def _brain_center(space: str) -> FloatArray:
    """Middle of the template brain's bounding box, mm."""
    mask = load_template(space).brain_mask
    inside = np.argwhere(mask.data > 0)
    return mask.grid.voxel_to_world((inside.min(0) + inside.max(0)) / 2)
