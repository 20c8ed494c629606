"""Rows of words for the tables of a scan's page: what the input is, how it was processed, what was written."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neuralprep.bids.derivatives import BY_OUTPUT, OVERVIEW, QUALITY, REPORT, ScanName, output_files

if TYPE_CHECKING:
    from neuralprep.grid import Grid
    from neuralprep.pipeline import Result
    from neuralprep.volume import Volume

Rows = list[tuple[str, str]]
#: in names of images in template space that have other voxels
_RESOLUTION = re.compile(r"_res-[^_]+")
_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "top", "I": "bottom"}


def input_facts(scan: Volume) -> Rows:
    """Grid, orientation, spacing and range of values of the scan."""
    grid = scan.grid
    size = " x ".join(f"{n * s:.0f}" for n, s in zip(grid.shape, grid.spacing, strict=True))
    low, high = float(scan.data.min()), float(scan.data.max())
    codes = grid.axis_codes
    tilt = _tilt(grid)
    return [("Matrix", " x ".join(map(str, grid.shape))),
            ("Voxel size", " x ".join(f"{s:.3g}" for s in grid.spacing) + " mm"),
            ("Field of view", f"{size} mm"),
            ("Axes", f"{codes} (towards {', '.join(_SIDES[code] for code in codes)})"),
            ("Tilt of the axes", f"{tilt:.1f} degrees" if tilt >= 0.05 else "none"),
            ("Handedness", "right-handed" if np.linalg.det(grid.affine[:3, :3]) > 0 else "left-handed"),
            ("Intensities", f"{low:.4g} to {high:.4g}")]


def setting_rows(settings: Any) -> Rows:
    """Settings of the run, one row each."""
    if not is_dataclass(settings):
        return []
    unset = {"mask": "none", "outputs": "all", "threads": "all cores"}
    return [(item.name, unset.get(item.name, "default") if (value := getattr(settings, item.name)) is None
             else _in_words(value)) for item in fields(settings)]


def flat(values: Mapping[str, Any], prefix: str = "") -> Rows:
    """Nested provenance as rows, keys joined by spaces."""
    found: Rows = []
    for key, value in values.items():
        title = f"{prefix} {key}".strip().replace("_", " ")
        found += flat(value, title) if isinstance(value, Mapping) else [(title, _in_words(value))]
    return found


def file_rows(present: Collection[str], scan: ScanName, result: Result) -> Rows:
    """Files of the scan and what they are; the record is written after the page, so it is named in advance."""
    space = str(getattr(result.settings, "space", ""))
    described = {file: row.description for output, row in BY_OUTPUT.items()
                 for file in output_files(scan, output, space) if not file.endswith(".json")}
    described |= {scan.file(QUALITY): "Measures, decision, settings and provenance, for machines.",
                  scan.file(REPORT): "This page.", scan.file(OVERVIEW): "Small picture for the index."}
    own = {scan.file(ending) for ending in (QUALITY, REPORT, OVERVIEW)}
    names = sorted(file for file in {*present, *own} if file in described or not file.endswith(".json"))
    return [(file, described.get(file) or described.get(_RESOLUTION.sub("", file), "")) for file in names]


def _tilt(grid: Grid) -> float:
    """Largest angle between a voxel axis and the world axis next to it, degrees."""
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(axis=0).min(), 0, 1))))


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    if hasattr(value, "grid"):  # a mask given as an image
        return str(value.source or "given as an array")
    return str(value)
