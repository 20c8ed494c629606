"""A small study on disk, and a processor whose transform is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.grid import Grid
from neuralprep.pipeline import Settings
from neuralprep.resample import resample
from neuralprep.stages.quality import Quality
from neuralprep.templates import space_grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume
from samples import affine_matrix

GRID = Grid((24, 28, 20), affine_matrix((0.1, -0.2, 0.05), (-2.0, 2.0, 3.0), (24, -28, -30)))


@dataclass(frozen=True, eq=False)
class Study:
    """Folders ``t1``, ``flair`` and ``labels`` (values 1, 2, 4), and a table of them."""

    folder: Path
    cases: tuple[str, ...]

    @property
    def table(self) -> Path:
        """Table of all cases."""
        return self.folder / "study.tsv"

    def write_table(self, rows: list[dict[str, str]]) -> Path:
        """Write another table, columns as in the first row."""
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        self.table.write_text("\n".join(lines) + "\n")
        return self.table

    def rows(self) -> list[dict[str, str]]:
        """Rows of the table."""
        return [{"case": case, "T1w": f"t1/{case}_T1w.nii.gz", "FLAIR": f"flair/{case}_FLAIR.nii.gz",
                 "label": f"labels/{case}_dseg.nii.gz"} for case in self.cases]


def label_ball(grid: Grid, shift: float = 0.0) -> Volume:
    """Three nested shells with the labels 4, 1, 2."""
    points = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))
    radius = np.linalg.norm(points - grid.center - shift, axis=-1)
    return Volume(np.select([radius < 7, radius < 12, radius < 17], [4, 1, 2], 0).astype(np.uint8), grid)


@dataclass
class Result:
    """What the engine reads of a result."""

    scan: Volume
    settings: Settings
    outputs: dict[str, Any]
    quality: Quality
    timings: dict[str, float]
    provenance: dict[str, Any]


class KnownAffine:
    """A processor that strips nothing and registers with a transform it is given."""

    def __init__(self, settings: Settings, template_from_scan: Affine) -> None:
        self.settings, self.transform = settings, template_from_scan

    def run(self, volume: Volume) -> Result:
        """Outputs of a run that matter for an export."""

        grid = space_grid(self.settings.space, self.settings.resolution or 1.0)
        outputs = {
            "preproc_brain": volume,
            "space_preproc_brain": resample(volume, grid, self.transform),
            "template_from_scan": self.transform,
        }
        return Result(volume, self.settings, outputs, Quality({}, "ok", ()), {}, {})
