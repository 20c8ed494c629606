"""Accuracy on synthetic heads that no network has seen, where every truth is exact.

The heads are label maps 19 and 20, rendered with random contrast, pose, bias, noise, slice thickness, cropping and
whatever else the head model that training uses puts into its samples; the settings it was drawn with are saved with
the results. Measured for every sample, by contrast and over all, with bootstrap intervals:

* masks: Dice and HD95 of the inside of the skull (ICV), Dice of the tissue mask;
* affine: mean distance in mm, over the inside of the skull, between where our affine and the true one put a point;
  mean Dice of the anatomical classes that both carry to the template (NPP's Figure 5);
* multiplier field, within both masks and after one global factor: gain error (SD of log(ours / truth)), SSIM, PSNR,
  beside what the best constant scores (no bias correction at all), with a paired test. For comparison with NPP's tables
  also SSIM and PSNR over the whole volume without any factor, which mostly see the edges of the masks;
* normalised brain against the clean brain: SSIM and PSNR over the whole volume, as NPP reports them, and SSIM within
  the brain;
* a sweep of lambda on the first ``--sweep-samples`` samples that have a field to find.

CT has no receive field and takes part in masks and affine only. Finished samples are kept in ``--cache``: the same
command goes on where it was stopped, and more samples or lambdas only add to it. The atlas file holds the two maps;
``neuralprep train --pack`` makes one from a folder of label maps.

    python benchmarks/synthetic.py --atlas heldout.npz --samples 200 --jobs 2
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from common import (
    PIPELINE_PARTS,
    Ledger,
    add_options,
    comparison_table,
    run_cached,
    save_results,
    summarize,
    summary_table,
    targets,
)

from neuralprep import Preprocessor, Settings
from neuralprep.evaluation.figures import box_plots
from neuralprep.evaluation.heldout import HELD_OUT, HeldOutHeads, score_constant, score_geometry, score_result
from neuralprep.evaluation.tables import compare, finite, paper_table
from neuralprep.synthesis.sampler import SamplerSettings

LAMBDAS = (10.0, 1.0, 0.1, 0.01, 0.001)
PAPER_LAMBDA = 0.1
GEOMETRY = ("dice", "hd95", "tissue_dice", "mean_mm", "mean_dice")
FIELD = ("gain_error", "field_ssim", "field_psnr")
IMAGES = (*FIELD, "ssim", "psnr", "ssim_brain", "whole_field_ssim", "whole_field_psnr")
OURS, CONSTANT = "neuralprep", "best constant"
PARTS = (*PIPELINE_PARTS, "synthesis", "evaluation/heldout", "evaluation/bias", "evaluation/image")


def sampler_settings(spacing_mm: float) -> SamplerSettings:
    """The training distribution on a grid of 256 mm; partial volume from four positions per voxel, from two where
    voxels are as small as the label maps' own.
    """
    edge = round(256 / spacing_mm)
    return SamplerSettings(shape=(edge, edge, edge), spacing_mm=spacing_mm, subsamples=4 if spacing_mm > 1 else 2)


@lru_cache(maxsize=1)
def heads(atlas: Path, spacing_mm: float) -> HeldOutHeads:
    """The held-out heads; loaded once per process."""
    return HeldOutHeads(atlas, sampler_settings(spacing_mm))


@lru_cache(maxsize=2)
def preprocessor(lam: float, threads: int) -> Preprocessor:
    """Our pipeline at one lambda; loaded once per process."""
    outputs = ("brain_mask", "nocsf_mask", "multiplier", "preproc_brain", "template_from_scan")
    return Preprocessor(Settings(lam=lam, threads=threads, outputs=outputs))


def measure(atlas: Path, spacing_mm: float, seed: int, index: int, threads: int) -> dict[str, Any]:
    """Everything about one sample at the paper's lambda, and the floor of the field scores."""
    case = heads(atlas, spacing_mm).case(index, seed, want_classes=True)
    result = preprocessor(PAPER_LAMBDA, threads).run(case.scan)
    found: dict[str, Any] = {"look": case.look, "head": case.record.head, **score_geometry(case, result)}
    if case.field_measurable:
        found["images"] = {OURS: score_result(case, result), CONSTANT: score_constant(case)}
    return found


def measure_lambda(atlas: Path, spacing_mm: float, seed: int, index: int, lam: float, threads: int) -> dict[str, float]:
    """Field and image scores of one sample at another lambda."""
    case = heads(atlas, spacing_mm).case(index, seed)
    return score_result(case, preprocessor(lam, threads).run(case.scan))


def image_rows(samples: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per sample and method, for tables."""
    return [
        {"case": str(index), "look": sample["look"], "method": method, **scores}
        for index, sample in samples.items()
        for method, scores in sample.get("images", {}).items()
    ]


def sweep(options: argparse.Namespace, ledger: Ledger, samples: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores of the sweep samples at every lambda; the paper's is known already."""
    chosen = [index for index, sample in samples.items() if "images" in sample][: options.sweep_samples]
    others = [lam for lam in options.lambdas if lam != PAPER_LAMBDA]
    tasks = {
        f"{index} lambda {lam:g}": (options.atlas, options.spacing, options.seed, index, lam, options.threads)
        for lam in others
        for index in chosen
    }
    done = run_cached(ledger, measure_lambda, tasks, options.jobs)
    rows = []
    for lam in options.lambdas:
        for index in chosen:
            known = samples[index]["images"][OURS] if lam == PAPER_LAMBDA else done[f"{index} lambda {lam:g}"]
            rows.append({"case": str(index), "lambda": f"{lam:g}", "method": f"{lam:g}", **known})
    return rows


def print_tables(geometry: list[dict[str, Any]], images: list[dict[str, Any]], lambdas: list[dict[str, Any]]) -> None:
    """Everything a reader needs, in Markdown."""
    print("Masks and affine, all samples\n")
    print(summary_table(geometry, GEOMETRY), end="\n\n")
    print(summary_table(geometry, GEOMETRY, ["look"]), end="\n\n")
    flagged = sum(row["decision"] != "ok" for row in geometry)
    print(f"{flagged} of {len(geometry)} samples are flagged for a check\n")
    if images:
        print(f"Field and image at lambda {PAPER_LAMBDA:g}\n")
        print(summary_table(images, IMAGES, ["method"]), end="\n\n")
        print(summary_table(images, FIELD, ["look", "method"]), end="\n\n")
        print(comparison_table(images, IMAGES, OURS), end="\n\n")
        print(paper_table("intensity", images), end="\n\n")
    if lambdas:
        print(paper_table("lambda", lambdas), end="\n\n")


def goals(geometry: list[dict[str, Any]], images: list[dict[str, Any]]) -> str:
    """The numbers that the model must reach."""
    def line(rows: list[dict[str, Any]], measure: str) -> dict[str, Any]:
        found = summarize(rows, [measure])
        return found[0] if found else {}

    ours = [row for row in images if row["method"] == OURS]
    dice = line(geometry, "dice")
    return targets([
        ("ICV Dice, median", dice.get("median"), 0.975, ">="),
        ("ICV Dice, 5th percentile", dice.get("p5"), 0.95, ">="),
        ("ICV HD95 mm, median", line(geometry, "hd95").get("median"), 2.5, "<="),
        ("tissue Dice, median", line(geometry, "tissue_dice").get("median"), 0.96, ">="),
        ("affine mm, median", line(geometry, "mean_mm").get("median"), 2.0, "<="),
        ("field SSIM within both masks, median", line(ours, "field_ssim").get("median"), 0.985, ">="),
    ])  # fmt: skip


def main() -> None:
    """Parse the command line, run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="atlas file with maps 19 and 20")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--sweep-samples", type=int, default=10, help="of them for the sweep of lambda; 0 for none")
    parser.add_argument("--seed", type=int, default=19_20)
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel edge of the rendered scans in mm")
    parser.add_argument("--lambdas", type=float, nargs="+", default=LAMBDAS)
    parser.add_argument("--figures", type=Path, help="also draw box plots in this folder")
    add_options(parser)
    options = parser.parse_args()
    drawn = {
        "atlas": hashlib.sha256(options.atlas.read_bytes()).hexdigest(), "maps": HELD_OUT, "seed": options.seed,
        "sampler": asdict(sampler_settings(options.spacing)),
    }  # fmt: skip
    ledger = Ledger("synthetic", drawn, PARTS, options.cache, options.fresh)
    tasks = {
        str(index): (options.atlas, options.spacing, options.seed, index, options.threads)
        for index in range(options.samples)
    }
    done = run_cached(ledger, measure, tasks, options.jobs)
    samples = {int(key): value for key, value in done.items()}
    geometry = [{"case": str(k), **{n: v for n, v in s.items() if n != "images"}} for k, s in samples.items()]
    images = image_rows(samples)
    lambdas = sweep(options, ledger, samples) if options.sweep_samples else []
    print_tables(geometry, images, lambdas)
    print(goals(geometry, images))
    content = {
        "headline": {
            "geometry": summarize(geometry, GEOMETRY),
            "images": summarize(images, IMAGES, ["method"]),
            "lambda": summarize(lambdas, FIELD, ["lambda"]),
        },
        "drawn": drawn, "lambda": PAPER_LAMBDA, "samples": geometry, "images": images, "sweep": lambdas,
        "geometry_by_look": summarize(geometry, GEOMETRY, ["look"]),
        "images_by_look": summarize(images, IMAGES, ["look", "method"]),
        "comparison": compare(images, IMAGES, OURS),
    }  # fmt: skip
    print(f"\nsaved {save_results('synthetic', content, options.results)}")
    if options.figures:
        options.figures.mkdir(parents=True, exist_ok=True)
        box_plots(geometry, GEOMETRY, options.figures / "geometry.png", by="look", title="Held-out synthetic heads")
        if finite(images, "gain_error"):
            box_plots(images, FIELD, options.figures / "field.png", title="Bias field, held-out synthetic heads")


if __name__ == "__main__":
    main()
