"""Pages in a real browser: sliders move, filters filter, keys decide, the viewer draws, and nothing else runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.test_review import make_output, serving
from neuralprep.grid import Grid
from neuralprep.report import viewer, write_group, write_index, write_scan
from neuralprep.report.decisions import read_decisions
from neuralprep.report.viewer import Layer, write_viewer
from neuralprep.volume import Volume
from report.browser import complaints, open_browser, pixels, press, visit, wait
from report.sample_result import EVIL, make_result, make_template

PHONE = (390, 844)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def scan_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    result = make_result()
    folder = tmp_path_factory.mktemp("scan")
    return write_scan(result, folder, "sub-01_T1w", {"source": EVIL}, make_template(result)).as_uri()


@pytest.fixture(scope="module")
def batch_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("batch")
    rows = [{"name": f"scan {n}", "source": f"/raw/{n}.nii.gz", "seconds": 1.0, "reasons": [],
             "status": "check" if n == 7 else "ok",
             "measures": {"icv_ml": 1500.0 + 10 * n, "template_dice": 0.95 - 0.001 * n}} for n in range(12)]
    rows[7] |= {"reasons": ["too far from the others"], "measures": {"icv_ml": 5000.0, "template_dice": 0.97}}
    rows[3]["measures"] = {"icv_ml": 1200.0}
    rows.append({"name": EVIL, "source": EVIL, "status": "failed", "seconds": 1.0, "reasons": [EVIL], "measures": {}})
    return write_index(out, rows).as_uri()


def names(chrome: Any) -> list[str]:
    """Names of the rows that are shown, from top to bottom."""
    return chrome.execute_script(
        "return [...document.querySelectorAll('#list .name, #table tbody td:first-child')].map(e => e.textContent)")


def one(chrome: Any, selector: str) -> Any:
    return chrome.find_element("css selector", selector)


@pytest.mark.parametrize("page", ["scan_page", "batch_page"])
@pytest.mark.parametrize("size", [(1280, 860), PHONE], ids=["desktop", "phone"])
def test_pages_load_without_a_complaint_and_fit(
    chrome: Any, page: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    visit(chrome, request.getfixturevalue(page), *size)
    assert complaints(chrome) == []
    assert chrome.execute_script("return document.documentElement.scrollWidth") == size[0]
    assert chrome.title != "owned"
    loaded = chrome.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith(("data:", "file:"))] == []


@pytest.mark.parametrize("page", ["scan_page", "batch_page"])
def test_foreign_code_and_the_network_are_out_of_reach(chrome: Any, page: str, request: pytest.FixtureRequest) -> None:
    visit(chrome, request.getfixturevalue(page))
    done = chrome.execute_async_script("""
        const back = arguments[0], script = document.createElement("script"), image = new Image();
        script.textContent = "window.foreign = true";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<p id=own onclick='window.foreign = true'>x</p>");
        document.getElementById("own").click();
        image.onload = () => back("image");
        image.onerror = () => fetch("http://127.0.0.1:9/").then(() => back("network"), () => back(window.foreign));
        image.src = "http://127.0.0.1:9/x.png";
    """)
    assert done is None
    assert all("Content Security Policy" in words for words in complaints(chrome))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_from_their_background(chrome: Any, scan_page: str, batch_page: str, *, dark: bool) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    looked_at = {scan_page: ".soft, .pill, .verdict, .lead, .state.check, .methods p, .jump a",
                 batch_page: ".soft, .pill.ok, .pill.check, .pill.failed, .why, .button.accept"}
    for page, selectors in looked_at.items():
        visit(chrome, page, dark=dark)
        for selector in selectors.split(", "):
            ink, paper = chrome.execute_script("""
                let element = document.querySelector(arguments[0]);
                const ink = getComputedStyle(element).color;
                const paper = () => getComputedStyle(element).backgroundColor;
                while (paper() === "rgba(0, 0, 0, 0)") element = element.parentElement;
                return [ink, paper()];""", selector)
            light, deep = sorted((luminance(ink), luminance(paper)), reverse=True)
            assert (light + 0.05) / (deep + 0.05) >= 4.5, (selector, ink, paper)


def test_the_slider_uncovers_the_other_picture(chrome: Any, scan_page: str) -> None:
    visit(chrome, scan_page)
    section = one(chrome, "#corrected")
    slider = section.find_element("css selector", "input[type=range]")
    tile = section.find_element("css selector", ".tile svg")
    chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", tile)

    def seen(value: int) -> np.ndarray:
        chrome.execute_script("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
                              slider, value)
        return pixels(tile.screenshot_as_png)

    before, after, half = seen(100), seen(0), seen(50)
    assert np.abs(before - after).mean() > 3
    middle = before.shape[1] // 2
    rows = slice(before.shape[0] // 4, -before.shape[0] // 4)  # off the words
    np.testing.assert_allclose(half[rows, 30 : middle - 4], before[rows, 30 : middle - 4], atol=3)
    np.testing.assert_allclose(half[rows, middle + 4 : -30], after[rows, middle + 4 : -30], atol=3)

    slider.send_keys("\ue012")  # left arrow
    assert one(chrome, "#wipe-corrected rect").get_attribute("x") == "0.49"
    from selenium.webdriver.common.action_chains import ActionChains

    width = tile.size["width"]
    mouse = ActionChains(chrome, duration=0).move_to_element(tile).click_and_hold()
    mouse.move_by_offset(width // 4, 0).release().perform()
    assert slider.get_property("value") == "75"
    flicker = section.find_element("css selector", ".flicker")
    flicker.click()
    wait(chrome, lambda: slider.get_property("value") == "100")
    flicker.click()
    assert flicker.get_attribute("aria-pressed") == "false"


def test_the_squares_of_the_checkerboard_can_be_taken_off(chrome: Any, scan_page: str) -> None:
    visit(chrome, scan_page)
    tile, box = one(chrome, "#board .tile svg"), one(chrome, "#board [data-line='3']")
    chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", tile)
    board = pixels(tile.screenshot_as_png)
    box.click()
    plain = pixels(tile.screenshot_as_png)
    changed = np.abs(board - plain).max(axis=-1) > 8
    assert 0.02 < changed.mean() < 0.5  # the template is in half of the squares, within its brain
    box.click()
    again = np.abs(board - pixels(tile.screenshot_as_png)).max(axis=-1) > 8
    assert again.mean() < 0.1 * changed.mean()  # edges may be drawn a little otherwise after a scroll


def test_outlines_and_the_skull_can_be_hidden(chrome: Any, scan_page: str) -> None:
    visit(chrome, scan_page)
    tile = one(chrome, "#outline button.tile")
    orange = np.array([255, 159, 28])

    def lines() -> int:
        return int((np.abs(pixels(tile.screenshot_as_png) - orange).max(axis=-1) < 30).sum())

    assert lines() > 150
    one(chrome, "#outline input[data-line='0']").click()
    assert lines() == 0
    part = one(chrome, "#corrected [data-clip]")
    box = one(chrome, "#corrected [data-brain]")
    assert not part.get_attribute("clip-path")
    box.click()
    assert part.get_attribute("clip-path") == "url(#mb1)"

    tile.click()
    dialog = one(chrome, "dialog")
    assert dialog.get_property("open")
    first = dialog.text
    press(chrome, "\ue014")  # right arrow
    assert dialog.text != first
    press(chrome, "\ue00c")  # escape
    assert not dialog.get_property("open")


def test_the_methods_text_can_be_copied(chrome: Any, scan_page: str) -> None:
    visit(chrome, scan_page)
    one(chrome, "[data-copy]").click()
    said = wait(chrome, lambda: one(chrome, "[data-copy] + span").text)
    assert said.startswith(("Copied", "Selected"))


def test_rows_can_be_filtered_searched_and_sorted(chrome: Any, batch_page: str) -> None:
    visit(chrome, batch_page)
    assert names(chrome)[:3] == [EVIL, "scan 7", "scan 0"]
    one(chrome, "[data-status=check]").click()
    assert names(chrome) == ["scan 7"]
    one(chrome, "[data-status='']").click()
    one(chrome, "input[type=search]").send_keys("FAR FROM")
    assert names(chrome) == ["scan 7"]
    one(chrome, "input[type=search]").send_keys(" nothing")
    assert names(chrome) == []
    assert one(chrome, ".empty").is_displayed()
    one(chrome, "input[type=search]").clear()
    one(chrome, "input[type=search]").send_keys("scan")

    one(chrome, "#sort option[value=template_dice]").click()
    assert names(chrome)[:2] == ["scan 11", "scan 10"]
    assert names(chrome)[-1] == "scan 3", "what has no value comes last"
    one(chrome, "#direction").click()
    assert names(chrome)[:2] == ["scan 7", "scan 0"]
    assert names(chrome)[-1] == "scan 3"
    one(chrome, "[data-view=table]").click()
    heads = chrome.find_elements("css selector", "#table th button")
    icv = next(head for head in heads if head.text.startswith("Inside skull"))
    icv.click()
    assert names(chrome)[:2] == ["scan 3", "scan 0"]
    assert one(chrome, "#table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    red = [cell.text for cell in chrome.find_elements("css selector", "#table td.bad")]
    assert red == ["5000"]
    assert complaints(chrome) == []


def test_distributions_mark_outliers_and_lead_to_their_scans(chrome: Any, batch_page: str) -> None:
    visit(chrome, batch_page)
    plots = chrome.find_elements("css selector", ".plot")
    titles = [plot.find_element("css selector", "button span").text for plot in plots]
    assert titles == ["Inside skull", "Template overlap"]
    assert len(plots[0].find_elements("css selector", "circle:not(.now), path.out")) == 12
    (out,) = plots[0].find_elements("css selector", ".out")
    assert out.get_attribute("textContent") == "scan 7: 5000 ml"
    out.click()
    assert one(chrome, "#detail h2").text == "scan 7"
    assert one(chrome, "#who").text == "scan 7"
    left, right = (float(plots[0].find_element("css selector", s).get_attribute("cx")) for s in ("circle", ".now"))
    assert left < 40
    assert right > 200


def test_thousands_of_scans_are_drawn_as_one_scrolls(chrome: Any, tmp_path: Path) -> None:
    entries = [{"name": f"s{n:04d}", "measures": {"icv_ml": 1500 + n % 300}} for n in range(3000)]
    visit(chrome, write_group(tmp_path / "group.html", entries, "many").as_uri())
    assert len(names(chrome)) < 400
    assert len(chrome.find_elements("css selector", ".plot circle:not(.now)")) == 0, "a histogram, not 3000 points"
    chrome.execute_script("scrollTo(0, document.body.scrollHeight)")
    wait(chrome, lambda: len(names(chrome)) > 60)
    one(chrome, "#sort option[value=icv_ml]").click()
    one(chrome, "#direction").click()
    assert names(chrome)[0] == "s0299"
    assert chrome.find_elements("css selector", ".review") == []


def test_a_page_from_a_file_keeps_decisions_in_the_browser(chrome: Any, batch_page: str) -> None:
    visit(chrome, batch_page)
    press(chrome, "j", "a", "r", "k", "k", "n")
    press(chrome, "motion <b>", "\ue007")  # enter
    assert one(chrome, "#progress").text == "2 of 13 reviewed"
    visit(chrome, batch_page)
    assert one(chrome, "#progress").text == "2 of 13 reviewed"
    rows = chrome.find_elements("css selector", ".row")[:3]
    badges = [[badge.text for badge in row.find_elements("css selector", ".badge")] for row in rows]
    assert badges == [[], ["accepted"], ["rejected"]]
    table = chrome.execute_async_script("""
        const back = arguments[0];
        URL.createObjectURL = blob => { blob.text().then(back); return "#"; };
        document.querySelector("#download").click();""")
    lines = [line.split("\t") for line in table.splitlines()]
    assert lines[0] == ["scan", "decision", "note", "time"]
    assert [line[:3] for line in lines[1:]] == [["scan 0", "reject", "n/a"], ["scan 7", "accept", "motion <b>"]]
    one(chrome, "#decided option[value=none]").click()
    assert len(names(chrome)) == 11
    assert complaints(chrome) == []
    chrome.execute_script("localStorage.clear()")


def test_review_by_keyboard_is_saved_by_the_server(chrome: Any, tmp_path: Path) -> None:
    out = make_output(tmp_path / "out")
    with serving(out) as server:
        visit(chrome, server.address)
        wait(chrome, lambda: one(chrome, "#saved").text == "Decisions go to review.tsv")
        assert server.secret not in chrome.current_url
        press(chrome, "j", "r")
        wait(chrome, lambda: "odd" in read_decisions(out))
        assert one(chrome, "#who").text == "good one", "the next scan is selected"
        press(chrome, "a", "n")
        press(chrome, "fine", "\ue007")
        wait(chrome, lambda: "third" in read_decisions(out))
        press(chrome, "k", "u")
        wait(chrome, lambda: "good one" not in read_decisions(out))
        wait(chrome, lambda: one(chrome, "#saved").text == "Saved in review.tsv")
        press(chrome, "o")
        wait(chrome, lambda: chrome.current_url.endswith("/good%20one/good%20one_report.html"))
        assert chrome.execute_script("return origin") == "null", "pages of scans are strangers to the server"
    assert {scan: (row.decision, row.note) for scan, row in read_decisions(out).items()} == {
        "odd": ("reject", ""), "third": ("", "fine")}
    with serving(out) as server:
        visit(chrome, server.address)
        wait(chrome, lambda: one(chrome, "#progress").text == "1 of 4 reviewed")
        server.token = "changed by a restart"
        press(chrome, "j", "a")
        wait(chrome, lambda: one(chrome, "#saved").text.startswith("Not saved: the page is of an earlier run"))
    assert read_decisions(out)["odd"].decision == "reject"


@pytest.fixture
def webgl(tmp_path: Path) -> Iterator[Any]:
    with open_browser(tmp_path / "profile", webgl=True) as chrome:
        yield chrome


def test_the_viewer_draws(webgl: Any, tmp_path: Path) -> None:
    if not viewer.available():
        pytest.skip("ipyniivue is not installed (extra viewer)")
    result = make_result(Grid.centered((60, 66, 54), 3.4, (3, -8, 12)))
    outputs = {name: output for name, output in result.outputs.items() if isinstance(output, Volume)}
    page = write_viewer(tmp_path, "sub-01_T1w", [
        Layer("Scan", "image", result.scan), Layer("Normalised", "image", outputs["preproc"]),
        Layer("brain mask", "mask", outputs["brain_mask"]), Layer("tissue", "mask", outputs["nocsf_mask"])])
    assert page.stat().st_size < 6 * 2**20
    visit(webgl, page.as_uri(), 900, 600)
    wait(webgl, lambda: one(webgl, "body").get_attribute("data-state"), 60)
    assert one(webgl, "body").get_attribute("data-state") == "drawn", one(webgl, "#message").text
    assert complaints(webgl) == []

    def canvas() -> np.ndarray:
        return pixels(one(webgl, "canvas").screenshot_as_png)

    drawn = canvas()
    grey = np.ptp(drawn, axis=-1) < 8
    assert np.mean(grey & (drawn[..., 0] > 60)) > 0.1, "the head fills a part of the canvas"
    assert drawn.std() > 20

    def cyan() -> float:
        seen = canvas()
        return float(np.mean((seen[..., 2] - seen[..., 0] > 40) & (seen[..., 1] - seen[..., 0] > 40)))

    assert cyan() < 0.01
    webgl.find_elements("css selector", "#masks button")[1].click()
    wait(webgl, lambda: cyan() > 0.05)
    one(webgl, "#images button:last-child").click()
    one(webgl, "[data-view=render]").click()
    wait(webgl, lambda: np.abs(canvas() - drawn).mean() > 5)
    assert complaints(webgl) == []
