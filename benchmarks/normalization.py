"""Seven ways of intensity normalisation on held-out synthetic scans: how alike tissues become between scans.

Label maps 19 and 20 are rendered by many "scanners": contrast, receive field, noise, resolution and pose drawn at
random. The mean of white and of grey matter (true classes) is taken of every scan before and after each method, with
the true inside of the skull for a mask, so that nothing but the normalisation is measured. Two numbers per tissue, over
the scans of one contrast:

* CV, in percent: standard deviation over mean. Not defined for z-score and WhiteStripe, whose zero lies in the brain.
* spread, in percent: standard deviation over the mean distance of white and grey matter; for every method.

"scan" is the image as rendered, the 99.5th percentile of the head at 1: a real scanner's arbitrary gain would be worse.
"pipeline" is neuralprep's own normalisation, which takes out the receive field and scales the mean of the brain; "on
pipeline" is a method on its result, which is how they are meant to be used. Landmarks of Nyul are fitted on maps 17
and 18, without the pipeline. White matter of FLAIR and PDw is not clustered, so FCM and wm110 are left out there.

    python benchmarks/normalization.py --atlas heldout.npz --samples 16
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from common import PIPELINE_PARTS, Ledger, add_options, markdown, run_cached, save_results, targets

from neuralprep import InputError, Preprocessor, Settings, Volume
from neuralprep.evaluation.heldout import HELD_OUT, Case, HeldOutHeads
from neuralprep.normalization.catalog import METHODS, Contrast
from neuralprep.normalization.landmarks import Landmarks, average_landmarks, image_landmarks
from neuralprep.normalization.methods import normalize
from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.sampler import SamplerSettings

FIT_HEADS = ("training_seg_17", "training_seg_18")
CONTRAST: dict[str, Contrast] = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair", "PDw": "pd"}
RAW, PIPELINE, AFTER = "scan", "pipeline", " on pipeline"
CENTRED = ("zscore", "whitestripe")
MODULES = ("distribution", "landmarks", "mapping", "methods", "region", "white_matter")
PARTS = (*PIPELINE_PARTS, *(f"normalization/{m}" for m in MODULES), "synthesis", "evaluation/heldout")
SAMPLER = SamplerSettings(any_rotation=0, infant=0, animal=0, cut=0, stripped=0, defaced=0, blob=0, merged=0)


@lru_cache(maxsize=2)
def heads(atlas: Path, names: tuple[str, ...]) -> HeldOutHeads:
    """Heads to render; loaded once per process."""
    return HeldOutHeads(atlas, SAMPLER, names)


@lru_cache(maxsize=1)
def preprocessor(threads: int) -> Preprocessor:
    """Our pipeline; loaded once per process."""
    return Preprocessor(Settings(register=False, outputs=("preproc",), threads=threads))


def landmarks_of(atlas: Path, look: str, seed: int, index: int) -> list[float]:
    """Pulled percentiles of one scan for training."""
    case = heads(atlas, FIT_HEADS).case(index, seed, look)
    return [float(v) for v in image_landmarks(case.scan, case.icv)]


def measure(atlas: Path, look: str, seed: int, index: int, standard: Landmarks, threads: int) -> dict[str, Any]:
    """Mean of white and grey matter of one scan, before and after every method."""
    case = heads(atlas, HELD_OUT).case(index, seed, look, want_classes=True)
    field_free = preprocessor(threads).run(case.scan).outputs["preproc"]
    found = {RAW: tissue_means(case.scan, case), PIPELINE: tissue_means(field_free, case)}
    for method in METHODS:
        options = {"landmarks": standard} if method == "nyul" else {}
        for suffix, image in (("", case.scan), (AFTER, field_free)):
            try:
                done = normalize(image, method, case.icv, contrast=CONTRAST[look], **options)
            except InputError:
                continue
            found[method + suffix] = tissue_means(done.image, case)
    return found


def tissue_means(image: Volume, case: Case) -> dict[str, float]:
    """Means of cerebral white and grey matter."""
    assert case.classes is not None
    return {
        tissue: float(image.data[(case.classes == INDEX[name]) & case.icv].mean())
        for tissue, name in (("WM", "cerebral_wm"), ("GM", "cerebral_gm"))
    }


def summarize(scans: list[dict[str, Any]], look: str) -> list[dict[str, Any]]:
    """One row per method: CV and spread of both tissues over the scans."""
    rows = []
    for method in (RAW, *METHODS, PIPELINE, *(method + AFTER for method in METHODS)):
        present = [scan[method] for scan in scans if method in scan]
        row: dict[str, Any] = {"look": look, "method": method, "scans": len(present)}
        if len(present) == len(scans):
            distance = statistics.mean(abs(means["WM"] - means["GM"]) for means in present)
            for tissue in ("WM", "GM"):
                values = [means[tissue] for means in present]
                row[f"{tissue} spread %"] = 100 * statistics.stdev(values) / distance
                if method.removesuffix(AFTER) not in CENTRED:
                    row[f"{tissue} CV %"] = 100 * statistics.stdev(values) / statistics.mean(values)
        rows.append(row)
    return rows


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="atlas file with maps 17 to 20")
    parser.add_argument("--samples", type=int, default=16, help="scans per contrast")
    parser.add_argument("--fit", type=int, default=8, help="scans per contrast to fit landmarks on")
    parser.add_argument("--looks", nargs="+", default=list(CONTRAST), choices=list(CONTRAST))
    parser.add_argument("--seed", type=int, default=19_20)
    add_options(parser)
    options = parser.parse_args()
    settings = {
        "atlas": hashlib.sha256(options.atlas.read_bytes()).hexdigest(), "seed": options.seed,
        "sampler": asdict(SAMPLER), "fit": options.fit,
    }  # fmt: skip
    ledger = Ledger("normalization", settings, PARTS, options.cache, options.fresh)
    table: list[dict[str, Any]] = []
    scans: dict[str, list[dict[str, Any]]] = {}
    for look in options.looks:
        tasks = {f"fit {look} {k}": (options.atlas, look, options.seed + 1, k) for k in range(options.fit)}
        pulled = run_cached(ledger, landmarks_of, tasks, options.jobs)
        standard = average_landmarks(np.array(v) for v in pulled.values())
        work = {f"{look} {k}": (options.atlas, look, options.seed, k, standard, options.threads)
                for k in range(options.samples)}  # fmt: skip
        scans[look] = list(run_cached(ledger, measure, work, options.jobs).values())
        table += summarize(scans[look], look)
    columns = ["WM CV %", "GM CV %", "WM spread %", "GM spread %"]
    for look in options.looks:
        print(f"{look}\n")
        print(markdown([row for row in table if row["look"] == look], ["method", "scans", *columns]), end="\n\n")
    found = {(row["look"], row["method"]): row for row in table}
    goals = [
        (f"{look}: CV of white matter, {method} over scan",
         found[look, method]["WM CV %"] / found[look, RAW]["WM CV %"], 0.5, "<=")
        for look in options.looks for method in (PIPELINE, *(m + AFTER for m in ("fcm", "kde", "wm110")))
        if "WM CV %" in found[look, method]
    ]  # fmt: skip
    print(targets(goals))
    print(f"\nsaved {save_results('normalization', {'table': table, 'scans': scans}, options.results)}")


if __name__ == "__main__":
    main()
