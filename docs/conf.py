"""Build of the documentation: sphinx-build -W -b html docs docs/_build/html  (extra ``docs``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from pages import PAGES, draw_pictures, expand  # noqa: E402

import neuralprep  # noqa: E402

project = "neuralprep"
author = "The neuralprep authors"
project_copyright = author
release = version = neuralprep.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
highlight_language = "text"

autodoc_typehints = "none"  # the docstrings say the types, with shapes and units
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"neuralprep {version}"
html_show_sourcelink = False


def setup(app: Any) -> None:
    """Make the pictures once, and fill in the generated parts of the pages as they are read."""
    app.connect("builder-inited", lambda app: draw_pictures(HERE / "_generated"))
    app.connect("source-read", _fill)


def _fill(app: Any, name: str, source: list[str]) -> None:
    if name in PAGES:
        source[0] = expand(name, source[0], HERE / "_generated")
