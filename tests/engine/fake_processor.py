"""A processor that costs nothing, for tests of scheduling and faults; never of results.

The name of the scan decides what happens: ``bad`` raises, ``killer`` kills its process, ``fragile`` does so the first
time, ``slow`` takes its time, ``gated`` waits until the file ``open`` is beside it, ``hang`` never ends and holds the
interpreter, ``counted`` leaves a line in ``computed.txt`` beside it each time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.engine.worker import Job
from neuralprep.grid import Grid
from neuralprep.pipeline import Settings
from neuralprep.stages.quality import Quality
from neuralprep.transform import Affine
from neuralprep.volume import Volume, save

SHAPE = (12, 14, 10)


@dataclass(frozen=True)
class FakeResult:
    scan: Volume
    settings: Settings
    outputs: dict[str, Any]
    quality: Quality
    timings: dict[str, float] = field(default_factory=lambda: {"network": 0.01})
    provenance: dict[str, Any] = field(default_factory=lambda: {"weights": "none"})
    mask: Volume | None = None


class FakeProcessor:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def again(self, settings: Settings) -> FakeProcessor:
        return FakeProcessor(settings)

    def run(self, volume: Volume) -> FakeResult:
        name = volume.source.name if volume.source else ""
        if "counted" in name:
            with volume.source.with_name("computed.txt").open("a") as log:
                log.write(f"{name}\n")
        if "bad" in name:
            raise ValueError("the numbers do not add up")
        if "killer" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "fragile" in name:
            mark = volume.source.with_name(f"{name}.killed")
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in name:
            ctypes.PyDLL(None).sleep(600)  # a call that keeps the interpreter lock
        if "slow" in name:
            time.sleep(0.4)
        while "gated" in name and not volume.source.with_name("open").exists():
            time.sleep(0.02)
        data = volume.data.astype(np.float32)
        mask = Volume((data > data.mean()).astype(np.uint8), volume.grid)
        image = volume.with_data(data)
        outputs: dict[str, Any] = {}
        if self.settings.strip:
            outputs |= {"brain_mask": mask, "nocsf_mask": mask, "brain_distance": image, "preproc_brain": image}
        if self.settings.normalize:
            outputs |= {"multiplier": image, "preproc": image}
        if self.settings.register:
            outputs |= {"space_preproc": image, "template_from_scan": Affine(np.diag([1.1, 1.0, 0.9, 1.0]))}
        if self.settings.register and self.settings.strip:
            outputs |= {"space_preproc_brain": image, "space_brain_mask": mask}
        if self.settings.outputs is not None:
            outputs = {name: made for name, made in outputs.items() if name in self.settings.outputs}
        measures = {"brain_ml": float(mask.data.sum()) / 1000, "not_known": float("nan")}
        odd = "odd" in name
        quality = Quality(measures, "check" if odd else "ok", ("the brain looks odd",) if odd else ())
        return FakeResult(volume, self.settings, outputs, quality, mask=mask if self.settings.strip else None)


def make_fake(settings: Settings) -> FakeProcessor:
    return FakeProcessor(settings)


def fake_job(out_dir: Path, **changes: Any) -> Job:
    """A job with the fake processor; `changes` are fields of Job or of Settings."""
    job_fields = {key: changes.pop(key) for key in list(changes) if key in Job.__dataclass_fields__}
    job = Job(Settings(**changes), out_dir, make_processor=make_fake, write_report=False)
    return replace(job, **job_fields)


def write_scan_file(path: Path, seed: int = 0) -> Path:
    """A small valid image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    data = np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.int16)
    save(Volume(data, Grid(SHAPE, affine)), path)
    return path


def write_data_set(root: Path, names: Iterable[str]) -> Path:
    """A BIDS data set of small valid images, named ``sub-..._ses-..._...``."""
    for seed, name in enumerate(names):
        subject, session = name.split("_")[:2]
        write_scan_file(root / subject / session / "anat" / f"{name}.nii.gz", seed)
    (root / "dataset_description.json").write_text('{"Name": "r", "BIDSVersion": "1.9.0"}')
    return root
