"""A result of a made-up head, without running the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.grid import Grid
from neuralprep.pipeline import Result, Settings
from neuralprep.stages.quality import Quality
from neuralprep.templates import Template
from neuralprep.transform import Affine
from neuralprep.volume import Volume

EVIL = "scan<script>document.title='owned'</script>&\"'"
SEMI_AXES = np.array([66.0, 80.0, 62.0])


def make_result(grid: Grid | None = None, **settings: Any) -> Result:
    """An ellipsoid with a smooth field across it; every output there is, on one grid."""
    grid = grid or Grid.centered((40, 44, 36), 5.0, (3, -8, 12))
    points = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    along = points - grid.center
    radius = np.linalg.norm(along / SEMI_AXES, axis=-1)
    inside, tissue = radius < 1, radius < 0.9
    rng = np.random.default_rng(0)
    gain = np.exp(0.004 * along[..., 0]).astype(np.float32)
    clean = np.where(inside, np.where(tissue, 110, 40) + rng.normal(0, 6, grid.shape), 5).astype(np.float32)
    scan = Volume(clean / gain, grid, Path("in", EVIL), ("2 voxels that were not a number were set to 0",))
    preproc, mask = scan.with_data(clean), scan.with_data(inside.astype(np.uint8))
    outputs: dict[str, Any] = {
        "brain_mask": mask, "nocsf_mask": scan.with_data(tissue.astype(np.uint8)),
        "multiplier": scan.with_data(np.where(inside, gain, 0).astype(np.float32)), "preproc": preproc,
        "preproc_brain": preproc.with_data(np.where(inside, clean, 0).astype(np.float32)), "space_preproc": preproc,
        "space_preproc_brain": preproc, "template_from_scan": Affine(np.eye(4)),
    }  # fmt: skip
    quality = Quality({"icv_ml": 900.0, "tissue_ml": 800.0, "template_dice": 0.91, "brand_new": 1.5}, "check",
                      ("Volume inside the skull is 900 ml, below 1000 ml: look.",), ("thick slices",))
    provenance = {"neuralprep": "9.8.7", "model": "npp", "model_sha256": "c0ffee", "runtime": "openvino",
                  "lambda": 0.1, "ct_window": False, "bias": "refined",
                  "registration": {"method": "network", "score": 0.7}}
    return Result(scan, Settings(**settings), outputs, quality, {"look": 1.25, "strip": 0.5}, provenance)


def make_template(result: Result) -> Template:
    """The head of the result, mirrored, as a template of its own."""
    mask, image = result.outputs["brain_mask"], result.outputs["preproc_brain"]
    assert isinstance(mask, Volume)
    assert isinstance(image, Volume)
    part = mask.with_data(mask.data.astype(np.float32))
    return Template("MNI152NLin2009aSym", mask.grid, image.with_data(image.data[::-1]), mask, part, part, part)
