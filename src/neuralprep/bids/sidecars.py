"""JSON that stands beside the outputs: what an image is, which way a transform points, who made the dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import neuralprep
from neuralprep.bids.derivatives import Derivative
from neuralprep.files import atomic_path

BIDS_VERSION = "1.11.1"
DESCRIPTION_FILE = "dataset_description.json"
GENERATOR = "neuralprep"
#: what a description says of the raw data set
_KEPT = ("Name", "License", "Authors", "DatasetLinks", "SourceDatasets")
#: what of the raw sidecar holds for images on the grid of the scan too: how it was made, nothing on the person
_ACQUISITION = (
    "Modality", "MagneticFieldStrength", "Manufacturer", "ManufacturersModelName",
    "SoftwareVersions", "ReceiveCoilName", "MRAcquisitionType", "ScanningSequence", "SequenceVariant", "SequenceName",
    "PulseSequenceType", "PulseSequenceDetails", "NonlinearGradientCorrection", "ParallelReductionFactorInPlane",
    "ParallelAcquisitionTechnique", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "DwellTime",
    "ContrastBolusIngredient", "MTState",
)  # fmt: skip

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
    row: Derivative,
    *,
    source: str,
    space: str,
    resolution: tuple[float, ...] | None = None,
    raw: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sidecar of an image, as BIDS-Derivatives asks.

    Parameters
    ----------
    row : Derivative
        Which output it is.
    source : str
        BIDS URI or file name of the scan (no path: it could name a person).
    space : str
        Name of the template space.
    resolution : tuple of float, optional
        Voxel size in mm, stated for images on the template grid.
    raw : mapping, optional
        Metadata of the scan; what it says of the acquisition goes to images that show the scan.
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
    if row.kind == "image" and raw:
        content |= {key: raw[key] for key in _ACQUISITION if key in raw}
    return content


def transform_sidecar(
    *, source: str, space: str, inverse: bool, native: str = "native", called: str = ""
) -> dict[str, Any]:
    """Sidecar of a transform: its direction in words, and what each format means.

    Parameters
    ----------
    source : str
        BIDS URI or file name of the scan.
    space : str
        Name of the other space.
    inverse : bool
        The direction space -> scan.
    native : str
        Name of the scan's own space.
    called : str
        What the other space is, in words; by default the template of that name.
    """
    moving, fixed = (space, native) if inverse else (native, space)
    spoken = {native: "the scan", space: called or f"the template {space}"}
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


def dataset_description(folder: Path | None = None) -> dict[str, Any]:
    """Content of ``dataset_description.json`` of an output folder.

    Parameters
    ----------
    folder : Path, optional
        Where it will lie; what an earlier description there says of the raw data set is kept.
    """
    content: dict[str, Any] = {
        "Name": "neuralprep outputs",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": GENERATOR, "Version": neuralprep.__version__}],
    }
    if folder is not None and is_own_dataset(folder):
        before = read_json(folder / DESCRIPTION_FILE)
        content |= {key: before[key] for key in _KEPT if key in before}
    return content


def json_object(path: Path) -> dict[str, Any] | None:
    """Object in a JSON file; None when there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_json(path: Path) -> dict[str, Any]:
    """Object in a JSON file; empty when there is none that can be read."""
    return json_object(path) or {}


def is_own_dataset(folder: Path) -> bool:
    """Whether a folder is the output folder of an earlier run."""
    makers = read_json(folder / DESCRIPTION_FILE).get("GeneratedBy", [])
    return isinstance(makers, list) and any(
        isinstance(maker, dict) and maker.get("Name") == GENERATOR for maker in makers
    )
