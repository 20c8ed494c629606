"""The pages: they build without a warning, and what they say about commands and files is what the program does."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuralprep.bids.derivatives import ON_REQUEST, TABLE
from neuralprep.cli import build_parser
from neuralprep.integrations.options import read_verb, verbs

DOCS = Path(__file__).parent.parent.parent / "docs"
#: pages whose commands are whole, without placeholders that a parser could not read
WITH_COMMANDS = ("index", "install", "tour", "serve", "faq", "developer")


def _text(page: Path) -> str:
    """Words of a built page."""
    body = re.sub(r"(?s)<(script|style).*?</\1>", " ", page.read_text(encoding="utf-8"))
    return html.unescape(re.sub(r"<[^>]+>", "", body))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="sphinx is not installed (extra docs)")
    pytest.importorskip("myst_parser", reason="myst-parser is not installed (extra docs)")
    pytest.importorskip("furo", reason="furo is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("docs")
    # a copy, because the build draws its pictures beside the pages
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("_build", "_generated", "__pycache__"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(folder / "docs"),
               str(folder / "html"), "-d", str(folder / "doctrees")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_every_page_is_built_and_reached_from_the_first(built: Path) -> None:
    first = (built / "index.html").read_text(encoding="utf-8")
    for page in (built.parent / "docs").glob("*.md"):
        assert (built / f"{page.stem}.html").is_file()
        assert page.stem == "index" or f'href="{page.stem}.html"' in first


@pytest.mark.slow
def test_the_tour_shows_what_its_commands_printed(built: Path) -> None:
    text = _text(built / "tour.html")
    assert re.search(r"Dice with the known mask: +0\.9\d", text)
    assert "demo_desc-brain_mask.nii.gz" in text
    assert "1 finished before" in text
    assert "exit code 1" in text
    assert "broken failed" in text
    assert re.search(r"\d+ ml inside of the skull, (ok|check)", text)


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(built: Path) -> None:
    for page in built.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//[^"]+"', text) == [], page


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The generated parts of the pages, without building them."""
    monkeypatch.syspath_prepend(str(DOCS))
    import pages

    return {name: make() for name, make in pages.GENERATED.items()}


def test_the_page_of_verbs_names_every_option(pages: dict[str, str]) -> None:
    for name, _ in verbs():
        section = pages["verbs"].partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for option in read_verb(name).options:
            assert f"`{option.flag or option.metavar}" in section, (name, option.name)


def test_the_page_of_outputs_names_every_file(pages: dict[str, str]) -> None:
    for row in (*TABLE, *ON_REQUEST):
        assert f"--outputs {row.output}`" in pages["outputs"]
        assert pages["outputs"].count(f"`--outputs {row.output}`") == 1
    assert "`sub-01_desc-brain_mask.nii.gz`" in pages["outputs"]


def test_every_mark_is_known(pages: dict[str, str]) -> None:
    marks = {mark for page in DOCS.glob("*.md") for mark in re.findall(r"^% generated: (\w+)$", page.read_text(), re.M)}
    assert marks == set(pages)


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_on_the_pages_can_be_read(name: str) -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (DOCS / f"{name}.md").read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [line.split("neuralprep ", 1)[1] for line in lines if line.startswith("neuralprep ")]
    assert commands or name in ("install", "developer")
    for command in commands:
        words = shlex.split(re.split(r" \|\| | 2>", command)[0].replace("$xfm", "a.mat"), comments=True)
        build_parser().parse_args(words)


def test_pages_name_no_machine() -> None:
    for page in DOCS.glob("*.md"):
        found = re.findall(r"(?<![\w.$])/(?:home|root|tmp|work|Users)/\S+", page.read_text())
        assert found == [], (page.name, found)
