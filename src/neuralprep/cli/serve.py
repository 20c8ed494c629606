"""``neuralprep serve``."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from neuralprep.cli.arguments import add_machine, number, port, positive_integer


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "serve",
        help="a page in the browser that takes scans and gives the results back",
        description=(
            "Serve a page on this machine until Ctrl-C: drop a scan on it, watch its progress, look at the brain and "
            "the report, download everything as a zip file. Scans are processed one at a time and are deleted after "
            "--keep hours and when the server ends. Nothing leaves this machine. From another computer: "
            "ssh -L PORT:localhost:PORT HOST, then open the printed address there."
        ),
    )
    parser.add_argument("--port", type=port, metavar="N", help="port to listen on; 0 takes any; default 8766")
    parser.add_argument("--host", metavar="ADDRESS", help="listen on this address instead of this machine alone; the "
                        "connection is not encrypted")  # fmt: skip
    parser.add_argument("--max-mb", type=positive_integer, default=1024, metavar="MB",
                        help="largest scan; default 1024")
    parser.add_argument("--max-scans", type=positive_integer, default=20, metavar="N",
                        help="scans that are kept at a time; default 20")
    parser.add_argument("--keep", type=_hours, default=24.0, metavar="HOURS",
                        help="delete finished scans after so many hours; default 24")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="where scans and results are kept meanwhile; "
                        "default: the system's folder for temporary files")  # fmt: skip
    add_machine(parser, "threads per scan")


def _hours(text: str) -> float:
    hours = number(text)
    if not 0 < hours <= 24 * 365:
        raise argparse.ArgumentTypeError(f"{text} hours cannot be: give more than 0, at most a year")
    return hours


def execute(args: argparse.Namespace) -> int:
    """Serve until interrupted, then delete every scan."""
    from neuralprep.cli import EXIT_OK
    from neuralprep.pipeline import Settings
    from neuralprep.serve.scans import Limits, ScanQueue
    from neuralprep.serve.server import DEFAULT_PORT, ScanServer
    from neuralprep.web import HOST, is_loopback

    host = args.host or HOST
    if not is_loopback(host):
        print(f"neuralprep: warning: everybody who can reach {host} and sees the address printed below can use this "
              "server, and scans and the key in that address travel unencrypted. On a network that you do not trust "
              "leave --host out and use ssh -L.", file=sys.stderr)  # fmt: skip
    settings = Settings(device=args.device, threads=args.threads)
    limits = Limits(args.max_mb * 1_000_000, args.max_scans, args.keep * 3600)
    with (
        closing(ScanQueue(settings, limits, args.work_dir)) as queue,
        ScanServer(queue, DEFAULT_PORT if args.port is None else args.port, host) as server,
    ):
        print(f"serve: {server.address}", flush=True)
        print("Ctrl-C ends the server and deletes the scans on it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return EXIT_OK
