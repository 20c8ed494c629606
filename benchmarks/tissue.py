"""The tissue mask of real brains against manual labels.

Five brains of the OASIS study (T1w, stripped, 1 mm) come with manual labels of the whole brain, ventricles included:
all of them together are what ``nocsf_mask`` means. Scored beside it: the network's own surface, on its 2 mm, before the
scan's intensities move it; and the mask of the inner skull, for what keeping the fluid costs. Dice, sensitivity,
specificity, surface distances (mm, weighted by area); paired Wilcoxon tests.

    python benchmarks/tissue.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, SHARED, comparison_table, save_results, summarize, summary_table
from numpy.typing import NDArray

from neuralprep import Preprocessor, Settings, Volume, load
from neuralprep.evaluation.scores import score_masks
from neuralprep.resample import resample
from neuralprep.steps import STEPS, State

OURS, NETWORK, SKULL = "neuralprep", "network alone", "inner skull"
MEASURES = ("dice", "sensitivity", "specificity", "hd95", "msd")


def masks(preprocessor: Preprocessor, scan: Volume) -> dict[str, NDArray[np.bool_]]:
    """Masks (X, Y, Z) by method."""
    state = State(scan, preprocessor.settings, frozenset(), preprocessor.threads, preprocessor.npp)
    for step in STEPS[: 1 + [step.name for step in STEPS].index("strip")]:
        state.known.update(step.work(state))
    look, skull = state["look"], state["brain_mask"].data > 0
    surface = resample(Volume(look.prediction.distances[0], look.working.grid), scan.grid, fill=15.0)
    return {OURS: state["nocsf_mask"].data > 0, NETWORK: skull & (surface.data <= 0), SKULL: skull}


def main() -> None:
    """Score, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--brains", type=Path, default=SHARED / "labels" / "malf_oasis", help="*_SS and *_glm images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    preprocessor = Preprocessor(Settings(threads=options.threads))
    rows: list[dict[str, Any]] = []
    for path in sorted(options.brains.glob("*_SS.nii.gz")):
        name = path.name.removesuffix("_SS.nii.gz")
        scan, labels = load(path), load(path.with_name(f"{name}_glm.nii.gz"))
        truth = labels.with_data(labels.data > 0)
        for method, mask in masks(preprocessor, scan).items():
            rows.append({"case": name, "method": method, **score_masks(scan.with_data(mask), truth)})
    if not rows:
        parser.error(f"no *_SS.nii.gz in {options.brains}")
    print(summary_table(rows, MEASURES, ["method"]), end="\n\n")
    print(comparison_table(rows, MEASURES, OURS))
    content = {"headline": summarize(rows, MEASURES, ["method"]), "rows": rows}
    print(f"\nsaved {save_results('tissue', content, options.results)}")


if __name__ == "__main__":
    main()
