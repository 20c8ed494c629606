"""Label maps from files, and named groups of labels from text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuralprep.errors import InputError
from neuralprep.volume import Volume, load

#: the largest whole number up to which float32, in which images are read, holds every whole number
_LARGEST = 1 << 24
_SHOWN = 5


def read_labels(path: Path) -> Volume:
    """Read a label map.

    Returns
    -------
    Volume
        int32.

    Raises
    ------
    InputError
        Unreadable, or values that are no labels: fractions, negative, or above 2^24.
    """
    volume = load(path, checks=False)
    rounded = np.rint(volume.data)
    broken = volume.data[volume.data != rounded]
    if broken.size:
        shown = ", ".join(f"{value:g}" for value in np.unique(broken)[:_SHOWN])
        raise InputError(
            f"{path}: holds values that are no whole numbers ({shown}), so it is no label map; if it was resampled, do "
            "that again with nearest-neighbour interpolation"
        )
    if rounded.min() < 0 or rounded.max() > _LARGEST:
        raise InputError(
            f"{path}: holds values from {rounded.min():g} to {rounded.max():g}; labels are whole numbers from 0 to "
            f"{_LARGEST}"
        )
    return volume.with_data(rounded.astype(np.int32))


def parse_regions(text: str) -> dict[str, tuple[int, ...]]:
    """Named groups of labels: ``"WT=1,2,3;ET=3"`` -> ``{"WT": (1, 2, 3), "ET": (3,)}``.

    Raises
    ------
    InputError
        Malformed, a name twice, no label, or a label that is no whole number from 1.
    """
    regions: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, numbers = (piece.strip() for piece in part.partition("="))
        members = [number.strip() for number in numbers.split(",")]
        if not equals or not name or not all(number.isdecimal() and int(number) > 0 for number in members):
            raise InputError(f"{part!r} is no region; write NAME=LABEL,LABEL with whole numbers from 1")
        if name in regions:
            raise InputError(f"region {name} is given twice in {text!r}; give it once")
        regions[name] = tuple(dict.fromkeys(int(number) for number in members))
    if not regions:
        raise InputError("the list of regions is empty; write NAME=LABEL,LABEL;NAME=LABEL")
    return regions
