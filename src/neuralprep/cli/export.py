"""``neuralprep export FORMAT ...``: data sets for other programs, and their predictions back on the scans."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralprep.export.cases import Found

_NNUNET = """\
Write a data set that nnU-Net v2 accepts: images, labels, dataset.json, and folds in which the scans of one person stay
together. Everything its verifier or trainer would stumble over is refused, with all faults at once.
"""
_INPUTS = """\
inputs:
  TABLE.tsv (.csv)    columns: case, one per channel, and if wanted label, subject, split (train, test), fold
  RUN_FOLDER          output folder of neuralprep run: the suffix of a scan (T1w) is its channel, the rest its case
  CHANNEL=FOLDER ...  a folder of images per channel, paired by name (T1w=scans/t1 FLAIR=scans/flair)

nnU-Net chooses the normalisation by the channel's name: CT for CT, noNorm for none, anything else z-scores.
Cases without a label map become test cases (imagesTs).
"""
_PREDICTIONS = """\
Bring the label maps that nnUNetv2_predict wrote back to the scans: to the study's own label numbers and, where the
images were in template space, through the saved transforms to the grid of every scan, with one interpolation.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb and its formats."""
    parser = subparsers.add_parser("export", help="data sets for nnU-Net, and its predictions back on the scans")
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    _add_nnunet(formats)
    _add_predictions(formats)


def _add_nnunet(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = formats.add_parser("nnunet", help="write a data set for nnU-Net v2", description=_NNUNET, epilog=_INPUTS,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(error=parser.error)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="table, run folder, or CHANNEL=FOLDER, see below")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder of raw data sets (nnUNet_raw)")
    parser.add_argument("--id", type=int, required=True, metavar="N", help="number of the data set, 1 to 999")
    parser.add_argument("--name", required=True, help="name of the data set")
    images = parser.add_argument_group("images")
    images.add_argument("--channels", type=_names, metavar="A,B", help="columns or suffixes to export, in "
                        "order (a model needs the order it was trained with)")
    images.add_argument("--output", metavar="NAME", help="image of a run folder; default space_preproc_brain")
    images.add_argument("--key", metavar="REGEX", help="finds the case in a file's name; default the name without _T1w")
    images.add_argument("--test-only", action="store_true", help="all cases are for prediction, without labels")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--labels", type=Path, metavar="FOLDER", help="label maps, named as the cases")
    labels.add_argument("--labels-on", metavar="CHANNEL", help="channel on whose scan the labels were drawn, if the "
                        "images of a run are in template space; default by the grids")
    labels.add_argument("--classes", metavar="C", help='names, e.g. "core=1;edema=2", or nested regions, largest '
                        'first: "WT=1,2,3;TC=1,3;ET=3"')
    labels.add_argument("--label-map", metavar="M", help='new numbers, e.g. "1=1;2=2;4=3" (0 drops a label)')
    split = parser.add_argument_group("folds")
    split.add_argument("--folds", type=int, metavar="K", help="folds of splits_final.json; default 5, 0 writes none")
    split.add_argument("--seed", type=int, metavar="N", help="of the folds; default 0")
    writing = parser.add_argument_group("writing")
    writing.add_argument("--hard-links", action="store_true", help="link files that need no change instead of copying")
    writing.add_argument("--overwrite", action="store_true", help="replace a data set that an earlier export wrote")
    writing.add_argument("--jobs", type=int, default=1, metavar="N", help="cases side by side; default 1")


def _add_predictions(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = formats.add_parser("nnunet-predictions", help="bring predictions of nnU-Net back to the scans",
                                description=_PREDICTIONS, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(error=parser.error)
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder that nnUNetv2_predict wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder: SCAN_dseg.nii.gz, predictions.tsv")
    parser.add_argument("--dataset", type=Path, required=True, metavar="FOLDER",
                        help="data set folder of the export that made the images")
    parser.add_argument("--channels", type=_names, metavar="A,B", help="only the scans of these channels")
    parser.add_argument("--interpolation", choices=("vote", "nearest"), default="vote", help="vote: the label with the "
                        "largest interpolated share of the voxel (default)")
    parser.add_argument("--overwrite", action="store_true", help="replace results of an earlier call")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different names")
    return names


def execute(args: argparse.Namespace) -> int:
    """Export, or bring back."""
    return _execute_nnunet(args) if args.format == "nnunet" else _execute_predictions(args)


def _execute_nnunet(args: argparse.Namespace) -> int:
    from neuralprep.cli import EXIT_OK
    from neuralprep.evaluation.labels import parse_regions
    from neuralprep.export.checks import NnunetOptions
    from neuralprep.export.classes import parse_map
    from neuralprep.export.nnunet import commands, export_nnunet

    wrong = _conflict(args)
    if wrong:
        args.error(wrong)
    options = NnunetOptions(
        number=args.id,
        name=args.name,
        classes=parse_regions(args.classes) if args.classes is not None else None,
        label_map=parse_map(args.label_map) if args.label_map is not None else None,
        label_channel=args.labels_on,
        folds=5 if args.folds is None else args.folds,
        seed=args.seed or 0,
        hard_links=args.hard_links,
        overwrite=args.overwrite,
        test_only=args.test_only,
        jobs=args.jobs,
    )
    done = export_nnunet(_found(args), args.raw, options)
    for message in done.messages:
        print(message)
    print(f"{done.folder}: {done.training} cases for training in {done.folds} folds, {done.testing} for testing")
    if done.training:
        print(f'\ntrain ResEnc L with nnU-Net (nnUNet_raw="{args.raw}"):')
        print("\n".join(f"  {line}" for line in commands(done, args.id)))
    print(f"\nbring predictions back to the scans:\n  neuralprep export nnunet-predictions PREDICTIONS OUT "
          f'--dataset "{done.folder}"')
    return EXIT_OK


def _execute_predictions(args: argparse.Namespace) -> int:
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.export.predictions import restore_predictions

    failed = False
    for entry in restore_predictions(args.predictions, args.out, args.dataset, args.channels or (),
                                     args.interpolation, args.overwrite):
        failed |= bool(entry.fault)
        print(f"failed: {entry.case}: {entry.fault}" if entry.fault else entry.file)
    return EXIT_FAILED if failed else EXIT_OK


def _kind(args: argparse.Namespace) -> str:
    """What the inputs are: "table", "run", "folders", or a fault after "!"."""
    from neuralprep.export.cases import TABLE_ENDINGS

    first = Path(args.inputs[0])
    if all("=" in text and not Path(text).exists() for text in args.inputs):
        return "folders"
    if len(args.inputs) > 1:
        return "!give one table, one run folder, or CHANNEL=FOLDER for every input"
    if first.name.lower().endswith(TABLE_ENDINGS):
        return "table"
    return "run" if first.is_dir() else f"!{first}: is no table (.tsv, .csv), no folder, and not CHANNEL=FOLDER"


def _conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, or inputs that cannot be told, in words; "" when all is well."""
    kind = _kind(args)
    if kind.startswith("!"):
        return kind[1:]
    ruled_out = {
        "table": {"--output": args.output, "--key": args.key, "--labels": args.labels},
        "folders": {"--output": args.output, "--channels": args.channels, "--labels-on": args.labels_on},
        "run": {},
    }[kind]
    flag = next((flag for flag, value in ruled_out.items() if value is not None), None)
    if flag is not None:
        name = "a table (write a column label)" if kind == "table" else "CHANNEL=FOLDER"
        return f"{flag} has no effect on {name}"
    if args.test_only and (args.labels or args.labels_on or args.folds is not None or args.seed is not None):
        return "--labels, --labels-on, --folds and --seed have no effect with --test-only"
    if kind == "run" and not args.labels and (args.labels_on or args.key):
        return "--labels-on and --key have no effect on a run folder without --labels"
    if args.folds == 0 and args.seed is not None:
        return "--seed has no effect with --folds 0"
    if args.jobs < 1 or (args.folds is not None and (args.folds < 0 or args.folds == 1)):
        return "--jobs must be at least 1, and --folds 0 or at least 2"
    return ""


def _found(args: argparse.Namespace) -> Found:
    from dataclasses import replace

    from neuralprep.errors import InputError
    from neuralprep.export.cases import read_folders, read_outputs, read_table, with_labels

    kind = _kind(args)
    if kind == "table":
        found = read_table(Path(args.inputs[0]), args.channels)
        if any(case.fold is not None for case in found.cases) and (args.folds is not None or args.seed is not None):
            raise InputError(f"{args.inputs[0]}: names the folds, so --folds and --seed have no effect; leave them out")
        return found
    if kind == "run":
        found = read_outputs(Path(args.inputs[0]), args.output or "space_preproc_brain", args.channels)
    else:
        pairs = [text.partition("=")[::2] for text in args.inputs]
        if len({name for name, _ in pairs}) < len(pairs) or not all(name and folder for name, folder in pairs):
            raise InputError(f"{' '.join(args.inputs)}: every CHANNEL=FOLDER needs a channel of its own and a folder")
        found = read_folders({name: Path(folder) for name, folder in pairs}, args.key)
    if args.labels is None:
        return found
    return replace(found, cases=with_labels(found.cases, args.labels, args.key))
