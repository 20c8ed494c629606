"""``.bidsignore``: patterns of files that are no part of a data set, in the way of ``.gitignore``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

IGNORE_FILE = ".bidsignore"


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    ignored: bool


class IgnoreRules:
    """Says which files of a data set are ignored.

    Parameters
    ----------
    lines : iterable of str
        Patterns: ``*``, ``?``, ``[...]`` and ``**``; a slash at the start or in the middle ties a pattern to the top
        folder, one at the end is for folders; ``!`` takes files back; the last rule that fits decides. What lies in
        an ignored folder is ignored.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        stripped = (line.strip() for line in lines)
        self._rules = [_rule(line) for line in stripped if line and not line.startswith("#")]

    @classmethod
    def read(cls, root: Path) -> IgnoreRules:
        """Rules of a data set; none where it has no such file."""
        try:
            return cls((root / IGNORE_FILE).read_text(encoding="utf-8", errors="replace").splitlines())
        except OSError:
            return cls()

    def __call__(self, relative: str) -> bool:
        """Whether a file, named by its path below the top folder with slashes, is ignored.

        Examples
        --------
        >>> rules = IgnoreRules(["sub-02/", "*_FLAIR.nii.gz", "!sub-02/anat/*", "!sub-03/anat/*"])
        >>> [rules(f"sub-0{n}/anat/sub-0{n}_FLAIR.nii.gz") for n in (1, 2, 3)]
        [True, True, False]
        """
        parts = relative.split("/")
        above = ("/".join(parts[:count]) + "/" for count in range(1, len(parts)))
        return any(map(self._verdict, (*above, relative)))

    def _verdict(self, path: str) -> bool:
        """What the rules say of a file, or of a folder (with a slash at its end), itself."""
        for rule in reversed(self._rules):
            if rule.pattern.match(path):
                return rule.ignored
        return False


def _rule(line: str) -> _Rule:
    ignored = not line.startswith("!")
    body = line.removeprefix("!")
    folder = body.endswith("/")
    anchored = "/" in body.rstrip("/")
    parts = body.strip("/").split("/")
    inner = "/".join(map(_glob, parts)).replace("<all>/", "(?:.*/)?").replace("/<all>", "/.*").replace("<all>", ".*")
    text = ("" if anchored else "(?:.*/)?") + inner + ("/" if folder else "/?")
    return _Rule(re.compile(text + r"\Z"), ignored)


def _glob(part: str) -> str:
    """One component of a pattern as a regular expression."""
    if part == "**":
        return "<all>"
    pieces = re.split(r"(\*+|\?|\[[^]]+\])", part)
    simple = {"*": "[^/]*", "?": "[^/]"}
    made = []
    for piece in pieces:
        if piece.startswith("*"):
            made.append(simple["*"])
        elif piece == "?":
            made.append(simple["?"])
        elif piece.startswith("[") and piece.endswith("]"):
            made.append("[" + ("^" + piece[2:] if piece[1] == "!" else piece[1:]))
        else:
            made.append(re.escape(piece))
    return "".join(made)
