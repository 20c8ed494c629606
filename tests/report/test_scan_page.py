"""The page of a scan: everything is in it, nothing is fetched, and no name can break out of its place."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.report import write_scan
from neuralprep.transform import Affine
from neuralprep.volume import Volume
from report.sample_result import EVIL, make_result, make_template


class Page(HTMLParser):
    """Tags with their attributes, the text that a person sees, and what stands in styles and scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: dict[str, list[str]] = {"style": [], "script": []}
        self._open: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.inside:
            self._open = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open:
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open][-1] += data
        else:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags for key, value in attributes.items() if key == name and value]

    def policy(self) -> dict[str, list[str]]:
        text = next(a["content"] for t, a in self.tags if t == "meta" and a.get("http-equiv"))
        return {part.split()[0]: part.split()[1:] for part in (text or "").split(";")}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    (folder / "sub-01_desc-brain_mask.nii.gz").write_bytes(b"")
    (folder / "sub-01_desc-brain_mask.json").write_bytes(b"")
    result = make_result(lam=0.5)
    return write_scan(result, folder, "sub-01_T1w", {"seconds": 4.25}, make_template(result))


def test_files_have_the_names_of_the_table(page: Path) -> None:
    assert page.name == "sub-01_report.html"
    overview = page.with_name("sub-01_overview.png").read_bytes()
    assert overview.startswith(b"\x89PNG\r\n")
    assert not list(page.parent.glob(".*"))


def test_the_page_stands_alone_and_is_small(page: Path) -> None:
    assert page.stat().st_size < 2 * 2**20
    parsed = Page(page)
    pictures = [attributes["href"] for tag, attributes in parsed.tags if tag == "image"]
    assert len(pictures) == 15 + 6 + 6 + 8 + 8  # before, after, field, in template space, template
    assert len(set(pictures)) == len(pictures), "no picture is embedded twice"
    assert all(source and source.startswith("data:image/png;base64,") for source in pictures)
    assert not {"iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    outside = [value for value in parsed.attributes("href") + parsed.attributes("src") if value[0] != "#"]
    assert all(value.startswith("data:") for value in outside)
    assert not re.search(r"url\((?!#)|@import|https?://", page.read_text(encoding="utf-8"))


def test_references_within_the_page_exist(page: Path) -> None:
    parsed = Page(page)
    names = parsed.attributes("id")
    assert len(set(names)) == len(names)
    used = [value[1:] for value in parsed.attributes("href") if value[0] == "#"]
    used += [part for key in ("clip-path", "data-clip", "fill") for value in parsed.attributes(key)
             for part in re.findall(r"url\(#(\w[\w-]*)\)", value)]
    assert used
    assert set(used) <= set(names)


def test_the_policy_lets_only_this_page_s_own_code_run(page: Path) -> None:
    parsed = Page(page)
    policy = parsed.policy()
    assert policy["default-src"] == ["'none'"]
    assert policy["img-src"] == ["data:"]
    assert "connect-src" not in policy
    for kind in ("style", "script"):
        sums = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in parsed.inside[kind]]
        assert policy[f"{kind}-src"] == [f"'sha256-{value}'" for value in sums]
    assert not [key for _, attributes in parsed.tags for key in attributes if key.startswith("on") or key == "style"]


def test_the_page_says_everything(page: Path) -> None:
    text = Page(page).text
    for words in (
        "check", "below 1000 ml: look.", "thick slices", "not a number were set to 0", "4.2 s",
        "40 x 44 x 36", "5 x 5 x 5 mm", "RAS (towards right, front, top)", "Tilt of the axes",
        "900 ml", "1000 to 2100", "0.910", "at least 0.880", "brand_new", "800 ml", "100 ml (11.1 %)",
        "lam", "0.5", "1.25 s", "c0ffee", "registration method",
        "sub-01_desc-brain_mask.nii.gz", "Inside of the skull", "sub-01_quality.json",
        "MICCAI 2023", "Fonov", "lambda = 0.5",
    ):  # fmt: skip
        assert words in text, words
    assert "sub-01_desc-brain_mask.json" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    result = make_result()
    result = replace(result, quality=replace(result.quality, reasons=(f"{EVIL} is odd",)),
                     provenance={EVIL: EVIL}, timings={EVIL: 1.0})
    parsed = Page(write_scan(result, tmp_path, "a", {"source": EVIL}, make_template(result)))
    assert parsed.text.count(EVIL) == 5
    assert len(parsed.inside["script"]) == 1


def test_undecodable_file_names_do_not_stop_the_report(tmp_path: Path) -> None:
    name = b"sc\xe4n".decode("utf-8", "surrogateescape")
    result = make_result()
    page = write_scan(result, tmp_path, "scan", {"source": name}, make_template(result))
    assert "sc\\udce4n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kept", "pictures", "sections"),
    [
        ((), 15, {"The scan"}),
        (("preproc",), 15 + 6, {"Bias correction and normalisation"}),
        (("brain_mask", "preproc_brain"), 15, {"Brain outline", "Histogram in the brain"}),
        (("nocsf_mask",), 15, {"Brain outline"}),
        (("multiplier",), 15 + 6, {"The scan", "Multiplier field"}),
        (("space_preproc",), 15, {"The scan"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else None,
)
def test_switched_off_outputs_leave_their_figures_out(
    tmp_path: Path, kept: tuple[str, ...], pictures: int, sections: set[str]
) -> None:
    result = make_result()
    result = replace(result, outputs={name: result.outputs[name] for name in kept})
    parsed = Page(write_scan(result, tmp_path, "scan"))
    assert len([tag for tag, _ in parsed.tags if tag == "image"]) == pictures
    possible = {"The scan", "Brain outline", "Bias correction and normalisation", "Histogram in the brain",
                "Multiplier field", "Alignment with the template", "Checkerboard and edges"}
    assert {title for title in possible if title in parsed.text} == sections


def scan_outline(page: Path) -> tuple[float, float]:
    """Leftmost and rightmost place of the scan's own outline on the first tile of the checkerboard, mm of the tile."""
    parsed = Page(page)
    paths = [attributes["d"] or "" for _, attributes in parsed.tags if attributes.get("class") == "line line2"]
    assert len(paths) == 8
    side = re.findall(r'id="squares"><path d="M[\d. ]+h([\d.]+)v', page.read_text(encoding="utf-8"))[0]
    mm = 25 / float(side)
    start, steps = re.findall(r"M(-?\d+) -?\d+l([-\d ]+)z", paths[0])[0]
    across = np.cumsum([int(start), *[int(n) for n in re.findall(r"-?\d+", steps)[::2]]]) / 4 * mm
    return float(across.min()), float(across.max())


def test_the_checkerboard_outlines_the_scans_brain_where_the_affine_puts_it(tmp_path: Path) -> None:
    result = make_result()
    template = make_template(result)
    shift = np.eye(4)
    shift[0, 3] = 15.0  # a template point is found 15 mm further right in the scan, so the scan is drawn further left
    moved = replace(result, outputs={**result.outputs, "template_from_scan": Affine(shift)})
    places = [scan_outline(write_scan(one, tmp_path, name, None, template))
              for name, one in (("still", result), ("moved", moved))]  # fmt: skip
    assert np.subtract(*places) == pytest.approx((15, 15), abs=1.5)
    without = replace(result, outputs={k: v for k, v in result.outputs.items() if k != "brain_mask"})
    parsed = Page(write_scan(without, tmp_path, "maskless", None, template))
    assert "Checkerboard and edges" in parsed.text
    assert "line line2" not in parsed.attributes("class")


def test_outlines_are_named_after_what_they_are(tmp_path: Path) -> None:
    result = make_result(border_mm=3.0)
    assert "inside of the skull, moved out by 3 mm" in Page(write_scan(result, tmp_path, "a")).text
    tissue = Page(write_scan(make_result(border_mm=-1.0, no_csf=True), tmp_path, "a")).text
    assert "brain tissue and ventricles, moved in by 1 mm" in tissue
    only = replace(make_result(), outputs={"nocsf_mask": result.outputs["nocsf_mask"]})
    parsed = Page(write_scan(only, tmp_path, "b"))
    assert "brain tissue and ventricles" in parsed.text
    assert "inside of the skull" not in parsed.text.partition("Quality measures")[0]
    assert {c for c in parsed.attributes("class") if c.startswith("line line")} == {"line line1"}
    mask = result.outputs["brain_mask"]
    assert isinstance(mask, Volume)
    given = replace(make_result(), settings=replace(make_result().settings, mask=mask))
    assert "the mask that was given" in Page(write_scan(given, tmp_path, "c")).text


@pytest.mark.parametrize("case", ["empty mask", "constant", "tiny"])
def test_odd_results_still_have_a_page(tmp_path: Path, case: str) -> None:
    grid = Grid.centered((9, 9, 9), 10.0) if case == "tiny" else None
    result = make_result(grid)
    outputs = dict(result.outputs)
    for name in [name for name, output in outputs.items() if isinstance(output, Volume)]:
        volume = outputs[name]
        assert isinstance(volume, Volume)
        if (case == "empty mask" and "mask" in name) or case == "constant":
            outputs[name] = volume.with_data(np.zeros_like(volume.data))
    result = replace(result, outputs=outputs, quality=replace(result.quality, measures={"icv_ml": float("nan")}))
    assert "not computed" in Page(write_scan(result, tmp_path, "scan", None, make_template(make_result()))).text


def test_a_page_costs_less_than_a_second(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]  # oblique: the slower way to sample
    straight = Grid.centered((144, 168, 144), 1.2)
    result = make_result(Grid(straight.shape, turn @ straight.affine))
    template = make_template(make_result())
    write_scan(result, tmp_path, "scan", None, template)  # what is loaded once per process
    start = time.process_time()
    page = write_scan(result, tmp_path, "scan", None, template)
    assert time.process_time() - start < 1.0
    assert page.stat().st_size < 2 * 2**20
