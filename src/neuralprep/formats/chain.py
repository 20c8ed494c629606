"""Chains of transform files, in the order in which the image travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuralprep.errors import GeometryError, InputError
from neuralprep.formats import needs_grids, read_transform
from neuralprep.formats.afni import read_aff12
from neuralprep.formats.fsl import read_mat
from neuralprep.grid import Grid
from neuralprep.transform import Chain, Transform, compose
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
        parts.append(transform.inverse() if leg.inverted else transform)
    return compose(Chain(parts))
