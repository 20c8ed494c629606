"""Brain masks of CT: the public CT template, held-out synthetic CT, and a real head, beside thresholds.

* The mean CT of older adults in MNI space (Clinical Toolbox), turned back from Cormack units to Hounsfield units,
  against its own stripped version (above 1000, half of the brain's value: its edge is blurred; 1873 ml).
* Synthetic CT of maps 19 and 20 in Hounsfield units, against the exact inside of the skull.
* A real head CT without a reference: volumes and the agreement of the methods.

"thresholds" is the classical way (``neuralprep.evaluation.ct``); "thresholds, tuned" is the same with the opening that
is best on the template image itself, which no one could know beforehand.

    python benchmarks/ct.py --atlas heldout.npz --samples 20 --jobs 2
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import asdict
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
    markdown,
    run_cached,
    save_results,
    summarize,
    summary_table,
    targets,
)

from neuralprep import Preprocessor, Settings, Volume, load
from neuralprep.evaluation.ct import hounsfield_from_cormack, threshold_strip
from neuralprep.evaluation.heldout import HELD_OUT, HeldOutHeads
from neuralprep.evaluation.overlap import dice
from neuralprep.evaluation.scores import score_masks
from neuralprep.stages.conform import CT_WINDOW_HU
from neuralprep.synthesis.sampler import SamplerSettings

OURS, PLAIN, TUNED = "neuralprep", "thresholds", "thresholds, tuned"
TUNED_MM = 9.0
MEASURES = ("dice", "sensitivity", "specificity", "msd", "hd95", "volume_error")
PARTS = (*PIPELINE_PARTS, "evaluation/ct", "evaluation/scores", "evaluation/surface")
SAMPLER = SamplerSettings(subsamples=4, infant=0.0, stripped=0.0)
TEMPLATE_LEVEL = 1000


@lru_cache(maxsize=1)
def preprocessor(threads: int) -> Preprocessor:
    """Our stripper; loaded once per process."""
    return Preprocessor(Settings(normalize=False, register=False, outputs=("brain_mask",), threads=threads))


@lru_cache(maxsize=1)
def heads(atlas: Path) -> HeldOutHeads:
    """The held-out heads; loaded once per process."""
    return HeldOutHeads(atlas, SAMPLER)


def strip(scan: Volume, threads: int) -> tuple[dict[str, Volume], str]:
    """Mask (bool) of a CT by every method, and the decision on ours."""
    result = preprocessor(threads).run(scan)
    ours = result.outputs["brain_mask"]
    masks = {
        OURS: ours.with_data(ours.data > 0),
        PLAIN: threshold_strip(scan),
        TUNED: threshold_strip(scan, opening_mm=TUNED_MM),
    }
    return masks, result.quality.decision


def measure_template(templates: Path, threads: int) -> dict[str, Any]:
    """Scores on the public CT template."""
    scan = load(templates / "scct_2mm.nii.gz")
    scan = scan.with_data(hounsfield_from_cormack(scan.data))
    brain = load(templates / "scct_stripped_2mm.nii.gz", checks=False)
    truth = brain.with_data(brain.data > TEMPLATE_LEVEL)
    masks, decision = strip(scan, threads)
    return {"decision": decision} | {name: score_masks(mask, truth) for name, mask in masks.items()}


def measure_synthetic(atlas: Path, seed: int, index: int, threads: int) -> dict[str, Any]:
    """Scores on one synthetic CT."""
    case = heads(atlas).case(index, seed, "CT")
    low, high = CT_WINDOW_HU
    # The head model draws a CT within its window: what is black is air, and what is white is bone. Without numbers that
    # only air and bone have nobody would take it for a CT.
    hounsfield = low + (high - low) * case.scan.data
    hounsfield[case.scan.data <= 1e-3] = -1000
    hounsfield[case.scan.data >= 1 - 1e-3] = 1000
    scan = case.scan.with_data(hounsfield.astype(np.float32))
    masks, decision = strip(scan, threads)
    truth = scan.with_data(case.icv)
    return {"decision": decision} | {name: score_masks(mask, truth) for name, mask in masks.items()}


def measure_real(path: Path, threads: int) -> dict[str, Any]:
    """Volumes (ml) and agreement with ours on a head without a reference."""
    scan = load(path)
    masks, decision = strip(scan, threads)
    ml = {name: float(mask.data.sum()) * scan.grid.voxel_volume / 1000 for name, mask in masks.items()}
    return {"decision": decision, "ml": ml, "agreement": {k: dice(m.data, masks[OURS].data) for k, m in masks.items()}}


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with ct/ and templates/")
    parser.add_argument("--atlas", type=Path, help="atlas file with maps 19 and 20; no synthetic CT if not given")
    parser.add_argument("--samples", type=int, default=20, help="synthetic CTs")
    parser.add_argument("--seed", type=int, default=19_20)
    add_options(parser)
    options = parser.parse_args()
    ledger = Ledger("ct", {}, PARTS, options.cache, options.fresh)
    real = options.data / "ct" / "ge_hispeed_head_CT.nii.gz"
    template = run_cached(ledger, measure_template, {"template": (options.data / "templates", options.threads)})
    head = run_cached(ledger, measure_real, {"real head": (real, options.threads)})["real head"]
    template_rows = [
        {"case": "template", "method": name, **template["template"][name]} for name in (OURS, PLAIN, TUNED)
    ]
    print("CT template (Dice against its stripped version)\n")
    print(markdown(template_rows, ["method", *MEASURES]), end="\n\n")
    print("Real head CT, no reference\n")
    lines = [{"method": k, "ml": head["ml"][k], "Dice with ours": head["agreement"][k]} for k in head["ml"]]
    print(markdown(lines, ["method", "ml", "Dice with ours"]), end="\n\n")
    print(f"decisions: template {template['template']['decision']}, real head {head['decision']}\n")
    rows: list[dict[str, Any]] = []
    if options.atlas:
        rows = synthetic(options)
        print("Held-out synthetic CT\n")
        print(summary_table(rows, MEASURES, ["method"]), end="\n\n")
        print(comparison_table(rows, MEASURES, OURS), end="\n\n")
    found = {row["method"]: row["dice"] for row in template_rows}
    middle = {row["method"]: row["median"] for row in summarize(rows, ["dice"], ["method"])}
    print(targets([
        ("Dice on the CT template", found[OURS], 0.93, ">="),
        ("Dice on the CT template, above plain thresholds (0.849 in the literature's form)", found[OURS],
         max(found[PLAIN], 0.849), ">="),
        ("median Dice on synthetic CT", middle.get(OURS), 0.95, ">="),
    ]))  # fmt: skip
    content = {
        "headline": {"template": found, "synthetic": summarize(rows, MEASURES, ["method"])},
        "template": template_rows, "real": head, "synthetic": rows,
    }  # fmt: skip
    print(f"\nsaved {save_results('ct', content, options.results)}")


def synthetic(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows per synthetic CT and method."""
    settings = {
        "atlas": hashlib.sha256(options.atlas.read_bytes()).hexdigest(), "maps": HELD_OUT, "seed": options.seed,
        "sampler": asdict(SAMPLER),
    }  # fmt: skip
    parts = (*PARTS, "synthesis", "evaluation/heldout")
    ledger = Ledger("ct-synthetic", settings, parts, options.cache, options.fresh)
    tasks = {str(k): (options.atlas, options.seed, k, options.threads) for k in range(options.samples)}
    done = run_cached(ledger, measure_synthetic, tasks, options.jobs)
    return [
        {"case": name, "method": method, "decision": found["decision"], **found[method]}
        for name, found in done.items()
        for method in (OURS, PLAIN, TUNED)
    ]


if __name__ == "__main__":
    main()
