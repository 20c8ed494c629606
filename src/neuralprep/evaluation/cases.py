"""Cases of an evaluation: which result belongs to which truth, and both on one grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuralprep.errors import InputError
from neuralprep.resample import resample
from neuralprep.volume import Volume, load

IMAGE_ENDINGS = (".nii", ".nii.gz", ".mgh", ".mgz")
SAME_PLACE_MM = 0.1
"""Grids whose corners differ by less than this are one grid: headers are rounded."""
_SHOWN = 5
_CONTRASTS = {
    "T1c": "T1c", "ceT1w": "T1c", "T1w": "T1w", "T1fl2d": "T1w", "T1": "T1w", "T2w": "T2w", "T2": "T2w",
    "FLAIR": "FLAIR", "PDw": "PDw", "PD": "PDw", "CT": "CT",
}


@dataclass(frozen=True)
class Pair:
    """Two files of one case."""

    name: str
    prediction: Path
    truth: Path


def pair_files(
    prediction: Path,
    truth: Path,
    *,
    key: str | None = None,
    endings: Sequence[str] = IMAGE_ENDINGS,
    skip_missing: bool = False,
) -> list[Pair]:
    """Pair two files, or the files of two folders by their names.

    Parameters
    ----------
    prediction, truth
        Two files, or two folders.
    key
        Regular expression that finds the case in a file's name (the first group, or the whole match); None takes the
        whole name without its ending.
    endings
        Endings of the files that count, in lower case.
    skip_missing
        Leave out files without a partner instead of refusing.

    Returns
    -------
    list of Pair
        In order of name.

    Raises
    ------
    InputError
        A missing path, a file against a folder, names without a partner, two files of one name, or no pair at all.
    """
    for path in (prediction, truth):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    if prediction.is_dir() != truth.is_dir():
        raise InputError(f"{prediction} and {truth}: one is a folder and the other a file; give two of a kind")
    if not truth.is_dir():
        return [Pair(case_name(prediction, key, endings), prediction, truth)]
    found, wanted = files_by_case(prediction, key, endings), files_by_case(truth, key, endings)
    common = sorted(found.keys() & wanted.keys())
    lonely = [f"{found[name].name} (no truth)" for name in sorted(found.keys() - wanted.keys())]
    lonely += [f"{wanted[name].name} (no result)" for name in sorted(wanted.keys() - found.keys())]
    if not common:
        raise InputError(
            f"{prediction} and {truth}: no two files have the same name (for example {', '.join(lonely[:2])}); "
            "rename them, or give --key with a regular expression that finds the case in a name"
        )
    if lonely and not skip_missing:
        more = f" and {len(lonely) - _SHOWN} more" if len(lonely) > _SHOWN else ""
        raise InputError(
            f"{prediction} and {truth}: {len(lonely)} files have no partner: {', '.join(lonely[:_SHOWN])}{more}; "
            "add or remove them, or give --skip-missing"
        )
    return [Pair(name, found[name], wanted[name]) for name in common]


def unpaired_files(
    prediction: Path, truth: Path, *, key: str | None = None, endings: Sequence[str] = IMAGE_ENDINGS
) -> dict[str, str]:
    """Case to fault for every file of two folders that has no partner in the other, in order of name.

    Raises
    ------
    InputError
        Two files of one name, or a folder without files.
    """
    found, wanted = files_by_case(prediction, key, endings), files_by_case(truth, key, endings)
    faults = {name: f"{path}: has no truth in {truth}" for name, path in found.items() if name not in wanted}
    faults |= {name: f"{path}: has no result in {prediction}" for name, path in wanted.items() if name not in found}
    return dict(sorted(faults.items()))


def partner(case: str, source: Path, key: str | None = None, endings: Sequence[str] = IMAGE_ENDINGS) -> Path:
    """The file of a case: `source` itself if it is a file, else the one in the folder that has the case's name.

    Raises
    ------
    InputError
        No such path, or no file for the case in the folder.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; check the path")
    if not source.is_dir():
        return source
    found = files_by_case(source, key, endings)
    if case not in found:
        raise InputError(f"{source}: holds no file for {case}; add it, or leave the case out")
    return found[case]


def case_name(path: Path, key: str | None = None, endings: Sequence[str] = IMAGE_ENDINGS) -> str:
    """Name of the case that a file belongs to; see `pair_files`.

    Raises
    ------
    InputError
        The expression is malformed or finds nothing in the name.
    """
    ending = max((e for e in endings if path.name.lower().endswith(e)), key=len, default="")
    name = path.name[: len(path.name) - len(ending)]
    if key is None:
        return name
    try:
        match = re.search(key, name)
    except re.error as error:
        raise InputError(f"--key {key!r} is no regular expression ({error})") from None
    if match is None:
        raise InputError(f"{path}: --key {key!r} finds no case in its name; correct the expression")
    return match.group(1) if match.groups() else match.group()


def files_by_case(
    folder: Path, key: str | None = None, endings: Sequence[str] = IMAGE_ENDINGS
) -> dict[str, Path]:
    """The files of a folder by the name of their case, in order of name; see `pair_files`.

    Raises
    ------
    InputError
        No file with such an ending, or two files of one case.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or not path.name.lower().endswith(tuple(endings)):
            continue
        name = case_name(path, key, endings)
        if name in found:
            raise InputError(f"{path} and {found[name]}: both belong to the case {name}; keep one of them")
        found[name] = path
    if not found:
        raise InputError(f"{folder}: holds no file that ends in {', '.join(endings)}; check the folder")
    return found


def contrast(name: str) -> str:
    """Contrast that a scan's name states as BIDS does (a part ``T1w``, ``FLAIR``, ...); ``?`` if it states none."""
    for token, kind in _CONTRASTS.items():
        if re.search(rf"(^|_){token}(_|$)", name, re.IGNORECASE):
            return kind
    return "?"


def on_one_grid(prediction: Volume, truth: Volume, *, carry: bool = False, order: int = 0) -> Volume:
    """The prediction on the truth's grid.

    Axes that are merely permuted or flipped are brought into order by slicing. Anything else changes values and is
    done only if `carry` says so.

    Parameters
    ----------
    prediction, truth
        Volumes.
    carry
        Resample where the grids differ.
    order
        0 for masks and labels (nearest neighbour), 1 for images (linear).

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        The grids differ and `carry` is False.
    """
    if prediction.grid.same_as(truth.grid, tol_mm=SAME_PLACE_MM):
        return prediction
    turned = prediction.oriented(truth.grid.axis_codes)
    if turned.grid.same_as(truth.grid, tol_mm=SAME_PLACE_MM):
        return turned
    if not carry:
        raise InputError(
            f"{_label(prediction)} and {_label(truth)}: their grids differ "
            f"({_grid_text(prediction)} against {_grid_text(truth)}); bring them to one grid, or give --resample"
        )
    return resample(prediction, truth.grid, order=order)


def read_mask(path: Path, threshold: float | None = None) -> Volume:
    """A mask file as a boolean volume: what is not zero, or what is above a threshold.

    Raises
    ------
    InputError
        Unreadable, or values that need a threshold (some are neither 0 nor 1 nor whole numbers).
    """
    volume = load(path, checks=False)
    data = volume.data
    if threshold is None and not np.array_equal(np.rint(data), data):
        raise InputError(f"{path}: holds fractions, so it is no mask yet; give --threshold (0.5 for probabilities)")
    return volume.with_data(data > threshold if threshold is not None else data != 0)


def _label(volume: Volume) -> str:
    return str(volume.source or "volume")


def _grid_text(volume: Volume) -> str:
    shape = " x ".join(map(str, volume.grid.shape))
    spacing = " x ".join(f"{s:.3g}" for s in volume.grid.spacing)
    center = ", ".join(f"{c:.1f}" for c in volume.grid.center)
    return f"{shape} voxels of {spacing} mm around ({center})"
