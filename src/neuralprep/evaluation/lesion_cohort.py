"""Lesion-wise scores of files: one case, or all cases of a cohort side by side, and their summary."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import Pair, case_name, on_one_grid, pair_files, unpaired_files
from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.lesions import LesionRules, RegionScore, score_lesions
from neuralprep.evaluation.overlap import label_sizes
from neuralprep.evaluation.parallel import each
from neuralprep.evaluation.statistics import bootstrap
from neuralprep.evaluation.tables import finite, groups, summarize
from neuralprep.files import read_text
from neuralprep.grid import Grid
from neuralprep.volume import Volume
from neuralprep.voxels import read_header

LIST_ENDINGS = (".tsv", ".csv")
MEASURED = ("lesion_dice", "lesion_hd95", "legacy_dice", "legacy_hd95", "sensitivity", "specificity")
"""Scores that a cohort's summary describes."""
_MOST_LIST_BYTES = 1 << 24
_DECIMALS = 2


@dataclass(frozen=True)
class LesionSettings:
    """How label maps are read and scored.

    Attributes
    ----------
    rules
        Regions and what a lesion is.
    preset
        Name of the preset that the rules are; "" for others. A preset knows all labels there are, so any other label
        is a fault; other rules take labels of no region for background.
    relabel
        Label of a file to the label that it counts as.
    carry
        Resample results whose grid is not the truth's, by nearest neighbour.
    """

    rules: LesionRules
    preset: str = ""
    relabel: Mapping[int, int] = field(default_factory=dict)
    carry: bool = False


@dataclass(frozen=True)
class LesionCase:
    """Scores of one case.

    Attributes
    ----------
    name
        Of the case.
    regions
        Name of a region to its scores.
    grid
        Of the truth.
    present
        Labels of both maps.
    notes
        What reading the files repaired or decided.
    fault
        Why the case could not be scored; "" if it was.
    """

    name: str
    regions: Mapping[str, RegionScore] = field(default_factory=dict)
    grid: Grid | None = None
    present: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    fault: str = ""

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per region."""
        return [
            {
                "case": self.name,
                "region": name,
                "lesion_dice": score.dice,
                "lesion_hd95": score.hd95,
                "found": score.count("found"),
                "missed": score.count("missed"),
                "false_positives": score.count("false positive"),
                "left_out": score.left_out,
                "legacy_dice": score.legacy_dice,
                "legacy_hd95": score.legacy_hd95,
                "sensitivity": score.sensitivity,
                "specificity": score.specificity,
                "volume_mm3": score.volume,
                "predicted_volume_mm3": score.predicted_volume,
            }
            for name, score in self.regions.items()
        ]

    def lesion_rows(self) -> list[dict[str, Any]]:
        """One flat row per lesion and false positive; centres in world mm (RAS)."""
        rows: list[dict[str, Any]] = []
        if self.grid is None:  # a case with a fault
            return rows
        for name, score in self.regions.items():
            for number, lesion in enumerate(score.lesions, start=1):
                x, y, z = self.grid.voxel_to_world(lesion.center).round(_DECIMALS)
                rows.append({
                    "case": self.name, "region": name, "lesion": number, "kind": lesion.kind,
                    "counted": int(lesion.counted), "volume_mm3": lesion.volume,
                    "predicted_volume_mm3": lesion.predicted_volume, "dice": lesion.dice, "hd95": lesion.hd95,
                    "components": lesion.components, "x_mm": x, "y_mm": y, "z_mm": z,
                })  # fmt: skip
        return rows


def pair_cases(prediction: Path, truth: Path, key: str | None = None) -> tuple[list[Pair], list[LesionCase]]:
    """Pairs of two files or two folders, and a faulty case for every file of the folders without a partner.

    Raises
    ------
    InputError
        As `neuralprep.evaluation.cases.pair_files`; but a file without a partner is no reason to stop.
    """
    pairs = pair_files(prediction, truth, key=key, skip_missing=True)
    lonely = unpaired_files(prediction, truth, key=key) if truth.is_dir() else {}
    return pairs, [LesionCase(name, fault=fault) for name, fault in lonely.items()]


def read_pairs(path: Path, key: str | None = None) -> list[Pair]:
    """Pairs from a table with the columns ``prediction`` and ``truth``, and ``case`` if names are to be given.

    Parameters
    ----------
    path
        ``.tsv`` or ``.csv`` (separated by commas or semicolons); relative entries start at its folder.
    key
        Finds the case in the name of the prediction, where the table has no column ``case``.

    Raises
    ------
    InputError
        Unreadable, a column or an entry is missing, no row, or two cases of one name.
    """
    lines = [line for line in read_text(path, _MOST_LIST_BYTES).lstrip("\ufeff").splitlines() if line.strip()]
    header = lines[0] if lines else ""
    separator = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in header else ","
    table = csv.DictReader(lines, delimiter=separator)
    columns = {(name or "").strip().lower(): name for name in table.fieldnames or ()}
    if not {"prediction", "truth"} <= columns.keys():
        raise InputError(
            f"{path}: its columns are {', '.join(columns) or 'none'}; a list of pairs has the columns prediction and "
            f"truth (and case, if wanted), separated by {'tabs' if separator == chr(9) else 'commas'}"
        )
    pairs: dict[str, Pair] = {}
    for number, row in enumerate(table, start=2):
        entry = {title: (row.get(name) or "").strip() for title, name in columns.items()}
        if not entry["prediction"] or not entry["truth"]:
            raise InputError(f"{path}: row {number} lacks the prediction or the truth; fill it in or remove it")
        found, expected = (path.parent / Path(entry[title]).expanduser() for title in ("prediction", "truth"))
        name = entry.get("case") or case_name(found, key)
        if name in pairs:
            raise InputError(f"{path}: row {number} names the case {name} again; give a column case with unlike names")
        pairs[name] = Pair(name, found, expected)
    if not pairs:
        raise InputError(f"{path}: holds no row below the header; list one pair a row")
    return list(pairs.values())


def measure_case(pair: Pair, settings: LesionSettings) -> LesionCase:
    """Score one case.

    Raises
    ------
    InputError
        Unreadable, no label map, labels that the preset does not know, or different grids.
    """
    truth = _labels(pair.truth, settings)
    prediction = on_one_grid(_labels(pair.prediction, settings), truth, carry=settings.carry)
    present = {label for volume in (prediction, truth) for label in label_sizes(volume.data)}
    regions = score_lesions(prediction.data, truth.data, settings.rules, truth.grid.spacing)
    notes = tuple(f"{v.source}: {note}" for v in (prediction, truth) for note in v.notes)
    return LesionCase(pair.name, regions, truth.grid, tuple(sorted(present)), notes)


def measure_cases(pairs: Sequence[Pair], settings: LesionSettings, jobs: int = 1) -> Iterator[LesionCase]:
    """Score the cases of a cohort, in order; one that cannot be scored carries its fault and stops nobody.

    Parameters
    ----------
    pairs
        Results and truths.
    settings
        For all cases.
    jobs
        Processes; every one holds a case in memory.

    Raises
    ------
    InputError
        A process was ended from outside, most likely for want of memory.
    """
    work = partial(_measured_or_fault, settings=settings)
    yield from each(work, pairs, jobs)


def summarize_lesions(cases: Sequence[LesionCase]) -> list[dict[str, Any]]:
    """Summary over the cases, one row per region and score.

    Returns
    -------
    list of dict
        As `neuralprep.evaluation.tables.summarize` with ``region`` in front, and the 95 % bootstrap interval of the
        mean, ``mean_low`` and ``mean_high``.
    """
    rows = [row for case in cases for row in case.rows()]
    table = summarize(rows, MEASURED, by=("region",))
    members = groups(rows, ("region",))
    for line in table:
        interval = bootstrap(finite(members[line["region"],], line["measure"]), "mean")
        line |= {"mean_low": interval.low, "mean_high": interval.high}
    return table


def count_lesions(cases: Sequence[LesionCase]) -> list[dict[str, Any]]:
    """Lesions over all cases, one row per region: ``found``, ``missed``, ``false_positives``, ``left_out``."""
    rows = [row for case in cases for row in case.rows()]
    return [
        {"region": region, **{key: sum(row[key] for row in members)
                              for key in ("found", "missed", "false_positives", "left_out")}}
        for (region,), members in groups(rows, ("region",)).items()
    ]  # fmt: skip


def absent_regions(cases: Sequence[LesionCase], rules: LesionRules) -> list[str]:
    """Regions of which no scored case has a label: each scores 1, and its labels may be wrong."""
    present = {label for case in cases for label in case.present}
    return [name for name, group in rules.regions.items() if not present & set(group)]


def _labels(path: Path, settings: LesionSettings) -> Volume:
    header, _ = read_header(path)
    if header.frames > 1:
        raise InputError(
            f"{path}: has {header.frames} frames (shape {' x '.join(map(str, header.shape))}); a label map is 3-D: cut "
            "one out, or turn channels into labels first"
        )
    volume = read_labels(path)
    if settings.relabel:
        labels = volume.data.copy()
        for old, new in settings.relabel.items():
            labels[volume.data == old] = new
        volume = volume.with_data(labels)
    known = settings.rules.labels
    unknown = [label for label in label_sizes(volume.data) if label not in known] if settings.preset else []
    if unknown:
        raise InputError(
            f"{path}: holds label {', '.join(map(str, unknown))}, which {settings.preset} does not know (it knows "
            f"{', '.join(map(str, known))}); rename with --map {unknown[0]}={known[-1]}, or --map {unknown[0]}=0 to "
            "leave it out"
        )
    return volume


def _measured_or_fault(pair: Pair, settings: LesionSettings) -> LesionCase:
    try:
        return measure_case(pair, settings)
    except NeuralprepError as error:
        return LesionCase(pair.name, fault=str(error))

