"""How much our brain mask changes when a real head is spoilt in known ways.

Faults: 5 mm slices along each axis, 8 % noise, a 60 % bias field, gamma 0.5 and 2, dark and bright exchanged, the
head lying in six other poses (90 degrees), already stripped; and all 48 orders of the array axes of one head. Every
mask is compared with the mask of the clean head, carried to the spoilt head's grid: no reference is needed, and a
method that is wrong in the same way on both is not found out here. A stripped head is judged by the volume it loses.

Finished work is kept in ``--cache``; the same command goes on where it was stopped.

    python benchmarks/degradation.py --jobs 2
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    PIPELINE_PARTS,
    SHARED,
    Ledger,
    add_options,
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
from peers import FIRST

from neuralprep import Preprocessor, Settings, Volume, load
from neuralprep.errors import InputError
from neuralprep.evaluation import degrade
from neuralprep.evaluation.overlap import dice
from neuralprep.evaluation.surface import element_distances

OTHERS = ("pysynthsr_FLAIR_1mm", "clinicaltbx_stroke_T2w_1mm", "openms_p01_s1_FLAIR", "torchio_fernando_T2w")
TURNED = "xa30_prisma_T1w_2mm"
PARTS = (*PIPELINE_PARTS, "evaluation/degrade", "evaluation/bias", "evaluation/surface")
MEASURES = ("dice", "hd95")


@lru_cache(maxsize=1)
def preprocessor(threads: int) -> Preprocessor:
    """Our stripper; loaded once per process."""
    return Preprocessor(Settings(normalize=False, register=False, outputs=("brain_mask",), threads=threads))


@lru_cache(maxsize=1)
def clean(path: Path, threads: int) -> tuple[Volume, Volume]:
    """A head and its mask (bool)."""
    scan = load(path)
    mask = preprocessor(threads).run(scan).outputs["brain_mask"]
    return scan, mask.with_data(mask.data > 0)


def measure(path: Path, fault: str, threads: int) -> dict[str, Any]:
    """Scores of one head with one fault against its clean mask; ``orientation XYZ`` are faults, too."""
    scan, mask = clean(path, threads)
    codes = fault.removeprefix("orientation ")
    if fault == "stripped":
        spoilt, expected = degrade.stripped(scan, mask)
    elif codes != fault:
        spoilt, expected = degrade.reoriented(scan, mask, codes)
    else:
        chosen = next(f for f in degrade.faults() if f.name == fault)
        spoilt, expected = chosen.apply(scan, mask)
    try:
        result = preprocessor(threads).run(spoilt)
    except InputError as error:
        return {"dice": 0.0, "hd95": np.inf, "loss": 1.0, "decision": "failed", "error": str(error)}
    found = result.outputs["brain_mask"].data > 0
    distances = element_distances(found, expected.data, expected.grid.spacing)
    return {
        "dice": dice(found, expected.data),
        "hd95": distances.hausdorff95,
        "loss": 1 - float(found.sum()) / float(expected.data.sum()),
        "decision": result.quality.decision,
    }


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--only", nargs="+", default=(*FIRST, *OTHERS), help="names of heads")
    parser.add_argument("--turned", default=TURNED, help="name of the head for the 48 orientations")
    parser.add_argument("--orientations", type=int, default=48, help="how many of them; 0 for none")
    add_options(parser)
    options = parser.parse_args()
    paths = {stem(p): p for p in find_heads(options.heads)}
    chosen = [name for name in options.only if name in paths]
    if not chosen:
        parser.error(f"none of the heads is in {options.heads}")
    groups = {f.name: f.group for f in degrade.faults()} | {"stripped": "stripped"}
    wanted = [(head, fault) for head in chosen for fault in groups]
    if options.turned in paths:
        codes = degrade.orientations()
        step = max(1, len(codes) // options.orientations) if options.orientations else len(codes) + 1
        wanted += [(options.turned, f"orientation {code}") for code in codes[::step] if options.orientations]
    ledger = Ledger("degradation", {}, PARTS, options.cache, options.fresh)
    tasks = {f"{head}: {fault}": (paths[head], fault, options.threads) for head, fault in wanted}
    done = run_cached(ledger, measure, tasks, options.jobs)
    rows = [
        {"case": f"{head}: {fault}", "head": head, "contrast": contrast(head), "fault": fault,
         "group": groups.get(fault, "orientation"), **done[f"{head}: {fault}"]}
        for head, fault in wanted
    ]  # fmt: skip
    spoilt = [row for row in rows if row["group"] not in ("stripped", "orientation")]
    names = list(dict.fromkeys(row["group"] for row in spoilt))
    by_head = [
        {"head": head} | {n: min(r["dice"] for r in spoilt if r["head"] == head and r["group"] == n) for n in names}
        for head in chosen
    ]
    print("Dice with the clean mask, the worst of each group\n")
    print(markdown(by_head, ["head", *names]), end="\n\n")
    print(summary_table(rows, MEASURES, ["group"]), end="\n\n")
    worst = sorted(spoilt, key=lambda row: row["dice"])[:10]
    print(markdown(worst, ["case", "dice", "hd95", "decision", "error"]), end="\n\n")
    losses = [row["loss"] for row in rows if row["group"] == "stripped"]
    turned = [row["dice"] for row in rows if row["group"] == "orientation"]
    print(targets([
        ("worst Dice of a spoilt head", min(row["dice"] for row in spoilt), 0.96, ">="),
        ("share of spoilt heads with Dice >= 0.96", float(np.mean([r["dice"] >= 0.96 for r in spoilt])), 1.0, ">="),
        ("largest loss of a stripped head", max(losses), 0.01, "<="),
        ("worst Dice of an orientation", min(turned, default=None), 0.999, ">="),
    ]))  # fmt: skip
    content = {
        "headline": {"groups": summarize(rows, ["dice"], ["group"]), "largest loss of a stripped head": max(losses)},
        "rows": rows, "by_group": summarize(rows, MEASURES, ["group"]),
    }  # fmt: skip
    print(f"\nsaved {save_results('degradation', content, options.results)}")


if __name__ == "__main__":
    main()
