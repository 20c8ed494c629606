"""Put measured scores on the card of a model, so that no number there is typed by hand.

Reads the result files that the other programs saved and writes their headline figures, and the known limits, into the
card (``.json``) beside the weights.

    python benchmarks/card.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS

LIMITS = [
    "Adults only in training (16 label maps, sizes 0.5 to 1.15): infants and animals are guesses.",
    "Affine registration; large resections and heads with less than about two thirds of the brain in view may fail.",
    "CT is trained in the window -100 to 200 HU; its registration score is low by nature and is flagged for a check.",
    "No real image was used in training.",
]
NAMES = ("heads", "synthetic", "mni", "bias", "degradation", "ct", "registration")


def rounded(value: Any) -> Any:
    """A headline with its numbers to four digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Parse the command line, merge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--card", type=Path, default=Path("src/neuralprep/weights/npp.json"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    card: dict[str, Any] = json.loads(options.card.read_text())
    scores: dict[str, Any] = {}
    for name in NAMES:
        path = options.results / f"{name}.json"
        if not path.is_file():
            print(f"left out {path}: no such file")
            continue
        saved = json.loads(path.read_text())
        if "headline" not in saved:
            print(f"left out {path}: of an older version of the program; run benchmarks/{name}.py again")
            continue
        scores[f"benchmarks/{name}.py"] = {"date": saved["machine"]["date"], **rounded(saved["headline"])}
    card["scores"], card["limits"] = scores, LIMITS
    options.card.write_text(json.dumps(card, indent=2) + "\n")
    print(options.card)


if __name__ == "__main__":
    main()
