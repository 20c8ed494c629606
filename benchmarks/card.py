"""Put measured scores on the card of a model, so that no number there is typed by hand.

Reads the result files that heads.py, synthetic.py, mni.py and speed.py saved and writes their headline figures, and the
known limits, into the card (``.json``) beside the weights.

    python benchmarks/card.py
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from common import RESULTS

LIMITS = [
    "Adults only in training (16 label maps, sizes 0.5 to 1.15): infants and animals are guesses.",
    "Affine registration; large resections and heads with less than about two thirds of the brain in view may fail.",
    "CT is trained in the window -100 to 200 HU; its registration score is low by nature and is flagged for a check.",
    "Trained for about two hours on two CPU cores from random weights; no real image was used.",
]


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers of one table row to four digits, lists left out."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if not isinstance(v, list)}


def heads(saved: dict[str, Any]) -> dict[str, Any]:
    """Dice with the peers per group of real heads."""
    return {"groups": [rounded(row) for row in saved["groups"]]}


def synthetic(saved: dict[str, Any]) -> dict[str, Any]:
    """Masks, affine and the sweep of lambda on held-out synthetic heads."""
    return {"all": rounded(saved["geometry_table"][-1]), "lambda": [rounded(row) for row in saved["lambda_table"]]}


def mni(saved: dict[str, Any]) -> dict[str, Any]:
    """Overlap with the template, recovered rotations, error of known affines."""
    overlap = [row["Dice"] for row in saved["overlap"]]
    known = [row["mean mm"] for row in saved["known_affines"]]
    return {
        "template Dice, median": round(statistics.median(overlap), 4),
        "template Dice, worst": round(min(overlap), 4),
        "rotations": [rounded(row) for row in saved["rotations"]],
        "known affines, mean mm": round(statistics.mean(known), 3),
        "known affines, worst mm": round(max(known), 3),
    }


def main() -> None:
    """Parse the command line, merge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--card", type=Path, default=Path("src/neuralprep/weights/npp.json"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    card: dict[str, Any] = json.loads(options.card.read_text())
    scores: dict[str, Any] = {}
    for name, headline in (("heads", heads), ("synthetic", synthetic), ("mni", mni)):
        path = options.results / f"{name}.json"
        saved = json.loads(path.read_text())
        scores[f"benchmarks/{name}.py"] = {"date": saved["machine"]["date"], **headline(saved)}
    card["scores"], card["limits"] = scores, LIMITS
    options.card.write_text(json.dumps(card, indent=2) + "\n")
    print(options.card)


if __name__ == "__main__":
    main()
