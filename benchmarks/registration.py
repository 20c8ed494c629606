"""Registration of real heads to one another: against manual labels, against antspyx, and in rings.

1. Manual labels (MALF/OASIS, five brains): ordered pairs (``--pairs`` of the twenty) are registered, the moving labels
   are carried over, and their mean Dice with the fixed labels is compared with antspyx's affine and SyN (``--ants``
   pairs; 0 for none), with CPU time. Finished pairs are kept in ``--cache``: a run that was stopped goes on, and the
   part ``ants`` alone does what antspyx has not done yet, of these pairs and of the part ``visits``.
2. One person: T1w, T2w, FLAIR and a second visit; rings of three registrations must close. The part ``visits`` says how
   far the rigid fits to the first T1w are from those of antspyx.

What is known exactly is measured by ``registration_known.py``, what whole processes cost by ``registration_cost.py``.

    python benchmarks/registration.py
    python benchmarks/registration.py --parts labels --pairs 4 --ants 4
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, SHARED, Ledger, markdown, run_cached, save_parts
from registration_common import add_options, brain_points, open_once, open_pair_once

from neuralprep import Affine, Volume, load
from neuralprep.alignment import AlignSettings, View, align_views, view
from neuralprep.evaluation.affine import mean_point_error
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.formats import read_transform
from neuralprep.inference.pair_session import PairSession
from neuralprep.inference.session import Session
from neuralprep.resample import resample
from neuralprep.transform import Chain, jacobian_determinant

PERSON = ("openms_p01_s1_T1W", "openms_p01_s1_T2W", "openms_p01_s1_FLAIR", "openms_p01_s2_T1W")
PARTS = ("rings", "visits", "labels", "ants")
MANUAL = ("1000", "1006", "1110", "1119", "1122")
FOUR = {"caudate": (36, 37), "cerebellum": (38, 39, 40, 41, 71, 72, 73), "putamen": (57, 58), "thalamus": (59, 60)}
"""The structures that C2FViT is judged by, in the numbers of the manual labels; left and right are one."""


def ring_rows(session: Session, folder: Path) -> list[dict[str, Any]]:
    """How far points end from where they began after three rigid registrations in a ring."""
    seen = [view(session, load(folder / f"{name}.nii.gz")) for name in PERSON]
    rows = []
    for ring in itertools.combinations(range(len(PERSON)), 3):
        steps = [(ring[k], ring[(k + 1) % 3]) for k in range(3)]
        found = [align_views(seen[b], seen[a], AlignSettings("rigid")) for a, b in steps]
        points = brain_points(seen[ring[0]])
        back = Chain([one.fixed_from_moving for one in found]).apply(points)
        rows.append({"ring": " - ".join(PERSON[k].removeprefix("openms_p01_") for k in ring),
                     "mm": float(np.linalg.norm(back - points, axis=1).mean()),
                     "lowest score": min(one.score for one in found)})
    return rows


def visit_rows(session: Session, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean distance (mm) in the brain between our rigid fits to the first T1w and antspyx's, on the whole heads."""
    scans = {name: load(args.heads / f"{name}.nii.gz") for name in PERSON}
    theirs = ants_visits(args)
    fixed, *others = PERSON
    still = view(session, scans[fixed])
    points, rows = brain_points(still), []
    for moving in others:
        ours = align_views(view(session, scans[moving]), still, AlignSettings("rigid"))
        apart = mean_point_error(ours.fixed_from_moving, Affine(np.array(theirs[moving])), points)
        rows.append({"fixed": fixed, "moving": moving, "apart mm": apart,
                     "finest voxel mm": min(scans[moving].grid.spacing), "score": ours.score})  # fmt: skip
    return rows


def ants_visits(args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """antspyx's rigid transforms of one person's other scans, RAS mm; kept whatever becomes of our own code."""
    fixed, *others = (args.heads / f"{name}.nii.gz" for name in PERSON)
    ledger = Ledger("ants-visits", {"antspyx": version("antspyx")}, None, args.cache, args.fresh)
    return run_cached(ledger, ants_rigid, {name: (fixed, path) for name, path in zip(PERSON[1:], others, strict=True)})


def ants_rigid(fixed: Path, moving: Path) -> list[list[float]]:
    """Matrix of antspyx's rigid registration of two whole heads, pull-back in RAS mm."""
    import ants

    with tempfile.TemporaryDirectory() as scratch:
        images = [ants.image_read(str(path)) for path in (fixed, moving)]
        made = ants.registration(*images, "Rigid", outprefix=f"{scratch}/a_")
        found = read_transform(Path(made["fwdtransforms"][0]))
    assert isinstance(found, Affine)
    return found.matrix.tolist()


@lru_cache(maxsize=8)
def labelled(folder: Path, name: str, threads: int) -> tuple[View, Volume, float]:
    """A brain as seen, its labels, and the CPU seconds that looking took."""
    image, labels = load(folder / f"{name}_SS.nii.gz"), load(folder / f"{name}_glm.nii.gz", checks=False)
    session = open_once(threads)
    start = time.process_time()
    seen = view(session, image)
    return seen, labels, time.process_time() - start


def manual_pair(folder: Path, fixed: str, moving: str, threads: int) -> dict[str, Any]:
    """Dice of manual labels carried over for one ordered pair, and CPU seconds."""
    (still, truth, first), (seen, labels, second) = (labelled(folder, name, threads) for name in (fixed, moving))
    row: dict[str, Any] = {"fixed": fixed, "moving": moving}
    pair = open_pair_once(threads)
    ways: tuple[tuple[str, AlignSettings, PairSession | None], ...] = (
        ("keypoints", AlignSettings("affine", refine=False), None), ("affine", AlignSettings(), None),
        ("tps 0.01", AlignSettings("tps", 0.01), None), ("network", AlignSettings("svf", steps=0), pair),
        ("steps", AlignSettings("svf"), None), ("svf", AlignSettings("svf"), pair))  # fmt: skip
    for label, settings, network in ways:
        start = time.process_time()
        found = align_views(seen, still, settings, network)
        row[f"{label} CPU s"] = time.process_time() - start + first + second
        carried = resample(labels, truth.grid, found.fixed_from_moving, order=0)
        row[label], row[f"{label}, four"] = mean_label_dice(carried, truth), four_dice(carried, truth)
    volume_change = jacobian_determinant(found.fixed_from_moving, still.judged.grid)[still.judged.data > 0]
    row |= {"least Jacobian": float(volume_change.min()), "folded": int((volume_change <= 0).sum()),
            "spread of log Jacobian": float(np.log(np.maximum(volume_change, 1e-3)).std())}
    return row


def manual_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all pairs asked for; finished ones come from the cache."""
    pairs = ordered_pairs()[: args.pairs]
    tasks = {f"{fixed}-{moving}": (args.manual, fixed, moving, args.threads) for fixed, moving in pairs}
    parts = ("alignment", "registration", "stages", "networks", "inference", "resample", "transform", "trilinear",
             "thin_plate", "velocity")  # fmt: skip
    ledger = Ledger("registration-labels", {"threads": args.threads}, parts, args.cache, args.fresh)
    rows = run_cached(ledger, manual_pair, tasks)
    peers = ants_rows(args)
    return [row | peers.get(key, {}) for key, row in rows.items()]


def ordered_pairs() -> list[tuple[str, str]]:
    """All ordered pairs of brains with manual labels; the first ones do not all have the same fixed brain."""
    ordered = list(itertools.permutations(MANUAL, 2))
    return [ordered[(7 * k) % len(ordered)] for k in range(len(ordered))]


def ants_rows(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """antspyx's scores of the first pairs; they are kept whatever becomes of our own code."""
    tasks = {f"{fixed}-{moving}": (args.manual, fixed, moving) for fixed, moving in ordered_pairs()[: args.ants]}
    if not tasks:
        return {}
    ledger = Ledger("ants-labels", {"antspyx": version("antspyx")}, None, args.cache, args.fresh)
    return run_cached(ledger, ants_pair, tasks)


def mean_label_dice(carried: Volume, truth: Volume) -> float:
    """Mean over the labels that the fixed brain has."""
    present = set(np.unique(truth.data).astype(int)) - {0}
    scores = dice_by_label(np.rint(carried.data).astype(int), np.rint(truth.data).astype(int))
    return float(np.mean([scores[label] for label in present]))


def four_dice(carried: Volume, truth: Volume) -> float:
    """Mean Dice of caudate, cerebellum, putamen and thalamus."""
    drawn = [np.zeros(truth.grid.shape, np.uint8) for _ in range(2)]
    for into, labels in zip(drawn, (carried, truth), strict=True):
        for number, numbers in enumerate(FOUR.values(), 1):
            into[np.isin(np.rint(labels.data).astype(int), numbers)] = number
    return float(np.mean([dice_by_label(*drawn)[number] for number in range(1, len(FOUR) + 1)]))


def ants_pair(folder: Path, fixed: str, moving: str) -> dict[str, Any]:
    """antspyx's affine and SyN for one pair: Dice and CPU seconds."""
    import ants

    truth = load(folder / f"{fixed}_glm.nii.gz", checks=False).oriented("LAS")
    images = {name: ants.image_read(str(folder / f"{name}_SS.nii.gz")) for name in (fixed, moving)}
    drawn = ants.image_read(str(folder / f"{moving}_glm.nii.gz"))
    row: dict[str, Any] = {}
    for label, kind in (("ants affine", "Affine"), ("ants SyN", "SyN")):
        with tempfile.TemporaryDirectory() as scratch:
            start = time.process_time()
            made = ants.registration(images[fixed], images[moving], kind, outprefix=f"{scratch}/a_")
            row[f"{label} CPU s"] = time.process_time() - start
            carried = ants.apply_transforms(images[fixed], drawn, made["fwdtransforms"], interpolator="nearestNeighbor")
        back = truth.with_data(in_las(carried).astype(np.float32))
        row[label], row[f"{label}, four"] = mean_label_dice(back, truth), four_dice(back, truth)
    return row


def in_las(image: Any) -> np.ndarray:
    """Voxels of an antspyx image along L, A and S, however the file stores them."""
    axes = np.rint(np.asarray(image.direction) @ np.diag([-1.0, -1.0, 1.0])).astype(int)  # LPS to RAS
    order = np.abs(axes).argmax(1)
    signs = axes[range(3), order] * np.array([-1, 1, 1])
    return np.transpose(image.numpy(), order)[tuple(slice(None, None, int(sign)) for sign in signs)]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means per method, over all pairs and over the pairs that ANTs did too."""
    shared = [row for row in rows if "ants affine" in row]
    out = []
    for method in ("keypoints", "affine", "tps 0.01", "network", "steps", "svf", "ants affine", "ants SyN"):
        some = [row for row in rows if method in row]
        four = [row[f"{method}, four"] for row in some if f"{method}, four" in row]
        if some:
            out.append({"method": method, "pairs": len(some), "label Dice": statistics.mean(r[method] for r in some),
                        "label Dice, pairs of ANTs": statistics.mean(r[method] for r in shared) if shared else None,
                        "four structures": statistics.mean(four) if four else None,
                        "CPU s": statistics.mean(r[f"{method} CPU s"] for r in some)})
    return out


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """What belongs on a card: the worst ring, distances from antspyx, mean overlaps."""
    found: dict[str, Any] = {}
    if "rings" in content:
        found["rings of one person, worst mm"] = max(row["mm"] for row in content["rings"])
    for row in content.get("visits", []):
        found[f"rigid, {row['moving']} to {row['fixed']}, mm from antspyx"] = row["apart mm"]
    for row in content.get("manual labels", []):
        found[f"manual labels, mean Dice, {row['method']}"] = row["label Dice"]
    return found


def main() -> None:
    """Run the parts and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--manual", type=Path, default=SHARED / "labels" / "malf_oasis", help="brains with labels")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:-1]),
                        help="which to run; default all but ants, which labels and visits include")
    parser.add_argument("--pairs", type=int, default=20, help="ordered pairs of brains with labels; default all 20")
    parser.add_argument("--ants", type=int, default=4, help="pairs that antspyx registers too")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished pairs are kept")
    parser.add_argument("--fresh", action="store_true", help="do finished pairs again")
    args = parser.parse_args()
    if args.parts == ["ants"]:
        ants_visits(args)
        print(markdown(list(ants_rows(args).values()), ["ants affine", "ants SyN", "ants SyN CPU s"]))
        return
    content: dict[str, Any] = {}
    if "rings" in args.parts:
        content["rings"] = ring_rows(open_once(args.threads), args.heads)
        print(markdown(content["rings"], ["ring", "mm", "lowest score"]), flush=True)
    if "visits" in args.parts:
        content["visits"] = visit_rows(open_once(args.threads), args)
        print(markdown(content["visits"], ["fixed", "moving", "apart mm", "finest voxel mm", "score"]), flush=True)
    if "labels" in args.parts:
        content["pairs"] = manual_rows(args)
        content["manual labels"] = summary(content["pairs"])
        columns = ["method", "pairs", "label Dice", "label Dice, pairs of ANTs", "four structures", "CPU s"]
        print(markdown(content["manual labels"], columns))
    print(save_parts("registration", content, args.parts, headline, args.results))


if __name__ == "__main__":
    main()
