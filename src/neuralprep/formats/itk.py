"""ITK transform files, as read and written by ANTs, SimpleITK and 3D Slicer.

ITK's world is LPS mm; ours is RAS mm: M_lps = D M_ras D with D = diag(-1, -1, 1, 1). An affine is stored as
y = A (x - c) + c + t, with c in the "fixed" parameters. Files hold pull-backs, as we do. Four kinds:

- affine as MATLAB level-4 file (.mat) or text (.txt, .tfm);
- displacement field as 5-D NIfTI with intent 1007 and LPS components;
- composite .h5, whose transforms are applied to points last to first.

Source: itkMatlabTransformIO, itkTxtTransformIO, itkHDF5TransformIO, itkDisplacementFieldTransform.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.files import open_source, read_text, write_atomic
from neuralprep.formats.parsing import affine_of, checked_numbers, parse_numbers, write_text
from neuralprep.grid import FloatArray, Grid
from neuralprep.nifti_io import VECTOR_INTENT, build_header
from neuralprep.transform import Affine, Displacement, Transform, compose
from neuralprep.volume import write_array
from neuralprep.voxels import read_vectors

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AFFINE = "AffineTransform_double_3_3"
_ITK_TEXT = "#Insight Transform File"
# MATLAB level 4: 1000 * byte order + 10 * number type
_MAT_TYPES = {0: "<f8", 10: "<f4", 1000: ">f8", 1010: ">f4"}
_DISPLACEMENT_VECTOR = 1006  # RAS components, as NIfTI means vectors


def read_affine(path: str | PathLike[str]) -> Affine:
    """Read an affine from .mat, .txt, .tfm or .h5 (several affines in a composite are multiplied).

    Returns
    -------
    Affine
        RAS mm, fixed -> moving.

    Raises
    ------
    InputError
        Malformed, not an ITK file, or it holds something that is not an affine.
    GeometryError
        The matrix is singular.
    """
    path = Path(path)
    if path.suffix.lower() in (".h5", ".hdf5"):
        from neuralprep.formats.itk_hdf5 import read_composite

        transform = read_composite(path)
        if not isinstance(transform, Affine):
            raise InputError(f"{path}: holds a warp, not an affine alone; read it with read_composite")
        return transform
    with open_source(path) as source:
        is_text = source.read(len(_ITK_TEXT)) == _ITK_TEXT.encode()
    return _read_text(path) if is_text else _read_matlab(path)


def write_affine(path: str | PathLike[str], affine: Affine) -> None:
    """Write an affine (RAS mm, fixed -> moving) as .mat, .txt, .tfm or .h5.

    Raises
    ------
    InputError
        Unknown ending, or the folder cannot be written to.
    """
    path = Path(path)
    ending = path.suffix.lower()
    parameters = affine_parameters(affine)
    if ending == ".mat":
        content = _matlab_matrix(_AFFINE, parameters) + _matlab_matrix("fixed", np.zeros(3))
        write_atomic(path, [lambda: content])
    elif ending in (".txt", ".tfm"):
        numbers = " ".join(repr(float(value)) for value in parameters)
        write_text(path, f"{_ITK_TEXT} V1.0\n#Transform 0\nTransform: {_AFFINE}\nParameters: {numbers}\n"
                         "FixedParameters: 0 0 0\n")
    elif ending in (".h5", ".hdf5"):
        from neuralprep.formats.itk_hdf5 import write_composite

        write_composite(path, affine)
    else:
        raise InputError(f"{path}: unknown ending for an ITK affine; write .mat, .txt, .tfm or .h5")


def read_field(path: str | PathLike[str]) -> Displacement:
    """Read a displacement field: 5-D NIfTI (X, Y, Z, 1, 3) with intent 1007 (LPS) or 1006 (RAS), mm.

    Raises
    ------
    InputError
        Not such a file.
    """
    path = Path(path)
    vectors, header = read_vectors(path)
    if header.intent not in (VECTOR_INTENT, _DISPLACEMENT_VECTOR):
        raise InputError(f"{path}: has intent code {header.intent}; an ITK displacement field has {VECTOR_INTENT}")
    if header.intent_name.startswith("velocity"):
        raise InputError(f"{path}: holds a velocity, no displacement; read it with read_transform")
    if header.intent == VECTOR_INTENT:
        vectors[..., :2] *= -1
    x, y, z = header.shape[:3]
    return Displacement(vectors, Grid((x, y, z), header.affine))


def write_field(path: str | PathLike[str], field: Displacement) -> None:
    """Write a displacement field as ITK and ANTs expect it (.nii or .nii.gz, float32, intent 1007, LPS components).

    Raises
    ------
    InputError
        Unknown ending, or a grid with sheared axes, which ITK cannot represent.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: a displacement field is written as .nii or .nii.gz")
    check_itk_grid(field.grid, path)
    dtype = np.dtype("<f4")
    header = build_header((*field.grid.shape, 1, 3), field.grid.affine, dtype, "other", "displacement (mm, LPS)",
                          VECTOR_INTENT)
    vectors = field.vectors * np.array([-1, -1, 1], dtype=np.float32)
    write_array(path, header, vectors, dtype)


def affine_parameters(affine: Affine) -> FloatArray:
    """ITK's 12 parameters (matrix row by row, translation) of a RAS affine, for the centre 0."""
    matrix = LPS @ affine.matrix @ LPS
    return np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]])


def affine_from_itk(kind: str, parameters: FloatArray, fixed: FloatArray, path: Path) -> Affine:
    """RAS affine from an ITK transform's type name and parameters.

    Raises
    ------
    InputError
        A type that is not linear or not supported, or a wrong number of parameters.
    """
    name = kind.split("_")[0]
    if name not in _LINEAR:
        known = ", ".join(_LINEAR)
        raise InputError(f"{path}: holds a {kind or 'nameless transform'}; supported are {known}")
    if not kind.endswith("_3_3"):
        raise InputError(f"{path}: holds a {kind}; a transform of three dimensions is needed")
    count = _LINEAR[name]
    if len(parameters) != count or len(fixed) not in (0, 3, 4):
        raise InputError(f"{path}: its {name} has {len(parameters)} parameters and {len(fixed)} fixed ones; "
                         f"{count} and 3 are needed (truncated?)")
    checked_numbers(np.concatenate([parameters, fixed]), "parameters", path)
    center = fixed[:3] if len(fixed) else np.zeros(3)
    linear, translation = np.eye(3), np.zeros(3)
    if name in ("AffineTransform", "MatrixOffsetTransformBase"):
        linear, translation = parameters[:9].reshape(3, 3), parameters[9:]
    elif name == "TranslationTransform":
        translation = parameters
    elif name != "IdentityTransform":
        linear, translation = _rotation(name, parameters, fixed), parameters[3:6]
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = translation + center - linear @ center
    return affine_of(LPS @ matrix @ LPS, path)


# linear transform -> number of parameters
_LINEAR = {"AffineTransform": 12, "MatrixOffsetTransformBase": 12, "TranslationTransform": 3, "IdentityTransform": 0,
           "Euler3DTransform": 6, "VersorRigid3DTransform": 6, "Similarity3DTransform": 7}


def _rotation(name: str, parameters: FloatArray, fixed: FloatArray) -> FloatArray:
    from scipy.spatial.transform import Rotation

    if name == "Euler3DTransform":
        # Rz Rx Ry by default, Rz Ry Rx if the fourth fixed parameter is set.
        zyx = len(fixed) == 4 and fixed[3] != 0
        x, y, z = parameters[:3]
        return np.asarray((Rotation.from_euler("ZYX", [z, y, x]) if zyx else Rotation.from_euler("ZXY", [z, x, y]))
                          .as_matrix())
    vector = parameters[:3]
    length = float(vector @ vector)
    versor = Rotation.from_quat([*vector, np.sqrt(max(0.0, 1 - length))])
    scale = parameters[6] if name == "Similarity3DTransform" else 1.0
    return np.asarray(versor.as_matrix()) * scale


def check_itk_grid(grid: Grid, path: Path) -> None:
    """Refuse a grid whose axes are not at right angles.

    Raises
    ------
    InputError
        ITK has no way to store it.
    """
    axes = grid.affine[:3, :3] / grid.spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
        raise InputError(f"{path}: the grid has sheared axes, which ITK cannot store; sample the warp on another grid")


def lps_geometry(grid: Grid) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Origin (3,), spacing (3,) and direction (3, 3) of a grid, LPS mm."""
    affine = LPS @ grid.affine
    spacing = np.array(grid.spacing)
    return affine[:3, 3], spacing, affine[:3, :3] / spacing


def in_point_order(stored: Sequence[Transform]) -> Transform:
    """Transform of a composite from its stored list, which ITK applies last to first."""
    return compose(*reversed(stored))


def _read_text(path: Path) -> Affine:
    parts: list[Transform] = []
    kinds = []
    fields: dict[str, str] = {}
    for line in [*read_text(path).splitlines(), "Transform: end"]:
        key, colon, value = line.partition(":")
        if not colon or line.startswith("#"):
            continue
        if key == "Transform" and fields:
            kind = fields.pop("Transform", "")
            kinds.append(kind)
            if not kind.startswith("CompositeTransform"):
                parts.append(affine_from_itk(kind, _row(fields, "Parameters", path),
                                             _row(fields, "FixedParameters", path), path))
            fields = {}
        fields[key] = value.strip()
    if len(parts) > 1 and not kinds[0].startswith("CompositeTransform"):
        raise InputError(f"{path}: lists {len(parts)} transforms without saying how they combine; write a composite")
    if not parts:
        raise InputError(f"{path}: holds no transform; write the file again")
    transform = in_point_order(parts)
    assert isinstance(transform, Affine)
    return transform


def _row(fields: dict[str, str], name: str, path: Path) -> FloatArray:
    words = fields.get(name, "").split()
    return parse_numbers(words, len(words), name, path)


def _read_matlab(path: Path) -> Affine:
    with open_source(path) as source:
        raw = source.read(1 << 16)
    matrices: dict[str, NDArray] = {}
    position = 0
    while position < len(raw):
        name, values, position = _next_matrix(raw, position, path)
        matrices[name] = values
    fixed = matrices.pop("fixed", None)
    if fixed is None or len(matrices) != 1:
        names = ", ".join(matrices) or "none"
        raise InputError(f"{path}: holds the matrices {names}; an ITK affine has one and 'fixed'")
    (kind, parameters), = matrices.items()
    return affine_from_itk(kind, parameters, fixed, path)


def _next_matrix(raw: bytes, position: int, path: Path) -> tuple[str, FloatArray, int]:
    """Name and values of the MATLAB level-4 matrix at a position, and where the next one starts."""
    fault = InputError(f"{path}: is not an ITK affine file (MATLAB level 4 or '{_ITK_TEXT}'), or is truncated")
    if len(raw) < position + 20:
        raise fault
    little = struct.unpack_from("<5i", raw, position)
    fields = little if little[0] in (0, 10) else struct.unpack_from(">5i", raw, position)
    kind, rows, columns, imaginary, name_length = fields
    if kind not in _MAT_TYPES or imaginary or not (0 <= rows < 10**4 and columns == 1 and 0 < name_length < 256):
        raise fault
    dtype = np.dtype(_MAT_TYPES[kind])
    start = position + 20 + name_length
    end = start + rows * dtype.itemsize
    if end > len(raw):
        raise fault
    name = raw[position + 20:start].rstrip(b"\0").decode("ascii", "replace")
    return name, np.frombuffer(raw[start:end], dtype).astype(np.float64), end


def _matlab_matrix(name: str, values: FloatArray) -> bytes:
    title = name.encode() + b"\0"
    return struct.pack("<5i", 0, len(values), 1, 0, len(title)) + title + values.astype("<f8").tobytes()
