"""``neuralprep evaluate MEASURE ...``: one module per measure, each with ``add_parser`` and ``execute``."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

#: modules of this package, in the order of the help text
MEASURES: tuple[str, ...] = ("masks", "labels", "images", "fields", "transforms", "lesions", "heads", "edge")

#: arguments that name a file to write; every other path is read
_WRITTEN = ("csv", "lesion_csv", "json", "picture")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb and its measures."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score masks, lesions, images and transforms",
        description="Score results against a truth. Every measure prints a table and can write CSV and JSON.",
    )
    measures = parser.add_subparsers(dest="measure", metavar="MEASURE", required=True)
    for measure in MEASURES:
        import_module(f"neuralprep.cli.evaluate.{measure}").add_parser(measures)


def execute(args: argparse.Namespace) -> int:
    """Run the measure that was asked for."""
    from neuralprep.files import check_output

    paths = {name: value for name, value in vars(args).items() if isinstance(value, Path)}
    read = [path for name, path in paths.items() if name not in _WRITTEN]
    for name in _WRITTEN:
        if name in paths:
            check_output(paths[name], read)
    code: int = import_module(f"neuralprep.cli.evaluate.{args.measure}").execute(args)
    return code
