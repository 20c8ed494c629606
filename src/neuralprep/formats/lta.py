"""FreeSurfer linear transform arrays (.lta) with one affine.

The stored matrix takes points of the ``src`` volume (moving) to points of the ``dst`` volume (fixed), in scanner RAS mm
(type 1) or in voxels (type 0): the other direction from our pull-backs. Type 1 is written.
Source: FreeSurfer transform.cpp (LTAread, LTAchangeType), as described in its wiki and implemented by nitransforms for
reading. Note that nitransforms *writes* the two geometry blocks the other way round.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from neuralprep.errors import InputError
from neuralprep.files import read_text
from neuralprep.formats.parsing import affine_of, parse_numbers, rows_text, write_text
from neuralprep.grid import FloatArray, Grid
from neuralprep.transform import Affine

_VOXEL, _RAS = 0, 1


def read_lta(path: str | PathLike[str]) -> Affine:
    """Read an LTA of type 0 or 1 as a pull-back.

    Returns
    -------
    Affine
        RAS mm, fixed (dst) -> moving (src).

    Raises
    ------
    InputError, GeometryError
        Malformed, of another type, more than one transform, or voxel-based without valid geometry.
    """
    path = Path(path)
    lines = [line.split("#")[0].strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    kind = _integer(_value(lines, "type", path), "type", path)
    if kind not in (_VOXEL, _RAS):
        raise InputError(f"{path}: is an LTA of type {kind}; only 0 (voxel) and 1 (RAS) are supported, "
                         "convert it with lta_convert")
    count = _integer(_value(lines, "nxforms", path), "nxforms", path)
    if count != 1:
        raise InputError(f"{path}: holds {count} transforms; only one is supported, split it with lta_convert")
    if "1 4 4" not in lines:
        raise InputError(f"{path}: has no '1 4 4' line before its matrix; write the file again")
    start = lines.index("1 4 4") + 1
    matrix = parse_numbers(" ".join(lines[start:start + 4]), 16, "matrix", path).reshape(4, 4)
    if kind == _VOXEL:
        source, target = (_read_geometry(lines, name, path) for name in ("src", "dst"))
        matrix = target @ matrix @ np.linalg.inv(source)
    return affine_of(matrix, path).inverse()


def write_lta(path: str | PathLike[str], affine: Affine, fixed: Grid, moving: Grid) -> None:
    """Write a pull-back (RAS mm, fixed -> moving) as an LTA of type 1 with the geometry of both images."""
    header = "type      = 1 # LINEAR_RAS_TO_RAS\nnxforms   = 1\nmean      = 0.0 0.0 0.0\nsigma     = 1.0\n1 4 4\n"
    write_text(Path(path), header + rows_text(affine.inverse().matrix) + "src volume info\n" + _geometry_text(moving)
               + "dst volume info\n" + _geometry_text(fixed))


def _value(lines: list[str], key: str, path: Path, start: int = 0) -> str:
    for line in lines[start:]:
        name, equals, value = line.partition("=")
        if equals and name.strip() == key:
            return value.strip()
    raise InputError(f"{path}: has no '{key} =' line; it is no LTA file or is truncated")


def _integer(text: str, what: str, path: Path) -> int:
    return int(parse_numbers(text, 1, what, path)[0])


def _read_geometry(lines: list[str], name: str, path: Path) -> FloatArray:
    """Voxel -> RAS mm of the ``src`` or ``dst`` volume."""
    title = f"{name} volume info"
    if title not in lines:
        raise InputError(f"{path}: has no '{title}' block, which a voxel-based LTA needs; convert it with lta_convert")
    start = lines.index(title)
    if _integer(_value(lines, "valid", path, start), f"{name} valid flag", path) != 1:
        raise InputError(f"{path}: its {name} volume geometry is marked invalid; convert it with lta_convert")
    sizes, spacing, x, y, z, center = (
        parse_numbers(_value(lines, key, path, start), 3, f"{name} {key}", path)
        for key in ("volume", "voxelsize", "xras", "yras", "zras", "cras"))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([x, y, z], axis=1) * spacing
    matrix[:3, 3] = center - matrix[:3, :3] @ (sizes / 2)
    return affine_of(matrix, path).matrix


def _geometry_text(grid: Grid) -> str:
    spacing = np.array(grid.spacing)
    directions = grid.affine[:3, :3] / spacing
    center = grid.voxel_to_world(np.array(grid.shape) / 2)
    lines = ["valid = 1  # volume info valid", "filename = unknown", f"volume = {' '.join(map(str, grid.shape))}"]
    named = zip(("voxelsize", "xras", "yras", "zras", "cras"), (spacing, *directions.T, center), strict=True)
    lines += [f"{key:<6} = {' '.join(repr(float(number)) for number in values)}" for key, values in named]
    return "\n".join(lines) + "\n"
