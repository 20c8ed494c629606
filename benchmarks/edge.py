"""What stripping does to lesions on the surface of the brain, and that keeping their label undoes it.

Balls of 6 to 15 mm radius are centred on the brain's surface in the held-out label maps 19 and 20, where the true
masks are known: the tight one (tissue and ventricles), the usual one (inner skull), and the tight one united with the
label as `neuralprep run --keep-label` does it. Per mask: share of balls at the edge (90.3 % of 1424 meningiomas in
LaBella et al., MELBA 2025:003), volume lost, and contact area relative to the great circle of the ball, which is what
a flat surface through its centre would give.

    python benchmarks/edge.py --atlas FILE
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import RESULTS, markdown, save_results, spread

from neuralprep.evaluation.edge import EdgeContact, edge_contact
from neuralprep.evaluation.edge_cohort import EdgeCase, edge_shares
from neuralprep.grid import Grid
from neuralprep.stages.brain import brain_from_mask, with_kept
from neuralprep.stages.keep import label_on_grid
from neuralprep.synthesis.atlas import Head, brain_masks, load_atlas
from neuralprep.volume import Volume

HEADS = ("training_seg_19", "training_seg_20")
RADII_MM = (6.0, 15.0)
COLUMNS = ("mask", "balls", "at the edge", "share, 95 % interval", "lost, % of the volume", "lost, mean %",
           "faces / great circle", "smooth / great circle", "CPU s per ball")


def ball(grid: Grid, center: np.ndarray, radius: float) -> Volume:
    """Label map of a ball, mm."""
    axes = [grid.affine[a, 3] + grid.affine[a, a] * np.arange(n) - center[a] for a, n in enumerate(grid.shape)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return Volume((x**2 + y**2 + z**2 <= radius**2).astype(np.uint8), grid)


def surface_points(mask: np.ndarray, grid: Grid, count: int, rng: np.random.Generator) -> np.ndarray:
    """World points between a mask voxel and a face neighbour outside it, drawn at random, (count, 3)."""
    inner, outer = [], []
    for axis in range(3):
        for side in (-1, 1):
            edge = np.argwhere(mask & ~np.roll(mask, -side, axis))
            inner.append(edge)
            outer.append(edge + side * np.eye(3, dtype=int)[axis])
    between = (np.concatenate(inner) + np.concatenate(outer)) / 2
    return grid.voxel_to_world(between[rng.choice(len(between), count, replace=False)])


def measure(head: Head, count: int, rng: np.random.Generator) -> dict[str, list[tuple[EdgeContact, float, float]]]:
    """Contact, radius and CPU seconds of every ball, per mask."""
    grid = Grid(head.labels.shape, head.affine)
    tight, skull = brain_masks(head.labels)
    found: dict[str, list[tuple[EdgeContact, float, float]]] = {}
    for center in surface_points(tight, grid, count, rng):
        radius = float(rng.uniform(*RADII_MM))
        label = ball(grid, center, radius)
        brain = brain_from_mask(Volume(tight.astype(np.uint8), grid), None)
        kept = with_kept(brain, label_on_grid(label, grid).voxels).mask.data
        for name, mask in (("tight", tight), ("inner skull", skull), ("tight, label kept", kept)):
            start = time.process_time()
            (contact,) = edge_contact(label.data, mask, grid, {"ball": (1,)})
            found.setdefault(name, []).append((contact, radius, time.process_time() - start))
    return found


def row(mask: str, balls: Sequence[tuple[EdgeContact, float, float]]) -> dict[str, object]:
    """One line of the table."""
    contacts = [contact for contact, _, _ in balls]
    (share,) = edge_shares([EdgeCase(str(i), (contact,)) for i, contact in enumerate(contacts)])
    lost = [100 * contact.outside_mm3 / contact.volume_mm3 for contact in contacts]
    circles = [np.pi * radius**2 for _, radius, _ in balls]
    faces = [contact.contact_area_mm2 / circle for contact, circle in zip(contacts, circles, strict=True)]
    smooth = [contact.contact_area_smooth_mm2 / circle for contact, circle in zip(contacts, circles, strict=True)]
    interval = share.share
    return dict(zip(COLUMNS, (
        mask, len(balls), share.at_edge, f"{100 * interval.estimate:.1f} % [{100 * interval.low:.1f}, "
        f"{100 * interval.high:.1f}]", spread(lost), statistics.mean(lost), spread(faces), spread(smooth),
        statistics.mean(seconds for _, _, seconds in balls)), strict=True))  # fmt: skip


def main() -> None:
    """Parse the command line, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="file made by neuralprep train --pack")
    parser.add_argument("--balls", type=int, default=20, help="per head (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    found: dict[str, list[tuple[EdgeContact, float, float]]] = {}
    for head in load_atlas(options.atlas, HEADS):
        for mask, balls in measure(head, options.balls, rng).items():
            found.setdefault(mask, []).extend(balls)
    table = [row(mask, balls) for mask, balls in found.items()]
    print(markdown(table, COLUMNS))
    lost = sum(contact.outside_voxels for contact, _, _ in found["tight, label kept"])
    print(f"\nvoxels lost with the label kept: {lost}")
    print(save_results("edge", {"table": table, "voxels lost with the label kept": lost, "seed": options.seed},
                       options.results))


if __name__ == "__main__":
    main()
