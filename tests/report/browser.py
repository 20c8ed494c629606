"""A headless Chromium for tests that look at pages as a person's browser does."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # without a graphics card


@contextmanager
def open_browser(profile: Path, *, webgl: bool = False) -> Iterator[Any]:
    """A driver of a browser with an empty profile; the test is skipped where there is none."""
    pytest.importorskip("selenium", reason="selenium is not installed (extra dev)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, *(_WEBGL if webgl else ("--disable-gpu",)), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def visit(chrome: Any, address: str, width: int = 1280, height: int = 860, *, dark: bool = False) -> None:
    """Open an address in a window of a size (below 700 pixels: as a phone does)."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700})  # fmt: skip
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    chrome.get_log("browser")  # what the page before said
    chrome.get(address)


def complaints(chrome: Any) -> list[str]:
    """What the console says since the last call, information left out."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] not in ("INFO", "DEBUG")]


def press(chrome: Any, *keys: str) -> None:
    """Press keys one after the other, wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(chrome, duration=0).send_keys(key).perform()


def wait(chrome: Any, condition: Callable[[], Any], seconds: float = 120) -> Any:
    """The value of a condition as soon as it holds."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(chrome, seconds, poll_frequency=0.05).until(lambda _: condition())


def pixels(picture: bytes) -> np.ndarray:
    """RGB (rows, columns, 3), 0 to 255, of a PNG file."""
    image = pytest.importorskip("matplotlib.image")
    return image.imread(io.BytesIO(picture), format="png")[..., :3] * 255
