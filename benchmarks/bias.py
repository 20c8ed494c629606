"""Bias field: what it leaves in white matter of real heads, and fields of known strength put on held-out heads.

1. Real heads (every T1w, T2w and FLAIR): robust coefficient of variation within deep white matter (the template's,
   eroded by 2 mm, carried to the head by our affine), of the raw scan, after SimpleITK's N4 (every fourth voxel, within
   our mask) and after our normalisation. The lower the better; noise and partial volume are in all three alike.
2. Simulated fields of 10 to 80 % (BrainWeb's convention) on synthetic heads that no network has seen, 2 % Rician
   noise: gain error, SSIM and PSNR of the field found, up to a global factor, within our mask and the true one; ours
   and N4 (given our mask), by strength, with paired tests.

Finished work is kept in ``--cache``; the same command goes on where it was stopped.

    python benchmarks/bias.py --atlas heldout.npz --samples 20 --jobs 2
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    PIPELINE_PARTS,
    SHARED,
    Ledger,
    add_options,
    comparison_table,
    contrast,
    find_heads,
    markdown,
    run_cached,
    save_results,
    stem,
    summarize,
    summary_table,
    targets,
)

from neuralprep import Preprocessor, Settings, Volume, load, load_template, save
from neuralprep.evaluation.bias import field_scores, residual_variation, simulated_field, white_matter
from neuralprep.evaluation.degrade import noisy
from neuralprep.evaluation.heldout import HELD_OUT, Case, HeldOutHeads
from neuralprep.evaluation.peers import SimpleItkN4
from neuralprep.evaluation.tables import compare
from neuralprep.synthesis.sample import Record
from neuralprep.synthesis.sampler import SamplerSettings

CONTRASTS = ("T1w", "T2w", "FLAIR")
PERCENTS = (10.0, 20.0, 40.0, 60.0, 80.0)
NOISE_PERCENT = 2.0
OURS, N4, RAW = "neuralprep", "N4", "raw"
FIELD = ("gain_error", "field_ssim", "field_psnr")
PARTS = (*PIPELINE_PARTS, "evaluation/bias", "evaluation/peers", "evaluation/degrade")
SAMPLER = SamplerSettings(subsamples=4, infant=0.0, cut=0.0, stripped=0.0)


@lru_cache(maxsize=1)
def preprocessor(threads: int) -> Preprocessor:
    """Our pipeline; loaded once per process."""
    outputs = ("brain_mask", "nocsf_mask", "multiplier", "preproc", "template_from_scan")
    return Preprocessor(Settings(threads=threads, outputs=outputs))


@lru_cache(maxsize=1)
def heads(atlas: Path) -> HeldOutHeads:
    """The held-out heads; loaded once per process."""
    return HeldOutHeads(atlas, SAMPLER)


def corrected_by_n4(scan: Volume, mask: Volume, threads: int) -> np.ndarray:
    """The scan after N4 within a mask."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(scan, folder / "scan.nii.gz", dtype="float32")
        save(mask, folder / "mask.nii.gz", dtype="uint8")
        made = SimpleItkN4(threads).run(folder / "scan.nii.gz", folder / "out.nii.gz", mask=folder / "mask.nii.gz")
        return load(made.path, checks=False).data


def measure_head(path: Path, threads: int) -> dict[str, Any]:
    """Residual variation of one real head by every method."""
    scan = load(path)
    result = preprocessor(threads).run(scan)
    outputs = result.outputs
    white = white_matter(load_template(), outputs["template_from_scan"], scan.grid) & (outputs["nocsf_mask"].data > 0)
    white_ml = float(white.sum()) * scan.grid.voxel_volume / 1000
    found: dict[str, Any] = {"decision": result.quality.decision, "white_ml": white_ml}
    if not white.any():
        return found
    n4 = corrected_by_n4(scan, outputs["brain_mask"], threads)
    images = {RAW: scan.data, N4: n4, OURS: outputs["preproc"].data}
    return found | {"variation": {name: residual_variation(image, white) for name, image in images.items()}}


def without_field(record: Record) -> Record:
    """The same head without any fault that acts like a bias field, and without noise."""
    return replace(record, bias_strength=0.0, coils=None, noise=0.0, gamma=1.0)


def measure_field(atlas: Path, seed: int, index: int, percent: float, threads: int) -> dict[str, Any]:
    """Field scores of one synthetic head under one simulated field, by every method."""
    look = CONTRASTS[index % len(CONTRASTS)]
    case: Case = heads(atlas).case(index, seed, look, without_field)
    brain = case.scan.with_data(case.icv)
    field = simulated_field(case.scan.grid, percent, np.random.default_rng([seed, index, 1]), case.icv)
    scan, _ = noisy(case.scan.with_data(case.scan.data * field), brain, NOISE_PERCENT, seed=index)
    result = preprocessor(threads).run(scan)
    mask = result.outputs["brain_mask"]
    n4 = corrected_by_n4(scan, mask, threads)
    safe = np.where(scan.data > 0, scan.data, np.inf)
    gains = {OURS: result.outputs["multiplier"].data, N4: n4 / safe, RAW: np.ones(scan.data.shape)}
    inside = (mask.data > 0) & case.icv & (scan.data > 0)
    found: dict[str, Any] = {"look": look, "percent": percent}
    for method, gain in gains.items():
        scores = field_scores(gain, 1 / field, inside)
        found[method] = dict(zip(FIELD, (scores.gain_error, scores.ssim, scores.psnr), strict=True))
    return found


def real_heads(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows per head and method."""
    scans = [p for p in find_heads(options.heads) if contrast(stem(p)) in CONTRASTS]
    scans = [p for p in scans if not options.only or stem(p) in options.only]
    ledger = Ledger("bias-heads", {}, PARTS, options.cache, options.fresh)
    done = run_cached(ledger, measure_head, {stem(p): (p, options.threads) for p in scans}, options.jobs)
    lines = [{"head": k, "contrast": contrast(k), **v, **v.get("variation", {})} for k, v in done.items()]
    print(markdown(lines, ["head", "contrast", "white_ml", RAW, N4, OURS, "decision"]), end="\n\n")
    return [
        {"case": head, "contrast": contrast(head), "method": method, "variation": value}
        for head, found in done.items()
        for method, value in found.get("variation", {}).items()
    ]


def simulated(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows per synthetic head, strength and method."""
    settings = {
        "atlas": hashlib.sha256(options.atlas.read_bytes()).hexdigest(), "maps": HELD_OUT, "seed": options.seed,
        "sampler": asdict(SAMPLER), "noise": NOISE_PERCENT, "looks": CONTRASTS,
    }  # fmt: skip
    parts = (*PARTS, "synthesis", "evaluation/heldout")
    ledger = Ledger("bias-simulated", settings, parts, options.cache, options.fresh)
    tasks = {
        f"{index} {percent:g} %": (options.atlas, options.seed, index, percent, options.threads)
        for index in range(options.samples)
        for percent in options.percents
    }
    done = run_cached(ledger, measure_field, tasks, options.jobs)
    return [
        {"case": name, "contrast": found["look"], "percent": f"{found['percent']:g}", "method": method, **found[method]}
        for name, found in done.items()
        for method in (OURS, N4, RAW)
    ]


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--only", nargs="+", help="names of heads; all if not given")
    parser.add_argument("--no-heads", action="store_true", help="simulated fields only")
    parser.add_argument("--atlas", type=Path, help="atlas file with maps 19 and 20; real heads only if not given")
    parser.add_argument("--samples", type=int, default=20, help="synthetic heads, each with every strength")
    parser.add_argument("--percents", type=float, nargs="+", default=PERCENTS)
    parser.add_argument("--seed", type=int, default=19_20)
    add_options(parser)
    options = parser.parse_args()
    if options.no_heads and options.atlas is None:
        parser.error("--no-heads without --atlas leaves nothing to measure")
    real = [] if options.no_heads else real_heads(options)
    fields = simulated(options) if options.atlas else []
    goals: list[tuple[str, float | None, float, str]] = []
    if real:
        print(summary_table(real, ["variation"], ["method"]), end="\n\n")
        print(comparison_table(real, ["variation"], OURS), end="\n\n")
        middle = {row["method"]: row["median"] for row in summarize(real, ["variation"], ["method"])}
        goals.append(("median residual variation: ours", middle[OURS], middle[N4], "<="))
    if fields:
        print(summary_table(fields, FIELD, ["percent", "method"]), end="\n\n")
        print(comparison_table(fields, FIELD, OURS), end="\n\n")
        ssim = {row["method"]: row["median"] for row in summarize(fields, ["field_ssim"], ["method"])}
        goals.append(("median field SSIM: ours", ssim[OURS], 0.985, ">="))
    print(targets(goals))
    content = {
        "headline": {
            "real heads": summarize(real, ["variation"], ["method"]),
            "simulated": summarize(fields, FIELD, ["method"]),
        },
        "real": real, "simulated": fields,
        "by_strength": summarize(fields, FIELD, ["percent", "method"]),
        "comparison": {"real": compare(real, ["variation"], OURS), "simulated": compare(fields, FIELD, OURS)},
    }  # fmt: skip
    print(f"\nsaved {save_results('bias', content, options.results)}")


if __name__ == "__main__":
    main()
