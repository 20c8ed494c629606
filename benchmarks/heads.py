"""Brain masks of real heads against two peers and against what references there are.

For every head: overlap and surface distances (mm, weighted by area) of our brain mask against deepbet and MindGrab,
and of the two peers against each other, which is about the best that can be asked for. None of the heads has a manual
mask. The MS heads carry their authors' masks (holes filled here), the epilepsy head an intracranial mask that lies up
to 3 mm off at the frontal pole; against these, ours and the peers are compared as NPP's Figure 3 does, with paired
Wilcoxon tests.

Needs the peers' masks: run ``benchmarks/peers.py`` first. Our masks are made anew unless ``--masks`` names a folder of
them (``<head>.nii.gz``), by the default network or by the one of ``--model``. Prints Markdown tables, per head and per
contrast; saves ``heads.json`` (``heads_MODEL.json``), and with ``--figures`` box plots and every mask on its head.

    python benchmarks/heads.py --figures /tmp/overlays
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CACHE,
    RESULTS,
    SHARED,
    comparison_table,
    contrast,
    find_heads,
    load_mask,
    markdown,
    save_results,
    stem,
    summarize,
    targets,
)
from overlay import save_overlay
from peers import FIRST as FIVE
from scipy import ndimage

from neuralprep.evaluation.extraction import score_methods
from neuralprep.evaluation.figures import box_plots
from neuralprep.evaluation.tables import PAPER_TABLES, compare, paper_table
from neuralprep.settings import Settings

OURS = "neuralprep"
PEERS = ("deepbet", "mindgrab")
MEASURES = PAPER_TABLES["extraction"].measures


def strip(heads: list[Path], folder: Path, model: str, threads: int) -> dict[str, dict[str, Any]]:
    """Make our mask of every head in `folder`; return seconds, decision and reasons by head."""
    from neuralprep import Preprocessor, load, save

    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(model=model, normalize=False, register=False, outputs=("brain_mask",), threads=threads)
    preprocessor = Preprocessor(settings)
    notes: dict[str, dict[str, Any]] = {}
    for path in heads:
        start = time.perf_counter()
        result = preprocessor.run(load(path))
        seconds = time.perf_counter() - start
        save(result.outputs["brain_mask"], folder / f"{stem(path)}.nii.gz", dtype="uint8")
        quality = result.quality
        notes[stem(path)] = {"s": seconds, "decision": quality.decision, "reasons": "; ".join(quality.reasons)}
    return notes


def against_peers(heads: list[Path], ours: Path, cache: Path) -> list[dict[str, Any]]:
    """Scores of our masks, and of the other peer's, against each peer's: rows with ``reference``."""
    rows: list[dict[str, Any]] = []
    for reference in PEERS:
        truths = {stem(head): cache / reference / f"{stem(head)}.nii.gz" for head in heads}
        truths = {name: path for name, path in truths.items() if path.is_file()}
        other = next(peer for peer in PEERS if peer != reference)
        for method, folder in ((OURS, ours), (other, cache / other)):
            there = {name: path for name, path in truths.items() if (folder / f"{name}.nii.gz").is_file()}
            scored, faults = score_methods({method: folder}, there)
            rows += [{"reference": reference, **row} for row in scored]
            for name, fault in faults.items():
                print(f"not scored: {name}: {fault}")
    return rows


def by_head(rows: list[dict[str, Any]], notes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per head: ours against each peer, and the peers against each other."""
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["case"], {"head": row["case"], "contrast": contrast(row["case"])})
        if row["method"] == OURS:
            line["ml"] = row["volume"]
            line |= {f"{m} {row['reference']}": row[m] for m in ("dice", "hd95", "msd")}
            line[f"ml {row['reference']}"] = row["truth_volume"]
        else:
            line["dice peers"] = row["dice"]
    return [line | notes.get(name, {}) for name, line in sorted(lines.items())]


def references(labels: Path, cache: Path) -> dict[str, Path]:
    """The dataset authors' masks (holes filled) and the intracranial mask, by head."""
    import nibabel as nib

    found = {path.name.removesuffix("_authormask.nii.gz"): path for path in sorted(labels.glob("*_authormask.nii.gz"))}
    found["seg3d_patient_T1w"] = labels / "seg3d_patient_brainmask.nii.gz"
    filled = {}
    for name, path in found.items():
        if path.is_file():
            mask, spacing = load_mask(path)
            mask = fill_holes(mask, slices_along=int(np.argmax(spacing)))
            filled[name] = cache / "references" / f"{name}.nii.gz"
            filled[name].parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), nib.load(path).affine), filled[name])
    return filled


def fill_holes(mask: np.ndarray, slices_along: int) -> np.ndarray:
    """Fill holes in the volume, and those closed within a slice of a thick-slice scan."""
    filled = np.moveaxis(ndimage.binary_fill_holes(mask), slices_along, 0).copy()
    for plane in filled:
        plane[...] = ndimage.binary_fill_holes(plane)
    return np.moveaxis(filled, 0, slices_along)


def by_contrast(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and worst Dice against each peer, per contrast, the five main T1w heads apart."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        main = line["head"] in FIVE
        groups.setdefault("T1w, 3-D, five sites" if main else line["contrast"], []).append(line)
        groups.setdefault("all", []).append(line)
    table = []
    for name, members in sorted(groups.items(), key=lambda item: item[0] == "all"):
        row: dict[str, Any] = {"group": name, "heads": len(members)}
        for label in (*PEERS, "peers"):
            values = [m[f"dice {label}"] for m in members if f"dice {label}" in m]
            if values:
                row[f"{label} median"] = statistics.median(values)
                row[f"{label} worst"] = min(values)
        table.append(row)
    return table


def main() -> None:
    """Parse the command line, strip, score, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--labels", type=Path, default=SHARED / "labels", help="folder of reference masks")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the peers' masks, from peers.py")
    parser.add_argument("--masks", type=Path, help="score the masks in this folder instead of making them")
    parser.add_argument("--model", default=Settings.model, help="name or file of the network that makes them")
    parser.add_argument("--only", nargs="+", help="names of heads; all if not given")
    parser.add_argument("--figures", type=Path, help="box plots, and every mask on its head, in this folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    heads = [p for p in find_heads(options.heads) if not options.only or stem(p) in options.only]
    if not heads:
        parser.error(f"no heads to score in {options.heads}")
    ending = "" if options.model == Settings.model else f"_{Path(options.model).stem}"
    ours = options.masks or options.cache / f"{OURS}{ending}"
    notes = {} if options.masks else strip(heads, ours, options.model, options.threads)
    rows = against_peers(heads, ours, options.cache)
    lines = by_head(rows, notes)
    groups = by_contrast(lines)
    measures = [f"{m} {label}" for label in PEERS for m in ("dice", "hd95", "msd")]
    print(markdown(lines, ["head", "ml", *measures, "dice peers", "s", "decision"]), end="\n\n")
    columns = [f"{label} {kind}" for label in (*PEERS, "peers") for kind in ("median", "worst")]
    print(markdown(groups, ["group", "heads", *columns]), end="\n\n")
    everyone = {OURS: ours} | {peer: options.cache / peer for peer in PEERS if (options.cache / peer).is_dir()}
    truths = {k: v for k, v in references(options.labels, options.cache).items() if (ours / f"{k}.nii.gz").is_file()}
    authors = score_methods(everyone, truths)[0] if truths else []
    if authors:
        print("Against the data sets' own masks:\n")
        print(paper_table("extraction", authors), end="\n\n")
        print(comparison_table(authors, MEASURES, OURS), end="\n\n")
    five = [m for m in lines if m["head"] in FIVE]
    worst = [min((m[f"dice {peer}"] for m in five if f"dice {peer}" in m), default=None) for peer in PEERS]
    print(targets([(f"worst Dice with {peer}, five T1w heads", value, 0.965, ">=")
                   for peer, value in zip(PEERS, worst, strict=True)]))  # fmt: skip
    content = {
        "headline": {"groups": groups, "own masks": summarize(authors, ["dice", "msd", "hd95"], ["method"])},
        "heads": lines, "groups": groups, "scores": rows, "references": authors,
        "comparison": compare(authors, MEASURES, OURS),
    }  # fmt: skip
    print(f"\nsaved {save_results(f'heads{ending}', content, options.results)}")
    if options.figures:
        draw(options, heads, ours, rows, authors)


def draw(
    options: argparse.Namespace, heads: list[Path], ours: Path, rows: list[dict[str, Any]],
    authors: list[dict[str, Any]],
) -> None:
    """Box plots against each reference, and every mask on its head."""
    options.figures.mkdir(parents=True, exist_ok=True)
    for reference in PEERS:
        members = [row for row in rows if row["reference"] == reference]
        if members:
            box_plots(members, MEASURES, options.figures / f"against_{reference}.png", title=f"against {reference}")
    if authors:
        box_plots(authors, MEASURES, options.figures / "against_authors.png", title="against the data sets' masks")
    for head in heads:
        name = f"{stem(head)}.nii.gz"
        files = {"ours": ours / name} | {peer: options.cache / peer / name for peer in PEERS}
        present = {label: file for label, file in files.items() if file.is_file()}
        save_overlay(head, present, options.figures / f"{stem(head)}.png")


if __name__ == "__main__":
    main()
