"""The page of a batch and of any other group: data as JSON that no name can leave, links that work, decisions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from neuralprep.report import write_group, write_index
from neuralprep.report.decisions import decide, write_decisions
from report.sample_result import EVIL
from report.test_scan_page import Page


def _data(path: Path) -> dict[str, Any]:
    """What the page knows, read as a browser does: the data element up to the first closing tag."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def make_batch(out: Path) -> list[dict[str, Any]]:
    """Files and records of four scans, one of them failed."""
    for name in ("good one", "odd", "third"):
        (out / name).mkdir()
        (out / name / f"{name}_report.html").write_text("<!doctype html><title>report</title>x")
        (out / name / f"{name}_overview.png").write_bytes(b"x")
        (out / name / f"{name}_quality.json").write_text("{}")
    (out / "bad.error.txt").write_text("traceback")
    base = {"source": "/raw/x.nii.gz", "seconds": 2.0, "reasons": []}
    return [
        {**base, "name": "good one", "status": "ok", "measures": {"icv_ml": 1500.4, "template_dice": 0.95}},
        {**base, "name": "odd", "status": "check", "reasons": ["Too small.; Too far."], "measures": {"icv_ml": 900.0}},
        {**base, "name": "third", "status": "ok", "measures": {"icv_ml": 1300.0, "template_dice": float("nan")}},
        {**base, "name": "bad", "status": "failed", "reasons": ["the stream ends early"], "measures": {},
         "folder": None},
    ]  # fmt: skip


def test_index_holds_all_scans_with_links_that_work(tmp_path: Path) -> None:
    path = write_index(tmp_path, make_batch(tmp_path))
    assert path == tmp_path / "index.html"
    scans = _data(path)["scans"]
    assert [scan["name"] for scan in scans] == ["bad", "odd", "good one", "third"]
    assert scans[2]["page"] == "good%20one/good%20one_report.html"
    assert scans[2]["picture"] == "good%20one/good%20one_overview.png"
    assert scans[0]["error"] == "bad.error.txt"
    assert "page" not in scans[0]
    assert scans[1]["reasons"] == ["Too small.", "Too far."]
    parsed = Page(path)
    assert "4 scans, 8 seconds" in parsed.text
    assert "https:" not in path.read_text(encoding="utf-8")
    policy = parsed.policy()
    assert policy["default-src"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    assert "'unsafe-inline'" not in policy["script-src"] + policy["style-src"]


def test_measures_stand_in_the_order_of_the_columns(tmp_path: Path) -> None:
    data = _data(write_index(tmp_path, make_batch(tmp_path)))
    assert [column["name"] for column in data["columns"]] == ["icv_ml", "template_dice"]
    values = {scan["name"]: scan["values"] for scan in data["scans"]}
    assert values == {"bad": [None, None], "odd": [900.0, None], "good one": [1500.4, 0.95], "third": [1300.0, None]}


def test_names_cannot_leave_the_data(tmp_path: Path) -> None:
    record = {"name": EVIL, "source": "</script><script>1</script>", "status": "failed", "reasons": ["<!--<script>"],
              "seconds": 1, "measures": {EVIL: 1.0}}
    path = write_index(tmp_path, [record])
    scan = _data(path)["scans"][0]
    assert (scan["name"], scan["source"], scan["reasons"]) == (EVIL, "</script><script>1</script>", ["<!--<script>"])
    assert len(Page(path).inside["script"]) == 4
    group = write_group(tmp_path / "group.html", [{"name": "a", "measures": {}}], EVIL)
    assert EVIL in Page(group).text
    name = b"sc\xe4n".decode("utf-8", "surrogateescape")
    assert _data(write_index(tmp_path, [{**record, "name": name}]))["scans"][0]["name"] == name


def test_index_takes_the_records_of_a_run(tmp_path: Path) -> None:
    from neuralprep.engine.record import ScanRecord

    write_index(tmp_path, [ScanRecord("scan", "/raw/scan.nii.gz", "check", ("Too small.; Too far.",), 0.5)])
    assert _data(tmp_path / "index.html")["scans"][0]["reasons"] == ["Too small.", "Too far."]
    write_index(tmp_path, [])
    assert "0 scans" in Page(tmp_path / "index.html").text


def test_decisions_are_shown_and_old_ones_marked(tmp_path: Path) -> None:
    import os

    records = make_batch(tmp_path)
    for name in ("odd", "third"):
        os.utime(tmp_path / name / f"{name}_quality.json", (1e9, 1e9))
    write_decisions(tmp_path, [decide("odd", "reject", "cut <b>"), decide("third", "accept", "")])
    quality = tmp_path / "third" / "third_quality.json"
    later = quality.stat().st_mtime + 2e9
    os.utime(quality, (later, later))
    scans = {scan["name"]: scan for scan in _data(write_index(tmp_path, records))["scans"]}
    assert scans["odd"]["decision"] == "reject"
    assert scans["odd"]["note"] == "cut <b>"
    assert "stale" not in scans["odd"]
    assert scans["third"]["stale"] is True
    assert "decision" not in scans["good one"]


def test_a_damaged_table_of_decisions_is_said_and_stops_nothing(tmp_path: Path) -> None:
    records = make_batch(tmp_path)
    (tmp_path / "review.tsv").write_text("scan\tdecision\nodd\tmaybe\n")
    path = write_index(tmp_path, records)
    assert "Decisions are not shown" in Page(path).text
    assert len(_data(path)["scans"]) == 4


def test_a_group_page_is_the_same_page_without_review(tmp_path: Path) -> None:
    entries = [{"name": f"sub-{n:02d}", "measures": {"icv_ml": 1400.0 + n, "hippocampus_ml": 3.0 + n / 10}}
               for n in range(5)]
    path = write_group(tmp_path / "group.html", entries, "Cohort")
    data = _data(path)
    assert data["review"] is False
    assert [column["name"] for column in data["columns"]] == ["icv_ml", "hippocampus_ml"]
    assert data["columns"][1]["low"] is None
    assert "Accept" not in Page(path).text


def test_thousands_of_scans_stay_small(tmp_path: Path) -> None:
    from neuralprep.stages.quality_limits import MEASURES

    records = [{"name": f"s{i}", "source": f"/raw/s{i}.nii.gz", "status": "ok", "reasons": [], "seconds": 3.0,
                "measures": {measure.name: 1400.123456 + i for measure in MEASURES}} for i in range(1000)]
    assert write_index(tmp_path, records).stat().st_size < 1_000_000
