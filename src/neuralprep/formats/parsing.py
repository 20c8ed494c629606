"""Turning the text and numbers of transform files into checked arrays; every fault names the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from neuralprep.errors import GeometryError, InputError
from neuralprep.files import write_atomic
from neuralprep.grid import MAX_VALUE, FloatArray
from neuralprep.transform import Affine


def parse_numbers(words: str | Sequence[str], count: int, what: str, path: Path) -> FloatArray:
    """`count` finite numbers from text.

    Raises
    ------
    InputError
        Another number of words, or words that are no finite numbers.
    """
    words = words.split() if isinstance(words, str) else words
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise InputError(f"{path}: its {what} holds something that is no number; write the file again") from None
    if len(values) != count:
        raise InputError(f"{path}: its {what} holds {len(values)} numbers; {count} are needed (truncated?)")
    return checked_numbers(values, what, path)


def checked_numbers(values: FloatArray, what: str, path: Path) -> FloatArray:
    """The values, or an `InputError` if some are not finite or so large that the file must be damaged."""
    if not (np.abs(values) < MAX_VALUE).all():
        raise InputError(f"{path}: its {what} holds values that are not finite or absurdly large; write the file again")
    return values


def affine_of(matrix: ArrayLike, path: Path) -> Affine:
    """Affine from a matrix read from a file; a singular one is refused by the file's name."""
    try:
        return Affine(np.asarray(matrix, dtype=np.float64))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from None


def rows_text(matrix: ArrayLike) -> str:
    """A matrix as lines of text that read back to the same float64 values."""
    return "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in np.asarray(matrix))


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    write_atomic(path, [lambda: text.encode("utf-8")])
