"""The table of a group: one row per scan, every measure, and which of them lie far from those of the other scans."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.bids.entities import ENTITIES, split_name
from neuralprep.bids.sidecars import write_json, write_text
from neuralprep.report import measures

TABLE_FILE, TABLE_SIDECAR = "group.tsv", "group.json"
#: Tukey's outer fences lie this many interquartile ranges beyond the quartiles
FENCE = 3.0
#: fewer values have no outliers
LEAST = 8
_NOTHING = "n/a"

_COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "Participant."},
    "session_id": {"Description": "Session, n/a where the data set has none."},
    "scan": {"Description": "Name of the scan: that of its file without extension."},
    "suffix": {"Description": "Contrast of the scan, the BIDS suffix of its file."},
    "status": {
        "Description": "Outcome of processing.",
        "Levels": {"ok": "Finished, every measure within its accepted range.",
                   "check": "Finished, to be looked at; see reasons.",
                   "failed": "Not finished; see reasons."},
    },
    "reasons": {"Description": "Why the status is not ok, in sentences."},
    "outliers": {
        "Description": "Measures that lie beyond Tukey's outer fences (three interquartile ranges beyond the "
                       "quartiles) of the finished scans of the same suffix, separated by commas; at least eight "
                       "scans are needed."
    },
    "decision": {
        "Description": "What a person decided with `neuralprep review`, n/a if nothing.",
        "Levels": {"accept": "To be used.", "reject": "Not to be used."},
    },
    "seconds": {"Description": "Wall time of processing.", "Units": "s"},
    "version": {"Description": "Version of neuralprep that processed the scan."},
    "model_sha256": {"Description": "SHA-256 of the network's weights."},
}  # fmt: skip


@dataclass(frozen=True)
class Outlier:
    """A measure of a scan that lies far from those of the other scans of its contrast.

    Attributes
    ----------
    measure : its name in the table.
    words : a sentence on it.
    """

    measure: str
    words: str


def outliers(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Outlier]]:
    """Measures of each scan that lie far from those of the other scans of its contrast.

    Parameters
    ----------
    contents : quality records by name of the scan.

    Returns
    -------
    By name of the scan; scans without outliers are left out.
    """
    values: defaultdict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for name, content in contents.items():
        for measure, value in (content.get("measures") or {}).items():
            if value is not None and math.isfinite(value):
                values[split_name(name)[1], measure].append((name, float(value)))
    found: defaultdict[str, list[Outlier]] = defaultdict(list)
    titles = {column["name"]: column["short"] for column in measures.columns(measure for _, measure in values)}
    for (suffix, measure), points in values.items():
        low, high = fences([value for _, value in points])
        for name, value in points:
            if not low <= value <= high:
                text = f"Far from the other {suffix}: {titles[measure]} {measures.value_text(measure, value)}."
                found[name].append(Outlier(measure, text))
    return dict(found)


def fences(values: Iterable[float]) -> tuple[float, float]:
    """Tukey's outer fences (Exploratory Data Analysis, 1977); infinite for few values or for equal ones."""
    array = np.fromiter(values, float)
    if array.size < LEAST:
        return -math.inf, math.inf
    low, high = np.quantile(array, (0.25, 0.75))
    reach = FENCE * (high - low)
    return (float(low - reach), float(high + reach)) if reach > 0 else (-math.inf, math.inf)


def write_table(
    out_dir: Path,
    contents: Mapping[str, Mapping[str, Any]],
    failed: Iterable[Any],
    far: Mapping[str, list[Outlier]],
    decisions: Mapping[str, str],
) -> None:
    """Write ``group.tsv`` and ``group.json``, which describes each of its columns.

    Parameters
    ----------
    out_dir : output folder.
    contents : quality records of finished scans by name.
    failed : records of scans that failed.
    far : see `outliers`.
    decisions : what a person decided, by name of the scan.
    """
    rows = {name: _finished_row(name, content, far.get(name, ())) for name, content in contents.items()}
    for record in failed:
        rows[record.scan] = {**_name_cells(record.scan), "status": "failed", "reasons": " ".join(record.reasons)}
    measured = {name for content in contents.values() for name in content.get("measures") or ()}
    described = measures.columns(measured)
    entities = [key for key in ENTITIES if key not in ("sub", "ses") and any(key in row for row in rows.values())]
    names = [*list(_COLUMNS)[:4], *entities, *list(_COLUMNS)[4:], *(column["name"] for column in described)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval=_NOTHING, delimiter="\t", lineterminator="\n",
                            quoting=csv.QUOTE_NONE, quotechar=None, escapechar=None)  # fmt: skip
    writer.writeheader()
    for name in sorted(rows):
        row = {**rows[name], "decision": decisions.get(name, "")}
        writer.writerow({key: " ".join(str(value).split()) or _NOTHING for key, value in row.items()})
    write_text(out_dir / TABLE_FILE, text.getvalue())
    sidecar = {**_COLUMNS, **{key: {"Description": f"BIDS entity {ENTITIES[key]} of the scan."} for key in entities},
               **{column["name"]: _measure_column(column) for column in described}}  # fmt: skip
    write_json(out_dir / TABLE_SIDECAR, {name: sidecar[name] for name in names})


def _name_cells(name: str) -> dict[str, str]:
    """What the name of a scan tells."""
    entities, suffix = split_name(name)
    cells = {"scan": name, "suffix": suffix, "participant_id": f"sub-{entities.pop('sub', '')}"}
    if session := entities.pop("ses", ""):
        cells["session_id"] = f"ses-{session}"
    return {**cells, **{key: value for key, value in entities.items() if key in ENTITIES}}


def _finished_row(name: str, content: Mapping[str, Any], far: Iterable[Outlier]) -> dict[str, str]:
    found = {key: f"{value:.6g}" for key, value in (content.get("measures") or {}).items() if value is not None}
    return {
        **_name_cells(name),
        "status": str(content.get("status", "")),
        "reasons": " ".join(content.get("reasons", ())),
        "outliers": ",".join(outlier.measure for outlier in far),
        "seconds": f"{float(content.get('seconds') or 0.0):.2f}",
        "version": str(content.get("version", "")),
        "model_sha256": str(content.get("weights", "")),
        **found,
    }


def _measure_column(column: Mapping[str, Any]) -> dict[str, Any]:
    """Description of one measure: what it is, its unit, and its accepted range."""
    told: dict[str, Any] = {"LongName": column["short"], "Description": f"{column['label']}."}
    if column["unit"]:
        told["Units"] = column["unit"]
    if column["low"] is not None:
        told["Minimum accepted"] = column["low"]
    if column["high"] is not None:
        told["Maximum accepted"] = column["high"]
    return told
