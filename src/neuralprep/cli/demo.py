"""``neuralprep demo OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuralprep.cli.arguments import add_machine


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "demo",
        help="make a head, process it, and compare with what is known about it",
        description=(
            "Render a T1-weighted head from the packaged MNI152 template (real brain anatomy, schematic skull, scalp, "
            "eyes and neck) in a tilted pose with bias field and noise, run the whole chain on it, and report the "
            "overlap with the known mask and the error of the affine. Needs no network and no other file."
        ),
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of pose, bias and noise; default 0")
    add_machine(parser)


def execute(args: argparse.Namespace) -> int:
    """Make the head, run on it, print the comparison."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.cli.console import Console, status_table
    from neuralprep.demo import compare, write_demo_head
    from neuralprep.engine.run import prepare_output, run_batch
    from neuralprep.engine.worker import Job
    from neuralprep.pipeline import Settings

    prepare_output(args.out)
    print("rendering the demo head")
    head = write_demo_head(args.out, seed=args.seed)
    job = Job(Settings(device=args.device, threads=args.threads), args.out, overwrite=True)
    console = Console()
    try:
        records = run_batch([head.path], job, progress=console)
    finally:
        console.close()
    print(status_table(records))
    if records[0].status == "failed":
        return EXIT_FAILED
    scores = compare(head, args.out / records[0].scan)
    print(f"\nbrain mask, Dice with the known mask:  {scores.mask_dice:.3f}")
    print(f"affine, mean error inside the brain:   {scores.affine_error_mm:.2f} mm")
    print(f"scan:    {head.path}\nreport:  {args.out / 'index.html'}")
    return EXIT_OK
