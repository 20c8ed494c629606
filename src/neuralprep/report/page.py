"""Pages from templates: one file that fetches nothing, with a content security policy that lets nothing else run.

Style sheets and scripts lie beside the templates and are written into the page. The policy names them by their
checksum, so that text from a file name or a header could not run even if it got past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import neuralprep

if TYPE_CHECKING:
    import jinja2

_FOLDER = Path(__file__).parent / "templates"


def render(template: str, *, styles: Sequence[str], scripts: Sequence[str], policy: Sequence[str] = (),
           **values: Any) -> str:
    """Fill a template.

    Parameters
    ----------
    template : file in the folder of templates.
    styles, scripts : files there; each becomes one element of the page, in this order.
    policy : directives of the content security policy besides those for styles and scripts; nothing else is allowed.
        A directive `script-src ...` adds sources of scripts.
    values : variables of the template. Text is escaped, whatever it holds.
    """
    from markupsafe import Markup

    css, code = ([_asset(name) for name in names] for names in (styles, scripts))
    more = " ".join(part.removeprefix("script-src ") for part in policy if part.startswith("script-src "))
    directives = [
        "default-src 'none'", "base-uri 'none'", "form-action 'none'", f"style-src {_checksums(css)}",
        f"script-src {_checksums(code)} {more}".strip(),
        *(part for part in policy if not part.startswith("script-src ")),
    ]  # fmt: skip
    text = _environment().get_template(template).render(
        csp="; ".join(directives), styles=[Markup(part) for part in css], scripts=[Markup(part) for part in code],
        version=neuralprep.__version__, **values)
    # Undecodable bytes of file names (lone surrogates) become visible escapes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(maxsize=16)
def _asset(name: str) -> str:
    """Text of a style sheet or script. It is written into an element as it is, so it must not end that element."""
    text = (_FOLDER / name).read_text(encoding="utf-8").strip()
    if "</" in text:
        raise AssertionError(f"{name} would end its own element")
    return text


def _checksums(parts: Sequence[str]) -> str:
    sums = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{value}'" for value in sums) or "'none'"


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)
