"""Accuracy on synthetic heads that no network has seen, where every truth is exact.

The heads are label maps 19 and 20, rendered with random contrast, pose, bias, noise, slice thickness and cropping
by the same head model that training uses. Measured for every sample:

* Dice and HD95 of both masks: inside of the skull (ICV), and brain without outer fluid;
* multiplier field (zero outside the brain) against the truth: SSIM over the whole volume as NPP reports it,
  within the inside of the skull and within tissue only, and PSNR (peak: the truth's 99th percentile), for a sweep
  of lambda, beside what one best constant would score (no bias correction at all);
* normalised brain against the clean brain: SSIM and PSNR over the whole volume, background included (as NPP
  reports it) and within the brain;
* affine: mean distance in mm, over the inside of the skull, between where our affine and the true one put a point.

The atlas file holds the two maps; ``neuralprep train --pack`` makes one from a folder of label maps.

    python benchmarks/synthetic.py --atlas heldout.npz --samples 40
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, markdown, save_results

from neuralprep import Affine, Grid, Preprocessor, Settings, Volume
from neuralprep.evaluation.affine import mean_point_error, points_in_mask
from neuralprep.evaluation.image import psnr, ssim_map
from neuralprep.evaluation.overlap import dice
from neuralprep.evaluation.surface import hausdorff95

HELD_OUT = ("training_seg_19", "training_seg_20")
LAMBDAS = (10.0, 1.0, 0.1, 0.01, 0.001)
PAPER_LAMBDA = 0.1
UNIT = 255.0
"""What a value of 1.0 in the head model's clean image is in our normalised image."""


@dataclass(frozen=True, eq=False)
class Case:
    """A synthetic scan and its truths on the scan's grid.

    Attributes
    ----------
    scan
        What is given to the pipeline.
    icv, tissue
        (X, Y, Z) bool: inside of the skull; brain without outer fluid.
    clean
        (X, Y, Z) normalised image without bias and noise, with skull.
    multiplier
        (X, Y, Z) factor from the noise-free scan to `clean`.
    template_from_scan
        Carries scan mm points to template mm points (push-forward, as the head model states it).
    look
        Contrast.
    """

    scan: Volume
    icv: np.ndarray
    tissue: np.ndarray
    clean: np.ndarray
    multiplier: np.ndarray
    template_from_scan: Affine
    look: str


def samples(n: int, seed: int, atlas: Path, spacing_mm: float = 2.0) -> Iterator[Case]:
    """Draw `n` cases from the held-out heads, alternating; everything that touches the head model is here.

    The arrays are cut to the field of view, as a scanner would.
    """
    import torch

    from neuralprep.synthesis.atlas import load_atlas
    from neuralprep.synthesis.sample import DeviceHead, render
    from neuralprep.synthesis.sampler import SamplerSettings, draw_record

    edge = round(256 / spacing_mm)
    settings = SamplerSettings(shape=(edge, edge, edge), spacing_mm=spacing_mm, subsamples=4)
    heads = [DeviceHead.load(head, torch.device("cpu")) for head in load_atlas(atlas, HELD_OUT)]
    rng = np.random.default_rng(seed)
    for index in range(n):
        head = heads[index % len(heads)]
        sample = render(draw_record(head.source.name, rng, settings), head)
        seen = np.argwhere(sample.field_of_view.numpy())
        start, stop = seen.min(0), seen.max(0) + 1
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        grid = Grid((edge, edge, edge), sample.frame.affine).cropped(start, stop)
        distances = sample.distances.numpy()[(slice(None), *box)]
        yield Case(
            scan=Volume(np.ascontiguousarray(sample.image.numpy()[box]), grid),
            icv=distances[1] < 0,
            tissue=distances[0] < 0,
            clean=sample.clean.numpy()[box],
            multiplier=np.exp(sample.log_gain.numpy()[box]),
            template_from_scan=Affine(sample.template_from_sample),
            look=sample.record.look,
        )


def score_geometry(case: Case, result: Any) -> dict[str, Any]:
    """Masks and affine of one case."""
    mask, nocsf = result.outputs["brain_mask"].data, result.outputs["nocsf_mask"].data
    to_template = result.outputs["template_from_scan"].inverse()
    inside = points_in_mask(case.icv, case.scan.grid)
    return {
        "look": case.look,
        "ICV Dice": dice(mask, case.icv),
        "ICV HD95 mm": hausdorff95(mask, case.icv, case.scan.grid.spacing),
        "tissue Dice": dice(nocsf, case.tissue),
        "affine mm": mean_point_error(to_template, case.template_from_scan, inside) if len(inside) else None,
        "decision": result.quality.decision,
    }


def score_images(case: Case, multiplier: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Multiplier field and normalised brain of one case; `brain` is our normalised image without skull."""
    peak = float(np.percentile(case.multiplier[case.icv], 99))
    truth = np.where(case.icv, case.multiplier, 0)
    found = np.where(case.icv, multiplier / UNIT, 0)
    clean = np.where(case.icv, case.clean, 0).clip(0, 1)
    likeness = ssim_map(found, truth, peak)
    similarity = ssim_map((brain / UNIT).clip(0, 1), clean)
    return {
        "field SSIM": float(likeness.mean()),
        "field SSIM in brain": float(likeness[case.icv].mean()),
        "field SSIM in tissue": float(likeness[case.tissue].mean()),
        "field PSNR": psnr(found, truth, peak, case.icv),
        "image SSIM": float(similarity.mean()),
        "image SSIM in brain": float(similarity[case.icv].mean()),
        "image PSNR": psnr((brain / UNIT).clip(0, 1), clean),
    }


def score_constant(case: Case) -> dict[str, float]:
    """What the best single factor would score, with the true mask: the floor for a bias correction."""
    factor = float(np.median(case.multiplier[case.icv]))
    constant = np.full(case.multiplier.shape, factor * UNIT)
    return score_images(case, constant, np.where(case.icv, case.scan.data, 0) * constant)


def summarize(rows: list[dict[str, Any]], columns: list[str]) -> dict[str, Any]:
    """Median of every column over the samples."""
    line: dict[str, Any] = {"samples": len(rows)}
    for column in columns:
        values = [row[column] for row in rows if row.get(column) is not None]
        if values:
            line[column] = statistics.median(values)
    return line


def geometry_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians per contrast and over all, with the worst mask and the largest affine error."""
    columns = ["ICV Dice", "ICV HD95 mm", "tissue Dice", "affine mm"]
    table = []
    for look in (*sorted({row["look"] for row in rows}), "all"):
        members = [row for row in rows if look in ("all", row["look"])]
        line = {"look": look} | summarize(members, columns)
        line["worst ICV Dice"] = min(row["ICV Dice"] for row in members)
        line["worst affine mm"] = max((row["affine mm"] or 0.0) for row in members)
        line["flagged"] = sum(row["decision"] != "ok" for row in members)
        table.append(line)
    return table


def main() -> None:
    """Parse the command line, run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="atlas file with maps 19 and 20")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=19_20)
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel edge of the rendered scans in mm")
    parser.add_argument("--lambdas", type=float, nargs="+", default=LAMBDAS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    everything = Preprocessor(Settings(lam=PAPER_LAMBDA))
    fields = {lam: Preprocessor(Settings(lam=lam, register=False)) for lam in options.lambdas}
    geometry: list[dict[str, Any]] = []
    images: dict[str, list[dict[str, float]]] = {f"{lam:g}": [] for lam in options.lambdas}
    images["best constant"] = []
    for case in samples(options.samples, options.seed, options.atlas, options.spacing):
        geometry.append(score_geometry(case, everything.run(case.scan)))
        if not case.tissue.any() or case.look == "CT":  # CT has no receive field and is not normalised by one
            continue
        for lam, preprocessor in fields.items():
            outputs = preprocessor.run(case.scan).outputs
            scores = score_images(case, outputs["multiplier"].data, outputs["preproc_brain"].data)
            images[f"{lam:g}"].append(scores)
        images["best constant"].append(score_constant(case))
    table = geometry_table(geometry)
    measures = ["field SSIM", "field SSIM in brain", "field SSIM in tissue", "field PSNR"]
    measures += ["image SSIM", "image SSIM in brain", "image PSNR"]
    sweep = [{"lambda": name} | summarize(rows, measures) for name, rows in images.items() if rows]
    columns = ["ICV Dice", "worst ICV Dice", "ICV HD95 mm", "tissue Dice", "affine mm", "worst affine mm"]
    print(markdown(table, ["look", "samples", *columns, "flagged"]), end="\n\n")
    print(markdown(sweep, ["lambda", "samples", *measures]))
    content = {"geometry": geometry, "images": images, "geometry_table": table, "lambda_table": sweep}
    print(f"\nsaved {save_results('synthetic', content, options.results)}")


if __name__ == "__main__":
    main()
