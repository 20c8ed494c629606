"""Viewers made from the files of a batch: each from its own scan, made once, made again when the scan is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuralprep.bids.derivatives import BY_OUTPUT, QUALITY, TABLE, ScanName
from neuralprep.bids.sidecars import write_json
from neuralprep.cli import build_parser
from neuralprep.cli.run import conflict
from neuralprep.engine.record import ScanRecord, read_status, records_of, write_status
from neuralprep.errors import InputError
from neuralprep.report import viewer, write_scan
from neuralprep.review.layers import scan_viewer, write_viewers
from neuralprep.volume import Volume, save
from report.sample_result import make_result, make_template

SCAN = "sub-01_T1w"


@pytest.fixture(autouse=True)
def _no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is large and not what is tested here."""
    monkeypatch.setattr(viewer, "niivue", lambda: "bGlicmFyeQ==")


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., Path]:
    """Makes an output folder with one finished scan; outputs can be left out, and the source moved away."""

    def make(*left_out: str, source: bool = True) -> Path:
        out = tmp_path / "out"
        folder = out / SCAN
        folder.mkdir(parents=True)
        result = make_result()
        for row in TABLE:
            volume = result.outputs.get(row.output)
            if isinstance(volume, Volume) and not row.in_template and row.output not in left_out:
                save(volume, folder / f"{ScanName.of(SCAN).stem(BY_OUTPUT[row.output], '')}.nii.gz", dtype=row.dtype)
        path = tmp_path / "scan.nii.gz"
        if source:
            save(result.scan, path)
        content: dict[str, Any] = {"scan": SCAN, "status": "ok", "source": str(path), "settings": {"frame": None}}
        write_json(folder / ScanName.of(SCAN).file(QUALITY), content)
        write_status(out, [ScanRecord(SCAN, str(path), "ok")])
        return out

    return make


def _layers(page: str) -> list[str]:
    return re.findall(r'data-name="([^"]+)"', page)


def test_layers_are_the_scan_and_what_was_written(batch: Callable[..., Path]) -> None:
    assert _layers(scan_viewer(batch(), SCAN)) == ["Scan", "Normalised", "brain mask", "tissue"]


@pytest.mark.parametrize(
    ("left_out", "source", "layers"),
    [(("preproc",), False, ["Brain", "brain mask", "tissue"]), (("preproc", "preproc_brain"), True, ["Scan"]),
     ((), False, ["Normalised"]), (("nocsf_mask",), True, ["Scan", "Normalised", "brain mask"])],
)  # fmt: skip
def test_layers_that_are_missing_are_left_out(
    batch: Callable[..., Path], left_out: tuple[str, ...], source: bool, layers: list[str]
) -> None:
    found = _layers(scan_viewer(batch(*left_out, source=source), SCAN))
    assert found[: len(layers)] == layers


def test_without_any_image_it_says_what_to_do(batch: Callable[..., Path]) -> None:
    out = batch("preproc", "preproc_brain", source=False)
    with pytest.raises(InputError, match="no image to show"):
        scan_viewer(out, SCAN)
    with pytest.raises(InputError, match="no finished scan"):
        scan_viewer(out, "other")


def test_pages_are_made_once_and_again_for_new_results(batch: Callable[..., Path]) -> None:
    out = batch()
    records = records_of(read_status(out))
    page, quality = out / SCAN / "sub-01_viewer.html", out / SCAN / "sub-01_quality.json"
    assert write_viewers(out, [*records, replace(records[0], scan="bad", status="failed")]) == []
    assert "sub-01_viewer.html" in (out / "index.html").read_text()
    page.write_text("kept")
    write_viewers(out, records)
    assert page.read_text() == "kept"
    later = page.stat().st_mtime + 10
    os.utime(quality, (later, later))
    write_viewers(out, records)
    assert page.read_text().startswith("<!doctype html>")


def _linked(out: Path) -> bool:
    """Whether the page of the scan points to its viewer; it never may to a file that is not there."""
    page = (out / SCAN / "sub-01_report.html").read_text()
    links = [file for file in re.findall(r'<a href="([^"#]+)"', page) if "viewer" in file]
    assert all((out / SCAN / file).is_file() for file in links)
    return links == ["sub-01_viewer.html"]


def test_the_page_of_the_scan_links_to_its_viewer(batch: Callable[..., Path]) -> None:
    out = batch()
    result, folder, records = make_result(), out / SCAN, records_of(read_status(out))
    write_scan(result, folder, SCAN, template=make_template(result))
    assert not _linked(out)
    write_viewers(out, records)
    assert _linked(out)
    before = (folder / "sub-01_report.html").read_bytes()
    write_viewers(out, records)
    assert (folder / "sub-01_report.html").read_bytes() == before
    write_scan(result, folder, SCAN, template=make_template(result))  # drawn again: the viewer is of these results
    assert _linked(out)


def test_a_viewer_of_earlier_results_is_not_linked(batch: Callable[..., Path]) -> None:
    out = batch()
    result, folder, records = make_result(), out / SCAN, records_of(read_status(out))
    write_viewers(out, records)
    later = (folder / "sub-01_viewer.html").stat().st_mtime + 10_000
    os.utime(folder / "sub-01_quality.json", (later, later))
    write_scan(result, folder, SCAN, template=make_template(result))
    assert not _linked(out)
    write_viewers(out, records)
    assert not _linked(out), "the record is from the future here, so even the new page is older"
    os.utime(folder / "sub-01_quality.json", (1, 1))
    write_viewers(out, records)
    assert _linked(out)


def test_the_link_goes_with_the_viewer(batch: Callable[..., Path]) -> None:
    out = batch()
    result, folder, records = make_result(), out / SCAN, records_of(read_status(out))
    write_scan(result, folder, SCAN, template=make_template(result))
    write_viewers(out, records)
    assert _linked(out)
    (folder / "sub-01_viewer.html").unlink()
    (folder / "sub-01_desc-brain_mask.nii.gz").write_bytes(b"damaged")
    (fault,) = write_viewers(out, records)
    assert fault.startswith(f"no viewer of {SCAN}")
    assert not _linked(out)


def test_one_scan_that_cannot_be_shown_does_not_stop_the_others(batch: Callable[..., Path]) -> None:
    out = batch()
    records = records_of(read_status(out))
    (faults,) = write_viewers(out, [replace(records[0], scan="gone_T1w"), *records])
    assert faults.startswith("no viewer of gone_T1w")
    assert (out / SCAN / "sub-01_viewer.html").is_file()
    (out / SCAN / "sub-01_viewer.html").unlink()
    (out / SCAN / "sub-01_desc-brain_mask.nii.gz").write_bytes(b"damaged")
    (fault,) = write_viewers(out, records)
    assert "sub-01_desc-brain_mask.nii.gz" in fault


def test_the_flag_is_refused_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = build_parser().parse_args(["run", "scan.nii.gz", str(tmp_path), "--viewer"])
    monkeypatch.setattr(viewer, "_PACKAGE", "no_such_package")
    assert "neuralprep[viewer]" in conflict(arguments)
