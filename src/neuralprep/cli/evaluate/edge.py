"""``neuralprep evaluate edge LABELS --mask MASK | --image STRIPPED``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuralprep.evaluation.cases import Pair
    from neuralprep.evaluation.edge_cohort import EdgeCase, EdgeSettings
    from neuralprep.report.png import Picture
    from neuralprep.volume import Volume

_DESCRIPTION = """\
How much of a lesion touches the edge that skull stripping left: contact voxels, contact area, distances to the edge,
and what lies beyond it. For a cohort (two folders with files of the same names) also the share of cases with at least
one voxel at the edge, with its 95 % binomial interval.
"""
_EPILOG = """\
definitions:
  outside        voxels of the array that the mask leaves out, or that hold the fill value. Fill values enclosed in the
                 brain are taken for dark brain (--count-holes: outside). What lies beyond the array is not outside
                 (--border-is-edge: it is).
  contact voxel  voxel of the compartment within the mask with an outside voxel among its 26 neighbours
  contact area   of the voxel faces between the compartment and the outside: exact on boxes, 1.5 times too large on a
                 sphere; the smooth area weights every face by its angle to the surface, right to about 2 %
  distance       from voxel centre to the nearest centre of an outside voxel

picture: compartments blue, their part outside the mask violet, contact voxels yellow, outline of the mask cyan

exit codes: 0 every case measured, 1 at least one case could not be, 2 wrong usage
"""
_COLUMNS = {
    "case": "case", "compartment": "compartment", "volume_mm3": "volume (mm3)", "outside_mm3": "outside (mm3)",
    "contact_voxels": "contact voxels", "contact_area_mm2": "contact area (mm2)",
    "contact_area_smooth_mm2": "smooth (mm2)", "distance_min_mm": "nearest (mm)", "distance_median_mm": "median (mm)",
}  # fmt: skip
#: a longer table is left to the CSV file
_MAX_ROWS = 60


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "edge",
        help="contact of lesions with the stripped edge",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="label map, or folder of label maps")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mask", type=Path, help="brain mask (or folder, files named as the label maps)")
    source.add_argument("--image", type=Path, help="stripped image (or folder): the edge is where the fill value ends")
    group = parser.add_argument_group("what counts")
    group.add_argument("--regions", metavar="R", help='compartments, e.g. "ET=3;TC=1,3"; default all, and each label')
    group.add_argument("--fill", type=_fill, metavar="min|V", help="value outside the brain of --image; default 0")
    group.add_argument("--count-holes", action="store_true", help="fill values enclosed in the brain are outside too")
    group.add_argument("--threshold", type=float, metavar="V", help="of a --mask that holds probabilities")
    group.add_argument("--border-is-edge", action="store_true", help="what lies beyond the array is outside")
    group.add_argument("--bins", type=_bins, metavar="MM,MM", help="bounds of the distance histogram; "
                       "default 1,2,3,5,10,20")
    cohort = parser.add_argument_group("cohort")
    cohort.add_argument("--key", metavar="REGEX", help="finds the case in a file's name; default the whole name")
    cohort.add_argument("--skip-missing", action="store_true", help="leave out files without a partner")
    cohort.add_argument("--jobs", type=int, metavar="N", help="cases side by side; default 1")
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=Path, metavar="FILE", help="a row per case and compartment")
    output.add_argument("--json", type=Path, metavar="FILE", help="the same, the shares, the faults and the settings")
    output.add_argument("--picture", type=Path, metavar="PNG", help="slices through the largest contact; "
                        "of a cohort a folder, one picture per case")
    output.add_argument("--background", type=Path, metavar="IMAGE", help="image (or folder) to draw under --picture")


def _fill(text: str) -> float | Literal["min"]:
    if text == "min":
        return "min"
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'min'") from None


def _bins(text: str) -> tuple[float, ...]:
    try:
        bins = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers") from None
    if not all(0 < a < b < float("inf") for a, b in zip(bins, [*bins[1:], 1e9], strict=True)):
        raise argparse.ArgumentTypeError(f"{text!r} must rise from above 0")
    return bins


def execute(args: argparse.Namespace) -> int:
    """Measure, print, write; 1 if a case could not be measured."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.evaluation.cases import pair_files
    from neuralprep.evaluation.edge_cohort import check_regions, measure_case, measure_cases

    wrong = _conflict(args)
    if wrong:
        args.error(wrong)
    settings = _settings(args)
    cohort = args.labels.is_dir()
    pairs = pair_files(args.labels, args.mask or args.image, key=args.key, skip_missing=args.skip_missing)
    cases = list(measure_cases(pairs, settings, args.jobs or 1)) if cohort else [measure_case(pairs[0], settings)]
    if settings.regions:
        check_regions(settings.regions, cases)
    _print(cases, settings, cohort)
    _write(args, cases, settings)
    if args.picture:
        _draw(args, [pair for pair, case in zip(pairs, cases, strict=True) if not case.fault], settings, cohort)
    return EXIT_FAILED if any(case.fault for case in cases) else EXIT_OK


def _conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can."""
    if args.mask and (args.fill is not None or args.count_holes):
        return "--fill and --count-holes are for --image; a --mask is used as it is"
    if args.image and args.threshold is not None:
        return "--threshold is for a --mask that holds probabilities; an --image has a --fill value"
    if args.image and args.background:
        return "--background has no effect with --image, which is drawn itself"
    if args.background and not args.picture:
        return "--background has no effect without --picture"
    if not args.labels.is_dir() and (args.skip_missing or args.jobs is not None):
        return "--skip-missing and --jobs are for folders"
    if args.jobs is not None and args.jobs < 1:
        return "--jobs must be at least 1"
    return ""


def _settings(args: argparse.Namespace) -> EdgeSettings:
    from neuralprep.evaluation.edge import BINS_MM
    from neuralprep.evaluation.edge_cohort import EdgeSettings
    from neuralprep.evaluation.labels import parse_regions

    return EdgeSettings(
        regions=parse_regions(args.regions) if args.regions is not None else None,
        stripped=args.image is not None,
        fill=args.fill if args.fill is not None else 0.0,
        count_holes=args.count_holes,
        threshold=args.threshold,
        border_is_edge=args.border_is_edge,
        bins=args.bins or BINS_MM,
    )


def _print(cases: Sequence[EdgeCase], settings: EdgeSettings, cohort: bool) -> None:
    """Table of the cases, and of a cohort the shares and the faults."""
    from neuralprep.evaluation.edge_cohort import edge_shares
    from neuralprep.evaluation.tables import markdown

    rows = [row for case in cases for row in case.rows(settings.bins)]
    if len(rows) <= _MAX_ROWS:
        shown = [{heading: row[name] for name, heading in _COLUMNS.items()} for row in rows]
        print(markdown(shown, list(_COLUMNS.values())))
    else:
        print(f"{len(rows)} rows: too many to print, see --csv")
    if cohort:
        print("\ncases with at least one voxel at the stripped edge (95 % Clopper-Pearson interval):")
        for share in edge_shares(cases):
            low, high = 100 * share.share.low, 100 * share.share.high
            print(f"  {share.compartment}: {share.at_edge} of {share.cases} = {100 * share.share.estimate:.1f} % "
                  f"[{low:.1f}, {high:.1f}]")
    for case in cases:
        if case.fault:
            print(f"failed: {case.name}: {case.fault}")


def _write(args: argparse.Namespace, cases: Sequence[EdgeCase], settings: EdgeSettings) -> None:
    """CSV and JSON files that were asked for."""
    from dataclasses import asdict

    from neuralprep.evaluation.edge_cohort import edge_shares
    from neuralprep.evaluation.tables import write_csv, write_json

    rows: list[dict[str, Any]] = [row for case in cases for row in case.rows(settings.bins)]
    if args.csv:
        write_csv(rows, args.csv)
    if args.json:
        faults = {case.name: case.fault for case in cases if case.fault}
        shares = [asdict(share) for share in edge_shares(cases)]
        content = {"settings": asdict(settings), "cases": rows, "shares": shares, "failed": faults}
        write_json(content, args.json)


def _draw(args: argparse.Namespace, pairs: Sequence[Pair], settings: EdgeSettings, cohort: bool) -> None:
    """One PNG, or one per case into a folder."""
    from neuralprep.errors import InputError
    from neuralprep.evaluation.cases import partner
    from neuralprep.files import write_atomic
    from neuralprep.volume import load

    if cohort:
        try:
            args.picture.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{args.picture}: is no folder ({error.strerror}); a cohort needs one") from error
    for pair in pairs:
        background = None
        if args.background:
            background = load(partner(pair.name, args.background, args.key), checks=False)
        picture = _picture(pair, settings, background)
        write_atomic(args.picture / f"{pair.name}.png" if cohort else args.picture, [picture.png])


def _picture(pair: Pair, settings: EdgeSettings, background: Volume | None) -> Picture:
    import numpy as np

    from neuralprep.evaluation.edge_cohort import default_regions, load_case
    from neuralprep.report.edge_figure import edge_picture

    case = load_case(pair, settings)
    present = [int(number) for number in np.unique(case.labels.data) if number]
    regions = settings.regions or default_regions(present)
    members = sorted({number for numbers in regions.values() for number in numbers} & set(present))
    painted = case.labels.with_data(np.isin(case.labels.data, members or present))
    contact = case.voxels(members, border_is_edge=settings.border_is_edge).contact_mask(members)
    image = background if background is not None else case.image
    return edge_picture(case.mask, painted, painted.with_data(contact), image)
