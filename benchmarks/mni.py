"""How well and how reliably heads reach MNI space.

1. Every head: Dice of the brain mask in template space with the template's own brain mask.
2. Large rotations: each head is turned by random rotations (any angle, any axis, and a shift) by changing its
   header, without interpolation; the affine found must be the one of the unturned head, turned along. The error is
   the mean distance in mm over the template's brain; a rotation counts as recovered below 3 mm.
3. Known affines: the template's own T1 image, moved by random affines through its header. Here the right answer is
   known exactly, so this is the error itself and not only a consistency.
4. Contrasts: scans of one person must get one size and shape in template space, whatever their contrast: mean distance
   over the template's brain between two of them, after the rigid motion that brings them closest.
5. Regions of interest: brains of the OASIS study with manual labels, carried to the template by our affine and by
   ANTs' (where antspyx is installed); mean Dice of the 140 regions between every two of them (NPP's Figure 5 in a form
   that needs no truth), with a paired test.

Synthetic heads with a known affine are in ``synthetic.py``. Finished work is kept in ``--cache``; the same command goes
on where it was stopped.

    python benchmarks/mni.py --rotations 20 --jobs 2
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import lru_cache
from itertools import combinations
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
    targets,
)
from peers import FIRST as FIVE
from registration_common import moved
from scipy.spatial.transform import Rotation

from neuralprep import Affine, Preprocessor, Settings, Volume, load, load_template, save
from neuralprep.evaluation.affine import mean_point_error, point_error, points_in_mask
from neuralprep.evaluation.figures import box_plots
from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.measures import read_label_names
from neuralprep.evaluation.overlap import dice, label_sizes
from neuralprep.evaluation.peers import AntsAffine
from neuralprep.evaluation.spatial import pairwise_dice
from neuralprep.evaluation.tables import compare, paper_table
from neuralprep.formats.itk import read_affine
from neuralprep.resample import resample

SPACE = "MNI152NLin2009aSym"
RECOVERED_MM = 3.0
PEOPLE = (
    ("openms_p01_s1_T1W", "openms_p01_s1_T2W", "openms_p01_s1_FLAIR"),
    ("tcga_fg6692_T1w", "tcga_fg6692_T2w", "tcga_fg6692_FLAIR", "tcga_fg6692_T1c"),
    ("rorden_T1w_0p88", "rorden_PDw", "rorden_prisma_T1fl2d_HFS"),
)
"""Heads that are scans of one person each."""
OURS, ANTS = "neuralprep", "ants-affine"
PARTS = (*PIPELINE_PARTS, "evaluation/affine", "evaluation/spatial", "evaluation/peers")


def random_rotation(rng: np.random.Generator, center: np.ndarray, shift_mm: float = 40.0) -> Affine:
    """Uniform random rotation about a point, and a random shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(None, rng).as_matrix()
    matrix[:3, 3] = center - matrix[:3, :3] @ center + rng.uniform(-shift_mm, shift_mm, 3)
    return Affine(matrix)


def random_affine(rng: np.random.Generator) -> Affine:
    """Head-like motion: up to 30 degrees, 30 mm, 15 % of scale and 5 % of shear on each axis."""
    angles = rng.uniform(-30, 30, 3)
    linear = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(rng.uniform(0.85, 1.15, 3))
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(-0.05, 0.05, 3)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear @ shear, rng.uniform(-30, 30, 3)
    return Affine(matrix)


def rotation_angle(motion: Affine) -> float:
    """Angle of a rotation in degrees."""
    return float(np.degrees(Rotation.from_matrix(motion.matrix[:3, :3]).magnitude()))


@lru_cache(maxsize=2)
def preprocessor(threads: int, *outputs: str) -> Preprocessor:
    """Our pipeline without normalisation; loaded once per process."""
    return Preprocessor(Settings(normalize=False, outputs=outputs, threads=threads))


@lru_cache(maxsize=1)
def brain_points() -> np.ndarray:
    """Points (N, 3) mm of the template's brain."""
    mask = load_template(SPACE).brain_mask
    return points_in_mask(mask.data, mask.grid)


def template_overlap(path: Path, threads: int) -> dict[str, Any]:
    """Dice of a head's mask in template space with the template's brain."""
    volume = load(path)
    start = time.perf_counter()
    result = preprocessor(threads, "space_brain_mask", "template_from_scan").run(volume)
    seconds = time.perf_counter() - start
    mask = result.outputs["space_brain_mask"]
    brain = resample(load_template(SPACE).brain_mask, mask.grid, order=0)
    return {"Dice": dice(mask.data, brain.data), "decision": result.quality.decision, "s": seconds}


@lru_cache(maxsize=1)
def straight_affine(path: Path, threads: int) -> tuple[Volume, Affine]:
    """A head and its affine as it lies."""
    volume = load(path)
    return volume, preprocessor(threads, "template_from_scan").run(volume).outputs["template_from_scan"]


def rotated(path: Path, seed: int, index: int, threads: int) -> dict[str, Any]:
    """Turn a head by its random rotation number `index`; error against the affine of the unturned head."""
    volume, straight = straight_affine(path, threads)
    rng = np.random.default_rng([seed, index])
    motion = random_rotation(rng, straight.apply(brain_points()).mean(0))
    result = preprocessor(threads, "template_from_scan").run(moved(volume, motion))
    expected = Affine(motion.matrix @ straight.matrix)
    error = mean_point_error(result.outputs["template_from_scan"], expected, brain_points())
    return {"mm": error, "deg": rotation_angle(motion), "decision": result.quality.decision}


def rotation_line(head: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Summary of one head's rotations."""
    errors = [turn["mm"] for turn in turns]
    lost = [turn for turn in turns if turn["mm"] >= RECOVERED_MM]
    return {
        "head": head,
        "rotations": len(turns),
        "recovered": len(turns) - len(lost),
        "median mm": statistics.median(errors),
        "worst mm": max(errors),
        "lost and flagged": f"{sum(turn['decision'] != 'ok' for turn in lost)}/{len(lost)}",
        "errors mm": errors,
        "angles deg": [turn["deg"] for turn in turns],
    }


def known_affine(seed: int, index: int, threads: int) -> dict[str, Any]:
    """Move the template's T1 image by a known affine and measure the error of the affine found."""
    truth = random_affine(np.random.default_rng([seed, index]))
    volume = moved(load_template(SPACE).t1, truth)
    found = preprocessor(threads, "template_from_scan").run(volume).outputs["template_from_scan"]
    error = point_error(found, truth, brain_points())
    return {"affine": index, "mean mm": error.mean, "95 % mm": error.percentile95}


def brain_affine(method: str, path: Path, threads: int) -> dict[str, Any]:
    """Affine (4 x 4, template mm -> scan mm) of an image by one method (ANTs: brain-extracted), and its wall time."""
    start = time.perf_counter()
    if method == OURS:
        found = preprocessor(threads, "template_from_scan").run(load(path)).outputs["template_from_scan"]
        return {"matrix": found.matrix.tolist(), "s": time.perf_counter() - start}
    with tempfile.TemporaryDirectory() as name:
        template, target = Path(name) / "template.nii.gz", Path(name) / "fit.mat"
        save(load_template(SPACE).t1, template)
        made = AntsAffine(threads).run(path, target, template=template)
        return {"matrix": read_affine(made.path).matrix.tolist(), "s": made.seconds}


def shape_difference(one: Affine, other: Affine) -> float:
    """Mean distance (mm) over the template's brain between where two affines carry it, after the best rigid motion."""
    points = brain_points()[::50]
    first, second = (carried - carried.mean(0) for carried in (one.apply(points), other.apply(points)))
    turn, _ = Rotation.align_vectors(first, second)
    return float(np.linalg.norm(first - turn.apply(second), axis=1).mean())


def contrasts(heads: dict[str, Path], options: argparse.Namespace, ledger: Ledger) -> list[dict[str, Any]]:
    """Rows per pair of scans of one person."""
    pairs = [pair for person in PEOPLE for pair in combinations(person, 2) if set(pair) <= set(heads)]
    names = sorted({name for pair in pairs for name in pair})
    tasks = {f"{OURS} affine of {name}": (OURS, heads[name], options.threads) for name in names}
    done = run_cached(ledger, brain_affine, tasks, options.jobs)
    found = {name: Affine(np.asarray(done[f"{OURS} affine of {name}"]["matrix"])) for name in names}
    return [{"one": one, "other": other, "mm": shape_difference(found[one], found[other])} for one, other in pairs]


def regions(options: argparse.Namespace, ledger: Ledger) -> list[dict[str, Any]]:
    """Rows per pair of brains and method."""
    people = {path.name.removesuffix("_SS.nii.gz"): path for path in sorted(options.brains.glob("*_SS.nii.gz"))}
    reason = AntsAffine(options.threads).missing()
    if reason:
        print(f"left out {ANTS}: {reason}")
    methods = (OURS,) if reason else (OURS, ANTS)
    tasks = {f"{m} affine of {name}": (m, path, options.threads) for m in methods for name, path in people.items()}
    done = run_cached(ledger, brain_affine, tasks, options.jobs)
    labels = {name: read_labels(path.with_name(f"{name}_glm.nii.gz")) for name, path in people.items()}
    grid = load_template(SPACE).brain_mask.grid
    rows = []
    for method in methods:
        found = {name: Affine(np.asarray(done[f"{method} affine of {name}"]["matrix"])) for name in people}
        seconds = statistics.median(done[f"{method} affine of {name}"]["s"] for name in people)
        rows += [{"method": method, "seconds": seconds, **row} for row in pairwise_dice(labels, found, grid)]
    return rows


def main() -> None:
    """Parse the command line, run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--brains", type=Path, default=SHARED / "labels" / "malf_oasis", help="*_SS and *_glm images")
    parser.add_argument("--only", nargs="+", help="names of heads; all if not given")
    parser.add_argument("--rotations", type=int, default=20, help="per head; 0 for none")
    parser.add_argument("--rotate", nargs="+", default=FIVE, help="names of the heads to turn")
    parser.add_argument("--affines", type=int, default=10, help="known affines of the template's image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, help="box plots of the regions (NPP's Figure 5) in this folder")
    add_options(parser)
    options = parser.parse_args()
    ledger = Ledger("mni", {"space": SPACE}, PARTS, options.cache, options.fresh)
    every = {stem(path): path for path in find_heads(options.heads)}
    chosen = {name: path for name, path in every.items() if not options.only or name in options.only}
    tasks: dict[str, tuple[Any, ...]] = {f"overlap {name}": (p, options.threads) for name, p in chosen.items()}
    done = run_cached(ledger, template_overlap, tasks, options.jobs)
    overlap = [{"head": name, "contrast": contrast(name), **done[f"overlap {name}"]} for name in chosen]
    print(markdown(overlap, ["head", "contrast", "Dice", "decision", "s"]), end="\n\n")
    turn = [name for name in options.rotate if name in every and options.rotations]
    tasks = {
        f"{name} rotation {k} of seed {options.seed}": (every[name], options.seed, k, options.threads)
        for name in turn
        for k in range(options.rotations)
    }
    done = run_cached(ledger, rotated, tasks, options.jobs)
    by_head = {n: [v for k, v in done.items() if k.startswith(f"{n} rotation")] for n in turn}
    turned = [rotation_line(name, turns) for name, turns in by_head.items()]
    columns = ["head", "rotations", "recovered", "median mm", "worst mm", "lost and flagged"]
    print(markdown(turned, columns), end="\n\n")
    tasks = {f"known {k} of seed {options.seed}": (options.seed, k, options.threads) for k in range(options.affines)}
    known = list(run_cached(ledger, known_affine, tasks, options.jobs).values())
    print(markdown(known, ["affine", "mean mm", "95 % mm"]), end="\n\n")
    pairs = contrasts(chosen, options, ledger)
    print(markdown(pairs, ["one", "other", "mm"]), end="\n\n")
    rows = regions(options, ledger) if options.brains.is_dir() else []
    if rows:
        print(paper_table("spatial", rows), end="\n\n")
        print(comparison_table(rows, ["mean_dice"], OURS), end="\n\n")
        if options.figures:
            draw_regions(rows, options)
    finish(options, overlap, turned, known, pairs, rows)


def draw_regions(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """One panel per large region, one box per method."""
    names = read_label_names(options.brains / "label_names.csv")
    options.figures.mkdir(parents=True, exist_ok=True)
    volumes: dict[int, float] = {}
    for path in sorted(options.brains.glob("*_glm.nii.gz")):
        for label, size in label_sizes(read_labels(path).data).items():
            volumes[label] = volumes.get(label, 0) + size
    largest = sorted(volumes, key=lambda label: -volumes[label])[:12]
    flat = [row | {names.get(k, str(k)): v for k, v in row["by_region"].items()} for row in rows]
    shown = ["mean_dice", *(names.get(label, str(label)) for label in largest)]
    box_plots(flat, shown, options.figures / "regions.png", title="Dice of regions in template space")


def finish(
    options: argparse.Namespace, overlap: list[dict[str, Any]], turned: list[dict[str, Any]],
    known: list[dict[str, Any]], pairs: list[dict[str, Any]], rows: list[dict[str, Any]],
) -> None:
    """Print the goals and save."""
    mean = [row["mean mm"] for row in known]
    lost = sum(row["rotations"] - row["recovered"] for row in turned)
    print(targets([
        ("known affines: largest mean error mm", max(mean, default=None), 2.0, "<="),
        ("rotations that were not recovered", float(lost) if turned else None, 0.0, "<="),
    ]))  # fmt: skip
    values = [row["Dice"] for row in overlap]
    headline = {
        "template Dice, median": statistics.median(values) if values else None,
        "template Dice, worst": min(values, default=None),
        "rotations": [{k: v for k, v in row.items() if not isinstance(v, list)} for row in turned],
        "known affines, mean mm": statistics.mean(mean) if mean else None,
        "known affines, worst mm": max(mean, default=None),
        "contrasts of one person, mean mm": statistics.mean(row["mm"] for row in pairs) if pairs else None,
        "contrasts of one person, worst mm": max((row["mm"] for row in pairs), default=None),
        "regions": summarize(rows, ["mean_dice"], ["method"]),
    }
    content = {
        "headline": headline, "overlap": overlap, "rotations": turned, "known_affines": known,
        "contrasts": pairs, "regions": rows,
        "comparison": compare(rows, ["mean_dice"], OURS),
    }  # fmt: skip
    print(f"\nsaved {save_results('mni', content, options.results)}")


if __name__ == "__main__":
    main()
