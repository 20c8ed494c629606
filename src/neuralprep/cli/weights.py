"""``neuralprep weights list|get|path``: which networks are here, and fetching published ones."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    parser = subparsers.add_parser(
        "weights",
        help="list networks, and fetch published ones once",
        description="Networks come with the package or are fetched once, on request; nothing is fetched at run time.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="every network: where it is, its size and its licence")
    get = actions.add_parser("get", help="fetch published weights, check them and keep them in the cache folder")
    get.add_argument("name", metavar="NAME", help="mindgrab; mindgrab-2mm: the same tensors on a coarser grid, faster")
    get.add_argument("--from", dest="source", metavar="FILE_OR_URL",
                     help="take the published file from here, for a machine without a network")
    path = actions.add_parser("path", help="print the file of a network, or the cache folder")
    path.add_argument("name", nargs="?", metavar="NAME", help="a network; without it the cache folder is printed")


def execute(args: argparse.Namespace) -> int:
    """List, fetch or find."""
    from neuralprep.cli import EXIT_OK
    from neuralprep.weights.published import cache_folder
    from neuralprep.weights.registry import find_model

    if args.action == "list":
        print("\n".join(_lines()))
    elif args.action == "get":
        _get(args.name, args.source)
    else:
        print(find_model(args.name).weights if args.name else cache_folder())
    return EXIT_OK


def _lines() -> list[str]:
    """A table of all networks."""
    from neuralprep.weights.published import PUBLISHED
    from neuralprep.weights.registry import fetched, find_model, shipped

    rows = [("name", "where", "MiB", "licence", "file")]
    for name in shipped():
        files = find_model(name)
        licence = str(files.card.get("licence", "Apache-2.0"))
        rows.append((name, "in the package", _mebibytes(files.weights.stat().st_size), licence, str(files.weights)))
    for name in dict.fromkeys([*PUBLISHED, *fetched()]):
        licence = PUBLISHED[name].licence if name in PUBLISHED else "?"
        if name in fetched():
            path = find_model(name).weights
            rows.append((name, "fetched", _mebibytes(path.stat().st_size), licence, str(path)))
        else:
            how = f"neuralprep weights get {name}"
            rows.append((name, "not here", _mebibytes(PUBLISHED[name].size), licence, how))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f}"


def _get(name: str, source: str | None) -> None:
    """Fetch, check, convert and keep the weights of one published network."""
    import tempfile
    from pathlib import Path

    from neuralprep.errors import WeightsError
    from neuralprep.networks.meshnet import convert_mindgrab
    from neuralprep.weights.published import PUBLISHED, cache_folder, read_published

    if name not in PUBLISHED:
        raise WeightsError(f"no published weights are called '{name}'; there are {', '.join(PUBLISHED)}")
    content = read_published(PUBLISHED[name], source)
    target = cache_folder() / f"{name}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "published.pth"
        raw.write_bytes(content)
        convert_mindgrab(raw, target, PUBLISHED[name].spacing_mm)
    print(f"{name}: {PUBLISHED[name].source}; licence {PUBLISHED[name].licence}\nkept in {target}")
