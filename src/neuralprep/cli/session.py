"""``neuralprep session SCANS... OUT``: the contrasts of one visit on one reference and in one template space."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.cli.arguments import add_registration, number

if TYPE_CHECKING:
    from neuralprep.groupwise.session import Contrast, SessionFit, SessionSettings
    from neuralprep.transform import Affine
    from neuralprep.volume import Volume


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "session",
        help="bring the contrasts of one visit together, strip once, one interpolation each",
        description=(
            "Align the SCANS of one person's visit (T1w, T1c, T2w, FLAIR, CT, ...) rigidly with one another, align the "
            "reference to the template, and write every image on the reference's grid and on the template's, each "
            "interpolated once from its original. One brain mask serves all of them."
        ),
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCANS", help="two or more images of one visit")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("--reference", type=Path, metavar="SCAN",
                        help="the one of SCANS that stays; default: the one with the finest voxels")
    parser.add_argument("--strip", choices=("consensus", "reference", "none"), default="consensus",
                        help="mask from all contrasts (median of their surfaces), or from the reference alone; "
                             "default consensus")
    parser.add_argument("--preset", choices=("brats",),
                        help="brats: 240x240x155 voxels of 1 mm placed as in the BraTS challenges, rigid to the "
                             "template, a T1c as reference. The anatomy is aligned to MNI152, as SRI24 is not shipped")
    parser.add_argument("--type", dest="kind", choices=("rigid", "similarity", "affine"),
                        help="of the map to the template; default affine, with --preset brats rigid")
    parser.add_argument("--res", type=number, metavar="MM", help="voxel size in template space; default 1 mm")
    add_registration(parser)


def execute(args: argparse.Namespace) -> int:
    """Look at all scans, align, write."""
    from neuralprep.cli import EXIT_OK
    from neuralprep.engine.inputs import expand
    from neuralprep.engine.run import prepare_output
    from neuralprep.errors import InputError
    from neuralprep.formats.sets import check_also
    from neuralprep.groupwise.session import SessionSettings, align_session
    from neuralprep.inference.session import available_threads
    from neuralprep.templates import space_grid

    if args.preset and args.res is not None:
        args.error("--res has no effect with --preset brats, whose voxels are of 1 mm")
    check_also(args.also)
    prepare_output(args.out)
    found = expand([str(path) for path in args.scans], args.out, dicom=False)
    for text in [*found.messages, *(scan.fault for scan in found.scans if scan.fault)]:
        _say(text)
    if len(found.scans) < 2 or any(scan.fault for scan in found.scans):
        raise InputError(f"a session needs two or more images, all of which can be read; {len(found.scans)} given")
    names = {scan.path.resolve(): scan.name for scan in found.scans}
    if args.reference is not None and args.reference.resolve() not in names:
        raise InputError(f"{args.reference}: the reference must be one of the scans given")
    settings = SessionSettings(
        reference=None if args.reference is None else names[args.reference.resolve()],
        strip=args.strip, grid=args.preset or "template", kind=args.kind,
        resolution_mm=1.0 if args.res is None else args.res,
    )  # fmt: skip
    space_grid(settings.space, settings.resolution_mm)  # a voxel size that makes no sense is refused before the work
    threads = args.threads or available_threads()
    contrasts = _look(args, [(scan.path, scan.name) for scan in found.scans], threads)
    fit = align_session(contrasts, settings, threads, _say)
    for path in _write(args, contrasts, fit, settings, threads):
        print(path)
    for index, one in enumerate(contrasts):
        if fit.group.doubt(index):
            print(f"check: {one.member.name}: {fit.group.doubt(index)}; look at the picture")
    if not fit.template.good:
        print("check: the fit to the template is poor; look at the images in its space")
    return EXIT_OK


def _say(text: str) -> None:
    print(f"neuralprep: {text}", file=sys.stderr, flush=True)


def _look(args: argparse.Namespace, scans: list[tuple[Path, str]], threads: int) -> list[Contrast]:
    from neuralprep.bids.derivatives import ScanName
    from neuralprep.groupwise.session import look_at_contrast
    from neuralprep.inference.session import open_session
    from neuralprep.volume import load

    session = open_session("npp", args.device, threads)
    made = []
    for path, name in scans:
        image = load(path, args.frame)
        # every image is a contrast of its own, whatever its name says: they are never averaged
        made.append(look_at_contrast(session, image, name, ScanName.of(name).suffix, args.frame, threads))
        _say(f"looked at {name}")
    return made


def _write(
    args: argparse.Namespace, contrasts: list[Contrast], fit: SessionFit, settings: SessionSettings, threads: int
) -> list[Path]:
    from neuralprep.volume import load

    reference = contrasts[fit.reference].member
    spaces = [(reference.name, reference.grid, fit.to_reference), (settings.label, fit.grid, fit.to_space)]
    masks: list[Volume | None] = [None, None]
    written = []
    if fit.distance is not None:
        masks = [fit.mask(reference.grid), fit.mask(fit.grid, fit.to_space[fit.reference], threads)]
        written.append(args.out / f"space-{settings.label}_desc-brain_mask.nii.gz")
        masks[1].save(written[-1], space=_code(settings))  # type: ignore[union-attr]
    for index, one in enumerate(contrasts):
        image = load(one.member.path, args.frame)
        moved = None
        for (space, grid, transforms), mask in zip(spaces, masks, strict=True):
            code = "other" if space == reference.name else _code(settings)
            carried = _save_carried(args, image, one.member.name, space, grid, transforms[index], mask, code, threads)
            written += carried[1]
            moved = moved or carried[0]
        written += _save_transforms(args, contrasts, fit, settings, index)
        if fit.distance is not None:
            native = fit.mask(one.member.grid, fit.to_reference[index].inverse(), threads)
            written.append(args.out / f"{one.member.name}_desc-brain_mask.nii.gz")
            native.save(written[-1])
        if index != fit.reference and moved is not None:
            written.append(_save_picture(args, contrasts, fit, index, moved, masks[0]))
    return [*written, _write_record(args, contrasts, fit, settings)]


def _code(settings: SessionSettings) -> str:
    return "other" if settings.grid == "brats" else "template"


def _save_carried(
    args: argparse.Namespace, image: Volume, name: str, space: str, grid: object, transform: Affine,
    mask: Volume | None, code: str, threads: int,
) -> tuple[Volume, list[Path]]:
    """An image in one space, with and without skull; interpolated once."""
    from neuralprep.grid import Grid
    from neuralprep.resample import resample
    from neuralprep.stages.intensity import masked

    assert isinstance(grid, Grid)
    carried = resample(image, grid, transform, threads=threads, antialias=True)
    made = [(args.out / f"{name}_space-{space}.nii.gz", carried)]
    if mask is not None:
        made.append((args.out / f"{name}_space-{space}_desc-brain.nii.gz", masked(carried, mask)))
    for path, volume in made:
        volume.save(path, dtype="float32", space=code, description="neuralprep session")
    return carried, [path for path, _ in made]


def _save_transforms(
    args: argparse.Namespace, contrasts: list[Contrast], fit: SessionFit, settings: SessionSettings, index: int
) -> list[Path]:
    from neuralprep.formats.sets import write_affine_set

    one, reference = contrasts[index].member, contrasts[fit.reference].member
    sides = [(settings.label, fit.grid, fit.to_space[index])]
    if index != fit.reference:
        sides.append((reference.name, reference.grid, fit.to_reference[index]))
    written = []
    for space, grid, transform in sides:
        there, back = (f"from-{a}_to-{b}_mode-image_xfm" for a, b in ((one.name, space), (space, one.name)))
        written += write_affine_set(args.out, there, transform, grid, one.grid, args.also)
        written += write_affine_set(args.out, back, transform.inverse(), one.grid, grid, args.also)
    return written


def _save_picture(
    args: argparse.Namespace, contrasts: list[Contrast], fit: SessionFit, index: int, moved: Volume, mask: Volume | None
) -> Path:
    from neuralprep.files import write_atomic
    from neuralprep.report.registration_figure import registration_picture
    from neuralprep.resample import resample
    from neuralprep.volume import load

    reference = contrasts[fit.reference].member
    own = contrasts[index].member.view.judged
    brain = mask or reference.view.judged
    carried = resample(own.with_data(own.data.astype("float32")), brain.grid, fit.to_reference[index])
    drawn = registration_picture(load(reference.path, args.frame), moved, brain, carried).png()
    path = Path(args.out) / f"from-{contrasts[index].member.name}_to-{reference.name}_overlay.png"
    write_atomic(path, [lambda: drawn])
    return path


def _write_record(
    args: argparse.Namespace, contrasts: list[Contrast], fit: SessionFit, settings: SessionSettings
) -> Path:
    from neuralprep import __version__
    from neuralprep.bids.sidecars import write_json

    group = fit.group
    path = Path(args.out) / "session.json"
    write_json(path, {
        "Reference": contrasts[fit.reference].member.name,
        "Space": settings.label,
        "AlignedTo": settings.space,
        "TemplateFit": {"Type": settings.linear, "Score": round(fit.template.score, 4),
                        "Decision": "ok" if fit.template.good else "check"},
        "BrainMask": settings.strip,
        "Method": group.method,
        "Direction": "transforms map points of the space after 'to-' to points of the image after 'from-' (RAS mm)",
        "Images": [
            {"Name": one.member.name, "Source": one.member.path.name,
             "KeypointAgreementMm": round(group.agreement_mm[k], 3),
             "PairDisagreementMm": None if group.misses_mm[k] != group.misses_mm[k] else round(group.misses_mm[k], 3),
             "Decision": "ok" if group.good(k) else "check"}
            for k, one in enumerate(contrasts)
        ],
        "GeneratedBy": f"neuralprep {__version__}",
    })
    return path
