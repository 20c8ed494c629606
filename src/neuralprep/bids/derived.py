"""The output folder as a BIDS data set of its own: its description, what validators pass over, a word to readers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuralprep.bids.ignore import IGNORE_FILE
from neuralprep.bids.sidecars import (
    DESCRIPTION_FILE,
    dataset_description,
    is_own_dataset,
    read_json,
    write_json,
    write_text,
)
from neuralprep.errors import InputError

#: name of the raw data set in URIs of sidecars
RAW = "raw"
README = "README.md"
#: what BIDS has no name for yet, and what is for people
IGNORED = (
    "*_xfm.*", "*_distance.nii.gz", "*_distance.json", "*_map.nii.gz", "*_map.json", "*_quality.json", "*_overview.png",
    "*.html", "*.error.txt", "group.tsv", "group.json", "status.tsv", "review.tsv", "neuralprep.log",
)  # fmt: skip
_README = """\
Derivatives made by neuralprep: brain masks, normalised images, and images in standard space, one set of files per scan
beside the scans of the same visit.

- `index.html` shows all scans with their automatic quality decision; `sub-*.html` those of one participant.
- `*_quality.json` holds the measures, settings, software and model versions of one scan.
- `status.tsv` has one row per scan, failed ones included; `group.tsv` (after the group level) all measures.
- `logs/CITATION.md` is text for a methods section.
"""


def raw_uri(relative: str) -> str:
    """BIDS URI of a file of the raw data set."""
    return f"bids:{RAW}:{relative}"


def check_places(root: Path, out_dir: Path) -> None:
    """Refuse an output folder that would spoil a data set.

    Parameters
    ----------
    root : Path
        Raw data set.
    out_dir : Path
        Output folder, which need not exist.

    Raises
    ------
    InputError
        With what to do.
    """
    raw, out = root.resolve(), out_dir.resolve()
    if raw == out:
        raise InputError(f"{out_dir}: is the data set itself. Give another output folder, such as "
                         f"{root / 'derivatives' / 'neuralprep'}.")
    if out.is_relative_to(raw) and out.relative_to(raw).parts[0] not in ("derivatives", "sourcedata"):
        raise InputError(f"{out_dir}: lies within the data set, where it would make it invalid. Derivatives go to "
                         f"{root / 'derivatives' / 'neuralprep'} or out of the data set.")
    if raw.is_relative_to(out) and raw.relative_to(out).parts[0] != "sourcedata":
        raise InputError(f"{out_dir}: holds the data set {root} in it. Choose a folder beside it, or put the data set "
                         f"into {out_dir / 'sourcedata'}.")
    if (out / DESCRIPTION_FILE).is_file() and not is_own_dataset(out):
        raise InputError(f"{out_dir}: holds another data set ({_title(out)}), which is not mixed with these outputs. "
                         "Choose another folder.")
    _check_earlier(raw, out, out_dir)


def _check_earlier(raw: Path, out: Path, out_dir: Path) -> None:
    """Refuse an output folder of another data set, or of plain files, whose scans lie elsewhere in it."""
    links = read_json(out / DESCRIPTION_FILE).get("DatasetLinks")
    link = links.get(RAW) if isinstance(links, dict) else None
    if link is None:
        if is_own_dataset(out) and (out / "status.tsv").is_file():
            raise InputError(f"{out_dir}: holds outputs of `neuralprep run`, which lie in other folders. Choose "
                             "another folder.")
        return
    earlier = out / str(link)  # an absolute link stays as it is
    if earlier.is_dir() and earlier.resolve() != raw:
        raise InputError(f"{out_dir}: holds derivatives of another data set ({earlier.resolve()}). Choose another "
                         "folder.")


def check_plain(out_dir: Path) -> None:
    """Refuse the output folder of a BIDS data set for scans that are none of it.

    Raises
    ------
    InputError
        With what to do.
    """
    links = read_json(out_dir / DESCRIPTION_FILE).get("DatasetLinks")
    if is_own_dataset(out_dir) and isinstance(links, dict) and RAW in links:
        raise InputError(f"{out_dir}: holds outputs of `neuralprep bids`, which lie in other folders. Choose another "
                         "folder, or run `neuralprep bids` again.")


def _title(folder: Path) -> str:
    return str(read_json(folder / DESCRIPTION_FILE).get("Name", "without a name"))


def write_dataset_files(out_dir: Path, root: Path, raw: Mapping[str, Any]) -> None:
    """Write what makes the output folder a data set; lines that a person added stay.

    Parameters
    ----------
    out_dir : Path
        Existing output folder.
    root : Path
        Raw data set.
    raw : mapping
        Its description.
    """
    link = _link(out_dir, root)
    source = {key: value for key, value in (("DOI", raw.get("DatasetDOI")), ("Version", raw.get("DatasetVersion")))
              if isinstance(value, str) and value}
    content = dataset_description(out_dir) | {
        "Name": f"neuralprep outputs of {raw.get('Name') or root.resolve().name}",
        "DatasetLinks": {RAW: link},
        "SourceDatasets": [{"URL": link, **source}],
    }
    for key in ("License", "Authors"):
        if raw.get(key):
            content[key] = raw[key]
    write_json(out_dir / DESCRIPTION_FILE, content)
    ignore = out_dir / IGNORE_FILE
    there = ignore.read_text(encoding="utf-8", errors="replace").splitlines() if ignore.is_file() else []
    write_text(ignore, "\n".join([*there, *(line for line in IGNORED if line not in there)]) + "\n")
    if not (out_dir / README).exists():
        write_text(out_dir / README, _README)


def _link(out_dir: Path, root: Path) -> str:
    """The raw data set as seen from the output folder, so that both can move together."""
    try:
        relative = Path(os.path.relpath(root.resolve(), out_dir.resolve()))
    except ValueError:  # other drive
        return root.resolve().as_uri()
    return relative.as_posix()
