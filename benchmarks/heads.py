"""Brain masks of real heads against two peers and against what references there are.

For every head: Dice, 95 % Hausdorff distance and mean surface distance (mm) of our brain mask against deepbet
and MindGrab, and of the two peers against each other, which is about the best that can be asked for. None of the
heads has a manual mask. The MS heads carry their authors' masks (holes filled here), the epilepsy head an
intracranial mask that lies up to 3 mm off at the frontal pole.

Needs the peers' masks: run ``benchmarks/peers.py`` first. Our masks are made anew unless ``--masks`` names a
folder of them (``<head>.nii.gz``). Prints Markdown tables, per head and per contrast; saves ``heads.json``.

    python benchmarks/heads.py --figures /tmp/overlays
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, RESULTS, SHARED, contrast, find_heads, load_mask, markdown, save_results, stem
from overlay import save_overlay
from scipy import ndimage

from neuralprep.evaluation.overlap import dice
from neuralprep.evaluation.surface import surface_distances

PEERS = ("deepbet", "mindgrab")
FIVE = (
    "studyforrest_sub02_T1w",
    "uih770_A_T1w_1mm",
    "rorden_T1w_0p88",
    "bisweb_sag_T1w_2mm",
    "xa30_prisma_T1w_2mm",
)
"""Full 3-D T1w heads of five sites: the ones with the strictest goal."""


def strip(heads: list[Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Make our mask of every head in `folder`; return seconds, decision and reasons by head."""
    from neuralprep import Preprocessor, Settings, load, save

    folder.mkdir(parents=True, exist_ok=True)
    preprocessor = Preprocessor(Settings(normalize=False, register=False, outputs=("brain_mask",)))
    notes: dict[str, dict[str, Any]] = {}
    for path in heads:
        start = time.perf_counter()
        result = preprocessor.run(load(path))
        seconds = time.perf_counter() - start
        save(result.outputs["brain_mask"], folder / f"{stem(path)}.nii.gz", dtype="uint8")
        quality = result.quality
        notes[stem(path)] = {
            "s": seconds,
            "decision": quality.decision,
            "reasons": "; ".join(quality.reasons),
        }
    return notes


def compare(mask: Path, reference: Path) -> dict[str, float] | None:
    """Dice, HD95 and MSD (mm) of two mask files on one grid; None if one is missing."""
    if not (mask.is_file() and reference.is_file()):
        return None
    first, spacing = load_mask(mask)
    second, _ = load_mask(reference)
    distances = surface_distances(first, second, spacing)
    return {"dice": dice(first, second), "hd95": distances.hausdorff95, "msd": distances.mean}


def volume_ml(path: Path) -> float | None:
    """Volume of a mask file; None if it is missing."""
    if not path.is_file():
        return None
    mask, spacing = load_mask(path)
    return float(mask.sum() * np.prod(spacing) / 1000)


def score(head: Path, ours: Path, peers: Path) -> dict[str, Any]:
    """One row of the table: our mask against each peer, the peers against each other, volumes."""
    name = f"{stem(head)}.nii.gz"
    row: dict[str, Any] = {"head": stem(head), "contrast": contrast(stem(head)), "ml": volume_ml(ours / name)}
    pairs = {peer: (ours / name, peers / peer / name) for peer in PEERS}
    pairs["peers"] = (peers / PEERS[0] / name, peers / PEERS[1] / name)
    for label, (mask, reference) in pairs.items():
        for measure, value in (compare(mask, reference) or {}).items():
            row[f"{measure} {label}"] = value
    for peer in PEERS:
        row[f"ml {peer}"] = volume_ml(peers / peer / name)
    return row


def score_references(ours: Path, peers: Path, labels: Path) -> list[dict[str, Any]]:
    """Our masks and the peers' against the dataset authors' masks (filled) and the intracranial mask."""
    references = {
        path.name.removesuffix("_authormask.nii.gz"): path for path in sorted(labels.glob("*_authormask.nii.gz"))
    }
    references["seg3d_patient_T1w"] = labels / "seg3d_patient_brainmask.nii.gz"
    rows = []
    for name, path in references.items():
        if not path.is_file():
            continue
        reference, spacing = load_mask(path)
        reference = fill_holes(reference, slices_along=int(np.argmax(spacing)))
        for source, folder in (("ours", ours), *((peer, peers / peer) for peer in PEERS)):
            file = folder / f"{name}.nii.gz"
            if not file.is_file():
                continue
            mask, _ = load_mask(file)
            distances = surface_distances(mask, reference, spacing)
            rows.append(
                {
                    "head": name,
                    "mask": source,
                    "dice": dice(mask, reference),
                    "hd95": distances.hausdorff95,
                    "msd": distances.mean,
                }
            )
    return rows


def fill_holes(mask: np.ndarray, slices_along: int) -> np.ndarray:
    """Fill holes in the volume, and those closed within a slice of a thick-slice scan."""
    filled = np.moveaxis(ndimage.binary_fill_holes(mask), slices_along, 0).copy()
    for plane in filled:
        plane[...] = ndimage.binary_fill_holes(plane)
    return np.moveaxis(filled, 0, slices_along)


def by_contrast(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and worst Dice against each peer, per contrast, the five main T1w heads apart."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        main = row["head"] in FIVE
        groups.setdefault("T1w, 3-D, five sites" if main else row["contrast"], []).append(row)
        groups.setdefault("all", []).append(row)
    table = []
    for name, members in sorted(groups.items(), key=lambda item: item[0] == "all"):
        line: dict[str, Any] = {"group": name, "heads": len(members)}
        for label in (*PEERS, "peers"):
            values = [m[f"dice {label}"] for m in members if f"dice {label}" in m]
            if values:
                line[f"{label} median"] = statistics.median(values)
                line[f"{label} worst"] = min(values)
        table.append(line)
    return table


def main() -> None:
    """Parse the command line, strip, score, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--labels", type=Path, default=SHARED / "labels", help="folder of reference masks")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the peers' masks, from peers.py")
    parser.add_argument("--masks", type=Path, help="score the masks in this folder instead of making them")
    parser.add_argument("--only", nargs="+", help="names of heads; all if not given")
    parser.add_argument("--figures", type=Path, help="also draw every mask on its head, in this folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    heads = [p for p in find_heads(options.heads) if not options.only or stem(p) in options.only]
    if not heads:
        parser.error(f"no heads to score in {options.heads}")
    ours = options.masks or options.cache / "neuralprep"
    notes = {} if options.masks else strip(heads, ours)
    rows = [score(head, ours, options.cache) | notes.get(stem(head), {}) for head in heads]
    references = score_references(ours, options.cache, options.labels)
    groups = by_contrast(rows)
    measures = [f"{m} {label}" for label in PEERS for m in ("dice", "hd95", "msd")]
    print(markdown(rows, ["head", "ml", *measures, "dice peers", "s", "decision"]), end="\n\n")
    columns = [f"{label} {kind}" for label in (*PEERS, "peers") for kind in ("median", "worst")]
    print(markdown(groups, ["group", "heads", *columns]), end="\n\n")
    print(markdown(references, ["head", "mask", "dice", "hd95", "msd"]))
    content = {"heads": rows, "groups": groups, "references": references}
    print(f"\nsaved {save_results('heads', content, options.results)}")
    for head in heads if options.figures else ():
        name = f"{stem(head)}.nii.gz"
        files = {"ours": ours / name} | {peer: options.cache / peer / name for peer in PEERS}
        present = {label: file for label, file in files.items() if file.is_file()}
        save_overlay(head, present, options.figures / f"{stem(head)}.png")


if __name__ == "__main__":
    main()
