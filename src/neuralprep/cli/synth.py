"""``neuralprep synth``: write samples of the head model, so that a person can look at what networks are trained on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = subparsers.add_parser(
        "synth",
        help="write random heads with every truth (image, distances, gain, tissue fractions, record)",
        description="Render samples of the generative head model to NIfTI files.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("--atlas", type=Path, help="atlas file made by 'neuralprep train --pack' (default: a phantom)")
    parser.add_argument("--head", help="name of the head in the atlas (default: drawn at random)")
    parser.add_argument("--count", type=int, default=4, help="number of samples (default 4)")
    parser.add_argument("--look", help="contrast: random, T1w, T2w, FLAIR, PDw, CT (default: drawn)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first sample (default 0)")
    parser.add_argument("--size", type=int, default=128, help="voxels per axis (default 128)")
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM", help="voxel size (default 2)")
    parser.add_argument("--record", type=Path, help="replay this record (.json) instead of drawing")


def execute(args: argparse.Namespace) -> int:
    """Render and write."""
    from neuralprep.errors import InputError
    from neuralprep.synthesis.contrast import LOOKS
    from neuralprep.synthesis.files import write_samples

    looks = ("random", *LOOKS)
    if args.look is not None and args.look not in looks:
        raise InputError(f"--look {args.look} is unknown; choose one of {', '.join(looks)}")
    if args.count < 1 or args.size < 16 or args.spacing <= 0:
        raise InputError("--count must be at least 1, --size at least 16 and --spacing positive")
    paths = write_samples(
        args.out, atlas=args.atlas, head=args.head, count=args.count, look=args.look, seed=args.seed,
        size=args.size, spacing_mm=args.spacing, record=args.record,
    )
    for path in paths:
        print(path)
    return 0
