"""Samples as files: NIfTI images of everything a sample knows, and the record that replays it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.synthesis.atlas import Head, load_atlas
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.synthesis.sample import DeviceHead, Record, Sample, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.volume import Volume, save


def write_samples(
    out: Path,
    *,
    atlas: Path | None = None,
    head: str | None = None,
    count: int = 1,
    look: str | None = None,
    seed: int = 0,
    size: int = 128,
    spacing_mm: float = 2.0,
    record: Path | None = None,
) -> list[Path]:
    """Render ``count`` samples (or replay one record) and write each with its truths.

    Returns
    -------
    list of Path
        The image files; the truths lie beside them (``*_desc-...``) with the record (``*_record.json``).
    """
    out.mkdir(parents=True, exist_ok=True)
    heads = {h.name: h for h in (load_atlas(atlas) if atlas is not None else [phantom_head()])}
    settings = SamplerSettings(shape=(size, size, size), spacing_mm=spacing_mm, subsamples=4)
    if record is not None:
        records = [Record.from_dict(json.loads(record.read_text(encoding="utf-8")))]
    else:
        rngs = [np.random.default_rng((seed, k)) for k in range(count)]
        names = [head if head is not None else str(rng.choice(sorted(heads))) for rng in rngs]
        records = [draw_record(name, rng, settings, look) for name, rng in zip(names, rngs, strict=True)]
    paths = []
    for number, one in enumerate(records):
        if one.head not in heads:
            raise InputError(f"the atlas has no head '{one.head}'; it has {', '.join(sorted(heads))}")
        sample = render(one, _on_cpu(heads[one.head]), want_fractions=True)
        paths.append(write_sample(sample, out, f"sample-{seed + number:03d}_{one.look}"))
    return paths


def _on_cpu(head: Head) -> DeviceHead:
    return DeviceHead.load(head, torch.device("cpu"))


def write_sample(sample: Sample, out: Path, stem: str) -> Path:
    """Write one sample; returns the path of its image."""
    grid = Grid(sample.frame.shape, sample.frame.affine)

    def write(name: str, values: torch.Tensor, dtype: str = "float32") -> Path:
        path = out / f"{stem}{name}.nii.gz"
        save(Volume(values.numpy(), grid), path, dtype=dtype, space="other")
        return path

    image = write("", sample.image)
    write("_desc-clean", sample.clean)
    write("_desc-loggain", sample.log_gain)
    write("_desc-tissue_distance", sample.distances[0])
    write("_desc-icv_distance", sample.distances[1])
    write("_desc-icv_mask", (sample.distances[1] < 0).to(torch.uint8), "uint8")
    write("_dseg", sample.classes, "int16")
    for name, fraction in zip(("GM", "WM", "CSF", "other"), sample.fractions, strict=True):
        write(f"_label-{name}_probseg", fraction)
    record = sample.record.as_dict()
    (out / f"{stem}_record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = "\n".join(" ".join(f"{v:.8g}" for v in row) for row in sample.template_from_sample)
    (out / f"{stem}_from-sample_to-template_affine.txt").write_text(lines + "\n", encoding="utf-8")
    return image


