"""``neuralprep synth``: write samples of the head model, so that a person can look at what networks are trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

_GALLERY_SIZE, _GALLERY_SPACING_MM, _GALLERY_COUNT = 104, 2.4, 12


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = subparsers.add_parser(
        "synth",
        help="write random heads with every truth (image, distances, gain, tissue fractions, record)",
        description=(
            "Render samples of the generative head model to NIfTI files, or (--gallery) show each of its effects "
            "on one page."
        ),
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("--atlas", type=Path, help="atlas file made by 'neuralprep train --pack' (default: a phantom)")
    parser.add_argument("--head", help="name of the head in the atlas (default: drawn at random; gallery: the first)")
    parser.add_argument("--count", type=int, help="number of samples (default 4; gallery: 12 besides the effects)")
    parser.add_argument("--look", help="contrast: random, T1w, T2w, FLAIR, PDw, CT, EPI, PET, MP2RAGE (default: drawn)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first sample (default 0)")
    parser.add_argument("--size", type=int, help="voxels per axis (default 128; gallery: 104)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="voxel size (default 2; gallery: 2.4)")
    parser.add_argument("--record", type=Path, help="replay this record (.json) instead of drawing")
    parser.add_argument("--hounsfield", action="store_true", help="also write a CT in Hounsfield units (--look CT)")
    parser.add_argument("--gallery", action="store_true",
                        help="write OUT/index.html: every effect at increasing strength with the true outlines")


def execute(args: argparse.Namespace) -> int:
    """Render and write."""
    from neuralprep.errors import InputError
    from neuralprep.synthesis.contrast import LOOKS

    looks = ("random", *LOOKS)
    if args.look is not None and args.look not in looks:
        raise InputError(f"--look {args.look} is unknown; choose one of {', '.join(looks)}")
    if ((args.count is not None and args.count < 1) or (args.size is not None and args.size < 16)
            or (args.spacing is not None and args.spacing <= 0)):
        raise InputError("--count must be at least 1, --size at least 16 and --spacing positive")
    if args.gallery:
        return _gallery(args)
    if args.record is not None:
        _refuse(args, "--record", "what is in the record", "look", "head", "count", "size", "spacing")
    elif args.hounsfield and args.look != "CT":
        raise InputError("--hounsfield needs --look CT: only a CT has Hounsfield units")
    from neuralprep.synthesis.files import write_samples

    paths = write_samples(
        args.out, atlas=args.atlas, head=args.head, count=args.count or 4, look=args.look, seed=args.seed,
        size=args.size or 128, spacing_mm=args.spacing or 2.0, record=args.record, hounsfield=args.hounsfield,
    )
    for path in paths:
        print(path)
    return 0


def _gallery(args: argparse.Namespace) -> int:
    from neuralprep.cli.gallery import write_gallery
    from neuralprep.errors import InputError
    from neuralprep.synthesis.files import read_heads

    _refuse(args, "--gallery", "all effects", "record", "hounsfield")
    heads = read_heads(args.atlas)
    head = args.head or min(heads)
    if head not in heads:
        raise InputError(f"the atlas has no head '{head}'; it has {', '.join(sorted(heads))}")
    page = write_gallery(args.out, heads, head=head, size=args.size or _GALLERY_SIZE,
                         spacing_mm=args.spacing or _GALLERY_SPACING_MM,
                         count=args.count or _GALLERY_COUNT, seed=args.seed, look=args.look)
    print(page)
    return 0


def _refuse(args: argparse.Namespace, flag: str, shows: str, *names: str) -> None:
    """Flags that could take no effect are errors."""
    from neuralprep.errors import InputError

    given = [f"--{name}" for name in names if getattr(args, name)]
    if given:
        raise InputError(f"{flag} shows {shows}; leave out {', '.join(given)}")
