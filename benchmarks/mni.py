"""How well and how reliably heads reach MNI space.

1. Every head: Dice of the brain mask in template space with the template's own brain mask.
2. Large rotations: each head is turned by random rotations (any angle, any axis, and a shift) by changing its
   header, without interpolation; the affine found must be the one of the unturned head, turned along. The error is
   the mean distance in mm over the template's brain; a rotation counts as recovered below 3 mm.
3. Known affines: the template's own T1 image, moved by random affines through its header. Here the right answer is
   known exactly, so this is the error itself and not only a consistency.

Synthetic heads with a known affine are in ``synthetic.py``.

    python benchmarks/mni.py --rotations 20
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, SHARED, contrast, find_heads, markdown, save_results, stem
from heads import FIVE
from scipy.spatial.transform import Rotation

from neuralprep import Affine, Grid, Preprocessor, Settings, Volume, load, load_template
from neuralprep.evaluation.affine import mean_point_error, point_error, points_in_mask
from neuralprep.evaluation.overlap import dice
from neuralprep.resample import resample

SPACE = "MNI152NLin2009aSym"
RECOVERED_MM = 3.0


def moved(volume: Volume, motion: Affine) -> Volume:
    """The same voxels somewhere else in the world: only the header changes."""
    return Volume(volume.data, Grid(volume.grid.shape, motion.matrix @ volume.grid.affine))


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


def template_overlap(heads: list[Path]) -> list[dict[str, Any]]:
    """Dice of every head's mask in template space with the template's brain."""
    template = load_template(SPACE)
    preprocessor = Preprocessor(Settings(normalize=False, outputs=("space_brain_mask", "template_from_scan")))
    rows = []
    for path in heads:
        volume = load(path)
        start = time.perf_counter()
        result = preprocessor.run(volume)
        seconds = time.perf_counter() - start
        mask = result.outputs["space_brain_mask"]
        brain = resample(template.brain_mask, mask.grid, order=0)
        row = {"head": stem(path), "contrast": contrast(stem(path)), "Dice": dice(mask.data, brain.data)}
        rows.append(row | {"decision": result.quality.decision, "s": seconds})
    return rows


def rotations(path: Path, count: int, seed: int) -> dict[str, Any]:
    """Turn one head `count` times and compare the affines found with the one of the unturned head."""
    template = load_template(SPACE)
    points = points_in_mask(template.brain_mask.data, template.brain_mask.grid)
    preprocessor = Preprocessor(Settings(normalize=False, outputs=("template_from_scan",)))
    volume = load(path)
    straight = preprocessor.run(volume).outputs["template_from_scan"]
    center = straight.apply(points).mean(0)
    rng = np.random.default_rng(seed)
    errors, angles, flagged = [], [], 0
    for _ in range(count):
        motion = random_rotation(rng, center)
        result = preprocessor.run(moved(volume, motion))
        expected = Affine(motion.matrix @ straight.matrix)
        errors.append(mean_point_error(result.outputs["template_from_scan"], expected, points))
        angles.append(rotation_angle(motion))
        flagged += errors[-1] >= RECOVERED_MM and result.quality.decision != "ok"
    lost = sum(error >= RECOVERED_MM for error in errors)
    return {
        "head": stem(path),
        "rotations": count,
        "recovered": count - lost,
        "median mm": statistics.median(errors),
        "worst mm": max(errors),
        "lost and flagged": f"{flagged}/{lost}",
        "errors mm": errors,
        "angles deg": angles,
    }


def known_affines(count: int, seed: int) -> list[dict[str, Any]]:
    """Move the template's T1 image by known affines and measure the error of the affine found."""
    template = load_template(SPACE)
    points = points_in_mask(template.brain_mask.data, template.brain_mask.grid)
    preprocessor = Preprocessor(Settings(normalize=False, outputs=("template_from_scan",)))
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        truth = random_affine(rng)
        found = preprocessor.run(moved(template.t1, truth)).outputs["template_from_scan"]
        error = point_error(found, truth, points)
        rows.append({"affine": index, "mean mm": error.mean, "95 % mm": error.percentile95})
    return rows


def main() -> None:
    """Parse the command line, run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--only", nargs="+", help="names of heads; all if not given")
    parser.add_argument("--rotations", type=int, default=20, help="per head; 0 for none")
    parser.add_argument("--rotate", nargs="+", default=FIVE, help="names of the heads to turn")
    parser.add_argument("--affines", type=int, default=10, help="known affines of the template's image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    heads = [p for p in find_heads(options.heads) if not options.only or stem(p) in options.only]
    overlap = template_overlap(heads)
    print(markdown(overlap, ["head", "contrast", "Dice", "decision", "s"]), end="\n\n")
    turned = [
        rotations(path, options.rotations, options.seed + index)
        for index, path in enumerate(find_heads(options.heads))
        if options.rotations and stem(path) in options.rotate
    ]
    columns = ["head", "rotations", "recovered", "median mm", "worst mm", "lost and flagged"]
    print(markdown(turned, columns), end="\n\n")
    known = known_affines(options.affines, options.seed)
    print(markdown(known, ["affine", "mean mm", "95 % mm"]))
    content = {"overlap": overlap, "rotations": turned, "known_affines": known}
    print(f"\nsaved {save_results('mni', content, options.results)}")


if __name__ == "__main__":
    main()
