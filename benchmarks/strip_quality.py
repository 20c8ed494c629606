"""How far the predicted Dice of a brain mask can be trusted; fits its coefficients anew with ``--fit``.

Cases whose truth is known: synthetic heads (label maps 17 and 18 for the fit, 19 and 20 for the test) with every fault
the head model has, and real heads, clean and with faults put in, against deepbet's mask of the clean scan (half of the
people for the fit, the others for the test). deepbet is not the truth: two good masks of a real head have a Dice of
about 0.96 with each other, and that is the best a real head can reach here.

``--fit`` writes ``<model>_quality.json`` beside the weights, for exactly these weights. Printed and saved for the test
cases: predicted against real Dice in bins, mean absolute error, rank correlation, and the share of failures (real Dice
below ``--failed``) that the prediction flags. Finished cases are kept in ``--cache``.

    python benchmarks/strip_quality.py --atlas atlas.npz --fit
"""

from __future__ import annotations

import argparse
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    PIPELINE_PARTS,
    SHARED,
    Ledger,
    add_options,
    find_heads,
    load_mask,
    markdown,
    run_cached,
    save_results,
    stem,
)

from neuralprep import Grid, Preprocessor, Settings, Volume, load
from neuralprep.errors import InputError
from neuralprep.evaluation.degrade import Fault, biased, faults, noisy, thick_slices
from neuralprep.evaluation.heldout import HELD_OUT, HeldOutHeads
from neuralprep.evaluation.overlap import dice
from neuralprep.evaluation.tables import write_json
from neuralprep.evaluation.trust import calibration, fit_trust, usable
from neuralprep.stages.trust import predict_dice
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.weights.registry import find_model

FIT_MAPS = ("training_seg_17", "training_seg_18")
TEST_PEOPLE = ("rorden", "bisweb", "IXI015", "tcga", "torchio", "clinicaltbx")
"""How the names of heads begin that are for testing only; all scans of a person are on one side."""
PARTS = (*PIPELINE_PARTS, "synthesis", "evaluation/heldout", "evaluation/degrade")
EDGE = 128


@lru_cache(maxsize=2)
def heads(atlas: Path, names: tuple[str, ...]) -> HeldOutHeads:
    """Label maps of one side; loaded once per process."""
    settings = SamplerSettings(shape=(EDGE, EDGE, EDGE), spacing_mm=256 / EDGE, subsamples=2)
    return HeldOutHeads(atlas, settings, names)


@lru_cache(maxsize=1)
def preprocessor(model: str, threads: int) -> Preprocessor:
    """The pipeline with everything that a prediction may use; loaded once per process."""
    outputs = ("brain_mask", "template_from_scan", "uncertainty")
    return Preprocessor(Settings(normalize=False, outputs=outputs, model=model, threads=threads))


def judged(scan: Volume, truth: np.ndarray, model: str, threads: int) -> dict[str, Any]:
    """Measures of a scan, the real Dice of its mask, and how well the uncertainty tells where it is wrong."""
    try:
        result = preprocessor(model, threads).run(scan)
    except InputError as error:  # no brain found is a failure that nobody can overlook
        return {"refused": str(error)}
    mask = result.outputs["brain_mask"].data > 0
    spread = result.outputs["uncertainty"].data
    rim = np.abs(spread) > 0.3
    wrong = mask != truth
    return {
        "dice": dice(mask, truth),
        "decision": result.quality.decision,
        "measures": result.quality.measures,
        "wrong_where_uncertain": float(wrong[rim].mean()) if rim.any() else 0.0,
        "wrong_elsewhere": float(wrong[~rim].mean()),
    }


def synthetic(atlas: Path, names: tuple[str, ...], seed: int, index: int, model: str, threads: int) -> dict[str, Any]:
    """One synthetic head."""
    case = heads(atlas, names).case(index, seed)
    if case.icv.sum() * case.scan.grid.voxel_volume < 150e3:  # the field of view shows next to nothing of the brain
        return {"refused": "too little brain in view"}
    return {"look": case.look, **judged(case.scan, case.icv, model, threads)}


def real(path: Path, reference: Path, fault: str, model: str, threads: int) -> dict[str, Any]:
    """One real head, clean or with a fault."""
    scan = load(path)
    truth = scan.with_data(load_mask(reference)[0])
    if fault != "clean":
        scan, truth = next(f for f in all_faults() if f.name == fault).apply(scan, truth)
    return judged(scan, truth.data > 0, model, threads)


def all_faults() -> list[Fault]:
    """The faults of `neuralprep.evaluation.degrade` and some that masks rarely survive."""
    chosen = [fault for fault in faults() if fault.name in ("5 mm slices, axis 2", "gamma 0.5", "inverted")]
    return [
        *chosen,
        Fault("noise 25 %", "noise", partial(noisy, percent=25.0)),
        Fault("noise 60 %", "noise", partial(noisy, percent=60.0)),
        Fault("bias 150 %", "bias", partial(biased, percent=150.0)),
        Fault("9 mm slices, axis 0", "9 mm slices", partial(thick_slices, axis=0, slice_mm=9.0)),
        Fault("upper third cut off", "cut", partial(cut, axis=2, low=0.0, high=0.67)),
        Fault("left half only", "cut", partial(cut, axis=0, low=0.0, high=0.5)),
        Fault("wrong voxel size", "header", stretched),
    ]


def cut(scan: Volume, mask: Volume, axis: int, low: float, high: float) -> tuple[Volume, Volume]:
    """Part of the field of view along one axis of the world, as shares of it."""
    scan, mask = scan.oriented("RAS"), mask.oriented("RAS")
    start, stop = [0, 0, 0], list(scan.grid.shape)
    start[axis], stop[axis] = int(low * stop[axis]), int(high * stop[axis])
    return scan.cropped(start, stop), mask.cropped(start, stop)


def stretched(scan: Volume, mask: Volume) -> tuple[Volume, Volume]:
    """A header that gives the third axis 1.6 times its size."""
    grid = Grid(scan.grid.shape, scan.grid.affine @ np.diag([1, 1, 1.6, 1]))
    return Volume(scan.data, grid), Volume(mask.data, grid)


def tasks(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Work by key: synthetic and real cases; the keys begin with the side they are for."""
    shared = (options.model, options.threads)
    made = {
        f"{side} synthetic {index}": (options.atlas, names, options.seed, index, *shared)
        for side, names, count in (("fit", FIT_MAPS, options.samples), ("test", HELD_OUT, options.test_samples))
        for index in range(count)
    }
    taken: dict[str, Any] = {}
    for path in find_heads(options.heads):
        reference = options.cache / "deepbet" / path.name
        if not reference.is_file():
            continue
        side = "test" if stem(path).startswith(TEST_PEOPLE) else "fit"
        for fault in ("clean", *(fault.name for fault in all_faults())):
            taken[f"{side} real {stem(path)}: {fault}"] = (path, reference, fault, *shared)
    return made, taken


def main() -> None:
    """Parse the command line, run, fit, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="atlas file with maps 17 to 20")
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of real scans")
    parser.add_argument("--model", default="npp", help="name or .safetensors file")
    parser.add_argument("--samples", type=int, default=120, help="synthetic heads to fit on")
    parser.add_argument("--test-samples", type=int, default=80, help="synthetic heads to test on")
    parser.add_argument("--seed", type=int, default=17_20)
    parser.add_argument("--failed", type=float, default=0.9, help="a real Dice below this is a failure")
    parser.add_argument("--flagged", type=float, default=0.9, help="a prediction below this asks for a check")
    parser.add_argument("--fit", action="store_true", help="fit anew and write the coefficients beside the weights")
    add_options(parser)
    options = parser.parse_args()
    made, taken = tasks(options)
    facts = {"model": options.model, "seed": options.seed}
    ledger = Ledger("strip_quality", facts, PARTS, options.cache, options.fresh)
    cases = run_cached(ledger, synthetic, made, options.jobs) | run_cached(ledger, real, taken, options.jobs)
    report(cases, options)


def report(cases: dict[str, Any], options: argparse.Namespace) -> None:
    """Fit if asked to, predict the test cases, print and save."""
    known = {key: case for key, case in cases.items() if "dice" in case and usable(case["measures"])}
    files = find_model(options.model)
    quality: dict[str, Any] = files.quality
    if options.fit:
        quality = {"sha256": files.digest, "target": "Dice of the mask of the inner skull", **fitted(known)}
    content: dict[str, Any] = {"model": files.name, "sha256": files.digest, "refused": len(cases) - len(known)}
    table = []
    for group in ("synthetic", "real", ""):
        chosen = [case for key, case in known.items() if key.startswith(f"test {group}")]
        guessed = [predict_dice(case["measures"], quality, files.digest) for case in chosen]
        if not chosen or None in guessed:
            continue
        truth = [case["dice"] for case in chosen]
        found = calibration(guessed, truth, options.failed, options.flagged)
        caught = sum(c["decision"] == "check" and c["dice"] < options.failed for c in chosen)
        content[group or "all"] = found | {"failures_checked": caught}
        table.append({"cases": group or "all", **{k: v for k, v in found.items() if k not in ("bins", "cases")},
                      "n": found["cases"], "failures_checked": caught})  # fmt: skip
        print(f"\n{group or 'all'}\n" + markdown(found["bins"], list(found["bins"][0])))
    columns = ["cases", "n", "mean_absolute_error", "rank_correlation", "failures", "failures_caught",
               "failures_checked", "good", "good_flagged"]  # fmt: skip
    print("\n" + markdown(table, columns))
    if options.fit:
        quality["measured"] = {key: value for key, value in content.items() if isinstance(value, dict)}
        target = files.weights.with_name(f"{files.weights.stem}_quality.json")
        write_json(quality, target)
        print(f"\nwrote {target}")
    everything = {key: {k: v for k, v in case.items() if k != "measures"} for key, case in cases.items()}
    print(f"saved {save_results('strip_quality', content | {'cases': everything}, options.results)}")


def fitted(known: dict[str, Any]) -> dict[str, Any]:
    """Coefficients from the cases of the fitting side; synthetic and real cases together count the same."""
    chosen = {key: case for key, case in known.items() if key.startswith("fit ")}
    kinds = [key.split()[1] for key in chosen]
    weights = [1 / kinds.count(kind) for kind in kinds]
    fits = fit_trust([c["measures"] for c in chosen.values()], [c["dice"] for c in chosen.values()], weights)
    return {"fits": fits, "fitted_on": {kind: kinds.count(kind) for kind in sorted(set(kinds))}}


if __name__ == "__main__":
    main()
