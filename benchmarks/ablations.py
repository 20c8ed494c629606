"""NPP against its own ablations, and the sweep of lambda: tables 2 and 3 of He et al. (MICCAI 2023) on synthetic heads.

Four uses of one network are trained on the same heads in the same order for the same number of steps: ``npp``
(multiplier field, spatial transformer), ``unet`` (draws the finished image), ``unet-stn`` (draws it, a spatial
transformer resamples it) and ``umirgpit`` (as before, in alternating order); the loss is the likeness of the finished
image. All four begin with the trunk of the shipped network, the three transformers with its head for places
(``--init scratch``: with nothing), and with other heads that know nothing. On label maps 19 and 20, seen by none:

* SSIM and PSNR of the finished image (stripped, normalised, in the template frame; background included, as NPP reports
  it, and within the brain), with paired Wilcoxon tests of npp against each variant; of those with a transformer also
  with the true pose in place of the one found, which leaves the difference between a field and a drawing;
* the bias field: SSIM and gain error (SD of the log ratio, after one factor) in the scan's own frame, in brain that is
  9 mm and more from the skull (nearer to it npp's field, one value in 6 mm, falls off to strip); of the factor
  from the scan to each variant's image before any resampling, so that no pose has a part in it; what ``unet`` draws
  lies in the template frame and is carried back by the true pose; and of no correction at all;
* for npp, the sweep of lambda, with SSIM and PSNR of its multiplier field against the true one within the brain.

Training resumes where it was stopped; ``--minutes`` limits one call. Tables appear once all variants are trained
(``--now`` makes them from what there is). Prints Markdown, saves ``ablations.json``.

    python benchmarks/ablations.py --atlas atlas.npz --steps 1500 --minutes 60
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, markdown, save_results
from scipy.stats import wilcoxon

from neuralprep.evaluation.bias import field_scores
from neuralprep.evaluation.image import psnr, ssim_map
from neuralprep.networks.ablation import VARIANTS, AblationOutput, resampled
from neuralprep.synthesis.atlas import load_atlas
from neuralprep.synthesis.sample import DeviceHead
from neuralprep.training.batch import Batch
from neuralprep.training.data import Pool, make_batch
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.losses import square
from neuralprep.training.recipe import Recipe, Stage, load_recipe
from neuralprep.training.tasks.ablation import finished, pose_error, run_ablation, true_pose

HELD_OUT = ("training_seg_19", "training_seg_20")
LAMBDAS = (10.0, 1.0, 0.1, 0.01, 0.001)
PAPER_LAMBDA = 0.1
SEED = 1920
Scores = dict[str, float]
MEASURES = ("SSIM", "PSNR", "SSIM in brain")
POSED = tuple(f"{measure}, true pose" for measure in MEASURES)
FIELD_MEASURES = ("field SSIM", "field SSIM in brain", "field PSNR")
OWN_FRAME = ("bias SSIM", "gain error")
UNCORRECTED = "no correction"
DEEP_MM = 9.0
DARK = 0.02  # of the scan's range: below it a quotient says nothing


def train(recipe: Recipe, options: argparse.Namespace, deadline: float) -> Trainer:
    """Train one variant further, until it is done or time is up."""
    folder = options.runs / f"{recipe.digest()}"
    init = None if options.init == "scratch" else options.init
    minutes = max((deadline - time.monotonic()) / 60, 0)
    heads = load_atlas(options.atlas, recipe.train_heads)
    trainer = Trainer(recipe, heads, [], TrainOptions(folder, options.device, minutes, init=init,
                                                       precision=options.precision))
    trainer.train()
    return trainer


def score_image(made: np.ndarray, wanted: np.ndarray) -> Scores:
    """Likeness of a finished image."""
    likeness = ssim_map(made, wanted)
    return {"SSIM": float(likeness.mean()), "PSNR": psnr(made, wanted),
            "SSIM in brain": float(likeness[wanted > 0].mean())}


def score_field(multiplier: torch.Tensor, batch: Batch) -> Scores:
    """Likeness of the multiplier field, both set to zero outside the brain."""
    brain = batch.truth.brain()[0, 0].cpu().numpy()
    fine = torch.nn.functional.interpolate(multiplier, scale_factor=2.0, mode="trilinear", align_corners=False)
    found = np.where(brain, fine[0, 0].cpu().numpy(), 0)
    truth = np.where(brain, np.exp(batch.truth.log_gain[0].cpu().numpy()), 0)
    peak = float(np.percentile(truth[brain], 99))
    likeness = ssim_map(found, truth, peak)
    return {"field SSIM": float(likeness.mean()), "field SSIM in brain": float(likeness[brain].mean()),
            "field PSNR": psnr(found, truth, peak, brain)}


def score_bias(output: AblationOutput, batch: Batch) -> Scores:
    """The bias field that a variant's image implies, in the scan's own frame."""
    drawn = output.drawn
    if not output.pose.numel():  # drawn in the template frame
        drawn = resampled(drawn, torch.linalg.inv(square(true_pose(batch.truth)))[:, :3])
    scan = batch.image[0, 0].cpu().numpy()
    inside = (batch.truth.distances[0, 1] < -DEEP_MM).cpu().numpy() & (scan > DARK)
    truth = np.exp(batch.truth.log_gain[0].cpu().numpy())
    # What is drawn as black has no logarithm: it counts as far too dark instead of being left out.
    field = np.maximum(drawn[0, 0].cpu().numpy(), DARK) / np.maximum(scan, DARK)
    row: Scores = {}
    for ending, factor in (("", field), (f", {UNCORRECTED}", np.ones_like(field))):
        found = field_scores(factor, truth, inside)
        row |= {f"bias SSIM{ending}": found.ssim, f"gain error{ending}": found.gain_error}
    return row


@torch.no_grad()
def evaluate(trainer: Trainer, atlas: Path, samples: int, lambdas: tuple[float, ...]) -> dict[str, list[Scores]]:
    """Scores of every held-out sample, by lambda."""
    device, model = trainer.device, trainer.averaged()
    pool = Pool(device, tuple(DeviceHead.load(head, device) for head in load_atlas(atlas, HELD_OUT)))
    stage = replace(trainer.recipe.stages[0], batch=1)
    rows: dict[str, list[Scores]] = {f"{lam:g}": [] for lam in lambdas}
    for number in range(samples):
        batch = make_batch(pool, trainer.recipe, stage, (SEED, number))
        wanted = finished(batch.truth)[0, 0].cpu().numpy()
        if not (wanted > 0).any():
            continue
        for lam in lambdas:
            output = run_ablation(model, batch.image, float(np.log10(lam)))
            row = score_image(output.warped[0, 0].clamp(0, 1).cpu().numpy(), wanted)
            if lam == PAPER_LAMBDA:  # the variants are compared there; the sweep does without
                row |= score_bias(output, batch)
                if output.pose.numel():
                    posed = resampled(output.drawn, true_pose(batch.truth))
                    placed = score_image(posed[0, 0].clamp(0, 1).cpu().numpy(), wanted)
                    row |= {f"{measure}, true pose": value for measure, value in placed.items()}
                    row["pose mm"] = float(pose_error(output.pose, batch.truth))
            if output.multiplier.numel():
                row |= score_field(output.multiplier, batch)
            rows[f"{lam:g}"].append(row)
    return rows


def variant_table(scores: dict[str, list[Scores]], steps: dict[str, int]) -> list[dict[str, Any]]:
    """Means and spreads, and how unlikely it is that npp is not better (one-sided, paired)."""
    table = []
    first = next(iter(scores.values()))
    nothing = [{measure: row[f"{measure}, {UNCORRECTED}"] for measure in OWN_FRAME} for row in first]
    for name, rows in (scores | {UNCORRECTED: nothing}).items():
        line: dict[str, Any] = {"variant": name, "steps": steps.get(name, 0), "samples": len(rows)}
        for measure in (*MEASURES, *POSED, *OWN_FRAME, "pose mm"):
            if measure not in rows[0]:
                continue
            values = [row[measure] for row in rows]
            line[measure] = statistics.mean(values)
            line[f"{measure} SD"] = statistics.stdev(values)
            if name != "npp" and "npp" in scores and measure != "pose mm":
                ours = [row[measure] for row in scores["npp"]]
                better = "less" if measure == "gain error" else "greater"
                line[f"p {measure}"] = float(wilcoxon(ours, values, alternative=better).pvalue)
        table.append(line)
    return table


def lambda_table(rows_by_lambda: dict[str, list[Scores]]) -> list[dict[str, Any]]:
    """Means per lambda."""
    return [
        {"lambda": name, **{m: statistics.mean(row[m] for row in rows) for m in (*MEASURES, *FIELD_MEASURES)}}
        for name, rows in rows_by_lambda.items()
    ]


def main() -> None:
    """Parse the command line, train, score, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="atlas file with all 20 maps")
    parser.add_argument("--runs", type=Path, default=Path("training/ablations"), help="folder of the runs")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--steps", type=int, default=1500, help="steps of each variant (default 1500)")
    parser.add_argument("--size", type=int, default=64, help="voxels per axis (default 64)")
    parser.add_argument("--spacing", type=float, default=3.0, help="voxel edge in mm (default 3)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--init", default="npp", help="weights of the trunk; scratch for none (default npp)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop this call after so long")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--now", action="store_true", help="make the tables even if training is not done")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="while training")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    stage = Stage(options.steps, options.size, options.spacing, options.batch)
    base = replace(load_recipe("ablation"), stages=(stage,), validation_heads=())
    deadline = time.monotonic() + 60 * options.minutes
    trainers: dict[str, Trainer] = {}
    for name in options.variants:
        trainers[name] = train(base.with_variant(name), options, deadline)
        print(f"{name}: step {trainers[name].step} of {options.steps}", flush=True)
    if any(t.step < options.steps for t in trainers.values()) and not options.now:
        print("not all variants are trained; run the same command again to go on")
        return
    found = {name: evaluate(t, options.atlas, options.samples, LAMBDAS if name == "npp" else (PAPER_LAMBDA,))
             for name, t in trainers.items()}
    scores = {name: rows[f"{PAPER_LAMBDA:g}"] for name, rows in found.items()}
    steps = {name: t.step for name, t in trainers.items()}
    table = variant_table(scores, steps)
    for measures in (MEASURES, POSED, OWN_FRAME):
        columns = [c for m in measures for c in (m, f"{m} SD", f"p {m}")]
        print(markdown(table, ["variant", "steps", "samples", "pose mm", *columns]), end="\n\n")
    content: dict[str, Any] = {"stage": vars(stage), "init": options.init, "variants": table, "scores": scores}
    if "npp" in trainers:
        content["lambda"] = lambda_table(found["npp"])
        print(markdown(content["lambda"], ["lambda", *MEASURES, *FIELD_MEASURES]))
    print(f"\nsaved {save_results('ablations', content, options.results)}")


if __name__ == "__main__":
    main()
