"""Samples as files: NIfTI images of everything a sample knows, and the record that replays it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from neuralprep.errors import InputError
from neuralprep.files import atomic_path, read_text
from neuralprep.grid import Grid
from neuralprep.synthesis.atlas import Head, load_atlas
from neuralprep.synthesis.classes import FRACTIONS
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.synthesis.sample import DeviceHead, Record, Sample, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.volume import Volume, save

HU_AIR = -1024.0
"""Value of a CT outside the field of view, Hounsfield units."""


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
    hounsfield: bool = False,
) -> list[Path]:
    """Render ``count`` samples (or replay one record) and write each with its truths.

    With ``hounsfield`` the CT is also written before its display window, in Hounsfield units.

    Returns
    -------
    list of Path
        The image files; the truths lie beside them (``*_desc-...``) with the record (``*_record.json``).
    """
    out.mkdir(parents=True, exist_ok=True)
    heads = read_heads(atlas)
    settings = SamplerSettings(shape=(size, size, size), spacing_mm=spacing_mm, subsamples=4)
    if record is not None:
        records = [read_record(record)]
    else:
        rngs = [np.random.default_rng((seed, k)) for k in range(count)]
        names = [head if head is not None else str(rng.choice(sorted(heads))) for rng in rngs]
        records = [draw_record(name, rng, settings, look) for name, rng in zip(names, rngs, strict=True)]
    paths = []
    for number, one in enumerate(records):
        if hounsfield:
            if one.window == "none":
                raise InputError(f"Hounsfield units are known for a CT only, not for a {one.look} image")
            one = replace(one, window="late")
        if one.head not in heads:
            raise InputError(f"the atlas has no head '{one.head}'; it has {', '.join(sorted(heads))}")
        sample = render(one, _on_cpu(heads[one.head]), want_fractions=True)
        paths.append(write_sample(sample, out, f"sample-{seed + number:03d}_{one.look}"))
    return paths


def read_heads(atlas: Path | None) -> dict[str, Head]:
    """Heads of an atlas file by name; the phantom where no file is given."""
    return {head.name: head for head in (load_atlas(atlas) if atlas is not None else [phantom_head()])}


def read_record(path: Path) -> Record:
    """Read a record (.json).

    Raises
    ------
    InputError
        Missing, not JSON, or not a record.
    """
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); give a _record.json that 'neuralprep synth' wrote") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a record; give a _record.json that 'neuralprep synth' wrote")
    try:
        return Record.from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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
    if sample.hounsfield is not None:
        write("_desc-hounsfield", torch.where(sample.field_of_view, sample.hounsfield, HU_AIR))
    write("_desc-loggain", sample.log_gain)
    write("_desc-tissue_distance", sample.distances[0])
    write("_desc-icv_distance", sample.distances[1])
    write("_desc-icv_mask", (sample.distances[1] < 0).to(torch.uint8), "uint8")
    write("_dseg", sample.classes, "int16")
    for name, fraction in zip(FRACTIONS, sample.fractions, strict=True):
        write(f"_label-{name}_probseg", fraction)
    record = sample.record.as_dict()
    _write_text(out / f"{stem}_record.json", json.dumps(record, indent=1))
    lines = "\n".join(" ".join(f"{v:.8g}" for v in row) for row in sample.template_from_sample)
    _write_text(out / f"{stem}_from-sample_to-template_affine.txt", lines)
    return image


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
