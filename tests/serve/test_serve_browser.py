"""The page of ``neuralprep serve`` in a real browser: a dropped head becomes a picture, numbers and a download."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuralprep.serve.scans import Limits
from neuralprep.serve.server import ScanServer
from report.browser import complaints, open_browser, visit, wait
from serve.conftest import serving

EVIL = "<img src=x onerror=document.title=1>_T1w.nii.gz"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, chrome: Any) -> Iterator[ScanServer]:
    with serving(tmp_path_factory.mktemp("serve"), Limits(scan_bytes=20_000_000)) as server:
        yield server


def one(chrome: Any, selector: str) -> Any:
    return chrome.find_element("css selector", selector)


def words(chrome: Any, selector: str) -> list[str]:
    return chrome.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)


def test_a_head_goes_in_and_a_brain_comes_out(
    chrome: Any, server: ScanServer, head_file: Path, tmp_path: Path
) -> None:
    visit(chrome, server.address)
    assert chrome.current_url.endswith(f":{server.server_port}/")  # the key is out of the address and its history
    assert "none" not in words(chrome, "#takes")
    wait(chrome, lambda: ".nii.gz" in one(chrome, "#takes").text)
    evil = tmp_path / EVIL
    evil.write_bytes(head_file.read_bytes())
    broken = tmp_path / "broken_T1w.nii.gz"
    broken.write_bytes(head_file.read_bytes()[:50_000])
    one(chrome, "#file").send_keys(f"{evil}\n{broken}")
    wait(chrome, lambda: len(words(chrome, ".scan")) == 2)
    wait(chrome, lambda: sorted(words(chrome, ".scan .pill")) in (["failed", "ok"], ["check", "failed"]), 300)

    failed, done = chrome.find_elements("css selector", ".scan")
    assert "truncated" in failed.text
    assert done.find_element("css selector", "h2").text == EVIL
    picture = done.find_element("css selector", "img")
    wait(chrome, lambda: picture.get_property("naturalWidth") > 400)
    assert "Inside skull" in done.text
    assert chrome.title == "neuralprep"
    assert complaints(chrome) == []
    loaded = chrome.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(f"http://127.0.0.1:{server.server_port}/") for name in loaded)
    if target := os.environ.get("NEURALPREP_SCREENSHOTS"):
        chrome.save_screenshot(str(Path(target) / "serve.png"))

    chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    done.find_element("css selector", ".links .main").click()
    wait(chrome, lambda: len(list(tmp_path.glob("*.zip"))) == 1)
    archive = zipfile.ZipFile(next(tmp_path.glob("*.zip")))
    assert archive.testzip() is None
    assert any(name.endswith("_desc-brain_mask.nii.gz") for name in archive.namelist())

    first = chrome.current_window_handle
    done.find_elements("css selector", ".links a")[1].click()
    wait(chrome, lambda: len(chrome.window_handles) == 2)
    chrome.switch_to.window(chrome.window_handles[1])
    wait(chrome, lambda: bool(words(chrome, "h1")))
    assert len(chrome.find_elements("css selector", "svg")) > 3
    fetched = chrome.execute_async_script("const back = arguments[0]; fetch('/state').then(() => back('read'), "
                                          "() => back('refused'))")  # fmt: skip
    assert fetched == "refused"  # a report is a stranger to the server
    chrome.close()
    chrome.switch_to.window(first)

    chrome.find_elements("css selector", ".scan .top .button")[1].click()
    wait(chrome, lambda: len(words(chrome, ".scan")) == 1)
    assert len(server.queue.scans()) == 1


@pytest.mark.parametrize(
    ("name", "size", "says"), [("scan.dcm", 10, "convert DICOM"), ("big.nii", 21_000_000, "limit")]
)
def test_what_cannot_be_taken_is_said_at_once(
    chrome: Any, server: ScanServer, tmp_path: Path, name: str, size: int, says: str
) -> None:
    visit(chrome, server.address)
    wait(chrome, lambda: ".nii.gz" in one(chrome, "#takes").text)
    file = tmp_path / name
    file.write_bytes(b"")
    os.truncate(file, size)
    before = len(server.queue.scans())
    one(chrome, "#file").send_keys(str(file))
    wait(chrome, lambda: says in one(chrome, "#fault").text)
    assert len(server.queue.scans()) == before


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_a_phone(chrome: Any, server: ScanServer, *, dark: bool) -> None:
    visit(chrome, server.address, 390, 844, dark=dark)
    wait(chrome, lambda: ".nii.gz" in one(chrome, "#takes").text)
    assert chrome.execute_script("return document.documentElement.scrollWidth") == 390
    if target := os.environ.get("NEURALPREP_SCREENSHOTS"):
        chrome.save_screenshot(str(Path(target) / f"serve-phone-{dark}.png"))
