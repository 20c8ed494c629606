"""From template space back to the scan: where an image of a run came from, and label maps on another grid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from neuralprep.bids.derivatives import BY_OUTPUT, QUALITY, TABLE, Derivative, ScanName
from neuralprep.bids.layout import Home, home_in
from neuralprep.engine.record import read_quality
from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.headers import check_affine, check_readable
from neuralprep.resample import resample, resample_labels
from neuralprep.transform import Affine
from neuralprep.volume import Volume
from neuralprep.voxels import read_header

Interpolation = Literal["vote", "nearest"]


@dataclass(frozen=True, eq=False)
class Origin:
    """The scan that an image in template space was made from.

    Attributes
    ----------
    scan
        Name of the scan.
    space
        Template space of the image.
    transform
        Its ``from-native_to-<space>`` matrix, template mm -> scan mm.
    native
        Grid of the scan.
    """

    scan: str
    space: str
    transform: Path
    native: Grid


def header_grid(path: Path) -> Grid:
    """Grid of an image file, from its header alone.

    Raises
    ------
    InputError
        Unreadable, or not one volume of three dimensions.
    """
    header, _ = read_header(path)
    check_readable(header, path)
    if header.frames > 1:
        raise InputError(f"{path}: has {header.frames} frames; a channel is one volume, so split them into files")
    check_affine(header.affine, path)
    return Grid(header.shape[:3], header.affine)  # type: ignore[arg-type]


def find_origin(image: Path) -> Origin | None:
    """Where an image in template space came from, if `neuralprep run` made it and its transform is still beside it.

    Parameters
    ----------
    image
        A file; if it is no output of a run, or one on the scan's own grid, it has no origin.
    """
    for scan, home in _scans_in(image.parent):
        content, name = read_quality(home.quality), home.files
        spaces = (_space_in(image.name, row, name) for row in TABLE if row.in_template)
        space = next((s for s in spaces if s), None) if content else None
        if content is None or space is None:
            continue
        transform = home.folder / f"{name.stem(BY_OUTPUT['template_from_scan'], space)}.txt"
        native = _native_grid(home.folder, name, space, Path(str(content.get("source", ""))))
        return Origin(scan, space, transform, native) if transform.is_file() and native is not None else None
    return None


def _scans_in(folder: Path) -> list[tuple[str, Home]]:
    """Names and places of the scans whose outputs lie in a folder: its own, or those of a visit that share it."""
    own = home_in(folder.parent, folder.name)
    if own.quality.is_file():
        return [(folder.name, own)]
    names = sorted(path.name.removesuffix(f"_{QUALITY}") for path in folder.glob(f"*_{QUALITY}"))
    return [(name, Home(folder, ScanName.of(name, shared=True))) for name in names]


def carry_labels(
    labels: Volume, grid: Grid, transform: Affine | None = None, interpolation: Interpolation = "vote"
) -> Volume:
    """Carry a label map onto a grid.

    Only the part of the grid that the labels reach is computed.

    Parameters
    ----------
    labels
        Integers.
    grid
        Where to.
    transform
        Pull-back, points of `grid`'s world (mm) -> points of the label map's world (mm); None is the identity.
    interpolation
        "vote" (`neuralprep.resample.resample_labels`) leaves edges smoother and nearer to the truth than "nearest".
        Where both grids have the same voxels, values are copied in either case.

    Returns
    -------
    Volume
        int32 on `grid`; 0 beyond the label map.
    """
    transform = transform or Affine.identity()
    whole = labels.with_data(np.asarray(labels.data, np.int32))
    start, stop = _reach(whole, grid, transform)
    out = np.zeros(grid.shape, np.int32)
    if not all(a < b for a, b in zip(start, stop, strict=True)):
        return Volume(out, grid, labels.source)
    part = grid.cropped(start, stop)
    made = resample_labels(whole, part, transform) if interpolation == "vote" else resample(whole, part, transform, 0)
    out[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = made.data
    return Volume(out, grid, labels.source)


def _reach(labels: Volume, grid: Grid, transform: Affine) -> tuple[list[int], list[int]]:
    """Voxel box of `grid` that the labels can reach (start, stop); empty (start = stop) if they reach none of it."""
    where = np.argwhere(labels.data > 0)
    if not len(where):
        return [0, 0, 0], [0, 0, 0]
    ends = zip(where.min(0) - 1, where.max(0) + 1, strict=True)
    corners = labels.grid.voxel_to_world(np.array(list(product(*ends)), float))
    voxels = grid.world_to_voxel(transform.inverse().apply(corners))
    start = np.clip(np.floor(voxels.min(0)) - 1, 0, grid.shape).astype(int)
    stop = np.clip(np.ceil(voxels.max(0)) + 2, start, grid.shape).astype(int)
    return start.tolist(), stop.tolist()


def _space_in(file_name: str, row: Derivative, name: ScanName) -> str | None:
    """Space that a file name states, if it is the name of this output."""
    if row.kind == "xfm":
        return None
    pattern = re.escape(f"{name.stem(row, '@')}.nii.gz").replace("@", "([A-Za-z0-9]+)")
    match = re.fullmatch(pattern, file_name)
    return match.group(1) if match else None


def _native_grid(folder: Path, name: ScanName, space: str, source: Path) -> Grid | None:
    """Grid of the scan: of any output on it, else of the scan itself."""
    rows = (row for row in TABLE if row.kind != "xfm" and not row.in_template)
    candidates = [folder / f"{name.stem(row, space)}.nii.gz" for row in rows]
    path = next((path for path in [*candidates, source] if path.is_file()), None)
    return header_grid(path) if path is not None else None
