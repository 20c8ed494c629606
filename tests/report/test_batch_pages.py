"""Group level, pages of participants and the methods text of many scans."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuralprep.engine.record import ScanRecord
from neuralprep.report import write_citation, write_group_level, write_subjects
from neuralprep.report.boilerplate import batch_boilerplate
from neuralprep.report.decisions import decide, write_decisions
from neuralprep.report.group_table import FENCE, Outlier, fences, outliers
from report.test_group_page import _data


def record(status: str = "ok", **changes: Any) -> dict[str, Any]:
    """What stands in the quality record of a scan."""
    provenance = {"neuralprep": "9.8.7", "model": "npp", "model_sha256": "c0ffee", "lambda": 0.1, "ct_window": False,
                  "bias": changes.pop("bias", "refined"),
                  "registration": {"method": "network", "score": 0.7}}  # fmt: skip
    return {
        "status": status, "reasons": ["Look."] if status == "check" else [], "seconds": 2.0, "version": "9.8.7",
        "weights": "c0ffee", "measures": {"icv_ml": 1500.0, "template_dice": 0.9}, "provenance": provenance,
        "settings": {"strip": True, "normalize": True, "register": True, "lam": 0.1, "space": "MNI152NLin2009aSym",
                     "resolution": None, "native_resolution": False}, "mask": None, "keep": None,
        "outputs": ["brain_mask", "preproc", "multiplier", "template_from_scan", "space_preproc"], **changes,
    }  # fmt: skip


def group(count: int = 12, suffix: str = "T1w", **last: float) -> dict[str, dict[str, Any]]:
    """Scans with nearly the same volume; the last has the measures given."""
    usual = [{"icv_ml": 1500.0 + n, "template_dice": 0.9} for n in range(count)]
    made = {f"sub-{n:02d}_{suffix}": record(measures=measures) for n, measures in enumerate(usual)}
    made[f"sub-{count - 1:02d}_{suffix}"]["measures"] |= last
    return made


@pytest.mark.parametrize("seed", range(5))
def test_fences_are_tukeys(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=40)
    low, high = fences(values)
    first, third = np.percentile(values, [25, 75])
    assert low == pytest.approx(first - FENCE * (third - first))
    assert high == pytest.approx(third + FENCE * (third - first))
    assert fences(values[:7]) == (-math.inf, math.inf)
    assert fences([1.0] * 20) == (-math.inf, math.inf)


def test_outliers_are_found_within_a_contrast() -> None:
    found = outliers(group(icv_ml=900.0))
    assert found == {
        "sub-11_T1w": [Outlier("icv_ml", "Far from the other T1w: Inside skull 900 ml.")]}
    assert outliers(group(7, icv_ml=900.0)) == {}
    mixed = {**group(), **{name: record(measures={"icv_ml": 700.0 + n}) for n, name in
                           enumerate(f"sub-{k:02d}_T2w" for k in range(12))}}  # fmt: skip
    assert outliers(mixed) == {}


def test_group_level_describes_every_column_and_shows_outliers(tmp_path: Path) -> None:
    contents = {**group(icv_ml=900.0), "sub-20_ses-1_run-2_FLAIR": record("check")}
    failed = [ScanRecord("sub-21_T1w", "/raw/x", "failed", ("the stream\tends early",))]
    write_decisions(tmp_path, [decide("sub-11_T1w", "reject", "half a brain"), decide("sub-21_T1w", "accept", "")])
    page, count = write_group_level(tmp_path, contents, failed)
    assert count == 1
    with (tmp_path / "group.tsv").open() as stream:
        rows = {row["scan"]: row for row in csv.DictReader(stream, delimiter="\t")}
    described = json.loads((tmp_path / "group.json").read_text())
    assert list(described) == list(rows["sub-00_T1w"])
    assert all(column.get("Description") for column in described.values())
    assert described["icv_ml"]["Units"] == "ml"
    assert rows["sub-11_T1w"]["outliers"] == "icv_ml"
    assert [rows[f"sub-{n}_T1w"]["decision"] for n in (10, 11, 21)] == ["n/a", "reject", "accept"]
    assert rows["sub-20_ses-1_run-2_FLAIR"]["session_id"] == "ses-1"
    assert rows["sub-20_ses-1_run-2_FLAIR"]["reasons"] == "Look."
    assert (rows["sub-21_T1w"]["status"], rows["sub-21_T1w"]["reasons"]) == ("failed", "the stream ends early")
    assert rows["sub-21_T1w"]["icv_ml"] == "n/a"
    scans = {scan["name"]: scan for scan in _data(page)["scans"]}
    assert scans["sub-11_T1w"]["reasons"] == ["Far from the other T1w: Inside skull 900 ml."]
    assert len(_data(tmp_path / "group_FLAIR.html")["scans"]) == 1
    assert len(_data(tmp_path / "group_T1w.html")["scans"]) == 13
    write_group_level(tmp_path, group(), [])
    assert not list(tmp_path.glob("group_*.html"))  # one contrast needs no pages beside the first


def test_a_failed_redo_counts_as_failed(tmp_path: Path) -> None:
    write_group_level(tmp_path, group(), [ScanRecord("sub-00_T1w", "x", "failed", ("no",))])
    with (tmp_path / "group.tsv").open() as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["scan"] == "sub-00_T1w"]
    assert [row["status"] for row in rows] == ["failed"]


def test_pages_of_participants_hold_their_scans_and_links(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01/ses-1/anat"
    folder.mkdir(parents=True)
    for ending in ("report.html", "overview.png", "quality.json"):
        (folder / f"sub-01_ses-1_T1w_{ending}").write_text("{}")
    records = [ScanRecord(f"sub-{n}_ses-1_T1w", "x", "ok", measures={"icv_ml": 1500.0}) for n in ("01", "010")]
    write_subjects(tmp_path, records, {"sub-01", "sub-02"})
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["sub-01.html"]
    (scan,) = _data(tmp_path / "sub-01.html")["scans"]
    assert scan["page"] == "sub-01/ses-1/anat/sub-01_ses-1_T1w_report.html"
    assert scan["picture"] == "sub-01/ses-1/anat/sub-01_ses-1_T1w_overview.png"


def test_each_way_of_processing_has_its_text(tmp_path: Path) -> None:
    ways = [record(), record(), record("check"), record(bias="smoothed: poor fit"), record(mask={"size": 1})]
    made = batch_boilerplate(ways)
    assert [count for count, _ in made] == [3, 1, 1]
    text = " ".join(made[0][1].paragraphs)
    assert "3 head scans were processed with neuralprep 9.8.7" in text
    assert "in 1 of the 3 scans some were outside" in text
    assert "0.700" not in text  # the score is of one scan
    rest = " ".join(paragraph for _, one in made[1:] for paragraph in one.paragraphs)
    assert "not close enough" in rest
    assert "mask that the user gave" in rest
    path = write_citation(tmp_path, ways)
    assert path is not None
    assert path.read_text().count("## ") == 3
    assert write_citation(tmp_path, []) is None


def test_scores_and_order_of_outputs_make_no_way_of_their_own() -> None:
    other = record(outputs=["space_preproc", "template_from_scan", "multiplier", "preproc", "brain_mask"])
    other["provenance"] |= {"registration": {"method": "network", "score": 0.31}, "pose_residual_mm": 2.0}
    assert [count for count, _ in batch_boilerplate([record(), other])] == [2]
