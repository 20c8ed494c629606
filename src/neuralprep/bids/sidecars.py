"""JSON that stands beside the outputs: what an image is, which way a transform points, who made the dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import neuralprep
from neuralprep.bids.derivatives import Derivative
from neuralprep.files import atomic_path

BIDS_VERSION = "1.11.1"
DESCRIPTION_FILE = "dataset_description.json"
GENERATOR = "neuralprep"

_READERS = {
    "txt": "plain 4x4 matrix in RAS+ millimetres, stated direction: the pull-back below",
    "mat": "ITK AffineTransform (LPS millimetres); antsApplyTransforms and Slicer carry the image with it",
    "fsl.mat": "FSL FLIRT matrix; `flirt -applyxfm -init` carries the image with it",
    "lta": "FreeSurfer linear transform; `mri_vol2vol --lta` carries the image with it",
}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def image_sidecar(
    row: Derivative, *, source: str, space: str, resolution: tuple[float, ...] | None = None
) -> dict[str, Any]:
    """Sidecar of an image, as BIDS-Derivatives asks.

    Parameters
    ----------
    row : Derivative
        Which output it is.
    source : str
        File name of the scan (no path: it could name a person).
    space : str
        Name of the template space.
    resolution : tuple of float, optional
        Voxel size in mm, stated for images on the template grid.
    """
    content: dict[str, Any] = {
        "Description": row.description,
        "Sources": [source],
        "SpatialReference": space if row.in_template else "orig",
    }
    if row.kind == "mask":
        content["Type"] = "Brain"
    else:
        content["SkullStripped"] = row.stripped
    if row.units:
        content["Units"] = row.units
    if row.in_template and resolution is not None:
        content["Resolution"] = "x".join(f"{size:g}" for size in resolution) + " mm"
    return content


def transform_sidecar(*, source: str, space: str, inverse: bool) -> dict[str, Any]:
    """Sidecar of a transform: its direction in words, and what each format means."""
    moving, fixed = (space, "native") if inverse else ("native", space)
    spoken = {"native": "the scan", space: f"the template {space}"}
    return {
        "Description": f"Affine that carries images from {spoken[moving]} onto the grid of {spoken[fixed]}.",
        "Sources": [source],
        "FromSpace": moving,
        "ToSpace": fixed,
        "Direction": (
            f"Pull-back: the 4x4 matrix multiplies a point of {spoken[fixed]} (RAS+ mm) and gives the "
            f"corresponding point of {spoken[moving]} (RAS+ mm). Its inverse is in the file from-{fixed}_to-{moving}."
        ),
        "Formats": _READERS,
    }


def dataset_description() -> dict[str, Any]:
    """Content of ``dataset_description.json`` of an output folder."""
    return {
        "Name": "neuralprep outputs",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": GENERATOR, "Version": neuralprep.__version__}],
    }


def is_own_dataset(folder: Path) -> bool:
    """Whether a folder is the output folder of an earlier run."""
    try:
        content = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    makers = content.get("GeneratedBy", []) if isinstance(content, dict) else []
    return isinstance(makers, list) and any(
        isinstance(maker, dict) and maker.get("Name") == GENERATOR for maker in makers
    )
