"""Fixtures of the export tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.study import GRID, KnownAffine, Study, label_ball
from neuralprep.bids.sidecars import DESCRIPTION_FILE, dataset_description, write_json
from neuralprep.engine.inputs import Scan
from neuralprep.engine.worker import Job, Worker
from neuralprep.pipeline import Settings
from neuralprep.transform import Affine
from neuralprep.volume import Volume, save


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rng = np.random.default_rng(0)
    made = Study(tmp_path / "study", ("sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3", "sub-4"))
    for name in ("t1", "flair", "labels"):
        (made.folder / name).mkdir(parents=True)
    for place, case in enumerate(made.cases):
        image = Volume(rng.normal(100, 20, GRID.shape).astype(np.float32), GRID)
        save(image, made.folder / "t1" / f"{case}_T1w.nii.gz")
        save(image.with_data(image.data * 2), made.folder / "flair" / f"{case}_FLAIR.nii.gz")
        save(label_ball(GRID, place), made.folder / "labels" / f"{case}_dseg.nii.gz")
    made.write_table(made.rows())
    return made


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[dict[str, tuple[Path, Affine]], float], Path]:
    """Make an output folder from scans by name, each with its file and its transform."""
    outputs = ("preproc_brain", "space_preproc_brain", "template_from_scan")

    def make(scans: dict[str, tuple[Path, Affine]], resolution: float = 3.0) -> Path:
        out = tmp_path / "run"
        out.mkdir(exist_ok=True)
        write_json(out / DESCRIPTION_FILE, dataset_description())
        settings = Settings(resolution=resolution, outputs=outputs)
        for name, (path, transform) in scans.items():
            job = Job(settings, out, write_report=False,
                      make_processor=lambda chosen, known=transform: KnownAffine(chosen, known))
            record = Worker(job)(Scan(path, name))
            assert record.status == "ok", record.reasons
        return out

    return make
