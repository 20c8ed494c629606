"""``neuralprep apply INPUT OUTPUT``: carry images, labels, masks and points through transform files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from neuralprep.cli.arguments import fill_value, frame_number, positive_integer

if TYPE_CHECKING:
    from neuralprep.formats.chain import Leg
    from neuralprep.grid import Grid
    from neuralprep.volume import Volume

_TABLES = (".csv", ".tsv")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "apply",
        help="carry an image, labels, a mask or points through transform files",
        description=(
            "Carry INPUT into the space of the reference with one interpolation. List the transform files in the order "
            "in which the image travels: -t scan_to_t1.mat -t t1_to_mni.h5. A file made for the other direction goes "
            "in with -i. Read are ITK/ANTs (.mat, .txt, .tfm, .h5, displacement fields), FreeSurfer .lta, FSL "
            ".fsl.mat, velocities (..._desc-velocity_xfm.nii.gz with its .json), plain 4x4 text and, with nitransforms "
            "installed, .x5 and AFNI's .aff12.1D. A table of points (.csv, .tsv with columns x, y, z in RAS mm) "
            "travels the same way and comes out in the reference's space."
        ),
    )
    parser.set_defaults(error=parser.error)
    parser.add_argument("input", type=Path, metavar="INPUT", help="image, or table of points")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="file to write")
    parser.add_argument("-t", "--transform", dest="legs", action="append", type=_forward, metavar="FILE",
                        help="transform file, used as it is stored")
    parser.add_argument("-i", "--inverse", dest="legs", action="append", type=_backward, metavar="FILE",
                        help="transform file, inverted")
    parser.add_argument("--half-way", action="store_true",
                        help="only to the middle between both images (one file of a velocity: -t carries the moving "
                             "image there, -i the fixed one)")
    parser.add_argument("-r", "--reference", metavar="IMAGE|SPACE",
                        help="image or standard space whose grid the output gets; default: the input's own grid")
    parser.add_argument("--res", type=float, metavar="MM", help="voxel size in a standard space; default 1 mm")
    parser.add_argument("--interpolation", choices=("linear", "nearest", "label"), default=None,
                        help="linear (default for images); nearest; label: smooth borders, only existing values")
    parser.add_argument("--fill", type=fill_value, metavar="zero|min|V", help="value outside the input; default zero")
    parser.add_argument("--frame", type=frame_number, metavar="N|mean", help="which frame of a 4-D image")
    parser.add_argument("--lps", action="store_true", help="points are in LPS mm (ITK, ANTs), not in RAS mm")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="threads; default all cores")


def _forward(text: str) -> Leg:
    from neuralprep.formats.chain import Leg

    return Leg(Path(text))


def _backward(text: str) -> Leg:
    from neuralprep.formats.chain import Leg

    return Leg(Path(text), inverted=True)


def execute(args: argparse.Namespace) -> int:
    """Read, carry, write."""
    from neuralprep.cli import EXIT_OK
    from neuralprep.files import check_output

    wrong = conflict(args)
    if wrong:
        args.error(wrong)
    reference = () if args.reference is None else (Path(args.reference),)
    check_output(args.output, (args.input, *reference, *(leg.path for leg in args.legs or ())))
    if args.input.suffix.lower() in _TABLES:
        count = _carry_points(args)
        print(f"{args.output}: {count} points")
    else:
        print(f"{args.output}: {_carry_image(args)}")
    return EXIT_OK


def conflict(args: argparse.Namespace) -> str:
    """A flag that cannot take effect, in words; "" when all can."""
    from neuralprep.templates import SPACES

    table = args.input.suffix.lower() in _TABLES
    if args.half_way and len(args.legs or ()) != 1:
        return "--half-way needs one transform file, that of a velocity"
    if not args.legs and args.reference is None:
        return "nothing to do: give a transform (-t, -i), a reference (-r), or both"
    if table:
        given = {"--interpolation": args.interpolation, "--fill": args.fill, "--frame": args.frame, "--res": args.res,
                 "--reference": args.reference if args.legs else None}
        for flag, value in given.items():
            if value is not None:
                return f"{flag} has no effect on points"
        if not args.legs:
            return "points need a transform (-t or -i)"
        if args.output.suffix.lower() not in _TABLES:
            return f"points come out as a table: {args.output} must end in {' or '.join(_TABLES)}"
    elif args.lps:
        return "--lps has no effect on images: their headers say which axes are meant"
    if args.res is not None and args.reference not in SPACES:
        return f"--res needs a standard space as reference: {', '.join(SPACES)}"
    return ""


def _carry_points(args: argparse.Namespace) -> int:
    import numpy as np

    from neuralprep.errors import InputError
    from neuralprep.formats import needs_grids
    from neuralprep.formats.chain import read_half, read_journey
    from neuralprep.formats.points import read_points, write_points

    table = read_points(args.input)
    if any(needs_grids(leg.path) for leg in args.legs):
        fault = "an AFNI or FSL matrix needs the grids of two images, and points have none; give another format"
        raise InputError(fault)
    # Points travel with the image, against the pull-back that resampling follows.
    travel = read_half(args.legs[0]).inverse() if args.half_way else read_journey(args.legs)
    flip = np.array([-1.0, -1.0, 1.0]) if args.lps else np.ones(3)
    write_points(args.output, table, travel.apply(table.points * flip) * flip)
    return len(table.points)


def _carry_image(args: argparse.Namespace) -> str:
    from neuralprep.formats.chain import read_chain, read_half
    from neuralprep.inference.session import available_threads
    from neuralprep.resample import resample, resample_labels
    from neuralprep.templates import SPACES
    from neuralprep.volume import load

    moving = load(args.input, args.frame, checks=False)
    grid = _reference(args, moving)
    transform = read_half(args.legs[0]) if args.half_way else read_chain(args.legs or (), grid, moving.grid)
    threads = args.threads or available_threads()
    if args.interpolation == "label":
        made = resample_labels(moving, grid, transform, threads)
    else:
        fill = float(moving.data.min()) if args.fill == "min" else 0.0 if args.fill in (None, "zero") else args.fill
        order = 0 if args.interpolation == "nearest" else 1
        made = resample(moving, grid, transform, order, fill, threads)
    space = "template" if args.reference in SPACES else "other" if args.legs else "native"
    made.save(args.output, dtype=_stored_type(args, made), space=space)
    return f"{'x'.join(map(str, grid.shape))} voxels"


def _stored_type(args: argparse.Namespace, made: Volume) -> str | None:
    """Labels stay whole numbers on disk; reading turned them into real ones."""
    import numpy as np

    if args.interpolation is None or args.interpolation == "linear" or made.data.dtype.kind != "f":
        return None
    whole = np.array_equal(made.data, np.rint(made.data)) and np.abs(made.data).max() < 2**31
    if not whole:
        return None
    return "uint8" if made.data.min() >= 0 and made.data.max() < 256 else "int32"


def _reference(args: argparse.Namespace, moving: Volume) -> Grid:
    from neuralprep.errors import InputError
    from neuralprep.templates import SPACES, space_grid
    from neuralprep.volume import load

    if args.reference in SPACES:
        return space_grid(args.reference, 1.0 if args.res is None else args.res)
    if args.reference is not None:
        path = Path(args.reference)
        if path.suffix == "" and not path.exists():
            raise InputError(f"{path}: neither an image nor a standard space; there are {', '.join(SPACES)}")
        return load(path, "mean", checks=False).grid
    return moving.grid
