"""Pages: everything is in them, nothing is fetched, and no name can break out of its place."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.pipeline import Result, Settings
from neuralprep.report import write_index, write_scan
from neuralprep.stages.quality import Quality
from neuralprep.templates import Template
from neuralprep.transform import Affine
from neuralprep.volume import Volume

EVIL = "scan<script>alert(1)</script>&\"'"


class _Page(HTMLParser):
    """Tags with their attributes, and the text that a person sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags for key, value in attributes.items() if key == name and value]


def _result(**settings: Any) -> Result:
    grid = Grid.centered((40, 44, 36), 5.0, (3, -8, 12))
    points = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    inside = np.linalg.norm((points - grid.center) / (66, 80, 62), axis=-1) < 1
    rng = np.random.default_rng(0)
    scan = Volume(np.where(inside, rng.normal(100, 20, grid.shape), 5).astype(np.float32), grid, Path("in", EVIL),
                  ("2 voxels that were not a number were set to 0",))
    mask = scan.with_data(inside.astype(np.uint8))
    outputs: dict[str, Any] = {
        "brain_mask": mask, "nocsf_mask": mask, "multiplier": scan.with_data(np.full(grid.shape, 0.01, np.float32)),
        "preproc": scan, "preproc_brain": scan, "space_preproc": scan, "space_preproc_brain": scan,
        "template_from_scan": Affine(np.eye(4)),
    }
    quality = Quality({"icv_ml": 900.0, "template_dice": 0.91, "brand_new": 1.5}, "check",
                      ("Volume inside the skull is 900 ml, below 1000 ml: look.",), ("thick slices",))
    return Result(scan, Settings(**settings), outputs, quality, {"look": 1.25, "strip": 0.5},
                  {"model": "npp", "model_sha256": "c0ffee", "registration": {"method": "affine"}})


def _template(result: Result) -> Template:
    mask, image = result.outputs["brain_mask"], result.outputs["preproc"]
    assert isinstance(mask, Volume)
    assert isinstance(image, Volume)
    part = mask.with_data(mask.data.astype(np.float32))
    return Template("MNI152NLin2009aSym", mask.grid, image, mask, part, part, part)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    (folder / "sub-01_desc-brain_mask.nii.gz").write_bytes(b"")
    (folder / "sub-01_desc-brain_mask.json").write_bytes(b"")
    result = _result(lam=0.5)
    return write_scan(result, folder, "sub-01_T1w", {"seconds": 4.25}, _template(result))


def test_files_have_the_names_of_the_table(page: Path) -> None:
    assert page.name == "sub-01_report.html"
    overview = page.with_name("sub-01_overview.png").read_bytes()
    assert overview.startswith(b"\x89PNG\r\n")
    assert not list(page.parent.glob(".*"))


def test_the_page_stands_alone_and_is_small(page: Path) -> None:
    assert page.stat().st_size < 1_500_000
    parsed = _Page(page)
    pictures = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) == 7
    assert all(source and source.startswith("data:image/png;base64,") for source in pictures)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert not parsed.attributes("href")
    assert not re.search(r"url\(|@import|https?://", page.read_text(encoding="utf-8"))


def test_the_page_says_everything(page: Path) -> None:
    text = _Page(page).text
    for words in (
        "check", "below 1000 ml: look.", "thick slices", "not a number were set to 0", "4.2 s",
        "40 x 44 x 36", "5 x 5 x 5 mm", "RAS (towards right, front, top)",
        "900 ml", "1000 to 2100", "0.910", "at least 0.880", "brand_new",
        "lam", "0.5", "1.25 s", "c0ffee", "registration method",
        "sub-01_desc-brain_mask.nii.gz", "Inside of the skull", "sub-01_quality.json",
        "MICCAI 2023", "Fonov", "lambda = 0.5",
    ):  # fmt: skip
        assert words in text, words
    assert "sub-01_desc-brain_mask.json" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    result = _result()
    result = replace(result, quality=replace(result.quality, reasons=(f"{EVIL} is odd",)))
    parsed = _Page(write_scan(result, tmp_path, "a", {"source": EVIL}, _template(result)))
    assert EVIL in parsed.text
    assert "script" not in {tag for tag, _ in parsed.tags}
    record = {"name": EVIL, "source": EVIL, "status": "failed", "reasons": [EVIL], "seconds": 1, "measures": {}}
    index = _Page(write_index(tmp_path, [record]))
    assert index.text.count(EVIL) == 3
    assert [tag for tag, _ in index.tags].count("script") == 1


def test_undecodable_file_names_do_not_stop_the_report(tmp_path: Path) -> None:
    name = b"sc\xe4n".decode("utf-8", "surrogateescape")
    result = _result()
    assert write_scan(result, tmp_path, "scan", {"source": name}, _template(result)).is_file()
    record = {"name": name, "source": name, "status": "ok", "reasons": [], "seconds": 1, "measures": {}}
    assert "\\udce4" in write_index(tmp_path, [record]).read_text(encoding="utf-8")


@pytest.mark.parametrize("kept", [(), ("preproc",), ("brain_mask", "preproc_brain"), ("space_preproc",)], ids=str)
def test_switched_off_outputs_leave_their_figures_out(tmp_path: Path, kept: tuple[str, ...]) -> None:
    result = _result()
    result = replace(result, outputs={name: result.outputs[name] for name in kept})
    parsed = _Page(write_scan(result, tmp_path, "scan"))
    pictures = {"brain_mask": 1, "preproc": 1, "preproc_brain": 1}  # and "before", always
    assert len([tag for tag, _ in parsed.tags if tag == "img"]) == 1 + sum(pictures.get(name, 0) for name in kept)
    assert ("Brain outline" in parsed.text) == ("brain_mask" in kept)
    assert "Alignment with the template" not in parsed.text


def _records(out: Path) -> list[dict[str, Any]]:
    for name in ("good one", "odd"):
        (out / name).mkdir()
        (out / name / f"{name}_report.html").write_text("x")
        (out / name / f"{name}_overview.png").write_bytes(b"x")
    base = {"source": "/raw/x.nii.gz", "seconds": 2.0, "reasons": []}
    return [
        {**base, "name": "good one", "status": "ok", "measures": {"icv_ml": 1500.4, "template_dice": 0.95}},
        {**base, "name": "odd", "status": "check", "reasons": ["a", "b", "c"], "measures": {"icv_ml": 900.0}},
        {**base, "name": "bad", "status": "failed", "reasons": ["the stream ends early"], "measures": {},
         "folder": None},
    ]


def test_index_lists_all_with_links_that_work(tmp_path: Path) -> None:
    path = write_index(tmp_path, _records(tmp_path))
    parsed = _Page(path)
    assert path == tmp_path / "index.html"
    rows = [attributes["data-status"] for tag, attributes in parsed.tags if tag == "tr" and "data-status" in attributes]
    assert rows == ["failed", "check", "ok"]
    assert set(parsed.attributes("href")) == {"good%20one/good%20one_report.html", "odd/odd_report.html"}
    assert set(parsed.attributes("src")) == {"good%20one/good%20one_overview.png", "odd/odd_overview.png"}
    assert all(attributes["loading"] == "lazy" for tag, attributes in parsed.tags if tag == "img")
    for words in ("3 scans", "the stream ends early", "1 more", "1500", "0.950", "no picture"):
        assert words in parsed.text, words
    assert not re.search(r"https?://", path.read_text(encoding="utf-8"))


def test_index_takes_the_records_of_a_run(tmp_path: Path) -> None:
    from neuralprep.engine.record import ScanRecord

    write_index(tmp_path, [ScanRecord("scan", "/raw/scan.nii.gz", "check", ("Too small.; Too far.",), 0.5)])
    parsed = _Page(tmp_path / "index.html")
    assert "Too small.Too far." in parsed.text.replace("\n", "")
    assert [tag for tag, _ in parsed.tags].count("li") == 2
    write_index(tmp_path, [])
    assert "0 scans" in _Page(tmp_path / "index.html").text


def test_index_of_a_thousand_scans_is_quick_to_load(tmp_path: Path) -> None:
    records = [{"name": f"s{i}", "source": f"/raw/s{i}.nii.gz", "status": "ok", "reasons": [], "seconds": 3.0,
                "measures": {"icv_ml": 1400.0 + i}} for i in range(1000)]
    assert write_index(tmp_path, records).stat().st_size < 1_500_000
