"""Which number of a label map is which class: the default numbering, and a user's own table of it.

The default joins what SynthSeg's and SynthStrip's training maps, FreeSurfer (aseg, aparc+aseg, samseg's head labels)
and lab2im use. A table is tab-separated text with the columns ``label`` and ``class``; its rows come on top of the
default, so it lists only what differs.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from neuralprep.errors import InputError
from neuralprep.synthesis.classes import FREESURFER, INDEX

READABLE: tuple[str, ...] = tuple(name for name, index in INDEX.items() if index in set(FREESURFER.values()))
"""Classes that a label map can hold; further ones are derived when a head is loaded."""

_FURTHER: dict[str, tuple[int, ...]] = {
    # In the order of FreeSurfer's colour table; 900s are its head labels, 400 above those of the whole-head maps.
    "air": (130, 262, 501),
    "cerebral_gm": (19, 20, 29, 55, 56, 61, *range(1000, 1036), *range(2000, 2036), *range(11100, 11176), 11300,
                    *range(12100, 12176), 12300),
    "cerebral_wm": (34, 66, 78, 79, 192, 250, *range(3000, 3036), *range(4000, 4036), 5001, 5002),
    "striatum": (80, 81, 82),
    "cerebellar_gm": (171, 172, 179, 183, 184, *range(601, 629)),
    "brainstem": (27, 59, 170, 173, 174, 175, 178, 267),
    "ventricle": (31, 63),
    "csf": (122, 257, 520),
    "wm_lesion": (99,),
    "artery": (902,),
    "vein": (914,),
    "eye": (134, 259, 906),
    "eye_muscle": (908,),
    "optic_nerve": (128, 930),
    "soft_tissue": (119, 120, 123, 124, 125, 127, 131, 132, 258, 907),
    "mucosa": (133, 909),
    "skin": (118, 911),
    "cord": (126, 912),
    "cortical_bone": (121, 129, 135, 165, 915),
    "cancellous_bone": (916,),
}

DEFAULT: Mapping[int, int] = MappingProxyType(
    {**{number: INDEX[name] for name, numbers in _FURTHER.items() for number in numbers}, **FREESURFER}
)
"""Label number -> class index."""

_STAND_IN: Mapping[int, int] = MappingProxyType(
    # the first number of each class, but the thalamus by the number that FreeSurfer uses today
    {**{index: number for number, index in reversed(list(FREESURFER.items()))}, INDEX["thalamus"]: 10}
)


def read_table(path: Path) -> dict[int, int]:
    """The default table with the rows of a file on top.

    Raises
    ------
    InputError
        The file is missing, has other columns, repeats a label, or names an unknown class.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; it needs the tab-separated columns label and class")
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        names = reader.fieldnames or ()
        if not {"label", "class"} <= set(names):
            raise InputError(f"{path}: the tab-separated columns label and class are needed; found {', '.join(names)}")
        rows = list(reader)
    table: dict[int, int] = {}
    for line, row in enumerate(rows, 2):
        label, name = (row["label"] or "").strip(), (row["class"] or "").strip()
        if not label.isdecimal():
            raise InputError(f"{path}, line {line}: label '{label}' is not a whole number")
        if int(label) in table:
            raise InputError(f"{path}, line {line}: label {label} is listed twice")
        if name not in READABLE:
            raise InputError(f"{path}, line {line}: class '{name}' is unknown; choose one of {', '.join(READABLE)}")
        table[int(label)] = INDEX[name]
    return {**DEFAULT, **table}


def unknown_labels(numbers: np.ndarray, table: Mapping[int, int]) -> dict[int, int]:
    """Numbers of a label map that a table does not have, with their voxel counts."""
    found, counts = np.unique(numbers, return_counts=True)
    return {int(n): int(count) for n, count in zip(found, counts, strict=True) if int(n) not in table}


def check_labels(maps: Iterable[tuple[Path, np.ndarray]], table: Mapping[int, int]) -> None:
    """Refuse label maps with numbers that a table does not have.

    Raises
    ------
    InputError
        Lists every unknown number with its voxels and in how many maps it occurs, or names a map whose values are
        not whole.
    """
    voxels: Counter[int] = Counter()
    files: Counter[int] = Counter()
    first: Path | None = None
    for path, numbers in maps:
        if np.issubdtype(numbers.dtype, np.floating) and not np.array_equal(numbers, np.rint(numbers)):
            raise InputError(f"{path}: holds values that are not whole numbers; give a label map, not an image")
        unknown = unknown_labels(numbers, table)
        first = first or (path if unknown else None)
        voxels.update(unknown)
        files.update(unknown.keys())
    if voxels:
        listed = ", ".join(f"{n} ({voxels[n]} voxels in {files[n]} maps)" for n in sorted(voxels)[:30])
        more = f" and {len(voxels) - 30} more" if len(voxels) > 30 else ""
        raise InputError(f"{first}: unknown labels {listed}{more}; name their classes in a table and give it (--table)")


def freesurfer_numbers(numbers: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """A label map in the numbering of :data:`neuralprep.synthesis.classes.FREESURFER`.

    Parameters
    ----------
    numbers
        (X, Y, Z) whole numbers, all in the table.
    table
        Label number -> class index.

    Returns
    -------
    (X, Y, Z) int32
        Numbers that mean the same in both stay; others become a number of the same class.
    """
    found, position = np.unique(numbers, return_inverse=True)
    known = [int(n) if FREESURFER.get(int(n)) == table[int(n)] else _STAND_IN[table[int(n)]] for n in found]
    return np.array(known, np.int32)[position].reshape(numbers.shape)
