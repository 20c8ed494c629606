"""Rigid, similarity and affine registration of Volumes.

`refine` improves a start, `search` needs none, `align` does both. All fits are made in RAS mm about the centre of the
fixed image and returned as pull-backs: fixed mm -> moving mm. The moving image should be skull-stripped if the fixed
one is. Criteria:

"ncc"
    Correlation of fixed and moving, averaged over channels. One T1w image to a T1w template; or several channels on
    both sides (tissue fractions, masks), which makes it independent of contrast.
"tissue"
    `fixed` is a list of tissue fractions and `moving` one image of any contrast: the multiple correlation of the
    moving image with the fractions. T1w, T2w, FLAIR, PDw and CT go the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.registration.exhaustive import best_starts, rotation_starts
from neuralprep.registration.gauss_newton import KINDS, Criterion, Kind, core_score, fit_level, project_to_kind
from neuralprep.registration.pyramid import (
    FixedLevel,
    FloatArray,
    MovingLevel,
    center_of_mass,
    fixed_level,
    moving_level,
    reduce,
)
from neuralprep.registration.rotations import search_rotations
from neuralprep.transform import Affine
from neuralprep.volume import Volume

SEARCH_SPACING_MM = 10.0
COARSE_SPACING_MM = 8.0
FINE_SPACING_MM = 4.0
# Tissue criterion, affine, 4 mm: right fits of T1w, T2w, FLAIR and PDw brains reached 0.46 to 0.81, wrong ones 0.37.
LOWEST_GOOD_SCORE = 0.42
# Sizes of heads, infant to adult against an adult template; radii beyond this are masks gone wrong.
_SCALE_RANGE = (0.6, 1.3)
# How many answers of the search `align` carries on with.
ALIGN_CANDIDATES = 3
# How far the centre of a brain may lie from that of its part in the scan, mm.
CUT_SHIFT_MM = 25.0
# Scans are first averaged to about this voxel size, from which all levels are made.
_BASE_SPACING_MM = 2.0


@dataclass(frozen=True)
class AffineFit:
    """Result of a fit.

    Attributes
    ----------
    transform : Affine
        Fixed mm -> moving mm.
    score : float
        Quality: correlation deep inside the fixed mask at the finest level used, 1 is perfect (see `core_score`). An
        affine fit (tissue criterion, 4 mm) that went wrong stays below `LOWEST_GOOD_SCORE`. 0 when masks are fitted.
    method : str
        How it was found, in words.
    objective : float
        What the fit maximised: correlation over the dilated mask, to which the brain's outline contributes most.
    """

    transform: Affine
    score: float
    method: str
    objective: float


@dataclass(frozen=True, eq=False)
class Target:
    """A fixed image prepared for registration; keep it when many images are registered to one template.

    Attributes
    ----------
    levels : dict
        Spacing in mm -> FixedLevel.
    center : (3,) float64
        mm, centre of mass of the mask.
    radius : float
        mm, its root-mean-square radius.
    """

    levels: dict[float, FixedLevel]
    center: FloatArray
    radius: float


Fixed = Volume | Sequence[Volume] | Target


def prepare_target(
    fixed: Volume | Sequence[Volume],
    fixed_mask: Volume | None = None,
    spacings: Sequence[float] = (SEARCH_SPACING_MM, COARSE_SPACING_MM, FINE_SPACING_MM),
    margin: float = 8.0,
) -> Target:
    """Make the levels of a fixed image.

    Parameters
    ----------
    fixed : Volume or list of Volumes on one grid
    fixed_mask : Volume, optional
        Non-zero where the fit is judged; default: where any channel is not zero.
    spacings : floats
        mm. `search` needs 10 and 8.
    margin : float
        mm by which the mask is dilated.

    Raises
    ------
    GeometryError
        Channels or mask on different grids.
    InputError
        An empty mask.
    """
    channels = _channels(fixed)
    grid = channels[0].grid
    support = channels if fixed_mask is None else [*channels, fixed_mask]
    _check_grids(support)
    base = [reduce(volume.data, grid.affine, _BASE_SPACING_MM, 0.0) for volume in channels]
    arrays, affine = [image for image, _ in base], base[0][1]
    if fixed_mask is None:
        mask = np.any([array != 0 for array in arrays], axis=0)
    else:
        mask = reduce(fixed_mask.data != 0, grid.affine, _BASE_SPACING_MM, 0.0)[0] >= 0.5
    center, radius = center_of_mass([mask], affine)
    levels = {float(spacing): fixed_level(arrays, affine, spacing, mask, margin) for spacing in spacings}
    return Target(levels, center, radius)


def refine(
    fixed: Fixed,
    moving: Volume | Sequence[Volume],
    start: Affine,
    kind: Kind = "affine",
    fixed_mask: Volume | None = None,
    spacings: Sequence[float] = (COARSE_SPACING_MM, FINE_SPACING_MM),
    iterations: int = 30,
    criterion: Criterion = "ncc",
) -> AffineFit:
    """Coarse-to-fine fit from a start.

    Parameters
    ----------
    fixed : Volume, list of Volumes, or Target
    moving : Volume or list of Volumes
        As many as fixed channels for "ncc", one for "tissue".
    start : Affine
        Fixed mm -> moving mm; for "rigid" and "similarity" it is replaced by the nearest one of that kind.
    kind : "rigid", "similarity" or "affine"
    fixed_mask : Volume, optional
        See `prepare_target`.
    spacings : floats
        mm, coarse to fine.
    iterations : int
        At most, per level.
    criterion : "ncc" or "tissue"

    Raises
    ------
    InputError, GeometryError
        Images that cannot be fitted, or an unknown kind or criterion.
    """
    target = _target(fixed, fixed_mask, spacings)
    source = _Source(moving)
    _check_request(target, source, kind, criterion)
    matrix = project_to_kind(start.matrix, kind, target.center)
    matrix, objective = _refine_matrix(target, source, matrix, kind, spacings, iterations, criterion)
    method = f"{kind} fit ({criterion}) at {_words(spacings)} mm"
    return _result(target, source, matrix, objective, spacings[-1], criterion, method)


def search(
    fixed: Fixed,
    moving: Volume | Sequence[Volume],
    fixed_mask: Volume | None = None,
    moving_center: Sequence[float] | FloatArray | None = None,
    n: int = 1500,
    seed: int = 0,
    criterion: Criterion = "ncc",
    candidates: int = 10,
) -> list[AffineFit]:
    """Similarity transforms found without any start.

    Parameters
    ----------
    fixed, moving, fixed_mask, criterion : as in `refine`
    moving_center : (3,), optional
        RAS mm of the brain's centre in the moving image; default: its centre of mass.
    n : int
        Number of rotations, at least 24.
    seed : int
        Another seed tries another set of rotations.
    candidates : int
        How many are improved and returned.

    Returns
    -------
    list of AffineFit
        Distinct candidates, scored at 8 mm, best sum of objective and score first.
    """
    target = _target(fixed, fixed_mask, (SEARCH_SPACING_MM, COARSE_SPACING_MM))
    source = _Source(moving)
    _check_request(target, source, "similarity", criterion)
    method = f"search over {n} rotations ({criterion})"
    return [
        _result(target, source, matrix, objective, COARSE_SPACING_MM, criterion, method)
        for matrix, objective in _search_matrices(target, source, moving_center, n, seed, criterion, candidates)
    ]


def align(
    fixed: Fixed,
    moving: Volume | Sequence[Volume],
    starts: Sequence[Affine] = (),
    kind: Kind = "affine",
    fixed_mask: Volume | None = None,
    criterion: Criterion = "ncc",
    n: int = 1500,
) -> AffineFit:
    """Search, compare with given starts, and refine the best.

    Parameters
    ----------
    fixed, moving, kind, fixed_mask, criterion : as in `refine`
    starts : Affines, optional
        Further starts, such as a network's prediction.
    n : int
        Number of rotations tried; 0: use only `starts` and the header's orientation with centres of mass aligned.
    """
    spacings = (SEARCH_SPACING_MM, COARSE_SPACING_MM, FINE_SPACING_MM)
    target = _target(fixed, fixed_mask, spacings)
    source = _Source(moving)
    _check_request(target, source, kind, criterion)
    found = [(start.matrix, "given start") for start in starts]
    # Most headers are right, so the start that believes them is always among the candidates.
    upright = rotation_starts(np.eye(3)[None], _size_ratio(target, source), target.center, source.center)[0]
    found.append((upright, "header orientation"))
    if n:
        tried = _search_matrices(target, source, None, n, 0, criterion, 10)
        found += [(matrix, f"search over {n} rotations") for matrix, _ in tried[:ALIGN_CANDIDATES]]
    level, moving_image = target.levels[COARSE_SPACING_MM], source.level(COARSE_SPACING_MM)
    coarse = []
    for matrix, name in found:
        matrix = project_to_kind(matrix, kind, target.center)
        matrix, objective = fit_level(level, moving_image, matrix, target.center, kind, criterion, 30)
        inside = core_score(level, moving_image, matrix, target.center, criterion)
        coarse.append((objective + inside, matrix, name))
    _, matrix, name = max(coarse, key=lambda item: item[0])
    matrix, objective = _refine_matrix(target, source, matrix, kind, (FINE_SPACING_MM,), 30, criterion)
    method = f"{name}, then {kind} fit ({criterion}) at {_words((COARSE_SPACING_MM, FINE_SPACING_MM))} mm"
    return _result(target, source, matrix, objective, FINE_SPACING_MM, criterion, method)


class _Source:
    """Moving channels averaged to about 2 mm; levels are made on demand and kept."""

    def __init__(self, moving: Volume | Sequence[Volume]) -> None:
        volumes = _channels(moving)
        _check_grids(volumes)
        base = [reduce(volume.data, volume.grid.affine, _BASE_SPACING_MM, 0.0) for volume in volumes]
        self.channels = [image for image, _ in base]
        self.affine = base[0][1]
        self.center, self.radius = center_of_mass(self.channels, self.affine)
        self._levels: dict[float, MovingLevel] = {}

    def level(self, spacing: float) -> MovingLevel:
        """The moving image blurred as the fixed image at this spacing (mm)."""
        if spacing not in self._levels:
            self._levels[spacing] = moving_level(self.channels, self.affine, spacing)
        return self._levels[spacing]

    def possible_centers(self) -> list[FloatArray]:
        """Centre of mass, and points out towards the faces that cut the object, where the whole one's centre may be."""
        level = self.level(SEARCH_SPACING_MM)
        outward = np.linalg.inv(level.voxel_from_world)[:3, :3]
        outward = outward / np.linalg.norm(outward, axis=0)
        sides = [
            (axis, sign) for axis in range(3) for side, sign in enumerate((-1.0, 1.0)) if level.cut_faces[axis, side]
        ]
        return [self.center, *(self.center + sign * CUT_SHIFT_MM * outward[:, axis] for axis, sign in sides)]


def _refine_matrix(
    target: Target,
    source: _Source,
    matrix: FloatArray,
    kind: Kind,
    spacings: Sequence[float],
    iterations: int,
    criterion: Criterion,
) -> tuple[FloatArray, float]:
    score = -1.0
    for spacing in spacings:
        level = target.levels[float(spacing)]
        matrix, score = fit_level(
            level, source.level(float(spacing)), matrix, target.center, kind, criterion, iterations
        )
    return matrix, score


def _size_ratio(target: Target, source: _Source) -> float:
    return float(np.clip(source.radius / target.radius, *_SCALE_RANGE))


def _result(
    target: Target,
    source: _Source,
    matrix: FloatArray,
    objective: float,
    spacing: float,
    criterion: Criterion,
    method: str,
) -> AffineFit:
    level, moving = target.levels[float(spacing)], source.level(float(spacing))
    score = core_score(level, moving, matrix, target.center, criterion)
    return AffineFit(Affine(matrix), score, method, objective)


def _search_matrices(
    target: Target,
    source: _Source,
    moving_center: Sequence[float] | FloatArray | None,
    n: int,
    seed: int,
    criterion: Criterion,
    candidates: int,
) -> list[tuple[FloatArray, float]]:
    coarse = (target.levels[SEARCH_SPACING_MM], source.level(SEARCH_SPACING_MM))
    centers = source.possible_centers() if moving_center is None else [np.asarray(moving_center, np.float64)]
    rotations, scale = search_rotations(n, seed), _size_ratio(target, source)
    starts = np.concatenate([rotation_starts(rotations, scale, target.center, center) for center in centers])
    finer = (target.levels[COARSE_SPACING_MM], source.level(COARSE_SPACING_MM))
    return best_starts(coarse, finer, starts, target.center, criterion, candidates)


def _target(fixed: Fixed, fixed_mask: Volume | None, spacings: Sequence[float]) -> Target:
    if not isinstance(fixed, Target):
        return prepare_target(fixed, fixed_mask, spacings)
    if fixed_mask is not None:
        raise InputError("a prepared target already has its mask: give the mask to prepare_target")
    missing = [spacing for spacing in spacings if float(spacing) not in fixed.levels]
    if missing:
        raise InputError(f"the target was prepared without levels at {_words(missing)} mm: name them in prepare_target")
    return fixed


def _check_request(target: Target, source: _Source, kind: str, criterion: str) -> None:
    if kind not in KINDS:
        raise InputError(f"no such kind of affine: {kind}. There are {', '.join(KINDS)}.")
    wanted = len(next(iter(target.levels.values())).values)
    given = len(source.channels)
    if criterion == "tissue":
        if given != 1:
            raise InputError(f"the tissue criterion takes one moving image, not {given}")
    elif criterion != "ncc":
        raise InputError(f"no such criterion: {criterion}. There are ncc, tissue.")
    elif given != wanted:
        raise InputError(f"{wanted} fixed and {given} moving channels: ncc pairs them, so give as many of each")


def _channels(images: Volume | Sequence[Volume]) -> list[Volume]:
    volumes = [images] if isinstance(images, Volume) else list(images)
    if not volumes:
        raise InputError("no image was given to register")
    return volumes


def _check_grids(volumes: Sequence[Volume]) -> None:
    first = volumes[0].grid
    if not all(volume.grid.same_as(first) for volume in volumes[1:]):
        raise GeometryError("channels and mask of one image lie on different grids: resample them to one grid first")


def _words(spacings: Sequence[float]) -> str:
    return ", ".join(f"{spacing:g}" for spacing in spacings)
