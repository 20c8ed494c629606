"""What the measures share: arguments for pairs of files, tables on the screen, CSV and JSON files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuralprep.evaluation.cases import Pair
    from neuralprep.evaluation.measures import CaseScores

EXITS = "exit codes: 0 every case scored, 1 at least one case could not be, 2 wrong usage"
#: a longer table is left to the CSV file
_MAX_ROWS = 60


def add_pair_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Describe what is compared, how cases are found, and where results go."""
    parser.set_defaults(error=parser.error)
    parser.add_argument("prediction", type=Path, metavar="RESULT", help=f"{what} to score, or a folder of them")
    parser.add_argument("truth", type=Path, metavar="TRUTH", help=f"the true {what}, or a folder with the same names")
    cohort = parser.add_argument_group("cohort")
    cohort.add_argument("--versus", type=Path, metavar="FOLDER", help="results of another method on the same cases: "
                        "paired Wilcoxon tests with Holm's correction")
    cohort.add_argument("--key", metavar="REGEX", help="finds the case in a file's name; default the whole name")
    cohort.add_argument("--skip-missing", action="store_true", help="leave out files without a partner")
    cohort.add_argument("--jobs", type=int, metavar="N", help="cases side by side; default 1")
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=Path, metavar="FILE", help="a row per case")
    output.add_argument("--json", type=Path, metavar="FILE", help="the same, the summary, the tests and the faults")


def check_pair_arguments(args: argparse.Namespace) -> None:
    """Refuse flags that cannot take effect."""
    if not args.truth.is_dir():
        given = [("--versus", args.versus), ("--skip-missing", args.skip_missing), ("--jobs", args.jobs)]
        unused = [name for name, value in given if value]
        if unused:
            args.error(f"{' and '.join(unused)}: for folders only, and {args.truth} is a file")
    if args.jobs is not None and args.jobs < 1:
        args.error("--jobs must be at least 1")


def score(
    args: argparse.Namespace,
    measure: Callable[[str, Pair], CaseScores],
    columns: Sequence[str],
    *,
    endings: Sequence[str] | None = None,
) -> tuple[list[CaseScores], int]:
    """Score every pair by every method, print, write; give the scores and the exit code.

    Parameters
    ----------
    args
        With the arguments of `add_pair_arguments`.
    measure
        Scores one case: method and pair to its scores.
    columns
        Scores of the table, in order; all of them go to the files.
    endings
        Of the files that count, if they are not images.
    """
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.errors import InputError
    from neuralprep.evaluation.cases import IMAGE_ENDINGS, pair_files
    from neuralprep.evaluation.measures import measure_all

    check_pair_arguments(args)
    cases: list[CaseScores] = []
    for method, source in _methods(args).items():
        pairs = pair_files(
            source, args.truth, key=args.key, endings=endings or IMAGE_ENDINGS, skip_missing=args.skip_missing
        )
        cases += measure_all(measure, method, pairs, args.jobs or 1)
    if not args.truth.is_dir() and cases[0].fault:
        raise InputError(cases[0].fault)
    _print(args, cases, columns)
    _write(args, cases)
    return cases, EXIT_FAILED if any(case.fault for case in cases) else EXIT_OK


def _methods(args: argparse.Namespace) -> dict[str, Path]:
    """Name of each method to its results: the folder's name, or its path where names are alike."""
    if args.versus is None:
        return {args.prediction.name: args.prediction}
    alike = args.versus.resolve().name == args.prediction.resolve().name
    names = {(str(path) if alike else path.resolve().name): path for path in (args.prediction, args.versus)}
    if len(names) < 2:
        args.error(f"--versus {args.versus}: is the same folder as the results; there is nothing to compare")
    return names


def _print(args: argparse.Namespace, cases: Sequence[CaseScores], columns: Sequence[str]) -> None:
    from neuralprep.evaluation.tables import column, compare, markdown, summarize, wide

    rows = [case.row() for case in cases if not case.fault]
    by = ("method",) if args.versus else ()
    headings = {name: column(name) for name in columns}
    if len(rows) <= _MAX_ROWS:
        keys = ["case", *by]
        shown = [{**{k: row[k] for k in keys}, **{h: row.get(n) for n, h in headings.items()}} for row in rows]
        print(markdown(shown, [*keys, *headings.values()]))
    else:
        print(f"{len(rows)} rows: too many to print, see --csv")
    if len(rows) > 1:
        print("\nmedian [95 % bootstrap interval]:\n")
        print(markdown(wide(summarize(rows, columns, by), columns, by), [*by, "cases", *headings.values()]))
    if args.versus:
        first = args_first(args, rows)
        print(f"\n{first} minus the other, paired Wilcoxon test, Holm's correction over the table:\n")
        tests = [{**test, "measure": column(test["measure"])} for test in compare(rows, columns, first)]
        print(markdown(tests, ["measure", "against", "cases", "difference", "difference_low", "difference_high",
                               "effect", "p", "p_holm", "better"]))
    for case in cases:
        if case.fault:
            print(f"failed: {case.case}: {case.fault}")


def args_first(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> str:
    """Name of the method that the others are compared with."""
    return str(rows[0]["method"]) if rows else args.prediction.name


def _write(args: argparse.Namespace, cases: Sequence[CaseScores]) -> None:
    from neuralprep import __version__
    from neuralprep.evaluation.tables import compare, summarize, write_csv, write_json

    rows = [case.row() | {f"label_{k}": v for k, v in case.by_label.items()} for case in cases if not case.fault]
    if args.csv:
        write_csv(rows, args.csv)
    if not args.json:
        return
    names = list(dict.fromkeys(name for case in cases for name in case.scores))
    by = ("method",) if args.versus else ()
    write_json(
        {
            "neuralprep": __version__,
            "measure": args.measure,
            "result": args.prediction,
            "versus": args.versus,
            "truth": args.truth,
            "cases": rows,
            "summary": summarize(rows, names, by),
            "comparison": compare(rows, names, args_first(args, rows)) if args.versus else [],
            "failed": {case.case: case.fault for case in cases if case.fault},
        },
        args.json,
    )
