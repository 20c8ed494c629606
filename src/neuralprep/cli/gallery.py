"""A page of pictures: every effect of the head model at increasing strength, and samples as they are drawn."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from neuralprep.synthesis.heads import DeviceHead
    from neuralprep.synthesis.record import Record
    from neuralprep.synthesis.sample import Sample

STRENGTHS = (0.0, 1 / 3, 2 / 3, 1.0)
_ZOOM = 2  # pixels per voxel
_HIDDEN = ("means", "spreads", "head", "shape", "spacing_mm", "subsamples", "texture_seed", "soft_seed")
_STYLE = """
body { background: #14181d; color: #d5dae0; font: 13px/1.4 system-ui, sans-serif; margin: 1.5em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.15em; margin: 1.6em 0 .4em; } h3 { font-size: 1em; margin: .9em 0 .2em; }
.row { display: flex; gap: 6px; flex-wrap: wrap; } figure { margin: 0; width: 372px; }
img { width: 372px; display: block; } figcaption { color: #8d98a5; font-size: 11px; overflow-wrap: anywhere; }
.tissue { color: #ff9f1c; } .icv { color: #2ed5eb; }
"""


def write_gallery(out: Path, heads: dict[str, Any], *, head: str, size: int, spacing_mm: float, count: int, seed: int,
                  look: str | None) -> Path:
    """Render the gallery of a head and write ``out/index.html``, which needs no other file.

    Parameters
    ----------
    out
        Folder.
    heads
        Heads by name; random samples are drawn from all of them.
    head
        Name of the head that shows the effects.
    size, spacing_mm
        Grid of the samples.
    count, seed, look
        Number, seed and contrast (None: drawn) of the random samples at the end.

    Returns
    -------
    Path
        The page.
    """
    import torch

    from neuralprep.files import atomic_path
    from neuralprep.synthesis.heads import DeviceHead

    loaded = {name: DeviceHead.load(source, torch.device("cpu")) for name, source in heads.items()}
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Head model</title><style>{_STYLE}</style>",
        f"<h1>Head model: {html.escape(head)}</h1><p>Axial, coronal and sagittal cut. True outlines: "
        "<span class='tissue'>brain tissue</span>, <span class='icv'>inside of the skull</span>. "
        "Captions give what differs from the plain sample.</p>",
        *_effects(loaded[head], size, spacing_mm),
        *_draws(loaded, size, spacing_mm, count, seed, look),
    ]
    page = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return page


def _effects(head: DeviceHead, size: int, spacing_mm: float) -> Iterator[str]:
    """One row per effect, under a heading per group."""
    from neuralprep.synthesis.effects import EFFECTS, effect_record
    from neuralprep.synthesis.sample import render

    group = ""
    for effect in EFFECTS:
        if effect.group != group:
            group = effect.group
            yield f"<h2>{html.escape(group.capitalize())}</h2>"
        records = [effect_record(effect, head.source.name, s, size, spacing_mm) for s in STRENGTHS]
        kept = [records[0]]
        kept += [record for before, record in pairwise(records) if record != before]
        figures = [figure(render(record, head), changes(record, records[0])) for record in kept]
        yield f"<h3>{html.escape(effect.name)} ({effect.look})</h3><div class='row'>{''.join(figures)}</div>"


def _draws(heads: dict[str, DeviceHead], size: int, spacing_mm: float, count: int, seed: int, look: str | None
           ) -> Iterator[str]:
    """Samples as training draws them."""
    from neuralprep.synthesis.effects import plain_record
    from neuralprep.synthesis.sample import render
    from neuralprep.synthesis.sampler import SamplerSettings, draw_record

    settings = SamplerSettings(shape=(size, size, size), spacing_mm=spacing_mm)
    figures = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        name = str(rng.choice(sorted(heads)))
        record = draw_record(name, rng, settings, look)
        caption = f"{name}, {record.look}: {changes(record, plain_record(name))}"
        figures.append(figure(render(record, heads[name]), caption))
    if figures:
        yield f"<h2>Random samples</h2><div class='row'>{''.join(figures)}</div>"


def changes(record: Record, plain: Record) -> str:
    """What a record has that the plain one has not, as short text."""
    return ", ".join(_differences(record.as_dict(), plain.as_dict())) or "plain"


def _differences(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key, value in one.items():
        before = other.get(key)
        if key in _HIDDEN or value == before or key.endswith("seed"):
            continue
        if isinstance(value, dict):
            inner = ", ".join(_differences(value, before if isinstance(before, dict) else {}))
            yield f"{key} ({inner})"
        else:
            yield f"{key} {_short(value)}"
    if "means" in one and one["means"] != other["means"] and one["look"] == other["look"]:
        yield "other intensities"


def _short(value: Any) -> str:
    """Numbers with three digits; masses without what has no effect."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} {_short(v)}" for k, v in value.items() if v and k != "seed") + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_short(v) for v in value) + "]"
    return json.dumps(value).strip('"')


def figure(sample: Sample, caption: str) -> str:
    """A picture with its caption, as HTML."""
    encoded = base64.b64encode(picture(sample)).decode("ascii")
    return (f"<figure><img alt='' src='data:image/png;base64,{encoded}'>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def picture(sample: Sample) -> bytes:
    """PNG of three cuts through the brain's centre with both true outlines."""
    from neuralprep.report import png

    inside = np.argwhere(sample.distances[1].numpy()[::2, ::2, ::2] < 0) * 2
    shape = np.array(sample.image.shape)
    center = np.rint(inside.mean(0)).astype(int) if len(inside) else shape // 2
    center = np.clip(center, 0, shape - 1)
    center[0] = min(center[0] + round(8 / sample.frame.spacing_mm), shape[0] - 1)  # beside the fissure
    tiles = []
    for axis in (2, 1, 0):
        image, *levels = (_cut(values, axis, int(center[axis])) for values in
                          (sample.image.numpy(), *sample.distances.numpy()))
        index = png.grey(image, 0.0, 1.0)
        width = 0.7 * sample.frame.spacing_mm / _ZOOM
        for line, level in enumerate(levels):
            png.draw_line(index, np.clip(1 - np.abs(level) / (2 * width), 0, 1), line)
        tiles.append(index)
    return png.Picture(np.hstack(tiles), png.slice_palette()).small_png(0.3)


def _cut(values: np.ndarray, axis: int, place: int) -> np.ndarray:
    """A cut enlarged by linear interpolation, rows from top to bottom."""
    from scipy import ndimage

    return ndimage.zoom(np.take(values, place, axis).T[::-1], _ZOOM, order=1, grid_mode=True, mode="nearest")
