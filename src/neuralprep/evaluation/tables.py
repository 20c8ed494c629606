"""Tables of scores: summaries with confidence intervals, comparisons of methods, Markdown, CSV and JSON.

A row is one case of one method: a mapping with ``case``, further keys that group it (``method``, ``contrast``, ...)
and scores. A missing score is None; infinite scores (nothing was found) are counted apart, because a mean of them
says nothing and leaving them out in silence would flatter.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.evaluation.scores import MEASURES, Measure
from neuralprep.evaluation.statistics import PairedTest, bootstrap, family, paired_test
from neuralprep.files import write_atomic

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PaperTable:
    """One of NPP's tables: its title and the measures in their order.

    Source: He et al., "Neural Pre-processing", MICCAI 2023, Tables 1 to 4 and Figures 3 to 5.
    """

    title: str
    measures: tuple[str, ...]
    by: tuple[str, ...] = ("method",)


PAPER_TABLES: dict[str, PaperTable] = {
    "timing": PaperTable("Time per volume (NPP, Table 1)", ("seconds", "cpu_seconds")),
    "extraction": PaperTable(
        "Brain extraction (NPP, Figure 3)", ("dice", "sensitivity", "specificity", "msd", "rmsd", "hd", "hd95")
    ),
    "intensity": PaperTable(
        "Intensity normalisation (NPP, Table 2)", ("ssim", "psnr", "field_ssim", "field_psnr", "gain_error")
    ),
    "lambda": PaperTable(
        "Smoothness lambda (NPP, Table 3)", ("ssim", "psnr", "field_ssim", "field_psnr", "gain_error"), ("lambda",)
    ),
    "ablation": PaperTable("Variants of the network (NPP, Table 4)", ("ssim",)),
    "spatial": PaperTable("Spatial normalisation (NPP, Figure 5)", ("mean_dice", "mean_mm")),
}


def finite(rows: Iterable[Row], measure: str) -> list[float]:
    """The finite scores of a measure; rows without it are left out."""
    values = (row.get(measure) for row in rows)
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def groups(rows: Iterable[Row], by: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of the keys `by`, in order of appearance."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in by), []).append(row)
    return found


def summarize(rows: Sequence[Row], measures: Sequence[str], by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Summary of every measure in every group, one row per group and measure.

    Parameters
    ----------
    rows
        Scores per case.
    measures
        Names of scores.
    by
        Keys that make the groups.

    Returns
    -------
    list of dict
        The group's keys, ``measure``, ``cases`` (finite scores), ``infinite`` (or NaN), ``median`` with its
        95 % bootstrap interval ``median_low`` and ``median_high``, ``mean``, ``sd``, 5th and 95th percentiles
        ``p5`` and ``p95``, and ``worst`` (None where neither way is better).
    """
    table = []
    for key, members in groups(rows, by).items():
        for measure in measures:
            given = [row[measure] for row in members if row.get(measure) is not None]
            if not given:
                continue
            values = finite(members, measure)
            line = {**dict(zip(by, key, strict=True)), "measure": measure, "cases": len(values)}
            table.append(line | {"infinite": len(given) - len(values)} | _described(values, measure))
    return table


def compare(
    rows: Sequence[Row], measures: Sequence[str], reference: str, key: str = "method"
) -> list[dict[str, Any]]:
    """Paired Wilcoxon tests of a reference method against every other on the same cases.

    The p-values of the whole table are corrected together (Holm).

    Parameters
    ----------
    rows
        Scores with ``case`` and `key`.
    measures
        Names of scores; those that merely describe (volumes) are left out.
    reference
        Method that the others are compared with.
    key
        Which key tells the methods apart.

    Returns
    -------
    list of dict
        ``measure``, ``against``, ``cases``, ``difference`` (median of reference minus other) with ``difference_low``
        and ``difference_high``, ``effect`` (rank-biserial), ``p``, ``p_holm`` and ``better`` (which method, or "").
    """
    by_method = {str(name[0]): {row["case"]: row for row in members} for name, members in groups(rows, (key,)).items()}
    ours = by_method.get(reference, {})
    tests: dict[str, PairedTest] = {}
    sides: dict[str, tuple[str, str]] = {}
    for measure in (m for m in measures if _best(m)):
        for other, theirs in by_method.items():
            cases = [case for case in ours if case in theirs] if other != reference else []
            scores = [(ours[case].get(measure), theirs[case].get(measure)) for case in cases]
            pairs = [(a, b) for a, b in scores if a is not None and b is not None and math.isfinite(a - b)]
            if pairs:
                name = f"{measure} {other}"
                tests[name] = paired_test([a for a, _ in pairs], [b for _, b in pairs])
                sides[name] = (measure, other)
    table = []
    for name, test in family(tests).items():
        measure, other = sides[name]
        table.append({
            "measure": measure, "against": other, "cases": test.cases, "difference": test.difference.estimate,
            "difference_low": test.difference.low, "difference_high": test.difference.high, "effect": test.effect,
            "p": test.p, "p_holm": test.p_holm, "better": _better(test, measure, reference, other),
        })
    return table


def wide(
    summary: Sequence[Row], measures: Sequence[str], by: Sequence[str] = (), spread: str = "interval"
) -> list[dict[str, Any]]:
    """A long summary as one line per group with a text per measure, for reading.

    Parameters
    ----------
    summary
        From `summarize`.
    measures
        Columns, in order.
    by
        Keys that make the groups.
    spread
        "interval": median [95 % interval]; "sd": mean ± standard deviation, as NPP's tables have it.
    """
    table = []
    for key, members in groups(summary, by).items():
        line: dict[str, Any] = dict(zip(by, key, strict=True))
        lines = {row["measure"]: row for row in members}
        line["cases"] = max(row["cases"] + row["infinite"] for row in members)
        for measure in measures:
            line[column(measure)] = _spread_text(lines[measure], spread) if measure in lines else None
        table.append(line)
    return table


def column(measure: str) -> str:
    """Heading of a measure, with its unit."""
    found = MEASURES.get(measure, Measure(measure))
    return f"{found.label} ({found.unit})" if found.unit else found.label


def paper_table(name: str, rows: Sequence[Row], extra: Sequence[str] = ()) -> str:
    """One of NPP's tables in Markdown: title, mean ± SD per method (or per lambda), further groups first.

    Raises
    ------
    KeyError
        There is no such table.
    """
    table = PAPER_TABLES[name]
    by = (*extra, *table.by)
    summary = summarize(rows, table.measures, by)
    present = [m for m in table.measures if any(row["measure"] == m for row in summary)]
    lines = wide(summary, present, by, spread="sd")
    return f"{table.title}\n\n{markdown(lines, [*by, 'cases', *map(column, present)])}"


def markdown(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A Markdown table; missing cells are a dash, floats get three significant decimals or fewer."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """One value as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        if 0 < abs(value) < 5e-4:
            return f"{value:.1e}"
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows with the union of their keys as columns; infinite scores are ``inf``, missing ones empty.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, [lambda: stream.getvalue().encode()])


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file; scores that are not finite become null, as JSON has no word for them.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
    write_atomic(path, [text.encode])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(values: list[float], measure: str) -> dict[str, Any]:
    if not values:
        return dict.fromkeys(("median", "median_low", "median_high", "mean", "sd", "p5", "p95", "worst"))
    middle = bootstrap(values)
    best = _best(measure)
    return {
        "median": middle.estimate,
        "median_low": middle.low,
        "median_high": middle.high,
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        "p5": float(np.percentile(values, 5)),
        "p95": float(np.percentile(values, 95)),
        "worst": min(values) if best == "high" else max(values) if best == "low" else None,
    }


def _spread_text(line: Row, spread: str) -> str:
    lost = f" ({line['infinite']} infinite)" if line["infinite"] else ""
    if line["median"] is None:
        return f"-{lost}"
    if spread == "sd":
        tail = "" if math.isnan(line["sd"]) else f" ± {cell(line['sd'])}"
        return f"{cell(line['mean'])}{tail}{lost}"
    tail = "" if math.isnan(line["median_low"]) else f" [{cell(line['median_low'])}, {cell(line['median_high'])}]"
    return f"{cell(line['median'])}{tail}{lost}"


def _better(test: PairedTest, measure: str, reference: str, other: str, level: float = 0.05) -> str:
    best = _best(measure)
    if test.p_holm >= level or not best or not test.effect:
        return ""
    return reference if (test.effect > 0) == (best == "high") else other


def _best(measure: str) -> str:
    """Which way is better; "" for scores that merely describe and for unknown ones."""
    return MEASURES[measure].best if measure in MEASURES else ""
