"""Parts of the documentation that are made from the program itself, so that they cannot drift from it.

A line ``% generated: NAME`` in a page is replaced by what the function of that name gives. In the tour every block of
commands is run, in order, in one folder, and what it printed is put below it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import neuralprep
from neuralprep.bids import derivatives
from neuralprep.bids.derivatives import Derivative, ScanName
from neuralprep.cli import EXIT_CODES
from neuralprep.integrations.options import Option, read_verb, verbs

_MARK = re.compile(r"^% generated: (\w+)$", re.M)
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)
_SCAN = "sub-01_T1w"
_SPACE = "MNI152NLin2009aSym"
_WIDTH = "100"


def expand(name: str, text: str, folder: Path) -> str:
    """Fill in the generated parts of a page; `folder` is where the tour is run."""
    if name == "tour":
        text = _walked(text, folder / "tour")
    return _MARK.sub(lambda found: GENERATED[found[1]](), text)


def draw_pictures(folder: Path) -> None:
    """Empty the folder and draw the pictures of the page on how it works."""
    from figures import draw_all

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    draw_all(folder)


def _walked(text: str, folder: Path) -> str:
    """The tour, with what its commands print."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "COLUMNS": _WIDTH, "PYTHONWARNINGS": "ignore"}

    def run(block: re.Match[str]) -> str:
        command = ["sh", "-e", "-c", block[2]] if block[1] == "bash" else [sys.executable, "-c", block[2]]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the tour fails at:\n{block[2]}\n{done.stdout}{done.stderr}")
        printed = done.stdout.strip()
        return f"{block[0]}\n\n```text\n{printed}\n```" if printed else block[0]

    return _BLOCK.sub(run, text)


def _verbs() -> str:
    """Every verb: what it does, its usage, its options and the end of its help."""
    parts = []
    for name, parser in verbs():
        verb = read_verb(name)
        parser.prog = f"neuralprep {name}"
        parts += [f"## {name}", _escaped(verb.description), f"```text\n{parser.format_usage().strip()}\n```"]
        parts += [_option(option) for option in verb.options]
        epilog = verb.epilog.replace(EXIT_CODES, "").strip()
        if epilog:
            parts.append(f"```text\n{epilog}\n```")
    return "\n\n".join(part for part in parts if part)


def _option(option: Option) -> str:
    """One entry of a definition list."""
    value = "" if option.kind == "flag" else f" {'|'.join(option.choices) or option.metavar}"
    value += " ..." if option.many else ""
    names = [f"`{flag}{value}`" for flag in option.flags] or [f"`{option.metavar}`" + (" ..." if option.many else "")]
    again = " May be given more than once." if option.appends else ""
    return f"{', '.join(names)}\n: {_escaped(option.help or option.name)}{again}"


def _escaped(text: str) -> str:
    """Text without meaning for Markdown, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", " ".join(text.split()))


def _outputs() -> str:
    """Every file that a scan can leave, with the name it has for a BIDS scan."""
    parts = []
    for title, rows in (("Made by default", derivatives.TABLE), ("Made where `--outputs` names them",
                                                                 derivatives.ON_REQUEST)):  # fmt: skip
        parts.append(f"### {title}")
        parts += [_row(row) for row in rows]
    return "\n\n".join(parts)


def _row(row: Derivative) -> str:
    stem = ScanName.of(_SCAN).stem(row, _SPACE)
    if row.kind == "xfm":
        back = ScanName.of(_SCAN).stem(row, _SPACE, inverse=True)
        endings = ", ".join(f"`.{ending}`" for ending in derivatives.XFM_FORMATS)
        names = f"`{stem}`, `{back}`, each as {endings}"
    else:
        names = f"`{stem}.nii.gz`"
    grid = "grid of the template" if row.in_template else "grid of the scan"
    facts = [row.dtype if row.kind != "xfm" else "", "" if row.kind == "xfm" else grid, _escaped(row.units),
             f"needs {' and '.join(row.needs)}"]  # fmt: skip
    known = "; ".join(fact for fact in facts if fact)
    return f"{names}\n: {_escaped(row.description)} `--outputs {row.output}`; {known}."


def _records() -> str:
    """The files that every scan has."""
    scan = ScanName.of(_SCAN)
    words = {
        derivatives.QUALITY: "Measures, decision and its reasons, settings, timings, checksum of the weights.",
        derivatives.REPORT: "The page of the scan; one file that fetches nothing.",
        derivatives.OVERVIEW: "Its first picture, for the page of the batch.",
        derivatives.VIEWER: "3-D viewer, with `--viewer`.",
    }
    return "\n\n".join(f"`{scan.file(ending)}`\n: {text}" for ending, text in words.items())


def _exit_codes() -> str:
    return f"```text\n{EXIT_CODES.strip()}\n```"


def _api() -> str:
    """Autodoc of the public names."""
    parts = []
    for name in sorted(name for name in neuralprep.__all__ if not name.startswith("__")):
        value = getattr(neuralprep, name)
        kind = "autofunction" if not isinstance(value, type) else "autoclass"
        lines = [f".. {kind}:: neuralprep.{name}"]
        if kind == "autoclass":
            lines += ["   :members:", "   :no-undoc-members:"]
        parts.append(f"## {name}\n\n```{{eval-rst}}\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


GENERATED: dict[str, Callable[[], str]] = {
    "verbs": _verbs, "outputs": _outputs, "records": _records, "exit_codes": _exit_codes, "api": _api,
}  # fmt: skip
PAGES = ("tour", "verbs", "outputs", "api", "faq")
