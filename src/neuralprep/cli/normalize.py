"""``neuralprep normalize INPUT... OUT``: intensities of images that are stripped already or come with a mask."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from neuralprep.cli.arguments import frame_number, number

if TYPE_CHECKING:
    from neuralprep.cli.console import Console
    from neuralprep.engine.inputs import Scan
    from neuralprep.engine.record import ScanRecord
    from neuralprep.normalization.files import Recipe

_INSIDE = """\
A CT window refuses an image that is not in Hounsfield units. LOW,HIGH is a range of your own; where LOW is negative
write --window=LOW,HIGH. Landmarks of nyul are fitted once and applied from then on:
  neuralprep normalize IMAGES... cohort.json --method nyul --fit
  neuralprep normalize IMAGES... OUT --method nyul --landmarks cohort.json

what is inside: the voxels above zero of --mask; a zero of the image inside the mask is data. Without a mask the image
must be stripped: inside is what differs from the background, which is the lowest value for a CT window and 0 otherwise.

"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    from neuralprep.cli import EXIT_CODES
    from neuralprep.normalization.catalog import METHODS, PRESETS, WINDOWS

    windows = "\n".join(f"  {w.name:12} {w.text}  ({w.source})" for w in WINDOWS.values())
    methods = "\n".join(f"  {name:12} {m.result}  ({m.source})" for name, m in METHODS.items())
    parser = subparsers.add_parser(
        "normalize",
        help="normalise intensities: CT and perfusion windows, z-score, WhiteStripe, Nyul and others",
        description="Normalise the intensities of images that are skull-stripped or come with a brain mask.",
        epilog=f"windows, to 0..1:\n{windows}\n\nmethods:\n{methods}\n\n{_INSIDE}{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder, glob or list; with --preset a "
                        "folder per case, or a folder of sub-* folders")  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder; for one image also the image to write; "
                        "with --fit the landmarks file (.json)")  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--window", metavar="NAME|LOW,HIGH", help="clip to a window and scale to 0..1, see below")
    what.add_argument("--method", choices=tuple(METHODS), help="see below")
    what.add_argument("--preset", choices=tuple(PRESETS), help="channels of a case for nnU-Net: windowed and equalised "
                      "in one brain mask, which is made from the CT where none is given")  # fmt: skip
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Flags that go with one or the other."""
    from neuralprep.normalization.catalog import CONTRASTS

    inside = parser.add_argument_group("what is inside")
    inside.add_argument("--mask", type=Path, metavar="FILE", help="brain mask (or a folder, one per image or case)")
    inside.add_argument("--background", type=number, metavar="V", help="value of the background where no mask is given")
    inside.add_argument("--fill", type=_fill, metavar="V|keep", help="value outside; 'keep' treats the outside like "
                        "the inside; default 0")  # fmt: skip
    how = parser.add_argument_group("options of a window or method")
    how.add_argument("--equalize", action="store_true", help="3-D histogram equalisation after a window")
    how.add_argument("--contrast", choices=CONTRASTS, help="of the images; default: told by names that end in _T1w, "
                     "_T2w, _FLAIR, _PDw")  # fmt: skip
    how.add_argument("--wm-mask", type=Path, metavar="FILE", help="white matter mask for fcm and wm110 (or a folder)")
    how.add_argument("--percentiles", type=_pair, metavar="LOW,HIGH", help="for percentile; default 1,99")
    fitted = how.add_mutually_exclusive_group()
    fitted.add_argument("--landmarks", type=Path, metavar="FILE", help="landmarks to apply with nyul")
    fitted.add_argument("--fit", action="store_true", help="fit the landmarks of nyul and write them to OUT")
    how.add_argument("--force", action="store_true", help="go on where an image does not look as it should (units of a "
                     "window, not stripped)")  # fmt: skip
    parser.add_argument("--frame", type=frame_number, metavar="N|mean", help="which frame of 4-D images (from 0)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print failures only")


def _fill(text: str) -> float | Literal["keep"]:
    return "keep" if text == "keep" else number(text)


def _pair(text: str) -> tuple[float, float]:
    parts = [number(part) for part in text.split(",")]
    if len(parts) != 2 or not 0 <= parts[0] < parts[1] <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no range of percentiles: 0 to 100, the lower one first")
    return parts[0], parts[1]


def conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can.

    Parameters
    ----------
    args : argparse.Namespace
        Of this verb.
    """
    from neuralprep.normalization.catalog import METHODS

    takes = METHODS[args.method].takes if args.method else frozenset()
    chosen = f"--method {args.method}" if args.method else "--window" if args.window else f"--preset {args.preset}"
    checks = (
        ("--equalize", args.equalize, bool(args.window), chosen),
        ("--contrast", args.contrast, "contrast" in takes, chosen),
        ("--contrast", args.contrast, not args.wm_mask, "--wm-mask"),
        ("--wm-mask", args.wm_mask, "wm_mask" in takes, chosen),
        ("--percentiles", args.percentiles, "percentiles" in takes, chosen),
        ("--landmarks", args.landmarks, "landmarks" in takes, chosen),
        ("--fit", args.fit, "landmarks" in takes, chosen),
        ("--background", args.background is not None, not args.preset, chosen),
        ("--background", args.background is not None, not args.mask, "--mask"),
        ("--fill", args.fill is not None, not args.fit, "--fit"),
        ("--frame", args.frame is not None, not args.preset, chosen),
        ("--fill keep", args.fill == "keep", not args.preset, chosen),
    )
    for flag, given, fits, other in checks:
        if given and not fits:
            return f"{flag} has no effect with {other}: leave it out"
    if "landmarks" in takes and not (args.fit or args.landmarks):
        return f"{chosen} needs --landmarks FILE, or --fit to make one"
    for flag, path in (("--mask", args.mask), ("--wm-mask", args.wm_mask), ("--landmarks", args.landmarks)):
        if path is not None and not path.exists():
            return f"{flag} {path}: no such file or folder"
    return ""


def recipe_from(args: argparse.Namespace) -> Recipe:
    """What the arguments ask to be done with every image."""
    from neuralprep.normalization.catalog import parse_window
    from neuralprep.normalization.files import Recipe
    from neuralprep.normalization.landmarks import Landmarks

    return Recipe(
        window=parse_window(args.window) if args.window else None,
        equalize=args.equalize,
        method=args.method or "",
        contrast=args.contrast,
        percentiles=args.percentiles or (1.0, 99.0),
        landmarks=Landmarks.load(args.landmarks) if args.landmarks else None,
        mask=args.mask,
        wm_mask=args.wm_mask,
        background=args.background,
        fill=None if args.fill == "keep" else args.fill or 0.0,
        frame=args.frame,
        checks=not args.force,
    )


@dataclass
class Batch:
    """Runs one thing after the other; a fault of one is recorded and the others go on."""

    console: Console
    out: Path
    records: list[ScanRecord] = field(default_factory=list)

    def run(self, name: str, source: Path, work: Callable[[], tuple[str, ...]]) -> None:
        """Do the work of one image or case; it returns reasons to look at the result."""
        from neuralprep.engine.record import ScanRecord
        from neuralprep.engine.worker import explain
        from neuralprep.errors import NeuralprepError

        start = time.perf_counter()
        try:
            reasons = work()
            record = ScanRecord(name, str(source), "check" if reasons else "ok", reasons, time.perf_counter() - start)
        except (NeuralprepError, OSError) as error:
            reason = explain(error, self.out)
            record = ScanRecord(name, str(source), "failed", (reason,), time.perf_counter() - start)
        self.records.append(record)
        self.console.done(record)

    @property
    def failed(self) -> bool:
        """Whether any failed."""
        return any(record.status == "failed" for record in self.records)


def execute(args: argparse.Namespace) -> int:
    """Normalise, print what happened, return the exit code."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.cli.console import Console, status_table

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    batch = Batch(Console(quiet=args.quiet), args.out.expanduser())
    work = _run_cases if args.preset else _fit if args.fit else _run_images
    try:
        work(args, batch)
    finally:
        batch.console.close()
    if not args.quiet:
        print(status_table(batch.records))
    return EXIT_FAILED if batch.failed else EXIT_OK


def _run_cases(args: argparse.Namespace, batch: Batch) -> None:
    """Every case of ``--preset``."""
    from neuralprep.normalization import cases
    from neuralprep.normalization.catalog import PRESETS

    preset, stripper = PRESETS[args.preset], cases.Stripper()
    folders = cases.distinct_cases(cases.case_folders([Path(text).expanduser() for text in args.inputs]))
    if args.mask is not None and args.mask.is_file() and len(folders) > 1:
        args.error(f"--mask {args.mask} is one mask, but there are {len(folders)} cases: give a folder of masks")
    _make_folder(batch.out)
    batch.console.begin(len(folders))

    def one(folder: Path) -> tuple[str, ...]:
        case = cases.find_case(folder, preset)
        done = cases.normalize_case(case, preset, batch.out, stripper, mask=args.mask, fill=args.fill or 0.0,
                                    checks=not args.force)
        return done.reasons

    for name, folder in folders.items():
        batch.run(name, folder, partial(one, folder))
    cases.write_table(preset, batch.out)


def _run_images(args: argparse.Namespace, batch: Batch) -> None:
    """Every image, with a window or a method."""
    from neuralprep.engine.inputs import image_stem
    from neuralprep.normalization.files import normalize_file, output_name

    recipe = recipe_from(args)
    scans = _scans(args, batch)
    single = _is_image(batch.out)
    if single and len(scans) != 1:
        args.error(f"OUT {batch.out} is one image, but there are {len(scans)} inputs: give a folder")
    _make_folder(batch.out.parent if single else batch.out)
    batch.console.begin(len(scans))

    def one(scan: Scan) -> tuple[str, ...]:
        target = batch.out if single else batch.out / output_name(scan.name, recipe)
        _check_scan(args, scan, (target, target.with_name(f"{image_stem(target)}.json")))
        normalize_file(scan.path, target, recipe)
        return ()

    for scan in scans:
        batch.run(scan.name, scan.path, partial(one, scan))


def _fit(args: argparse.Namespace, batch: Batch) -> None:
    """Landmarks of a cohort; written only if every image could be used, so that none is missing unseen."""
    from neuralprep.engine.inputs import image_stem
    from neuralprep.normalization.files import load_mask, mask_for
    from neuralprep.normalization.landmarks import average_landmarks, image_landmarks
    from neuralprep.volume import load

    if batch.out.suffix.lower() != ".json":
        args.error(f"OUT {batch.out}: with --fit it is the landmarks file and must end in .json")
    scans = _scans(args, batch)
    _make_folder(batch.out.parent)
    batch.console.begin(len(scans))
    found = []

    def one(scan: Scan) -> tuple[str, ...]:
        _check_scan(args, scan, (batch.out,))
        mask = load_mask(mask_for(args.mask, image_stem(scan.path) or scan.name))
        found.append(image_landmarks(load(scan.path, args.frame), mask, args.background or 0.0, checks=not args.force))
        return ()

    for scan in scans:
        batch.run(scan.name, scan.path, partial(one, scan))
    if batch.failed:
        batch.console.message(f"{batch.out}: not written, because an image could not be used; leave it out or mend it")
    else:
        average_landmarks(found).save(batch.out)


def _scans(args: argparse.Namespace, batch: Batch) -> list[Scan]:
    """Images that the inputs stand for."""
    from neuralprep.engine.inputs import expand

    found = expand(args.inputs, batch.out, dicom=False)
    for message in found.messages:
        batch.console.message(message)
    return found.scans


def _check_scan(args: argparse.Namespace, scan: Scan, written: Sequence[Path]) -> None:
    """Refuse what is no image, and files to write that would replace it, its own record, its masks or the landmarks."""
    from neuralprep.engine.inputs import image_stem
    from neuralprep.errors import InputError
    from neuralprep.files import check_output
    from neuralprep.normalization.files import mask_for

    if scan.fault:
        raise InputError(scan.fault)
    stem = image_stem(scan.path) or scan.name
    used = (mask_for(args.mask, stem), mask_for(args.wm_mask, stem), args.landmarks)
    record = scan.path.with_name(f"{stem}.json")
    for path in written:
        check_output(path, (scan.path, record, *(one for one in used if one is not None)))


def _is_image(path: Path) -> bool:
    from neuralprep.engine.inputs import image_stem

    return image_stem(path) is not None


def _make_folder(folder: Path) -> None:
    """Make the output folder."""
    from neuralprep.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(f"{folder}: cannot make the output folder ({why}). Choose another one.") from error
