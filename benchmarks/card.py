"""Put measured scores on the card of a model, so that no number there is typed by hand.

Reads the result files that the other programs saved and writes their headline figures, and the known limits, into the
card (``.json``) beside the weights.

    python benchmarks/card.py
    python benchmarks/card.py pair
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS

LIMITS = {"npp": [
    "Adults only in training (16 label maps, sizes 0.5 to 1.15): infants and animals are guesses.",
    "Affine registration; large resections and heads with less than about two thirds of the brain in view may fail.",
    "CT is trained in the window -100 to 200 HU; its registration score is low by nature and is flagged for a check.",
    "No real image was used in training.",
], "pair": [
    "Adult brains (16 label maps), upright and affinely aligned as `register --type svf` gives them; no real image.",
    "Learnt from structures without cortical areas: the cortex is left to the steps on the images that follow.",
    "Stiffness 0.001 to 10; beyond that it answers as at these ends.",
]}
NAMES = {"npp": ("heads", "synthetic", "mni", "bias", "degradation", "ct", "registration"), "pair": ("registration",)}


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
    parser.add_argument("model", nargs="?", choices=LIMITS, default="npp", help="default npp")
    parser.add_argument("--weights", type=Path, default=Path("src/neuralprep/weights"), help="folder of the card")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = options.weights / f"{options.model}.json"
    card: dict[str, Any] = json.loads(target.read_text())
    scores: dict[str, Any] = {}
    for name in NAMES[options.model]:
        path = options.results / f"{name}.json"
        if not path.is_file():
            print(f"left out {path}: no such file")
            continue
        saved = json.loads(path.read_text())
        if "headline" not in saved:
            print(f"left out {path}: of an older version of the program; run benchmarks/{name}.py again")
            continue
        scores[f"benchmarks/{name}.py"] = {"date": saved["machine"]["date"], **rounded(saved["headline"])}
    card["scores"], card["limits"] = scores, LIMITS[options.model]
    target.write_text(json.dumps(card, indent=2) + "\n")
    print(target)


if __name__ == "__main__":
    main()
