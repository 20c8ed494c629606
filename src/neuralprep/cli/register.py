"""``neuralprep register MOVING FIXED OUT``: bring one head onto another; or several into the middle of all."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.cli.arguments import add_registration, number, whole_number

if TYPE_CHECKING:
    from neuralprep.alignment import AlignKind, Alignment, View
    from neuralprep.grid import Grid
    from neuralprep.groupwise.align import Pose
    from neuralprep.inference.pair_session import PairSession
    from neuralprep.inference.session import Session
    from neuralprep.second_opinion import SecondOpinion
    from neuralprep.transform import Affine, Displacement, Transform
    from neuralprep.volume import Volume


BENDING = ("tps", "svf")
"""Types of transform that are no affine."""
_NO_NETWORK = "none"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "register",
        usage="%(prog)s [options] MOVING FIXED OUT\n"
              "       %(prog)s --longitudinal [options] IMAGE IMAGE [IMAGE ...] OUT\n"
              "       %(prog)s --group [options] IMAGE IMAGE [IMAGE ...] OUT",
        help="bring one head onto another, or several into the middle of all",
        description=(
            "Find the transform that carries MOVING onto FIXED, whatever their contrasts, poses and voxel sizes, with "
            "or without skull. Written are the moved image (one interpolation), the transform in both directions "
            "(affines as .txt, .mat, .fsl.mat and .lta; others as ITK displacement field and composite .h5), a "
            "picture (checkerboard and outlines of both brains) and a JSON with the scores. With --longitudinal the "
            "visits of one person meet rigidly in their unbiased mid-space, with --group any heads in that of the "
            "group: no image is the reference, and the order in which they are given does not matter."
        ),
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("moving", type=Path, metavar="MOVING", help="image that is carried")
    parser.add_argument("fixed", type=Path, metavar="FIXED", help="image that stays")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("more", type=Path, nargs="*", default=[], metavar="IMAGE",
                        help="--group and --longitudinal take two or more images (files, folders, globs, lists) "
                             "before OUT")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--longitudinal", action="store_true", help="visits of one person, rigid, to their mid-space")
    several.add_argument("--group", action="store_true", help="heads of several persons, to their common space")
    parser.add_argument("--type", dest="kind", choices=("rigid", "similarity", "affine", "tps", "svf"),
                        help="rigid for one person; between persons affine, or svf (dense and diffeomorphic); "
                             "pairs only: tps (spline through keypoints); default affine, with --longitudinal rigid")
    parser.add_argument("--pose", choices=("standard", "native"),
                        help="of the common space: standard: upright as MNI152 (default with --group), native: the "
                             "mean of the images' own spaces (default with --longitudinal)")
    parser.add_argument("--res", type=number, metavar="MM", help="voxel size of the common space; default 1 mm")
    parser.add_argument("--stiffness", type=number, metavar="S",
                        help="of tps and svf: 0 follows every keypoint or bends freely, 10 is nearly affine; "
                             "default 0.1")
    parser.add_argument("--no-refine", action="store_true", help="trust the keypoints alone (of svf: its affine part)")
    parser.add_argument("--refine", type=whole_number, metavar="N", dest="steps",
                        help="of svf: at most N steps on the images, on each of two grids; default 20")
    parser.add_argument("--network", metavar="WEIGHTS",
                        help="of svf: which pair network says where the steps start, a file of 'neuralprep train pair' "
                             "or none; default the shipped one, which --refine 0 trusts alone")
    parser.add_argument("--moving-lesion", type=Path, metavar="FILE", help="mask that the refinement leaves out")
    parser.add_argument("--fixed-lesion", type=Path, metavar="FILE", help="mask that the refinement leaves out")
    add_registration(parser)


def execute(args: argparse.Namespace) -> int:
    """Look at the images, align, write."""
    from neuralprep.alignment import AlignSettings, align_views
    from neuralprep.cli import EXIT_OK
    from neuralprep.engine.run import prepare_output
    from neuralprep.formats.sets import check_also
    from neuralprep.inference.pair_session import open_pair_session
    from neuralprep.inference.session import available_threads, open_session
    from neuralprep.second_opinion import second_opinion
    from neuralprep.volume import load

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    if args.group or args.longitudinal:
        return _several(args)
    check_also(args.also)
    threads = args.threads or available_threads()
    kind = _kind(args)
    stiffness = 0.1 if args.stiffness is None else args.stiffness
    steps = AlignSettings.steps if args.steps is None else args.steps
    settings = AlignSettings(kind, stiffness, not args.no_refine, steps)
    # everything that may be refused is read before the work begins
    moving, fixed = load(args.moving, args.frame), load(args.fixed, args.frame)
    lesions = [path and load(path, checks=False) for path in (args.moving_lesion, args.fixed_lesion)]
    begun = kind == "svf" and args.network != _NO_NETWORK
    pair = open_pair_session(args.network or "pair", args.device, threads) if begun else None
    session = open_session("npp", args.device, threads)
    prepare_output(args.out)
    views = [_view(session, *one, threads) for one in zip((moving, fixed), lesions, strict=True)]
    found = align_views(views[0], views[1], settings, pair)
    opinion = second_opinion(views[0], views[1], found)
    for path in _write(args, found, opinion, moving, fixed, views, threads, pair):
        print(path)
    print(f"{found.method}; keypoints and result {found.agreement_mm:.1f} mm apart, a search and the result "
          f"{opinion.search_mm:.1f} mm; the brains overlap by {opinion.overlap:.2f}")
    doubt = _doubt(args, found, opinion)
    if doubt:
        print(f"check: {doubt}; look at the picture")
    return EXIT_OK


def _doubt(args: argparse.Namespace, found: Alignment, opinion: SecondOpinion) -> str:
    """Why the result should be looked at, in words; "" when keypoints, images and search tell the same."""
    from neuralprep.groupwise.align import UNCONFIRMED

    if not found.good:
        return "keypoints and images disagree"
    doubt = opinion.doubt(_kind(args))
    if doubt:
        return doubt
    asked = _kind(args) != "tps" and not args.no_refine
    return UNCONFIRMED if asked and not found.refined else ""


def conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can."""
    kind = _kind(args)
    if args.group or args.longitudinal:
        bends = kind == "svf" and args.group
        given = {"--stiffness": None if bends else args.stiffness, "--moving-lesion": args.moving_lesion,
                 "--fixed-lesion": args.fixed_lesion, f"--type {kind}": "" if kind in BENDING and not bends else None,
                 "--also": args.also if bends and args.also else None, "--refine": args.steps,
                 "--network": args.network}
        unused = [flag for flag, value in given.items() if value is not None]
        several = "--group --type svf" if bends else "--group" if args.group else "--longitudinal"
        return f"{unused[0]} has no effect with {several}" if unused else ""
    if args.more:
        return "more than two images need --group or --longitudinal"
    if args.pose is not None or args.res is not None:
        return f"{'--pose' if args.pose else '--res'} has no effect without --group or --longitudinal"
    if kind in BENDING and args.also:
        return f"--also has no effect with --type {kind}, whose warps are written for ITK"
    if kind != "svf" and (args.steps is not None or args.network is not None):
        return f"{'--refine' if args.steps is not None else '--network'} has no effect without --type svf"
    if args.steps == 0 and args.network == _NO_NETWORK:
        return "--refine 0 has no effect with --network none: nothing would bend"
    if kind == "tps" and args.no_refine:
        return "--no-refine has no effect with --type tps, which follows the keypoints alone"
    if kind not in BENDING and args.stiffness is not None:
        return "--stiffness has no effect without --type tps or svf"
    if (args.moving_lesion or args.fixed_lesion) and (kind == "tps" or (args.no_refine and kind != "svf")):
        return "a lesion mask has no effect without refinement"
    if _stem(args.moving) == _stem(args.fixed):
        return f"both images are called {_stem(args.moving)}, so their outputs would be too; copy or rename one"
    return ""


def _kind(args: argparse.Namespace) -> AlignKind:
    kind: AlignKind = args.kind or ("rigid" if args.longitudinal else "affine")
    return kind


def _several(args: argparse.Namespace) -> int:
    """All images into the common space; the last path is the output folder."""
    from neuralprep.cli.group_files import group_kind, run_group
    from neuralprep.groupwise.align import GroupSettings

    paths: list[Path] = [args.moving, args.fixed, args.out, *args.more]
    args.out = paths.pop()
    pose: Pose = args.pose or ("native" if args.longitudinal else "standard")
    linear, bend = group_kind(_kind(args), args.stiffness)
    settings = GroupSettings(linear, pose, not args.no_refine)
    return run_group(args, paths, settings, "midspace" if args.longitudinal else "group", carry=True, bend=bend)


def _stem(path: Path) -> str:
    name = path.name
    for ending in (".gz", ".nii", ".img", ".hdr", ".mgz", ".mgh"):
        name = name.removesuffix(ending)
    return name


def _view(session: Session, image: Volume, lesion: Volume | None, threads: int) -> View:
    from neuralprep.alignment import view

    seen = view(session, image, threads)
    return seen if lesion is None else seen.without(lesion)


def _write(
    args: argparse.Namespace, found: Alignment, opinion: SecondOpinion, moving: Volume, fixed: Volume,
    views: list[View], threads: int, pair: PairSession | None,
) -> list[Path]:
    from neuralprep.files import write_atomic
    from neuralprep.formats.sets import write_affine_set, write_velocity_file, write_warp_set
    from neuralprep.report.registration_figure import registration_picture
    from neuralprep.resample import resample
    from neuralprep.transform import Affine, Displacement

    names = _stem(args.moving), _stem(args.fixed)
    ways = [_sampled(found.fixed_from_moving, fixed.grid), _sampled(found.fixed_from_moving.inverse(), moving.grid)]
    carried = resample(moving, fixed.grid, ways[0], threads=threads, antialias=True)
    image = args.out / f"{names[0]}_space-{names[1]}.nii.gz"
    carried.save(image, dtype="float32", space="other", description="neuralprep register")
    written = [image]
    grids = fixed.grid, moving.grid
    for way, (there, here), (over, other) in zip(ways, (names, names[::-1]), (grids, grids[::-1]), strict=True):
        stem = f"from-{there}_to-{here}_mode-image_xfm"
        if isinstance(way, Affine):
            written += write_affine_set(args.out, stem, way, over, other, args.also)
        else:
            written += write_warp_set(args.out, stem, way)
    stem = f"from-{names[0]}_to-{names[1]}"
    if _kind(args) == "svf":
        written += write_velocity_file(args.out, stem, found.fixed_from_moving)
    picture = args.out / f"{stem}_overlay.png"
    brains = [one.judged.with_data(one.judged.data.astype("float32")) for one in views]
    # the look may see further than the image, where a field that is written says "no displacement" (ITK's rule)
    way = replace(ways[0], outside="edge") if isinstance(ways[0], Displacement) else ways[0]
    moved_brain = resample(brains[0], brains[1].grid, way)
    drawn = registration_picture(fixed, carried, brains[1], moved_brain).png()
    write_atomic(picture, [lambda: drawn])
    change = _volume_change(found, views[1].judged) if _kind(args) in BENDING else {}
    network = {} if pair is None else {"Network": pair.model.name, "NetworkSHA256": pair.model.sha256}
    record = _write_record(args, found, opinion, {**change, **network}, args.out / f"{stem}_registration.json")
    return [*written, picture, record]


def _sampled(transform: Transform, grid: Grid) -> Affine | Displacement:
    """What is written of a transform, and moves the images: an affine itself, anything else as a field."""
    from neuralprep.formats.sets import warp_grid
    from neuralprep.transform import Affine, to_displacement

    return transform if isinstance(transform, Affine) else to_displacement(transform, warp_grid(grid))


def _volume_change(found: Alignment, brain: Volume) -> dict[str, float]:
    """How much a transform that bends stretches the fixed brain; at or below 0 it folds."""
    import numpy as np

    from neuralprep.transform import jacobian_determinant

    inside = np.argwhere(brain.data > 0)
    low, high = np.maximum(inside.min(0) - 3, 0), np.minimum(inside.max(0) + 4, brain.grid.shape)  # slopes look 2 away
    near = brain.cropped(low.tolist(), high.tolist())
    values = jacobian_determinant(found.fixed_from_moving, near.grid)[near.data > 0]
    numbers = {"JacobianMin": values.min(), "JacobianMax": values.max(), "FoldedVoxels": np.count_nonzero(values <= 0)}
    return {name: round(float(value), 4) for name, value in numbers.items()}


def _write_record(
    args: argparse.Namespace, found: Alignment, opinion: SecondOpinion, more: Mapping[str, object], path: Path
) -> Path:
    import math

    from neuralprep import __version__
    from neuralprep.bids.sidecars import write_json

    write_json(path, {
        "Moving": args.moving.name,
        "Fixed": args.fixed.name,
        "Type": _kind(args),
        "Direction": "maps points of the fixed image to points of the moving image (RAS mm)",
        "Method": found.method,
        "Score": None if math.isnan(found.score) else round(found.score, 4),
        "Keypoints": found.keypoints,
        "KeypointAgreementMm": round(found.agreement_mm, 3),
        "SearchAgreementMm": round(opinion.search_mm, 3),
        "SearchExplainsMore": opinion.search_explains_more,
        "BrainCentersMm": round(opinion.centroids_mm, 3),
        "BrainOverlap": round(opinion.overlap, 4),
        **more,
        "Decision": "check" if _doubt(args, found, opinion) else "ok",
        "GeneratedBy": f"neuralprep {__version__}",
    })
    return path
