"""Registration of one head to another.

1. Known motions: the scans of ``--heads`` are turned and shifted through their headers; the error of keypoints and of
   the refined rigid and affine fits is known exactly. ``--rotations`` per head, any angle.
2. Manual labels (MALF/OASIS, five brains): ordered pairs (``--pairs`` of the twenty) are registered, the moving labels
   are carried over, and their mean Dice with the fixed labels is compared with antspyx's affine and SyN (``--ants``
   pairs; 0 for none), with CPU time. Finished pairs are kept in ``--cache``: a run that was stopped goes on, and the
   part ``ants`` alone does what antspyx has not done yet, of these pairs and of the part ``visits``.
3. One person: T1w, T2w, FLAIR and a second visit; rings of three registrations must close. The part ``visits`` says how
   far the rigid fits to the first T1w are from those of antspyx.
4. Acceptance: itself, exchanged images, known affines, the same head stored in other ways, an unbiased group. The part
   ``turns`` turns a head by 45 to 180 degrees about every axis; ``dense`` asks of dense warps (pair and group) how well
   they undo themselves and one another, and whether they fold; ``speed`` measures whole processes of ``register`` onto
   the 1 mm template and of ``template`` on ``--members`` images.
5. Rendered pairs (``--atlas``): label maps 19 and 20, which no network was trained on, each time in two random
   contrasts; Dice of the anatomical structures after the affine, after what the pair network predicts, and after the
   steps of the dense warp, five or twenty, from there and from nothing.

    python benchmarks/registration.py --atlas heldout.npz
    python benchmarks/registration.py --parts labels --pairs 4 --ants 4
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, RESULTS, SHARED, Ledger, markdown, run_cached, save_results, targets
from scipy.spatial.transform import Rotation
from speed import measure

from neuralprep import Affine, Grid, Settings, Volume, load, load_template, save
from neuralprep.alignment import AlignSettings, View, align_views, view
from neuralprep.evaluation.affine import mean_point_error, points_in_mask
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.formats import read_transform
from neuralprep.groupwise.align import GroupSettings, align_group, look_at
from neuralprep.groupwise.bend import bend_group
from neuralprep.inference.pair_session import PairSession, open_pair_session
from neuralprep.inference.session import Session, open_session
from neuralprep.networks.pair import STRUCTURES
from neuralprep.resample import resample
from neuralprep.synthesis.classes import indices
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.templates import space_grid
from neuralprep.transform import Chain, jacobian_determinant

TURNED = ("studyforrest_sub02_T1w", "openms_p01_s1_FLAIR", "tcga_fg6692_T2w")
PERSON = ("openms_p01_s1_T1W", "openms_p01_s1_T2W", "openms_p01_s1_FLAIR", "openms_p01_s2_T1W")
PARTS = ("rings", "visits", "motions", "acceptance", "turns", "dense", "speed", "contrasts", "rendered", "labels",
         "ants")  # fmt: skip
COMPARED = indices(tuple(name for name in STRUCTURES if name != "csf"))
WHOLE = SamplerSettings(cut=0, wrap=0, infant=0, animal=0, blob=0, stripped=0, defaced=0, any_rotation=0,
                        look_weights=(("T1w", 3), ("T2w", 2), ("FLAIR", 2), ("PDw", 1), ("random", 2)))
"""Whole heads of adults, any MR contrast."""
STILL = replace(WHOLE, warp_mm=0, atrophy=0, lesions=0, scale=(1, 1))
"""Whole heads in the shape of their label map."""
ONE_VISIT = ("T1w", "T2w", "FLAIR")
MANUAL = ("1000", "1006", "1110", "1119", "1122")
FOUR = {"caudate": (36, 37), "cerebellum": (38, 39, 40, 41, 71, 72, 73), "putamen": (57, 58), "thalamus": (59, 60)}
"""The structures that C2FViT is judged by, in the numbers of the manual labels; left and right are one."""
GROUP = ("bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm", "IXI012-HH-1211_T1w_2mm")


def moved(volume: Volume, motion: Affine) -> Volume:
    """The same voxels somewhere else in the world: only the header changes."""
    return Volume(volume.data, Grid(volume.grid.shape, motion.matrix @ volume.grid.affine))


def brain_points(seen: View) -> np.ndarray:
    """Points of the brain, world mm."""
    return points_in_mask(seen.judged.data, seen.judged.grid, 3000)


def known_motions(session: Session, folder: Path, rotations: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Errors (mm) of keypoints and refined fits for random rotations of any angle."""
    rows = []
    for name in TURNED:
        scan = load(folder / f"{name}.nii.gz")
        still = view(session, scan)
        points = brain_points(still)
        errors: dict[str, list[float]] = {"keypoints, rigid": [], "rigid": [], "affine": []}
        for _ in range(rotations):
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.random(random_state=rng).as_matrix()
            matrix[:3, 3] = rng.uniform(-50, 50, 3)
            truth = Affine(matrix)
            turned = view(session, moved(scan, truth))
            for label, settings in (("keypoints, rigid", AlignSettings("rigid", refine=False)),
                                    ("rigid", AlignSettings("rigid")), ("affine", AlignSettings("affine"))):
                found = align_views(turned, still, settings).fixed_from_moving
                errors[label].append(mean_point_error(found, truth, points))
        for label, values in errors.items():
            rows.append({"head": name, "fit": label, "n": rotations, "median mm": statistics.median(values),
                         "worst mm": max(values), "below 5 mm": f"{sum(v < 5 for v in values)}/{rotations}"})
    return rows


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


@lru_cache(maxsize=1)
def open_once(threads: int) -> Session:
    """The network, opened once in a process."""
    return open_session("npp", "cpu", threads)


@lru_cache(maxsize=1)
def open_pair_once(threads: int) -> PairSession:
    """The pair network, opened once in a process."""
    return open_pair_session("pair", "cpu", threads)


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
    parts = ("alignment", "registration", "stages", "networks", "inference", "resample", "thin_plate", "velocity")
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


def rendered_rows(
    session: Session, pair: PairSession, atlas: Path, count: int, seed: int
) -> list[dict[str, Any]]:
    """Dice of structures of two held-out heads in random contrasts, and how the dense warp changes volumes."""
    from neuralprep.evaluation.heldout import HeldOutHeads

    heads, rows = HeldOutHeads(atlas, WHOLE), []
    for number in range(count):
        fixed, moving = (heads.case(2 * number + k, seed, want_classes=True) for k in range(2))
        assert fixed.classes is not None
        assert moving.classes is not None
        still, seen = view(session, fixed.scan), view(session, moving.scan)
        row: dict[str, Any] = {"contrasts": f"{fixed.look} - {moving.look}"}
        drawn = moving.scan.with_data(moving.classes.astype(np.float32))
        ways: list[tuple[str, AlignSettings, PairSession | None]] = [
            ("affine", AlignSettings(), None), ("network", AlignSettings("svf", steps=0), pair)]
        for steps in (5, 20):
            ways += [(f"{steps} steps", AlignSettings("svf", steps=steps), None),
                     (f"network, {steps} steps", AlignSettings("svf", steps=steps), pair)]  # fmt: skip
        for label, settings, network in ways:
            found = align_views(seen, still, settings, network)
            carried = resample(drawn, fixed.scan.grid, found.fixed_from_moving, order=0)
            scores = dice_by_label(np.rint(carried.data).astype(int), fixed.classes.astype(int))
            row[label] = statistics.mean(scores[name] for name in COMPARED if name in scores)
        volume_change = jacobian_determinant(found.fixed_from_moving, still.judged.grid)[still.judged.data > 0]
        rows.append(row | {"least Jacobian": float(volume_change.min())})
    return rows


def contrast_rows(session: Session, atlas: Path, seed: int) -> list[dict[str, Any]]:
    """Errors (mm) of keypoints and fits between contrasts of one head, carried by known rigid motions and affines."""
    from neuralprep.evaluation.heldout import HELD_OUT, HeldOutHeads
    from neuralprep.synthesis.record import Record

    def stiff(record: Record) -> Record:
        pose = replace(record.pose, scale=(1.0, 1.0, 1.0), shear=(0.0, 0.0, 0.0), mirror=False)
        return replace(record, pose=pose)

    heads, rng, rows = HeldOutHeads(atlas, STILL), np.random.default_rng(seed), []
    for head, name in enumerate(HELD_OUT):
        cases = {look: heads.case(head + len(HELD_OUT) * k, seed, look, stiff) for k, look in enumerate(ONE_VISIT)}
        seen = {look: view(session, case.scan) for look, case in cases.items()}
        affines = {look: random_affine(rng) for look in ONE_VISIT}
        turned = {look: view(session, moved(case.scan, affines[look])) for look, case in cases.items()}
        for fixed, moving in itertools.permutations(ONE_VISIT, 2):
            there, here = (cases[look].template_from_scan for look in (moving, fixed))  # pull-backs
            truth = Affine(there.matrix @ here.inverse().matrix)
            points = brain_points(seen[fixed])
            row: dict[str, Any] = {"head": name, "fixed": fixed, "moving": moving}
            for label, settings in (("keypoints", AlignSettings("rigid", refine=False)),
                                    ("rigid", AlignSettings("rigid"))):
                row[label] = error_mm(seen[moving], seen[fixed], truth, points, settings)
            whole = Affine(affines[moving].matrix @ truth.matrix)
            for label, refine in (("affine, keypoints", False), ("affine", True)):
                settings = AlignSettings("affine", refine=refine)
                row[label] = error_mm(turned[moving], seen[fixed], whole, points, settings)
            rows.append(row)
    return rows


def turn_rows(session: Session, folder: Path) -> list[tuple[str, float, float, str]]:
    """Share of turns about every axis through the head that are found again, and the worst error."""
    scan = load(folder / f"{GROUP[0]}.nii.gz")
    still = view(session, scan)
    points, errors = brain_points(still), []
    for axis, degrees in itertools.product("xyz", (45, 90, 135, 180)):
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
        matrix[:3, 3] = scan.grid.center - matrix[:3, :3] @ scan.grid.center
        truth = Affine(matrix)
        errors.append(error_mm(view(session, moved(scan, truth)), still, truth, points, AlignSettings("rigid")))
    found = sum(error < 5 for error in errors) / len(errors)
    return [("turned by 45 to 180 degrees about x, y, z: share within 5 mm", found, 0.99, ">="),
            ("the same: worst error, mm", max(errors), 5.0, "<=")]  # fmt: skip


def dense_rows(session: Session, pair: PairSession, args: argparse.Namespace) -> list[tuple[str, float, float, str]]:
    """How dense warps undo themselves and one another and change volumes; mean velocity of a group."""
    members = [look_at(session, load(args.heads / f"{name}.nii.gz"), name) for name in GROUP]
    seen, still = (one.view for one in members[:2])
    settings = AlignSettings("svf", steps=args.steps)
    there, back = (align_views(a, b, settings, pair).fixed_from_moving for a, b in ((seen, still), (still, seen)))
    points, rows = brain_points(still), []
    own = np.linalg.norm(Chain([there, there.inverse()]).apply(points) - points, axis=1)
    p99 = np.percentile(own, 99)
    for name, value, goal in (("mean", own.mean(), 0.1), ("99 %", p99, 0.3), ("most", own.max(), 1.0)):
        rows.append((f"dense warp and its inverse: {name}, mm", float(value), goal, "<="))
    swapped = np.linalg.norm(Chain([there, back]).apply(points) - points, axis=1)
    rows.append(("exchanged images, dense: 99 %, mm", float(np.percentile(swapped, 99)), 0.3, "<="))
    change = jacobian_determinant(there, still.judged.grid)[still.judged.data > 0]
    rows += [("dense warp: least Jacobian", float(change.min()), 0.1, ">="),
             ("dense warp: spread of log Jacobian", float(np.log(np.maximum(change, 1e-3)).std()), 0.3, "<=")]
    bent = bend_group(members, align_group(members))
    rows.append(("group, dense: longest vector of the mean velocity, mm", bent.bias_mm, 1e-5, "<="))
    return rows


def speed_rows(args: argparse.Namespace) -> list[tuple[str, float, float, str]]:
    """Cost of whole processes: a 1 mm head onto the 1 mm template, and a template of many heads."""
    rows: list[tuple[str, float, float, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        fixed, verb = Path(scratch) / "fixed.nii.gz", [sys.executable, "-m", "neuralprep"]
        save(resample(load_template().t1, space_grid(Settings.space, 1.0)), fixed)
        head = str(args.heads / "uih770_A_T1w_1mm.nii.gz")
        for kind, seconds, cpu, gib in (("affine", 10.0, 5.0, 3.0), ("svf", 30.0, 15.0, 2.0)):
            command = [*verb, "register", head, str(fixed), f"{scratch}/{kind}", "--type", kind]
            run = measure([*command, "--threads", str(args.threads)], None)
            rows += [(f"register --type {kind}, whole process: s", run.seconds, seconds, "<="),
                     (f"register --type {kind}: CPU s", run.cpu_seconds, cpu, "<="),
                     (f"register --type {kind}: GiB", run.peak_gib, gib, "<=")]  # fmt: skip
        rng, images = np.random.default_rng(args.seed), []
        for number in range(args.members):
            scan = load(args.heads / f"{GROUP[number % len(GROUP)]}.nii.gz")
            images.append(f"{scratch}/head{number:03}_T1w.nii.gz")
            save(moved(scan, random_affine(rng)), Path(images[-1]))
        run = measure([*verb, "template", *images, f"{scratch}/group", "--threads", str(args.threads)], None)
        rows += [(f"template of {args.members}: CPU s per image", run.cpu_seconds / args.members, 2.0, "<="),
                 (f"template of {args.members}: GiB", run.peak_gib, 3.0, "<=")]  # fmt: skip
    return rows


def acceptance_rows(session: Session, folder: Path, rng: np.random.Generator) -> list[tuple[str, float, float, str]]:
    """Errors in mm (and of the mean transform) that have a goal; see the project's facts on registration."""
    scan = load(folder / "bisweb_sag_T1w_2mm.nii.gz")
    still = view(session, scan)
    points = brain_points(still)
    rows = [("registration to itself, mm", error_mm(still, still, Affine.identity(), points), 0.1, "<=")]
    known, coarse = [], []
    for _ in range(5):
        truth = random_affine(rng)
        turned = view(session, moved(scan, truth))
        known.append(error_mm(turned, still, truth, points))
        coarse.append(error_mm(turned, still, truth, points, AlignSettings("affine", refine=False)))
    rows += [("known affines, keypoints: mean error, mm", statistics.mean(coarse), 5.0, "<="),
             ("known affines, refined: mean error, mm", statistics.mean(known), 1.0, "<=")]
    for name in ("axes LIA", "oblique", "slices of 3 mm"):
        other = view(session, stored_otherwise(scan, name))
        goal = 1.5 if "3 mm" in name else 1.0
        rows.append((f"{name}: same transform, mm", error_mm(other, still, Affine.identity(), points), goal, "<="))
    faces = view(session, load(folder / "xa30_prisma_T1w_2mm.nii.gz"))
    there, back = (align_views(a, b).fixed_from_moving for a, b in ((faces, still), (still, faces)))
    rows.append(("exchanged images, affine, mm", mean_point_error(Chain([there, back]), Affine.identity(), points),
                 0.05, "<="))  # fmt: skip
    members = [look_at(session, load(folder / f"{name}.nii.gz"), name) for name in
               ("bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm", "IXI012-HH-1211_T1w_2mm")]  # fmt: skip
    for kind in ("rigid", "affine"):
        fit = align_group(members, GroupSettings(kind))  # type: ignore[arg-type]
        rows.append((f"group, {kind}: largest entry of the mean logarithm", fit.bias, 1e-5, "<="))
        again = align_group(members[::-1], GroupSettings(kind))  # type: ignore[arg-type]
        apart = max(a.distance(b, points) for a, b in zip(fit.transforms, again.transforms[::-1], strict=True))
        rows.append((f"group, {kind}: other order, mm", apart, 1e-4, "<="))
    return rows


def error_mm(moving: View, fixed: View, truth: Affine, points: np.ndarray, settings: AlignSettings | None = None
             ) -> float:
    """Mean error of an alignment over the brain."""
    found = align_views(moving, fixed, settings).fixed_from_moving
    return mean_point_error(found, truth, points)


def random_affine(rng: np.random.Generator) -> Affine:
    """Up to 30 degrees, sizes 0.85 to 1.2 along each axis, up to 40 mm."""
    matrix = np.eye(4)
    turn = rng.normal(size=3)
    turn *= np.radians(rng.uniform(0, 30)) / np.linalg.norm(turn)
    matrix[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ np.diag(rng.uniform(0.85, 1.2, 3))
    matrix[:3, 3] = rng.uniform(-40, 40, 3)
    return Affine(matrix)


def stored_otherwise(scan: Volume, name: str) -> Volume:
    """The same head with other axes, on an oblique grid, or in thick slices."""
    if name == "axes LIA":
        return scan.oriented("LIA")
    edges = (1.0, 1.0, 3.0) if "3 mm" in name else (2.0, 2.0, 2.0)
    shape = [round(extent / edge) for extent, edge in zip(scan.oriented("RAS").grid.extent, edges, strict=True)]
    grid = Grid.centered(shape, edges, scan.grid.center)
    if name == "oblique":
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix()
        turn[:3, 3] = scan.grid.center - turn[:3, :3] @ scan.grid.center
        grid = Grid(grid.shape, turn @ grid.affine)
    return resample(scan, grid, antialias=True)


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """What belongs on a card: the worst where there is a limit, else the mean."""
    found: dict[str, Any] = {}
    if "rings" in content:
        found["rings of one person, worst mm"] = max(row["mm"] for row in content["rings"])
    for row in content.get("visits", []):
        found[f"rigid, {row['moving']} to {row['fixed']}, mm from antspyx"] = row["apart mm"]
    for row in content.get("known motions", []):
        found[f"known motions, {row['head']}, {row['fit']}, median mm"] = row["median mm"]
    found |= {row["goal"]: row["found"] for row in content.get("acceptance", [])}
    if "contrasts" in content:
        errors = [row["rigid"] for row in content["contrasts"]]
        found["known motions between contrasts, rigid, mean mm"] = statistics.mean(errors)
        found["known motions between contrasts, rigid, worst mm"] = max(errors)
        for label in ("affine, keypoints", "affine"):
            errors = [row[label] for row in content["contrasts"]]
            found[f"known affines between contrasts, {label}, mean mm"] = statistics.mean(errors)
            found[f"known affines between contrasts, {label}, 95 % mm"] = float(np.percentile(errors, 95))
    if "rendered" in content:
        rows = content["rendered"]
        for name in rows[0].keys() - {"contrasts", "least Jacobian"}:
            found[f"rendered heads, structures, mean Dice, {name}"] = statistics.mean(row[name] for row in rows)
    for row in content.get("manual labels", []):
        found[f"manual labels, mean Dice, {row['method']}"] = row["label Dice"]
    return found


def main() -> None:
    """Run the parts and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--manual", type=Path, default=SHARED / "labels" / "malf_oasis", help="brains with labels")
    parser.add_argument("--rotations", type=int, default=10, help="per head")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:-1]),
                        help="which to run; default all but ants, which labels includes")
    parser.add_argument("--atlas", type=Path, help="packed label maps 19 and 20, for 'rendered' and 'contrasts'")
    parser.add_argument("--network", default="pair", metavar="WEIGHTS", help="for the part 'rendered'; default shipped")
    parser.add_argument("--rendered", type=int, default=12, help="pairs of rendered heads")
    parser.add_argument("--pairs", type=int, default=20, help="ordered pairs of brains with labels; default all 20")
    parser.add_argument("--ants", type=int, default=4, help="pairs that antspyx registers too")
    parser.add_argument("--steps", type=int, default=20, help="of the dense warps of the part 'dense'")
    parser.add_argument("--members", type=int, default=40, help="images of the template of the part 'speed'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished pairs are kept")
    parser.add_argument("--fresh", action="store_true", help="do finished pairs again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if {"rendered", "contrasts"} & set(args.parts) and args.atlas is None:
        parser.error("the parts 'rendered' and 'contrasts' need --atlas; without it name the other --parts")
    if args.parts == ["ants"]:
        ants_visits(args)
        print(markdown(list(ants_rows(args).values()), ["ants affine", "ants SyN", "ants SyN CPU s"]))
        return
    session, rng = open_once(args.threads), np.random.default_rng(args.seed)
    content: dict[str, Any] = {"parts": args.parts}
    if "rings" in args.parts:
        content["rings"] = ring_rows(session, args.heads)
        print(markdown(content["rings"], ["ring", "mm", "lowest score"]), flush=True)
    if "visits" in args.parts:
        content["visits"] = visit_rows(session, args)
        print(markdown(content["visits"], ["fixed", "moving", "apart mm", "finest voxel mm", "score"]), flush=True)
    if "motions" in args.parts:
        content["known motions"] = known_motions(session, args.heads, args.rotations, rng)
        columns = ["head", "fit", "n", "median mm", "worst mm", "below 5 mm"]
        print(markdown(content["known motions"], columns), flush=True)
    if "acceptance" in args.parts:
        found = acceptance_rows(session, args.heads, rng)
        content["acceptance"] = [{"goal": name, "found": value, "limit": goal} for name, value, goal, _ in found]
        print(targets(found), flush=True)
    more = {"turns": lambda: turn_rows(session, args.heads), "speed": lambda: speed_rows(args),
            "dense": lambda: dense_rows(session, open_pair_once(args.threads), args)}  # fmt: skip
    for part in [part for part in more if part in args.parts]:
        found = more[part]()
        content.setdefault("acceptance", [])
        content["acceptance"] += [{"goal": name, "found": value, "limit": goal} for name, value, goal, _ in found]
        print(targets(found), flush=True)
    if "contrasts" in args.parts:
        content["contrasts"] = contrast_rows(session, args.atlas, args.seed)
        columns = ["head", "fixed", "moving", "keypoints", "rigid", "affine, keypoints", "affine"]
        print(markdown(content["contrasts"], columns), flush=True)
    if "rendered" in args.parts:
        pair = open_pair_session(args.network, "cpu", args.threads)
        content["rendered"] = rendered_rows(session, pair, args.atlas, args.rendered, args.seed)
        names = [name for name in content["rendered"][0] if name != "contrasts"]
        means = {name: statistics.mean(row[name] for row in content["rendered"]) for name in names}
        print(markdown([*content["rendered"], {"contrasts": "mean", **means}], ["contrasts", *names]), flush=True)
    if "labels" in args.parts:
        content["pairs"] = manual_rows(args)
        content["manual labels"] = summary(content["pairs"])
        columns = ["method", "pairs", "label Dice", "label Dice, pairs of ANTs", "four structures", "CPU s"]
        print(markdown(content["manual labels"], columns))
    content["headline"] = headline(content)
    print(save_results("registration", content, args.results))


if __name__ == "__main__":
    main()
