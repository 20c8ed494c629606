"""What `template`, `register --group` and `register --longitudinal` share: looking, aligning, writing."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from neuralprep.engine.inputs import Scan
    from neuralprep.grid import Grid
    from neuralprep.groupwise.align import GroupFit, GroupKind, GroupSettings, Member
    from neuralprep.groupwise.bend import BendSettings, GroupBend
    from neuralprep.groupwise.images import Average
    from neuralprep.transform import Transform

_DRAWN = 12
"""Outlines in the picture; of larger groups those of the images that agree least."""


def group_kind(kind: str, stiffness: float | None) -> tuple[GroupKind, BendSettings | None]:
    """What `--type` and `--stiffness` ask for: the linear part, and how to bend on top of it."""
    from neuralprep.groupwise.bend import BendSettings

    if kind != "svf":
        return cast("GroupKind", kind), None
    return "affine", BendSettings() if stiffness is None else BendSettings(stiffness)


def run_group(
    args: argparse.Namespace, inputs: Sequence[Path], settings: GroupSettings, space: str, *, carry: bool,
    how: Average = "mean", bend: BendSettings | None = None,
) -> int:
    """Align a group (and bend it), and write everything; the exit code says whether every image took part.

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
    bend
        Add dense warps to the affines.
    """
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.engine.inputs import expand
    from neuralprep.engine.run import prepare_output
    from neuralprep.errors import InputError
    from neuralprep.formats.sets import check_also
    from neuralprep.groupwise.align import align_group
    from neuralprep.groupwise.bend import bend_group
    from neuralprep.inference.session import available_threads
    from neuralprep.templates import SPACES, space_grid

    check_also(args.also)
    if args.res is not None:
        space_grid(next(iter(SPACES)), args.res)  # a voxel size that makes no sense is refused before the work
    prepare_output(args.out)
    found = expand([str(path) for path in inputs], args.out, dicom=False)
    for text in found.messages:
        _say(text)
    _check_inputs([scan.path for scan in found.scans], args.out, space)
    threads = args.threads or available_threads()
    members, faults = _members(args, found.scans, threads)
    if len(members) < 2:
        raise InputError(f"a group needs two images that can be used, and there are {len(members)}")
    fit = align_group(members, settings, _say)
    bent = None if bend is None else bend_group(members, fit, bend, _say)
    for path in _write(args, members, fit, bent, settings, space, faults, carry, how, threads):
        print(path)
    print(f"{len(members)} images: {fit.method}; mean transform {fit.bias:.1g} from the identity")
    if bent is not None:
        print(f"then velocity fields; longest vector of their mean {bent.bias_mm:.1g} mm")
    for index, one in enumerate(members):
        if fit.doubt(index):
            print(f"check: {one.name}: {fit.doubt(index)}; look at the picture")
    return EXIT_FAILED if faults else EXIT_OK


def _check_inputs(paths: Sequence[Path], out: Path, space: str) -> None:
    """Refuse images that an earlier run has written into the same folder: they would be read as members and replaced.

    Raises
    ------
    InputError
        With the first of them.
    """
    from neuralprep.errors import InputError

    for path in paths:
        made = path.name.startswith((f"{space}_", "from-")) or f"_space-{space}." in path.name
        if made and path.resolve().parent == out.resolve():
            raise InputError(f"{path}: looks like an output of an earlier run in this folder; name the raw images only")


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
    args: argparse.Namespace, members: list[Member], fit: GroupFit, bent: GroupBend | None, settings: GroupSettings,
    space: str, faults: dict[str, str], carry: bool, how: Average, threads: int,
) -> list[Path]:
    from neuralprep.files import write_atomic
    from neuralprep.groupwise.images import average, mean_brain
    from neuralprep.report.registration_figure import group_picture
    from neuralprep.stages.intensity import masked

    resolution = args.res or 1.0
    grid = _grid(settings, members, fit, resolution)
    transforms: Sequence[Transform] = fit.transforms if bent is None else bent.transforms
    means = average(members, transforms, grid, how, threads, args.out, _say)
    brain = mean_brain(members, transforms, grid, threads)
    written = [args.out / f"{space}_desc-brain_mask.nii.gz"]
    brain.save(written[0], space="other", description="neuralprep group")
    for contrast, mean in means.items():
        for name, image in ((f"{space}_{contrast}", mean), (f"{space}_desc-brain_{contrast}", masked(mean, brain))):
            written.append(args.out / f"{name}.nii.gz")
            image.save(written[-1], space="other", description=f"neuralprep {how}")
    for one, transform in zip(members, transforms, strict=True):
        written += _write_member(args, one, transform, grid, space, carry, threads)
    worst = sorted(range(len(members)), key=lambda k: -fit.agreement_mm[k])[:_DRAWN]
    outlines = [(members[k].view.judged, transforms[k]) for k in worst]
    drawn = group_picture(next(iter(means.values())), brain, outlines).png()
    picture = args.out / f"{space}_overlay.png"
    write_atomic(picture, [lambda: drawn])
    return [*written, picture, _write_record(args, members, fit, bent, settings, space, faults, how)]


def _grid(settings: GroupSettings, members: list[Member], fit: GroupFit, resolution: float) -> Grid:
    from neuralprep.groupwise.images import common_grid
    from neuralprep.templates import SPACES, space_grid

    if settings.pose == "standard":
        return space_grid(next(iter(SPACES)), resolution)
    return common_grid(members, fit.transforms, resolution)


def _write_member(
    args: argparse.Namespace, one: Member, transform: Transform, grid: Grid, space: str, carry: bool, threads: int
) -> list[Path]:
    from neuralprep.formats.sets import warp_grid, write_affine_set, write_velocity_file, write_warp_set
    from neuralprep.resample import resample
    from neuralprep.transform import Affine, to_displacement
    from neuralprep.volume import load

    stem = "from-{}_to-{}_mode-image_xfm"
    there, back, written = stem.format(one.name, space), stem.format(space, one.name), []
    if isinstance(transform, Affine):
        written += write_affine_set(args.out, there, transform, grid, one.grid, args.also)
        written += write_affine_set(args.out, back, transform.inverse(), one.grid, grid, args.also)
    else:
        written += write_velocity_file(args.out, f"from-{one.name}_to-{space}", transform)
        for name, way, over in ((there, transform, grid), (back, transform.inverse(), one.grid)):
            written += write_warp_set(args.out, name, to_displacement(way, warp_grid(over)))
    if carry:
        image = load(one.path, one.frame)
        carried = resample(image, grid, transform, threads=threads, antialias=True)
        written.append(args.out / f"{one.name}_space-{space}.nii.gz")
        carried.save(written[-1], dtype="float32", space="other", description="neuralprep register")
    return written


def _told_of_warp(bent: GroupBend, index: int, known: Callable[[float], float | None]) -> dict[str, Any]:
    least, most, folded = bent.volume_changes[index]
    return {"LocalCorrelationBefore": known(bent.before[index]), "LocalCorrelation": known(bent.correlations[index]),
            "JacobianMin": round(least, 4), "JacobianMax": round(most, 4), "FoldedVoxels": folded}


def _write_record(
    args: argparse.Namespace, members: list[Member], fit: GroupFit, bent: GroupBend | None, settings: GroupSettings,
    space: str, faults: dict[str, str], how: str,
) -> Path:
    from neuralprep import __version__
    from neuralprep.bids.sidecars import write_json

    def known(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 4)

    images = [
        {"Name": one.name, "Source": one.path.name, "Contrast": one.contrast,
         "KeypointAgreementMm": known(fit.agreement_mm[k]), "Score": known(fit.scores[k]),
         "PairDisagreementMm": known(fit.misses_mm[k]), "Decision": "ok" if fit.good(k) else "check",
         **({} if bent is None else _told_of_warp(bent, k, known))}
        for k, one in enumerate(members)
    ]  # fmt: skip
    path = Path(args.out) / f"{space}_registration.json"
    write_json(path, {
        "Space": space,
        "Type": settings.kind if bent is None else "svf",
        "Pose": settings.pose,
        "Method": fit.method + ("" if bent is None else "; then velocity fields (local correlation)"),
        "Average": how,
        "Direction": f"transforms to {space} map points of {space} to points of the image (RAS mm)",
        "MeanTransform": {"LargestEntryOfMeanLogarithm": fit.bias, "Units": "radians, relative stretch, 100 mm"},
        **({} if bent is None else {"MeanVelocity": {"LongestVector": bent.bias_mm, "Units": "mm"},
                                    "LastChangeOfVelocityMm": round(bent.last_move_mm, 4)}),
        "Rounds": fit.rounds,
        "LastMoveMm": round(fit.last_move_mm, 4),
        "Images": sorted(images, key=lambda image: str(image["Name"])),
        "LeftOut": faults,
        "GeneratedBy": f"neuralprep {__version__}",
    })
    return path
