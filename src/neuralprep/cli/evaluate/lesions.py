"""``neuralprep evaluate lesions RESULT TRUTH --preset NAME | --regions R``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuralprep.evaluation.cases import Pair
    from neuralprep.evaluation.lesion_cohort import LesionCase, LesionSettings

_PRESETS = ("brats-gli", "brats-ssa", "brats-ped", "brats-men", "brats-met")
_DESCRIPTION = """\
Lesion-wise Dice and 95 % Hausdorff distance of label maps, as the BraTS 2023 challenges define them, with the scores of
the whole region, counts of found, missed and invented lesions, and a row per lesion. Two files, two folders with files
of the same names, or a table of pairs.
"""
_EPILOG = """\
definitions:
  lesion        voxels of the truth that are connected (26 neighbours) once the truth is dilated --dilation times
                (18 neighbours); the dilation groups and matches, what is scored is not dilated
  match         every connected part of the result that touches the dilated lesion, whole; a part may match several
  score         mean over the lesions larger than --min-volume and over the parts that match nothing. A missed lesion
                and a false positive count with Dice 0 and HD95 --penalty; false positives count whatever their size
  nothing       neither truth nor result: Dice 1, HD95 0. Truth empty, result not: Dice 0, HD95 the penalty
  HD95          weighted by surface area, as DeepMind's surface-distance does
  legacy        Dice and HD95 of the region without telling lesions apart

presets (regions WT=1,2,3;TC=1,3;ET=3, penalty 374 mm):
  brats-gli, brats-ssa, brats-ped   dilation 3, volumes above 50 mm3
  brats-men                         dilation 1, volumes above 50 mm3
  brats-met                         dilation 1, volumes above 2 mm3

exit codes: 0 every case scored, 1 at least one case could not be, 2 wrong usage
"""
_COLUMNS = ("lesion_dice", "lesion_hd95", "found", "missed", "false_positives", "left_out", "legacy_dice",
            "legacy_hd95", "sensitivity", "specificity")  # fmt: skip
#: a longer table is left to the CSV file
_MAX_ROWS = 60


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "lesions",
        help="lesion-wise Dice and HD95 (BraTS)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("prediction", type=Path, metavar="RESULT", help="label map to score, a folder of them, or a "
                        "table of pairs (.tsv, .csv; columns prediction, truth and, if wanted, case)")
    parser.add_argument("truth", type=Path, metavar="TRUTH", nargs="?", help="true label map, or folder; none with a "
                        "table")
    rules = parser.add_argument_group("what a lesion is")
    source = rules.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", choices=_PRESETS, help="rules of a challenge")
    source.add_argument("--regions", metavar="R", help='labels of each region, e.g. "WT=1,2,3;TC=1,3"; other labels '
                        "are background")
    rules.add_argument("--dilation", type=int, metavar="N", help="with --regions: times the truth is dilated; "
                       "default 1")
    rules.add_argument("--min-volume", type=float, metavar="MM3", help="with --regions: lesions of this volume or less "
                       "do not count; default 0")
    rules.add_argument("--penalty", type=float, metavar="MM", help="with --regions: HD95 of missed and invented "
                       "lesions; default 374")
    reading = parser.add_argument_group("reading")
    reading.add_argument("--map", action="append", type=_renamed, metavar="OLD=NEW", dest="renamed", help="count label "
                         "OLD as NEW in all files, e.g. 4=3; 0 is background; may be repeated")
    reading.add_argument("--resample", action="store_true", help="carry results to the truth's grid where grids differ "
                         "(nearest neighbour)")
    cohort = parser.add_argument_group("cohort")
    cohort.add_argument("--key", metavar="REGEX", help="finds the case in a file's name; default the whole name")
    cohort.add_argument("--jobs", type=int, metavar="N", help="cases side by side; default 1")
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=Path, metavar="FILE", help="a row per case and region")
    output.add_argument("--lesion-csv", type=Path, metavar="FILE", help="a row per lesion and false positive")
    output.add_argument("--json", type=Path, metavar="FILE", help="both, the rules, the summary and the faults")


def _renamed(text: str) -> tuple[int, int]:
    old, equals, new = (part.strip() for part in text.partition("="))
    if not (equals and old.isdecimal() and new.isdecimal() and int(old)):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW with whole numbers, OLD from 1")
    return int(old), int(new)


def execute(args: argparse.Namespace) -> int:
    """Score, print, write; 1 if a case could not be scored."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.errors import InputError
    from neuralprep.evaluation.lesion_cohort import measure_cases

    wrong = _conflict(args)
    if wrong:
        args.error(wrong)
    settings = _settings(args)
    pairs, lonely = _pairs(args)
    cases = [*measure_cases(pairs, settings, args.jobs or 1), *lonely]
    cohort = _is_cohort(args)
    if not cohort and cases[0].fault:
        raise InputError(cases[0].fault)
    _print(cases, settings, cohort)
    _write(args, cases, settings)
    return EXIT_FAILED if any(case.fault for case in cases) else EXIT_OK


def _is_cohort(args: argparse.Namespace) -> bool:
    return args.truth is None or bool(args.truth.is_dir())


def _conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can."""
    from neuralprep.evaluation.lesion_cohort import LIST_ENDINGS

    is_list = args.prediction.suffix.lower() in LIST_ENDINGS
    if args.truth is None and not is_list:
        return "give RESULT and TRUTH, or a table of pairs (.tsv, .csv)"
    if args.truth is not None and is_list:
        return f"{args.prediction} is a table of pairs, which names the truths; leave out {args.truth}"
    fixed = [flag for flag, value in (("--dilation", args.dilation), ("--min-volume", args.min_volume),
                                      ("--penalty", args.penalty)) if value is not None]  # fmt: skip
    if args.preset and fixed:
        return (f"{', '.join(fixed)}: the preset {args.preset} fixes it; for other rules give its regions with "
                '--regions "WT=1,2,3;TC=1,3;ET=3"')
    if not _is_cohort(args) and (args.key or args.jobs is not None):
        return f"--key and --jobs are for folders and tables, and {args.truth} is a file"
    if args.jobs is not None and args.jobs < 1:
        return "--jobs must be at least 1"
    olds = [old for old, _ in args.renamed or []]
    if len(set(olds)) < len(olds):
        return f"--map gives label {next(old for old in olds if olds.count(old) > 1)} twice"
    return ""


def _settings(args: argparse.Namespace) -> LesionSettings:
    from neuralprep.evaluation.labels import parse_regions
    from neuralprep.evaluation.lesion_cohort import LesionSettings
    from neuralprep.evaluation.lesions import PRESETS, LesionRules

    if args.preset:
        rules = PRESETS[args.preset]
    else:
        given = {"dilation": args.dilation, "min_volume": args.min_volume, "penalty": args.penalty}
        regions = parse_regions(args.regions)
        try:
            rules = LesionRules(regions, **{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            args.error(str(error))
    return LesionSettings(rules, args.preset or "", dict(args.renamed or []), args.resample)


def _pairs(args: argparse.Namespace) -> tuple[list[Pair], list[LesionCase]]:
    from neuralprep.evaluation.lesion_cohort import pair_cases, read_pairs

    if args.truth is None:
        return read_pairs(args.prediction, args.key), []
    return pair_cases(args.prediction, args.truth, args.key)


def _print(cases: Sequence[LesionCase], settings: LesionSettings, cohort: bool) -> None:
    """Table of the cases, and of a cohort the summary and the faults."""
    from neuralprep.evaluation.lesion_cohort import absent_regions, count_lesions
    from neuralprep.evaluation.tables import column, markdown

    rows = [row for case in cases for row in case.rows()]
    if len(rows) <= _MAX_ROWS:
        headings = {name: column(name).replace("_", " ") for name in ("case", "region", *_COLUMNS)}
        print(markdown([{head: row[name] for name, head in headings.items()} for row in rows], [*headings.values()]))
    else:
        print(f"{len(rows)} rows: too many to print, see --csv")
    if cohort and rows:
        print("\nover the cases, with 95 % bootstrap intervals:\n")
        print(markdown(_summary(cases), ["region", "score", "cases", "mean", "median", "worst"]))
        print()
        for line in count_lesions(cases):
            print(f"{line['region']}: {line['found']} of {line['found'] + line['missed']} lesions found, "
                  f"{line['false_positives']} false positives, {line['left_out']} lesions too small to count")
    for case in cases:
        for note in case.notes:
            print(f"note: {case.name}: {note}")
    if rows:
        for name in absent_regions(cases, settings.rules):
            numbers = " or ".join(map(str, settings.rules.regions[name]))
            print(f"note: region {name}: no label map holds label {numbers}; it scores 1. Are the labels right?")
    for case in cases:
        if case.fault:
            print(f"failed: {case.name}: {case.fault}")


def _summary(cases: Sequence[LesionCase]) -> list[dict[str, Any]]:
    from neuralprep.evaluation.lesion_cohort import summarize_lesions
    from neuralprep.evaluation.tables import cell, column

    table = []
    for line in summarize_lesions(cases):
        texts = {}
        for name in ("mean", "median"):
            bounds = f" [{cell(line[f'{name}_low'])}, {cell(line[f'{name}_high'])}]" if line["cases"] > 1 else ""
            texts[name] = f"{cell(line[name])}{bounds}"
        table.append({"region": line["region"], "score": column(line["measure"]), "cases": line["cases"], **texts,
                      "worst": line["worst"]})
    return table


def _write(args: argparse.Namespace, cases: Sequence[LesionCase], settings: LesionSettings) -> None:
    """CSV and JSON files that were asked for."""
    from dataclasses import asdict

    from neuralprep import __version__
    from neuralprep.evaluation.lesion_cohort import count_lesions, summarize_lesions
    from neuralprep.evaluation.tables import write_csv, write_json

    rows = [row for case in cases for row in case.rows()]
    lesions = [row for case in cases for row in case.lesion_rows()]
    if args.csv:
        write_csv(rows, args.csv)
    if args.lesion_csv:
        write_csv(lesions, args.lesion_csv)
    if args.json:
        content = {
            "neuralprep": __version__,
            "result": args.prediction,
            "truth": args.truth,
            "settings": asdict(settings),
            "cases": rows,
            "lesions": lesions,
            "summary": summarize_lesions(cases),
            "counts": count_lesions(cases),
            "notes": {case.name: case.notes for case in cases if case.notes},
            "failed": {case.name: case.fault for case in cases if case.fault},
        }
        write_json(content, args.json)
