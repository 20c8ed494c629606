"""What the benchmark programs share: tables, result files, masks, and names of contrasts."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path("../shared/data")
"""Where the public heads, labels and peer weights lie beside a checkout; every program has an option for it."""
RESULTS = Path("benchmarks/results")
CACHE = Path("benchmarks/cache")

_CONTRASTS = (
    ("T1c", "T1c"),
    ("T1w", "T1w"),
    ("T1fl2d", "T1w"),
    ("T2w", "T2w"),
    ("FLAIR", "FLAIR"),
    ("PDw", "PDw"),
)


def stem(path: Path) -> str:
    """Name of a scan without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def contrast(name: str) -> str:
    """Contrast of a head, read from its file name; ``?`` if none is named."""
    for token, kind in _CONTRASTS:
        if re.search(rf"_{token}(_|$)", name, re.IGNORECASE):
            return kind
    return "?"


def find_heads(folder: Path) -> list[Path]:
    """The heads of a folder in order of name; lesion drawings are left out."""
    return [p for p in sorted(folder.glob("*.nii.gz")) if not stem(p).endswith("_lesion")]


def load_mask(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """A mask file as (boolean array, voxel edges in mm)."""
    import nibabel as nib

    image = nib.load(path)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    return np.asanyarray(image.dataobj) > 0, tuple(float(s) for s in spacing)


def spread(values: Sequence[float]) -> str:
    """Median with the range in brackets."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def markdown(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table; missing cells are a dash, floats get three significant decimals or fewer."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)


def machine() -> dict[str, Any]:
    """What a reader needs to judge a time: processor, cores, load when measured."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.is_file() else []
    return {
        "date": date.today().isoformat(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def save_results(name: str, content: Mapping[str, Any], folder: Path) -> Path:
    """Write one JSON result file, with the machine it was measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **content}, indent=1, default=float) + "\n")
    return path
