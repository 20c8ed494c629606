"""``neuralprep review OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuralprep.cli.arguments import port


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "review",
        help="look through the scans of a batch and accept or reject them",
        description=(
            "Serve the page of a batch on this machine (nothing else can reach it) until Ctrl-C. Decisions and notes "
            "are saved at once in OUT/review.tsv, and each scan has a 3-D viewer if the extra 'viewer' is installed. "
            "From another computer: ssh -L PORT:localhost:PORT HOST, then open the printed address there."
        ),
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of neuralprep run")
    parser.add_argument("--port", type=port, metavar="N", help="port to listen on; 0 takes any; default 8765")


def execute(args: argparse.Namespace) -> int:
    """Serve until interrupted, then bring the page in the folder up to date."""
    from neuralprep.cli import EXIT_OK
    from neuralprep.engine.record import read_status, records_of
    from neuralprep.report import viewer, write_index
    from neuralprep.report.decisions import REVIEW_FILE, read_decisions
    from neuralprep.review.server import DEFAULT_PORT, ReviewServer

    out = args.out.expanduser()
    with ReviewServer(out, DEFAULT_PORT if args.port is None else args.port) as server:
        print(f"review: {server.address}", flush=True)
        if not viewer.available():
            print(f"There is no 3-D viewer: {viewer.INSTALL}", flush=True)
        print("Ctrl-C ends the review.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    records = records_of(read_status(out))
    decisions = read_decisions(out)
    write_index(out, records)
    counts = {verdict: sum(d.decision == verdict for d in decisions.values()) for verdict in ("accept", "reject")}
    print(f"{counts['accept']} accepted, {counts['reject']} rejected of {len(records)} scans: {out / REVIEW_FILE}")
    return EXIT_OK
