"""Chains of transform files, in the order in which the image travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.formats import needs_grids, read_transform
from neuralprep.formats.afni import read_aff12
from neuralprep.formats.fsl import read_mat
from neuralprep.grid import Grid
from neuralprep.transform import (
    Affine,
    Chain,
    Displacement,
    Transform,
    compose,
    grid_points,
    least_squares_affine,
    slabs,
)
from neuralprep.velocity import from_middle


@dataclass(frozen=True)
class Leg:
    """One transform file, used as it is stored (a pull-back) or inverted."""

    path: Path
    inverted: bool = False


def read_half(leg: Leg) -> Chain:
    """Pull-back from the middle space of a velocity to the image that travels.

    Raises
    ------
    InputError, GeometryError
        The file holds no velocity, or is unreadable or malformed.
    """
    transform = read_transform(leg.path)
    try:
        return from_middle(transform.inverse() if leg.inverted else transform)
    except GeometryError as error:
        raise InputError(f"{leg.path}: has no middle: {error}; give a file ..._desc-velocity_xfm.nii.gz") from None


def read_chain(legs: Sequence[Leg], fixed: Grid, moving: Grid) -> Transform:
    """One pull-back, fixed points -> moving points, from files listed in the order in which the image travels.

    ``[t1_to_mean, mean_to_mni]`` carries a T1w image to MNI: resampling asks first where an MNI point lies in the mean,
    so the files are composed last to first.

    Parameters
    ----------
    legs : sequence of Leg
    fixed, moving : Grid
        Needed for FSL and AFNI matrices, which mean nothing without both images; only a chain of one can hold one.

    Raises
    ------
    InputError, GeometryError
        A file is unreadable, malformed or has no inverse.
    """
    parts: list[Transform] = []
    for leg in reversed(legs):
        if needs_grids(leg.path):
            if len(legs) > 1:
                raise InputError(
                    f"{leg.path}: an AFNI or FSL matrix needs the grids on both of its sides, which a chain does not "
                    "know; give another format, or apply it alone"
                )
            sides = (moving, fixed) if leg.inverted else (fixed, moving)
            reader = read_mat if leg.path.name.lower().endswith(".mat") else read_aff12
            transform: Transform = reader(leg.path, *sides)
        else:
            transform = read_transform(leg.path)
        parts.append(inverted(transform) if leg.inverted else transform)
    return compose(Chain(parts))


def read_journey(legs: Sequence[Leg]) -> Transform:
    """Where points of the image that travels end: moving points -> fixed points, from files listed as for `read_chain`.

    Points go against the pull-back, so a file used as it is stored is inverted, and one for the other direction is not.

    Raises
    ------
    InputError, GeometryError
        A file is unreadable, malformed, has no inverse, or needs the grids of images.
    """
    parts = [read_transform(leg.path) for leg in legs]
    return compose(*(part if leg.inverted else inverted(part) for leg, part in zip(legs, parts, strict=True)))


def inverted(transform: Transform) -> Transform:
    """Inverse of a transform from a file, also where a displacement field has an affine in it.

    Such a field is large, and leads out of its own grid: its inverse is no field on that grid. It is taken apart into
    what is left in the grid without the affine, and the affine.

    Raises
    ------
    GeometryError
        There is no inverse.
    """
    parts = reversed(Chain([transform]).transforms)
    return compose(*(_undone(part) if isinstance(part, Displacement) else part.inverse() for part in parts))


def _undone(field: Displacement) -> Transform:
    affine = _affine_within(field)
    if affine is None:
        return field.inverse()
    back, rest = affine.inverse(), np.empty_like(field.vectors)
    for slab in slabs(field.grid.shape):
        points = grid_points(field.grid, slab)
        rest[slab] = (back.apply(points + field.vectors[slab].reshape(-1, 3)) - points).reshape(rest[slab].shape)
    return Chain([back, Displacement(rest, field.grid, "edge").inverse()])


def _affine_within(field: Displacement, samples: int = 20_000) -> Affine | None:
    """The affine that explains most of a field, by least squares; None where none does."""
    vectors = field.vectors.reshape(-1, 3)
    chosen = np.linspace(0, len(vectors) - 1, min(samples, len(vectors))).astype(int)
    voxels = np.stack(np.unravel_index(chosen, field.grid.shape), axis=-1)
    points = field.grid.voxel_to_world(voxels)
    moved = points + vectors[chosen]
    affine = least_squares_affine(points, moved)
    missed = np.linalg.norm(affine.apply(points) - moved, axis=1).mean()
    return affine if missed < 0.5 * np.linalg.norm(vectors[chosen], axis=1).mean() else None
