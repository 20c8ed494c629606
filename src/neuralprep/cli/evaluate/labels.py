"""``neuralprep evaluate labels RESULT TRUTH``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.cli.evaluate.scoring import EXITS, add_pair_arguments, score

if TYPE_CHECKING:
    from neuralprep.evaluation.measures import CaseScores

_COLUMNS = ("mean_dice", "worst_dice", "labels")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "labels",
        help="Dice of every label of segmentations",
        description="Score label maps (regions of interest, tissues) against true ones: two files, or two folders.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser, "label map")
    group = parser.add_argument_group("what counts")
    group.add_argument("--labels", type=int, nargs="+", metavar="N", help="these labels only; default all of the truth")
    group.add_argument("--names", type=Path, metavar="FILE", help="names of the labels: a line each, 'NUMBER NAME' or "
                       "'NUMBER,NAME', further columns ignored")
    group.add_argument("--resample", action="store_true", help="carry results to the truth's grid where grids differ")


def execute(args: argparse.Namespace) -> int:
    """Score, print, write; 1 if a case could not be scored."""
    from functools import partial

    from neuralprep.evaluation.measures import LabelSettings, measure_labels, read_label_names

    names = read_label_names(args.names) if args.names else {}
    settings = LabelSettings(tuple(args.labels) if args.labels else None, args.resample)
    cases, code = score(args, partial(measure_labels, settings), _COLUMNS)
    _print_labels(cases, names, bool(args.versus))
    return code


def _print_labels(cases: Sequence[CaseScores], names: dict[int, str], several: bool) -> None:
    """Dice of every label over the cases."""
    from neuralprep.evaluation.tables import markdown, summarize, wide

    rows = [
        {"method": case.method, "label": label, "name": names.get(label, ""), "dice": dice}
        for case in cases
        for label, dice in sorted(case.by_label.items())
    ]
    by = [*(["method"] if several else []), "label", *(["name"] if names else [])]
    table = wide(summarize(rows, ["dice"], by), ["dice"], by)
    print("\nDice of every label, median [95 % bootstrap interval] over the cases:\n")
    print(markdown(table, [*by, "cases", "Dice"]))
