"""Plain 4x4 matrices: four lines of four numbers, RAS mm, fixed -> moving. Lines starting with # are comments."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from neuralprep.files import read_text
from neuralprep.formats.parsing import affine_of, parse_numbers, rows_text, write_text
from neuralprep.transform import Affine


def read_matrix(path: str | PathLike[str]) -> Affine:
    """Read a plain 4x4 matrix.

    Raises
    ------
    InputError
        Not 16 finite numbers.
    GeometryError
        The matrix is singular or its last row is not 0 0 0 1.
    """
    path = Path(path)
    lines = [line for line in read_text(path).splitlines() if not line.lstrip().startswith("#")]
    words = " ".join(lines).replace(",", " ")
    return affine_of(parse_numbers(words, 16, "matrix", path).reshape(4, 4), path)


def write_matrix(path: str | PathLike[str], affine: Affine) -> None:
    """Write a plain 4x4 matrix (RAS mm, fixed -> moving)."""
    write_text(Path(path), rows_text(affine.matrix))
