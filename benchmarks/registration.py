"""Registration of one head to another.

1. Known motions: the scans of ``--heads`` are turned and shifted through their headers; the error of keypoints and of
   the refined rigid and affine fits is known exactly. ``--rotations`` per head, any angle.
2. Manual labels (MALF/OASIS, five brains): ordered pairs (``--pairs`` of the twenty) are registered, the moving labels
   are carried over, and their mean Dice with the fixed labels is compared with antspyx's affine and SyN (``--ants``
   pairs; 0 for none), with CPU time. Finished pairs are kept in ``--cache``: a run that was stopped goes on.
3. One person: T1w, T2w, FLAIR and a second visit; rings of three registrations must close.
4. Acceptance: itself, exchanged images, known affines, the same head stored in other ways, an unbiased group.

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
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, RESULTS, SHARED, Ledger, markdown, run_cached, save_results, targets
from scipy.spatial.transform import Rotation

from neuralprep import Affine, Grid, Volume, load
from neuralprep.alignment import AlignSettings, View, align_views, view
from neuralprep.evaluation.affine import mean_point_error, points_in_mask
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.groupwise.align import GroupSettings, align_group, look_at
from neuralprep.inference.session import Session, open_session
from neuralprep.resample import resample
from neuralprep.transform import Chain, jacobian_determinant

TURNED = ("studyforrest_sub02_T1w", "openms_p01_s1_FLAIR", "tcga_fg6692_T2w")
PERSON = ("openms_p01_s1_T1W", "openms_p01_s1_T2W", "openms_p01_s1_FLAIR", "openms_p01_s2_T1W")
PARTS = ("rings", "motions", "acceptance", "labels")
MANUAL = ("1000", "1006", "1110", "1119", "1122")


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


@lru_cache(maxsize=1)
def open_once(threads: int) -> Session:
    """The network, opened once in a process."""
    return open_session("npp", "cpu", threads)


@lru_cache(maxsize=8)
def labelled(folder: Path, name: str, threads: int) -> tuple[View, Volume, float]:
    """A brain as seen, its labels, and the CPU seconds that looking took."""
    image, labels = load(folder / f"{name}_SS.nii.gz"), load(folder / f"{name}_glm.nii.gz", checks=False)
    session = open_once(threads)
    start = time.process_time()
    seen = view(session, image)
    return seen, labels, time.process_time() - start


def manual_pair(folder: Path, fixed: str, moving: str, threads: int, with_ants: bool) -> dict[str, Any]:
    """Dice of manual labels carried over for one ordered pair, and CPU seconds, ours and antspyx's."""
    (still, truth, first), (seen, labels, second) = (labelled(folder, name, threads) for name in (fixed, moving))
    row: dict[str, Any] = {"fixed": fixed, "moving": moving}
    for label, settings in (("keypoints", AlignSettings("affine", refine=False)), ("affine", AlignSettings()),
                            ("tps 0.01", AlignSettings("tps", 0.01)), ("svf", AlignSettings("svf"))):
        start = time.process_time()
        found = align_views(seen, still, settings)
        row[f"{label} CPU s"] = time.process_time() - start + first + second
        carried = resample(labels, truth.grid, found.fixed_from_moving, order=0)
        row[label] = mean_label_dice(carried, truth)
    volume_change = jacobian_determinant(found.fixed_from_moving, still.judged.grid)[still.judged.data > 0]
    row |= {"least Jacobian": float(volume_change.min()), "folded": int((volume_change <= 0).sum()),
            "spread of log Jacobian": float(np.log(np.maximum(volume_change, 1e-3)).std())}
    if with_ants:
        row.update(ants_row(folder, fixed, moving, {moving: labels, fixed: truth}))
    return row


def manual_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all pairs asked for; finished ones come from the cache."""
    ordered = list(itertools.permutations(MANUAL, 2))
    # the first pairs should not all have the same fixed brain
    ordered = [ordered[(7 * k) % len(ordered)] for k in range(len(ordered))][: args.pairs]
    tasks = {
        f"{fixed}-{moving}{'-ants' if number < args.ants else ''}":
            (args.manual, fixed, moving, args.threads, number < args.ants)
        for number, (fixed, moving) in enumerate(ordered)
    }
    parts = ("alignment", "registration", "stages", "networks", "inference", "resample", "thin_plate")
    ledger = Ledger("registration-labels", {"threads": args.threads}, parts, args.cache, args.fresh)
    return list(run_cached(ledger, manual_pair, tasks).values())


def mean_label_dice(carried: Volume, truth: Volume) -> float:
    """Mean over the labels that the fixed brain has."""
    present = set(np.unique(truth.data).astype(int)) - {0}
    scores = dice_by_label(np.rint(carried.data).astype(int), np.rint(truth.data).astype(int))
    return float(np.mean([scores[label] for label in present]))


def ants_row(folder: Path, fixed: str, moving: str, labels: dict[str, Volume]) -> dict[str, Any]:
    """antspyx's affine and SyN for one pair: Dice and CPU seconds."""
    import ants

    images = {name: ants.image_read(str(folder / f"{name}_SS.nii.gz")) for name in (fixed, moving)}
    drawn = ants.image_read(str(folder / f"{moving}_glm.nii.gz"))
    row: dict[str, Any] = {}
    for label, kind in (("ants affine", "Affine"), ("ants SyN", "SyN")):
        with tempfile.TemporaryDirectory() as scratch:
            start = time.process_time()
            made = ants.registration(images[fixed], images[moving], kind, outprefix=f"{scratch}/a_")
            row[f"{label} CPU s"] = time.process_time() - start
            carried = ants.apply_transforms(images[fixed], drawn, made["fwdtransforms"], interpolator="nearestNeighbor")
        truth = labels[fixed].oriented("LAS")
        row[label] = mean_label_dice(truth.with_data(in_las(carried).astype(np.float32)), truth)
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
    for method in ("keypoints", "affine", "tps 0.01", "svf", "ants affine", "ants SyN"):
        some = [row for row in rows if method in row]
        if some:
            out.append({"method": method, "pairs": len(some), "label Dice": statistics.mean(r[method] for r in some),
                        "label Dice, pairs of ANTs": statistics.mean(r[method] for r in shared) if shared else None,
                        "CPU s": statistics.mean(r[f"{method} CPU s"] for r in some)})
    return out


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


def main() -> None:
    """Run the parts and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--manual", type=Path, default=SHARED / "labels" / "malf_oasis", help="brains with labels")
    parser.add_argument("--rotations", type=int, default=10, help="per head")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which to run; default all")
    parser.add_argument("--pairs", type=int, default=20, help="ordered pairs of brains with labels; default all 20")
    parser.add_argument("--ants", type=int, default=4, help="pairs that antspyx registers too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished pairs are kept")
    parser.add_argument("--fresh", action="store_true", help="do finished pairs again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    session, rng = open_once(args.threads), np.random.default_rng(args.seed)
    content: dict[str, Any] = {"parts": args.parts}
    if "rings" in args.parts:
        content["rings"] = ring_rows(session, args.heads)
        print(markdown(content["rings"], ["ring", "mm", "lowest score"]), flush=True)
    if "motions" in args.parts:
        content["known motions"] = known_motions(session, args.heads, args.rotations, rng)
        columns = ["head", "fit", "n", "median mm", "worst mm", "below 5 mm"]
        print(markdown(content["known motions"], columns), flush=True)
    if "acceptance" in args.parts:
        found = acceptance_rows(session, args.heads, rng)
        content["acceptance"] = [{"goal": name, "found": value, "limit": goal} for name, value, goal, _ in found]
        print(targets(found), flush=True)
    if "labels" in args.parts:
        content["pairs"] = manual_rows(args)
        content["manual labels"] = summary(content["pairs"])
        columns = ["method", "pairs", "label Dice", "label Dice, pairs of ANTs", "CPU s"]
        print(markdown(content["manual labels"], columns))
    print(save_results("registration", content, args.results))


if __name__ == "__main__":
    main()
