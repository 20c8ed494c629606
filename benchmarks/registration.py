"""Registration of one head to another.

1. Known motions: the scans of ``--heads`` are turned and shifted through their headers; the error of keypoints and of
   the refined rigid and affine fits is known exactly. ``--rotations`` per head, any angle.
2. Manual labels (MALF/OASIS, five brains): every ordered pair is registered, the moving labels are carried over, and
   their mean Dice with the fixed labels is compared with antspyx (``--ants`` pairs of it; 0 for none), with CPU time.
3. One person: T1w, T2w, FLAIR and a second visit; rings of three registrations must close.

    python benchmarks/registration.py
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, SHARED, markdown, save_results
from scipy.spatial.transform import Rotation

from neuralprep import Affine, Grid, Volume, load
from neuralprep.alignment import AlignSettings, View, align_views, view
from neuralprep.evaluation.affine import mean_point_error, points_in_mask
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.inference.session import Session, open_session
from neuralprep.resample import resample
from neuralprep.transform import Chain

TURNED = ("studyforrest_sub02_T1w", "openms_p01_s1_FLAIR", "tcga_fg6692_T2w")
PERSON = ("openms_p01_s1_T1W", "openms_p01_s1_T2W", "openms_p01_s1_FLAIR", "openms_p01_s2_T1W")
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


def manual_rows(session: Session, folder: Path, ants_pairs: int) -> list[dict[str, Any]]:
    """Mean Dice of manual labels carried over for every ordered pair, ours and antspyx."""
    images = {name: load(folder / f"{name}_SS.nii.gz") for name in MANUAL}
    labels = {name: load(folder / f"{name}_glm.nii.gz", checks=False) for name in MANUAL}
    start = time.process_time()
    seen = {name: view(session, image) for name, image in images.items()}
    looking = (time.process_time() - start) / len(seen)
    rows = []
    for number, (fixed, moving) in enumerate(itertools.permutations(MANUAL, 2)):
        row: dict[str, Any] = {"fixed": fixed, "moving": moving}
        for label, settings in (("keypoints", AlignSettings("affine", refine=False)), ("affine", AlignSettings()),
                                ("tps 0.01", AlignSettings("tps", 0.01))):
            start = time.process_time()
            found = align_views(seen[moving], seen[fixed], settings)
            row[f"{label} CPU s"] = time.process_time() - start + 2 * looking
            carried = resample(labels[moving], labels[fixed].grid, found.fixed_from_moving, order=0)
            row[label] = mean_label_dice(carried, labels[fixed])
        if number < ants_pairs:
            row.update(ants_row(folder, fixed, moving, labels))
        rows.append(row)
    return rows


def mean_label_dice(carried: Volume, truth: Volume) -> float:
    """Mean over the labels that the fixed brain has."""
    present = set(np.unique(truth.data).astype(int)) - {0}
    scores = dice_by_label(np.rint(carried.data).astype(int), np.rint(truth.data).astype(int))
    return float(np.mean([scores[label] for label in present]))


def ants_row(folder: Path, fixed: str, moving: str, labels: dict[str, Volume]) -> dict[str, Any]:
    """antspyx's affine for one pair: Dice and CPU seconds."""
    import ants

    from neuralprep.formats.itk import read_affine

    images = [ants.image_read(str(folder / f"{name}_SS.nii.gz")) for name in (fixed, moving)]
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time()
        made = ants.registration(*images, "Affine", outprefix=f"{scratch}/a_")
        spent = time.process_time() - start
        transform = read_affine(made["fwdtransforms"][0])
    carried = resample(labels[moving], labels[fixed].grid, transform, order=0)
    return {"ants affine": mean_label_dice(carried, labels[fixed]), "ants affine CPU s": spent}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means per method, over all pairs and over the pairs that ANTs did too."""
    shared = [row for row in rows if "ants affine" in row]
    out = []
    for method in ("keypoints", "affine", "tps 0.01", "ants affine"):
        some = [row for row in rows if method in row]
        if some:
            out.append({"method": method, "pairs": len(some), "label Dice": statistics.mean(r[method] for r in some),
                        "label Dice, pairs of ANTs": statistics.mean(r[method] for r in shared) if shared else None,
                        "CPU s": statistics.mean(r[f"{method} CPU s"] for r in some)})
    return out


def main() -> None:
    """Run the three parts and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--manual", type=Path, default=SHARED / "labels" / "malf_oasis", help="brains with labels")
    parser.add_argument("--rotations", type=int, default=10, help="per head")
    parser.add_argument("--ants", type=int, default=4, help="pairs that antspyx registers too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    session = open_session("npp", "cpu", args.threads)
    rings = ring_rows(session, args.heads)
    print(markdown(rings, ["ring", "mm", "lowest score"]), flush=True)
    motions = known_motions(session, args.heads, args.rotations, np.random.default_rng(args.seed))
    print(markdown(motions, ["head", "fit", "n", "median mm", "worst mm", "below 5 mm"]), flush=True)
    manual = manual_rows(session, args.manual, args.ants)
    table = summary(manual)
    print(markdown(table, ["method", "pairs", "label Dice", "label Dice, pairs of ANTs", "CPU s"]))
    content = {"rings": rings, "known motions": motions, "manual labels": table, "pairs": manual}
    print(save_results("registration", content, args.results))


if __name__ == "__main__":
    main()
