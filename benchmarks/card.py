"""Put measured scores on the cards of the shipped models, so that no number there is typed by hand.

Reads the result files that the other programs saved and writes their headline figures, and the known limits, into the
cards (``.json``) beside the weights.

    python benchmarks/card.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS

LIMITS = {
    "npp": [
        "Adults only in training (16 label maps, sizes 0.5 to 1.15): infants and animals are guesses.",
        "Affine registration; large resections and less than two thirds of the brain in view may fail.",
        "CT is trained in the window -100 to 200 HU; its registration score is low by nature and flagged.",
        "No real image was used in training.",
    ],
    "npp_close": [
        "For heads that stand upright in the middle of its grid, as npp finds them; scores are of both together.",
        "For alignment; masks and fields come from npp_fine. Its limits are those of npp.",
    ],
    "npp_fine": [
        "For heads that stand upright in the middle of its grid, as npp finds them; scores are of both together.",
        "Where fat is three times as bright as the brain, masks come out up to a millimetre too large.",
        "Its limits are those of npp.",
    ],
    "pair": [
        "A start for the steps on the images, not a replacement: alone it finds about a third of what they find.",
        "Two adult brains, already affinely aligned; one velocity node every 4 mm. Folds are beyond it.",
        "Structures are read for its own use, in blocks of 4 mm; they are no segmentation to publish.",
        "No real image was used in training.",
    ],
}
REGISTRATION = ("registration", "registration_known", "registration_cost")
PROGRAMS = {
    "npp": ("heads", "synthetic", "mni", "bias", "degradation", "ct", *REGISTRATION),
    "npp_close": REGISTRATION,
    "npp_fine": ("synthetic", "heads"),
    "pair": REGISTRATION,
}


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
    parser.add_argument("--cards", type=Path, default=Path("src/neuralprep/weights"), help="folder of the cards")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in PROGRAMS:
        print(fill(name, options.cards / f"{name}.json", options.results))


def fill(name: str, file: Path, results: Path) -> Path:
    """Write scores and limits into one card."""
    card: dict[str, Any] = json.loads(file.read_text())
    scores: dict[str, Any] = {}
    for program in PROGRAMS[name]:
        path = results / f"{program}.json"
        if not path.is_file():
            print(f"left out {path}: no such file")
            continue
        saved = json.loads(path.read_text())
        if "headline" not in saved:
            print(f"left out {path}: of an older version of the program; run benchmarks/{program}.py again")
            continue
        scores[f"benchmarks/{program}.py"] = {"date": saved["machine"]["date"], **rounded(saved["headline"])}
    card["scores"], card["limits"] = scores, LIMITS[name]
    file.write_text(json.dumps(card, indent=2) + "\n")
    return file


if __name__ == "__main__":
    main()
