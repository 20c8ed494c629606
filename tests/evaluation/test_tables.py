"""Summaries, comparisons and the files they are written to, from scores made up here."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from neuralprep.errors import InputError
from neuralprep.evaluation.figures import box_plots
from neuralprep.evaluation.tables import (
    PAPER_TABLES,
    cell,
    compare,
    markdown,
    paper_table,
    summarize,
    wide,
    write_csv,
    write_json,
)


def rows(cases: int = 12) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.9, 0.95, cases)
    made: list[dict[str, object]] = []
    for k in range(cases):
        look = "T1w" if k % 2 else "T2w"
        made.append({"case": f"c{k}", "method": "ours", "contrast": look, "dice": base[k] + 0.02, "hd": 3.0 + k % 3,
                     "seconds": 2.0, "volume": 1400.0})
        made.append({"case": f"c{k}", "method": "peer", "contrast": look, "dice": base[k] + rng.normal(0, 0.004),
                     "hd": 6.0 + k % 3, "seconds": None, "volume": 1500.0})
    return made


def test_summary() -> None:
    table = summarize(rows(), ["dice", "seconds"], ["method"])
    keys = [(line["method"], line["measure"]) for line in table]
    assert keys == [("ours", "dice"), ("ours", "seconds"), ("peer", "dice")]  # the peer has no times at all
    values = [row["dice"] for row in rows() if row["method"] == "ours"]
    line = table[0]
    assert line["median"] == np.median(values)
    assert line["median_low"] <= line["median"] <= line["median_high"]
    assert line["worst"] == min(values)  # the higher the better
    assert line["p5"] == pytest.approx(np.percentile(values, 5))
    assert line["sd"] == pytest.approx(np.std(values, ddof=1))
    assert summarize(rows(), ["hd"], ["method"])[0]["worst"] == 5.0  # the lower the better


def test_infinite_scores_are_counted_and_not_averaged() -> None:
    lost = [{"case": "a", "hd": 4.0}, {"case": "b", "hd": math.inf}, {"case": "c", "hd": None}]
    line = summarize(lost, ["hd"])[0]
    assert (line["cases"], line["infinite"], line["median"]) == (1, 1, 4.0)
    assert wide([line], ["hd"])[0]["Hausdorff distance (mm)"] == "4.00 (1 infinite)"
    nothing = summarize([{"case": "a", "hd": math.inf}], ["hd"])
    assert wide(nothing, ["hd"])[0]["Hausdorff distance (mm)"] == "- (1 infinite)"


def test_comparison_is_paired_and_corrected() -> None:
    shuffled = rows()[::-1]  # pairs are found by case, whatever the order
    table = compare(shuffled, ["dice", "hd", "volume"], "ours")
    assert [line["measure"] for line in table] == ["dice", "hd"]  # a volume is neither good nor bad
    by_case = {row["case"]: {} for row in shuffled}
    for row in shuffled:
        by_case[row["case"]][row["method"]] = row["dice"]
    difference = [pair["ours"] - pair["peer"] for pair in by_case.values()]
    assert table[0]["p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert table[0]["difference"] == pytest.approx(np.median(difference))
    assert table[0]["p_holm"] == pytest.approx(min(1, 2 * table[0]["p"]))
    assert table[0]["better"] == table[1]["better"] == "ours"
    assert table[1]["effect"] == -1  # shorter distances in every case
    assert compare(shuffled, ["dice"], "nobody") == []


def test_paper_tables_are_mean_and_sd() -> None:
    text = paper_table("extraction", rows())
    assert text.startswith("Brain extraction (NPP, Figure 3)")
    values = [row["hd"] for row in rows() if row["method"] == "ours"]
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in text
    assert "sensitivity" not in text  # no case has it
    by_contrast = paper_table("extraction", rows(), ("contrast",))
    assert by_contrast.count("T2w") == 2
    assert set(PAPER_TABLES) == {"timing", "extraction", "intensity", "lambda", "ablation", "spatial"}


def test_cells() -> None:
    shown = [cell(value) for value in (None, math.nan, 0.0, 1e-5, 0.97123, 12.345, 1234.5, "x", 7)]
    assert shown == ["-", "-", "0.000", "1.0e-05", "0.971", "12.35", "1234", "x", "7"]
    assert markdown([{"a": 1}], ["a", "b"]).splitlines() == ["| a | b |", "|---|---|", "| 1 | - |"]


def test_files(tmp_path: Path) -> None:
    table = [{"case": "a, b", "hd": math.inf}, {"case": "c", "hd": 1.5, "extra": np.float32(2)}]
    write_csv(table, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as stream:
        read = list(csv.DictReader(stream))
    assert read == [{"case": "a, b", "hd": "inf", "extra": ""}, {"case": "c", "hd": "1.5", "extra": "2.0"}]
    write_json({"rows": table, "path": tmp_path}, tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    assert content == {"rows": [{"case": "a, b", "hd": None}, {"case": "c", "hd": 1.5, "extra": 2.0}],
                       "path": str(tmp_path)}
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(table, tmp_path / "none" / "t.csv")


def test_box_plots_show_every_case(tmp_path: Path) -> None:
    made = [*rows(), {"case": "x", "method": "peer", "dice": 0.0, "hd": math.inf}]
    box_plots(made, ["dice", "hd", "msd"], tmp_path / "f.svg", title="Brain extraction")
    drawing = (tmp_path / "f.svg").read_text()
    assert drawing.count("PathCollection") == 4  # two methods on two panels; nobody has the third score
    box_plots(made, ["dice"], tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="unknown ending"):
        box_plots(made, ["dice"], tmp_path / "f.txt")
    with pytest.raises(InputError, match="no finite scores"):
        box_plots(made, ["msd"], tmp_path / "f.png")
