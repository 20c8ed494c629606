"""Stationary velocities on disk: a dense, diffeomorphic transform in a megabyte, with its exact inverse and its middle.

Two files. The NIfTI holds the velocity on its own grid as X x Y x Z x 1 x 3 (float32, mm per unit of time, components
along RAS+, intent 1007 with the name "velocity RAS mm"); the JSON of the same name holds the affines before and behind
it. Everything is in RAS+ mm: the world of NIfTI, not that of ITK, whose programs cannot integrate a velocity anyway.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.files import read_text
from neuralprep.formats.parsing import affine_of, write_text
from neuralprep.grid import Grid
from neuralprep.nifti_io import VECTOR_INTENT, build_header
from neuralprep.transform import Affine, Chain, Transform
from neuralprep.velocity import INTEGRATION_MM, Velocity, split
from neuralprep.volume import write_array
from neuralprep.voxels import read_header, read_vectors

ENDING = "desc-velocity_xfm.nii.gz"
INTENT_NAME = "velocity RAS mm"
_BEFORE, _AFTER, _SQUARINGS, _UNITS = "AffineBefore", "AffineAfter", "Squarings", "Units"
_MM = "mm per unit of time"


def write_velocity(path: str | PathLike[str], transform: Transform) -> list[Path]:
    """Write a transform that is an affine, a velocity and an affine, as NIfTI with a JSON of the same name.

    Parameters
    ----------
    path
        Name of the NIfTI, .nii or .nii.gz.
    transform : Velocity or Chain
        Pull-back, fixed -> moving; either affine may be missing.

    Returns
    -------
    list of Path
        The two files.

    Raises
    ------
    InputError
        Another ending, another transform, or the folder cannot be written to.
    """
    path = Path(path)
    sidecar = _sidecar(path)
    try:
        before, velocity, after = split(transform)
    except GeometryError as error:
        raise InputError(f"{path}: {error}; write it as a displacement field") from None
    dtype = np.dtype("<f4")
    header = build_header((*velocity.grid.shape, 1, 3), velocity.grid.affine, dtype, "other",
                          "stationary velocity (mm per unit of time, RAS)", VECTOR_INTENT, INTENT_NAME)
    write_text(sidecar, json.dumps(_told(before, velocity, after), indent=2) + "\n")
    write_array(path, header, velocity.vectors, dtype)
    return [path, sidecar]


def holds_velocity(path: Path) -> bool:
    """Whether a NIfTI file says of itself that it is a velocity (and no displacement).

    Raises
    ------
    InputError
        It is no NIfTI file.
    """
    return read_header(path)[0].intent_name == INTENT_NAME


def read_velocity(path: str | PathLike[str]) -> Chain:
    """Read a velocity and its affines, as `write_velocity` writes them.

    Returns
    -------
    Chain
        Pull-back, fixed -> moving: affine, `Velocity`, affine. Its inverse is exact; `velocity.from_middle` takes the
        part from the middle on.

    Raises
    ------
    InputError
        Not a velocity, damaged, or without its JSON.
    """
    path = Path(path)
    vectors, header = read_vectors(path)
    if header.intent_name != INTENT_NAME:
        raise InputError(f"{path}: does not say that it holds a velocity (intent name '{INTENT_NAME}'); a displacement "
                         "field is read by read_field")
    sidecar = _sidecar(path)
    told = _content(sidecar, path)
    x, y, z = header.shape[:3]
    squarings = told.get(_SQUARINGS)
    if isinstance(squarings, bool) or not isinstance(squarings, int):
        raise InputError(f"{sidecar}: {_SQUARINGS} is {squarings!r}; a whole number is needed")
    try:
        velocity = Velocity(vectors, Grid((x, y, z), header.affine), squarings)
    except GeometryError as error:
        raise InputError(f"{sidecar}: {error}") from None
    return Chain([_affine(told, _BEFORE, sidecar), velocity, _affine(told, _AFTER, sidecar)])


def _told(before: Affine, velocity: Velocity, after: Affine) -> dict[str, Any]:
    return {
        "Type": "stationary velocity",
        "Direction": (f"Pull-back: a point of the fixed image goes through {_BEFORE}, then along the velocity for one "
                      f"unit of time, then through {_AFTER}, and is then where it lies in the moving image."),
        "Inverse": f"{_AFTER} inverted, the velocity with its sign changed, {_BEFORE} inverted.",
        "Coordinates": "RAS+ mm: points, components of the velocity, affines",
        _UNITS: _MM,
        "OutsideOfGrid": "the value at the border",
        "Integration": f"cubic splines to {INTEGRATION_MM:g} mm, then scaling and squaring, linear",
        _SQUARINGS: velocity.squarings,
        _BEFORE: before.matrix.tolist(),
        _AFTER: after.matrix.tolist(),
    }


def _sidecar(path: Path) -> Path:
    for ending in (".nii.gz", ".nii"):
        if path.name.lower().endswith(ending):
            return path.with_name(path.name[: -len(ending)] + ".json")
    raise InputError(f"{path}: a velocity is a file .nii or .nii.gz")


def _content(sidecar: Path, path: Path) -> dict[str, Any]:
    if not sidecar.is_file():
        raise InputError(f"{path}: the affines of this velocity are in {sidecar.name}, which is not beside it; copy "
                         "both files")
    try:
        told = json.loads(read_text(sidecar))
    except ValueError:
        raise InputError(f"{sidecar}: is damaged (no JSON); copy or write it again") from None
    if not isinstance(told, dict) or told.get(_UNITS) != _MM:
        raise InputError(f"{sidecar}: does not say that {path.name} is in {_MM}; it belongs to something else")
    return told


def _affine(told: dict[str, Any], name: str, sidecar: Path) -> Affine:
    rows = told.get(name)
    numbers = [value for row in rows if isinstance(row, list) for value in row] if isinstance(rows, list) else []
    if len(numbers) != 16 or not all(isinstance(value, int | float) for value in numbers):
        raise InputError(f"{sidecar}: {name} is no matrix of 4 x 4 numbers; write the file again")
    return affine_of(np.array(numbers, dtype=np.float64).reshape(4, 4), sidecar)
