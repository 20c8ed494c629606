"""What `template`, `register --group` and `register --longitudinal` share: looking, aligning, writing."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralprep.engine.inputs import Scan
    from neuralprep.grid import Grid
    from neuralprep.groupwise.align import GroupFit, GroupSettings, Member
    from neuralprep.groupwise.images import Average
    from neuralprep.transform import Affine

_DRAWN = 12
"""Outlines in the picture; of larger groups those of the images that agree least."""


def run_group(
    args: argparse.Namespace, inputs: Sequence[Path], settings: GroupSettings, space: str, *, carry: bool,
    how: Average = "mean",
) -> int:
    """Align a group and write everything; the exit code says whether every image took part.

    Parameters
    ----------
    args
        With ``out``, ``res``, ``frame``, ``also``, ``device``, ``threads``.
    inputs
        Files, folders, globs, lists.
    settings
    space
        Name of the common space in file names.
    carry
        Write every image in the common space.
    how
        How the average is made.
    """
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.engine.inputs import expand
    from neuralprep.engine.run import prepare_output
    from neuralprep.errors import InputError
    from neuralprep.formats.sets import check_also
    from neuralprep.groupwise.align import align_group
    from neuralprep.inference.session import available_threads

    check_also(args.also)
    prepare_output(args.out)
    found = expand([str(path) for path in inputs], args.out, dicom=False)
    for text in found.messages:
        _say(text)
    threads = args.threads or available_threads()
    members, faults = _members(args, found.scans, threads)
    if len(members) < 2:
        raise InputError(f"a group needs two images that can be used, and there are {len(members)}")
    fit = align_group(members, settings, _say)
    for path in _write(args, members, fit, settings, space, faults, carry, how, threads):
        print(path)
    print(f"{len(members)} images: {fit.method}; mean transform {fit.bias:.1g} from the identity")
    for index, one in enumerate(members):
        if not fit.good(index):
            print(f"check: {one.name}: keypoints and images disagree; look at the picture")
    return EXIT_FAILED if faults else EXIT_OK


def _say(text: str) -> None:
    print(f"neuralprep: {text}", file=sys.stderr, flush=True)


def _members(args: argparse.Namespace, scans: Sequence[Scan], threads: int) -> tuple[list[Member], dict[str, str]]:
    """Look at every image; those that cannot be used are named with the reason."""
    from neuralprep.bids.derivatives import ScanName
    from neuralprep.errors import InputError
    from neuralprep.groupwise.align import look_at
    from neuralprep.inference.session import open_session
    from neuralprep.volume import load

    session = open_session("npp", args.device, threads)
    members, faults = [], {}
    for number, scan in enumerate(scans, 1):
        try:
            if scan.fault:
                raise InputError(scan.fault)
            image = load(scan.path, args.frame)
            members.append(look_at(session, image, scan.name, ScanName.of(scan.name).suffix, args.frame, threads))
            _say(f"[{number}/{len(scans)}] looked at {scan.name}")
        except InputError as error:
            faults[scan.name] = str(error)
            _say(f"[{number}/{len(scans)}] left out {error}")
    return members, faults


def _write(
    args: argparse.Namespace, members: list[Member], fit: GroupFit, settings: GroupSettings, space: str,
    faults: dict[str, str], carry: bool, how: Average, threads: int,
) -> list[Path]:
    from neuralprep.files import write_atomic
    from neuralprep.groupwise.images import average, mean_brain
    from neuralprep.report.registration_figure import group_picture
    from neuralprep.stages.intensity import masked

    resolution = args.res or 1.0
    grid = _grid(settings, members, fit, resolution)
    means = average(members, fit.transforms, grid, how, threads, args.out, _say)
    brain = mean_brain(members, fit.transforms, grid, threads)
    written = [args.out / f"{space}_desc-brain_mask.nii.gz"]
    brain.save(written[0], space="other", description="neuralprep group")
    for contrast, mean in means.items():
        for name, image in ((f"{space}_{contrast}", mean), (f"{space}_desc-brain_{contrast}", masked(mean, brain))):
            written.append(args.out / f"{name}.nii.gz")
            image.save(written[-1], space="other", description=f"neuralprep {how}")
    for one, transform in zip(members, fit.transforms, strict=True):
        written += _write_member(args, one, transform, grid, space, carry, threads)
    worst = sorted(range(len(members)), key=lambda k: -fit.agreement_mm[k])[:_DRAWN]
    outlines = [(members[k].view.judged, fit.transforms[k]) for k in worst]
    drawn = group_picture(next(iter(means.values())), brain, outlines).png()
    picture = args.out / f"{space}_overlay.png"
    write_atomic(picture, [lambda: drawn])
    return [*written, picture, _write_record(args, members, fit, settings, space, faults, how)]


def _grid(settings: GroupSettings, members: list[Member], fit: GroupFit, resolution: float) -> Grid:
    from neuralprep.groupwise.images import common_grid
    from neuralprep.templates import SPACES, space_grid

    if settings.pose == "standard":
        return space_grid(next(iter(SPACES)), resolution)
    return common_grid(members, fit.transforms, resolution)


def _write_member(
    args: argparse.Namespace, one: Member, transform: Affine, grid: Grid, space: str, carry: bool, threads: int
) -> list[Path]:
    from neuralprep.formats.sets import write_affine_set
    from neuralprep.resample import resample
    from neuralprep.volume import load

    stem = "from-{}_to-{}_mode-image_xfm"
    written = write_affine_set(args.out, stem.format(one.name, space), transform, grid, one.grid, args.also)
    written += write_affine_set(args.out, stem.format(space, one.name), transform.inverse(), one.grid, grid, args.also)
    if carry:
        image = load(one.path, one.frame)
        carried = resample(image, grid, transform, threads=threads, antialias=True)
        written.append(args.out / f"{one.name}_space-{space}.nii.gz")
        carried.save(written[-1], dtype="float32", space="other", description="neuralprep register")
    return written


def _write_record(
    args: argparse.Namespace, members: list[Member], fit: GroupFit, settings: GroupSettings, space: str,
    faults: dict[str, str], how: str,
) -> Path:
    from neuralprep import __version__
    from neuralprep.bids.sidecars import write_json

    def known(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 4)

    images = [
        {"Name": one.name, "Source": one.path.name, "Contrast": one.contrast,
         "KeypointAgreementMm": known(fit.agreement_mm[k]), "Score": known(fit.scores[k]),
         "PairDisagreementMm": known(fit.misses_mm[k]), "Decision": "ok" if fit.good(k) else "check"}
        for k, one in enumerate(members)
    ]  # fmt: skip
    path = Path(args.out) / f"{space}_registration.json"
    write_json(path, {
        "Space": space,
        "Type": settings.kind,
        "Pose": settings.pose,
        "Method": fit.method,
        "Average": how,
        "Direction": f"transforms to {space} map points of {space} to points of the image (RAS mm)",
        "MeanTransform": {"LargestEntryOfMeanLogarithm": fit.bias, "Units": "radians, relative stretch, 100 mm"},
        "Rounds": fit.rounds,
        "LastMoveMm": round(fit.last_move_mm, 4),
        "Images": sorted(images, key=lambda image: str(image["Name"])),
        "LeftOut": faults,
        "GeneratedBy": f"neuralprep {__version__}",
    })
    return path
