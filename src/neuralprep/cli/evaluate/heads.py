"""``neuralprep evaluate heads SCANS TRUTH --out FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuralprep.evaluation.peer import Peer

_DESCRIPTION = """\
Strip every scan of a folder with this package and with other tools, score the masks against reference masks, and write
the tables and box plots of the NPP paper: overlap, surface distances and time per method and contrast, confidence
intervals, paired Wilcoxon tests with Holm's correction.
"""
_EPILOG = """\
Other tools are used where they are installed: deepbet (pip), MindGrab (--mindgrab), and the commands bet,
mri_synthstrip, mri_watershed, runROBEX.sh and hd-bet on PATH. Masks made elsewhere join with --masks NAME=FOLDER.

files in FOLDER: extraction.md, .csv, .json and .png, and masks/METHOD/CASE.nii.gz. Masks that
are there already are not made again: the same command goes on where it was stopped.

exit codes: 0 all is scored, 1 a method failed on at least one scan, 2 wrong usage
"""
_OURS = "neuralprep"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "heads",
        help="brain extraction of real heads side by side with other tools",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("scans", type=Path, metavar="SCANS", help="folder of scans")
    parser.add_argument("truth", type=Path, metavar="TRUTH", help="folder of reference masks with the same names")
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="where masks, tables and plots go")
    methods = parser.add_argument_group("methods")
    methods.add_argument("--methods", nargs="+", metavar="NAME", help=f"only these, e.g. {_OURS} deepbet; default all "
                         "that are installed")
    methods.add_argument("--masks", action="append", default=[], metavar="NAME=FOLDER", help="masks that another "
                         "method has made (repeatable)")
    methods.add_argument("--mindgrab", type=Path, metavar="FILE", help="MindGrab's published model.pth")
    methods.add_argument("--timeout", type=float, metavar="S", default=3600.0, help="for each command; default 3600")
    methods.add_argument("--threads", type=int, metavar="N", default=1, help="CPU threads per method; default 1")
    cohort = parser.add_argument_group("cohort")
    cohort.add_argument("--key", metavar="REGEX", help="finds the case in a file's name; default the whole name")
    cohort.add_argument("--skip-missing", action="store_true", help="leave out scans without a reference mask")
    cohort.add_argument("--threshold", type=float, metavar="V", help="of masks that hold probabilities")
    cohort.add_argument("--jobs", type=int, metavar="N", default=1, help="masks scored side by side; default 1")


def execute(args: argparse.Namespace) -> int:
    """Strip, score, write; 1 if a method failed on a scan."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.errors import InputError
    from neuralprep.evaluation.cases import pair_files
    from neuralprep.evaluation.extraction import extraction_report, make_masks, score_methods
    from neuralprep.evaluation.measures import MaskSettings

    for path in (args.scans, args.truth):
        if not path.is_dir():
            raise InputError(f"{path}: is no folder; give a folder of scans and one of reference masks")
    given = _given_masks(args)
    peers = _peers(args)
    pairs = pair_files(args.scans, args.truth, key=args.key, skip_missing=args.skip_missing)
    folder = args.out / "masks"
    failed = make_masks(
        peers, {pair.name: pair.prediction for pair in pairs}, folder, lambda line: print(line, file=sys.stderr)
    )
    folders = {peer.name: folder / peer.name for peer in peers} | given
    rows, faults = score_methods(
        folders, {pair.name: pair.truth for pair in pairs}, MaskSettings(args.threshold), args.jobs
    )
    failed = faults | failed
    if not rows:
        raise InputError(f"nothing could be scored: {next(iter(failed.values()), 'there is no method')}")
    reference = _OURS if _OURS in folders else next(iter(folders))
    report = extraction_report(rows, reference)
    print(report)
    _write(args.out, rows, failed, report, reference)
    for name, fault in failed.items():
        print(f"failed: {name}: {fault}", file=sys.stderr)
    return EXIT_FAILED if failed else EXIT_OK


def _peers(args: argparse.Namespace) -> list[Peer]:
    """Our own pipeline and the other tools that were asked for or that are installed."""
    from neuralprep.evaluation.peers import Ours, all_peers, choose

    names = None if args.methods is None else [name for name in args.methods if name != _OURS]
    others, reasons = choose(all_peers(args.threads, args.mindgrab, args.timeout), "strip", names)
    if args.mindgrab is not None and "mindgrab" not in [peer.name for peer in others]:
        args.error(f"--mindgrab has no effect: {reasons.get('mindgrab', '--methods leaves it out')}")
    for name, reason in reasons.items():
        print(f"not compared with {name}: {reason}", file=sys.stderr)
    ours: list[Peer] = [Ours("strip", args.threads)] if args.methods is None or _OURS in args.methods else []
    return ours + others


def _given_masks(args: argparse.Namespace) -> dict[str, Path]:
    """Methods whose masks exist already."""
    found: dict[str, Path] = {}
    for text in args.masks:
        name, equals, folder = text.partition("=")
        if not (name and equals and Path(folder).is_dir()):
            args.error(f"--masks {text}: write NAME=FOLDER, with a folder that exists")
        found[name] = Path(folder)
    return found


def _write(out: Path, rows: list[dict[str, Any]], failed: dict[str, str], report: str, reference: str) -> None:
    from neuralprep import __version__
    from neuralprep.evaluation.figures import box_plots
    from neuralprep.evaluation.tables import PAPER_TABLES, compare, summarize, write_csv, write_json
    from neuralprep.files import write_atomic

    out.mkdir(parents=True, exist_ok=True)
    measures = PAPER_TABLES["extraction"].measures
    write_csv(rows, out / "extraction.csv")
    write_json(
        {
            "neuralprep": __version__,
            "cases": rows,
            "summary": summarize(rows, [*measures, "seconds", "cpu_seconds"], ("method",)),
            "by_contrast": summarize(rows, measures, ("contrast", "method")),
            "comparison": compare(rows, measures, reference),
            "failed": failed,
        },
        out / "extraction.json",
    )
    write_atomic(out / "extraction.md", [report.encode])
    box_plots(rows, measures, out / "extraction.png", title="Brain extraction")
