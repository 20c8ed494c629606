"""What HDF5 files of any kind must keep to before their data sets are read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.errors import InputError
from neuralprep.files import expands_too_far

if TYPE_CHECKING:
    import h5py

# HDF5's numbers of the two filters that change no size: byte shuffle and checksum.
_SAME_SIZE = (2, 3)


def check_expansion(groups: Iterable[object], names: Iterable[str], path: Path) -> None:
    """Refuse data sets that would expand without bound, before any of them is read.

    Parameters
    ----------
    groups : iterable of h5py.Group
        Whose data sets will be read; anything else in it is passed over.
    names : iterable of str
        Names of these data sets below a group; those it lacks are passed over.
    path : Path
        The file, for the message and for its size on disk.

    Raises
    ------
    InputError
        All of them together are much larger than the file, or one is compressed more than once.
    """
    import h5py

    names, needed = tuple(names), 0
    for group in groups:
        if not isinstance(group, h5py.Group):
            continue
        for name in names:
            entry = group.get(name)
            if isinstance(entry, h5py.Dataset):  # two names of one data set count twice: it is read twice
                needed += _expanded_bytes(entry)
                _check_filters(entry, path)
    size = path.stat().st_size
    if expands_too_far(size, needed):
        raise InputError(f"{path}: its {size} bytes would expand to {needed}, which no transform does; it is damaged "
                         "or holds next to nothing, write it again, without compression if it has to be so")


def _expanded_bytes(entry: h5py.Dataset) -> int:
    """Bytes in memory; at least one chunk, which is expanded as a whole."""
    values = max(math.prod(shape) for shape in (entry.shape, entry.chunks) if shape is not None) if entry.size else 0
    return int(values * entry.dtype.itemsize)


def _check_filters(entry: h5py.Dataset, path: Path) -> None:
    """One compression shrinks a thousandfold at most; of two, the outer hides from the header what comes out."""
    stored = entry.id.get_create_plist()
    filters = [stored.get_filter(number)[0] for number in range(stored.get_nfilters())]
    if sum(number not in _SAME_SIZE for number in filters) > 1:
        raise InputError(f"{path}: its {entry.name} is compressed more than once; write it again, compressed once")
