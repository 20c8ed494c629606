"""ITK composite transforms in HDF5 files (.h5): any sequence of affines and displacement fields.

Stored transforms are applied to points last to first. Source: itkHDF5TransformIO.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.files import atomic_path, open_source
from neuralprep.formats.hdf5 import check_expansion
from neuralprep.formats.itk import LPS, affine_from_itk, affine_parameters, check_itk_grid, in_point_order, lps_geometry
from neuralprep.grid import FloatArray, Grid
from neuralprep.headers import MAX_VOXELS
from neuralprep.transform import Affine, Chain, Displacement, Transform

if TYPE_CHECKING:
    import h5py

_TYPE = "TransformType"
# Older ITK misspelt the names of both data sets.
_PARAMETERS = ("TransformParameters", "TranformParameters")
_FIXED = ("TransformFixedParameters", "TranformFixedParameters")


def read_composite(path: str | PathLike[str]) -> Transform:
    """Read a composite (or single) transform.

    Returns
    -------
    Transform
        RAS mm, fixed -> moving: an `Affine` if all parts are affine, a `Displacement`, or a `Chain`.

    Raises
    ------
    InputError
        Not HDF5, not written by ITK, truncated, a kind of transform that is not supported, or a small file that would
        expand to very much.
    GeometryError
        A part is singular or not finite.
    """
    import h5py

    path = Path(path)
    with open_source(path):  # for its messages
        pass
    try:
        with h5py.File(path, "r") as file:
            groups = file.get("TransformGroup")
            if not isinstance(groups, h5py.Group):
                raise InputError(f"{path}: has no TransformGroup, so it is no ITK transform; write the file again")
            names = sorted((name for name in groups if name.isdigit()), key=int)
            stored = [groups[name] for name in names]
            check_expansion(stored, (_TYPE, *_FIXED, *_PARAMETERS), path)
            parts = [part for group in stored if (part := _read_part(group, path)) is not None]
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: is not a readable HDF5 file ({error}); copy or write it again") from None
    if not parts:
        raise InputError(f"{path}: holds no transform; write the file again")
    return in_point_order(parts)


def write_composite(path: str | PathLike[str], transform: Transform) -> None:
    """Write an affine, a displacement, or a chain of them.

    A chain becomes a composite; affines are stored in double, displacements in single precision.

    Raises
    ------
    GeometryError
        A part of the chain is neither affine nor displacement (sample it with `to_displacement` first).
    InputError
        A displacement's grid has sheared axes, or the folder cannot be written to.
    """
    import h5py

    path = Path(path)
    parts = transform.transforms if isinstance(transform, Chain) else (transform,)
    encoded = [_encode(part, path) for part in reversed(parts)]
    if len(encoded) != 1:
        encoded.insert(0, ("CompositeTransform_double_3_3", None, None))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        text = h5py.string_dtype("ascii")
        file.create_dataset("ITKVersion", data=np.array(["5.4.0"], dtype=object), dtype=text)
        for index, (kind, fixed, parameters) in enumerate(encoded):
            group = file.create_group(f"TransformGroup/{index}")
            group.create_dataset(_TYPE, data=np.array([kind], dtype=object), dtype=text)
            if fixed is None or parameters is None:
                continue
            group.create_dataset(_FIXED[0], data=fixed)
            # not compressed: a field shrinks by an eighth and costs two seconds per direction at 1 mm
            group.create_dataset(_PARAMETERS[0], data=parameters)


def _encode(part: Transform, path: Path) -> tuple[str, FloatArray | None, np.ndarray | None]:
    """ITK's type name, fixed parameters and parameters."""
    if isinstance(part, Affine):
        return "AffineTransform_double_3_3", np.zeros(3), affine_parameters(part)
    if not isinstance(part, Displacement):
        raise GeometryError(f"{path}: a {type(part).__name__} cannot be stored by ITK; sample it with to_displacement")
    check_itk_grid(part.grid, path)
    origin, spacing, direction = lps_geometry(part.grid)
    fixed = np.concatenate([part.grid.shape, origin, spacing, direction.ravel()]).astype(np.float64)
    vectors = part.vectors * np.array([-1, -1, 1], dtype=np.float32)
    return "DisplacementFieldTransform_double_3_3", fixed, vectors.transpose(2, 1, 0, 3).ravel()


def _read_part(group: h5py.Group, path: Path) -> Transform | None:
    """One stored transform; None for the composite's own entry."""
    kind = _type_name(group, path)
    if kind.startswith("CompositeTransform"):
        return None
    fixed, parameters = (_numbers(group, names, path) for names in (_FIXED, _PARAMETERS))
    if not kind.startswith("DisplacementFieldTransform"):
        return affine_from_itk(kind, parameters.astype(np.float64), fixed.astype(np.float64), path)
    fixed = fixed.astype(np.float64)
    if len(fixed) != 18 or not np.isfinite(fixed).all() or (fixed[:3] < 1).any():
        raise InputError(f"{path}: its displacement field has no valid geometry (18 fixed parameters); write it again")
    x, y, z = (int(n) for n in fixed[:3])
    if parameters.size != 3 * x * y * z:
        raise InputError(f"{path}: its displacement field has {parameters.size} values; {3 * x * y * z} are needed")
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    vectors = parameters.astype(np.float32).reshape(z, y, x, 3).transpose(2, 1, 0, 3)
    vectors = vectors * np.array([-1, -1, 1], dtype=np.float32)
    try:
        return Displacement(vectors, Grid((x, y, z), LPS @ affine))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from None


def _type_name(group: h5py.Group, path: Path) -> str:
    import h5py

    entry = group.get(_TYPE) if isinstance(group, h5py.Group) else None
    if not isinstance(entry, h5py.Dataset) or entry.size != 1:
        raise InputError(f"{path}: one of its transforms has no type; write the file again")
    value = np.ravel(entry[()])[0]
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _numbers(group: h5py.Group, names: tuple[str, ...], path: Path) -> np.ndarray:
    for name in names:
        if name in group:
            if group[name].size > 3 * MAX_VOXELS:
                raise InputError(f"{path}: its {name} has {group[name].size} values, too many; write the file again")
            values = np.ravel(group[name][()])
            if values.dtype.kind not in "fiu":
                break
            return values
    raise InputError(f"{path}: one of its transforms has no {names[0]}; write the file again")
