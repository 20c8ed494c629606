"""Reference brain masks of other people's tools on each head's own grid.

Measures nothing itself: it makes the masks that the other benchmarks score against, once, and keeps them as
``CACHE/<peer>/<head>.nii.gz`` (uint8). A mask that is there already is not made again. Times go to
``CACHE/<peer>/times.tsv``.

The tools stand in ``neuralprep.evaluation.peers``: deepbet (``pip install deepbet``), MindGrab (our layout with the
published tensors), and bet, mri_synthstrip, mri_watershed, robex and hd-bet where they are on PATH. What cannot run
here is named with its reason.

    python benchmarks/peers.py --mindgrab ../shared/data/weights/mindgrab/model.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import CACHE, SHARED, find_heads, stem

from neuralprep.evaluation.extraction import make_masks
from neuralprep.evaluation.peers import all_peers, choose

FIRST = (
    "studyforrest_sub02_T1w",
    "uih770_A_T1w_1mm",
    "rorden_T1w_0p88",
    "bisweb_sag_T1w_2mm",
    "xa30_prisma_T1w_2mm",
)


def main_heads_first(folder: Path) -> list[Path]:
    """The heads of a folder, the five full 3-D T1w ones first."""
    order = {name: i for i, name in enumerate(FIRST)}
    return sorted(find_heads(folder), key=lambda p: (order.get(stem(p), len(FIRST)), p.name))


def main() -> None:
    """Parse the command line and make the masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where masks are kept")
    parser.add_argument("--peers", nargs="+", help="names; all that can run here if not given")
    parser.add_argument("--mindgrab", type=Path, help="published model.pth; needed for that peer")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for each command")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    heads = main_heads_first(options.heads)
    if not heads:
        parser.error(f"no .nii.gz files in {options.heads}")
    peers, reasons = choose(all_peers(options.threads, options.mindgrab, options.timeout), "strip", options.peers)
    for name, reason in reasons.items():
        print(f"left out {name}: {reason}")
    failed = make_masks(
        peers, {stem(head): head for head in heads}, options.cache, lambda line: print(line, flush=True)
    )
    if failed:
        raise SystemExit(f"{len(failed)} masks could not be made; see above")


if __name__ == "__main__":
    main()
