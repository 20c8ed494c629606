"""X5 files (the HDF5 format drafted for BIDS), through nitransforms: one affine, or one displacement field.

Stored are pull-backs in RAS mm, as ours.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from neuralprep.errors import GeometryError, InputError
from neuralprep.files import atomic_path, open_source
from neuralprep.formats.afni import nitransforms_io
from neuralprep.formats.hdf5 import check_expansion
from neuralprep.formats.parsing import affine_of
from neuralprep.grid import Grid
from neuralprep.transform import Affine, Displacement

#: data sets that nitransforms reads of each transform
_READ = ("Transform", "DimensionKinds", "Inverse", "Jacobian", "AdditionalParameters", "Domain/Grid", "Domain/Size",
         "Domain/Mapping")


def read_x5(path: str | PathLike[str]) -> Affine | Displacement:
    """Read an X5 file that holds one transform.

    Raises
    ------
    InputError, GeometryError
        No X5 file, another number or kind of transforms, values that make no transform, a small file that would expand
        to very much, or nitransforms is missing.
    """
    import h5py

    path = Path(path)
    with open_source(path):  # for its messages
        pass
    x5 = nitransforms_io(str(path)).x5
    try:
        with h5py.File(path, "r") as file:
            check_expansion(file["TransformGroup"].values(), _READ, path)
        stored = x5.from_filename(path)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: is not a readable X5 file ({error}); write it again") from None
    if len(stored) != 1:
        raise InputError(f"{path}: holds {len(stored)} transforms; only files with one are read")
    one = stored[0]
    values = np.asarray(one.transform)
    if values.dtype.kind not in "fiu":
        raise InputError(f"{path}: its transform holds no numbers; write the file again")
    if one.type == "linear":
        if values.reshape(-1).size != 16:
            raise InputError(f"{path}: its affine has {values.size} numbers; 16 are needed")
        return affine_of(values.reshape(4, 4), path)
    if one.type != "nonlinear" or one.representation != "displacements" or one.domain is None:
        kind = " ".join(filter(None, (one.type, one.representation)))
        raise InputError(f"{path}: holds a transform of kind '{kind}'; affines and displacements are read")
    try:
        x, y, z = (int(n) for n in one.domain.size)
        return Displacement(values, Grid((x, y, z), one.domain.mapping))
    except (GeometryError, ValueError) as error:
        raise GeometryError(f"{path}: {error}") from None


def write_x5(path: str | PathLike[str], affine: Affine, fixed: Grid) -> None:
    """Write a pull-back (RAS mm, fixed -> moving) with the fixed image's grid as its domain.

    Raises
    ------
    InputError
        nitransforms is not installed, or the folder cannot be written to.
    """
    x5 = nitransforms_io(str(path)).x5
    domain = x5.X5Domain(grid=True, size=fixed.shape, mapping=np.array(fixed.affine), coordinates="cartesian")
    node = x5.X5Transform(
        type="linear", transform=np.array(affine.matrix), dimension_kinds=("space", "space", "space", "vector"),
        domain=domain, inverse=affine.inverse().matrix,
    )  # fmt: skip
    with atomic_path(Path(path)) as temporary:
        x5.to_filename(temporary, [node])
