"""Which images of a data set are processed: by suffix, by run, by a filter file, and one echo, magnitudes only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralprep.bids.dataset import ON_REQUEST, STRUCTURAL, SUFFIXES, Image
from neuralprep.bids.entities import ENTITIES, same_value
from neuralprep.errors import InputError
from neuralprep.files import read_text

_LONG = {long: short for short, long in ENTITIES.items()}
#: other things that filter files name besides entities, with the values that leave something to process
_FIXED = {"datatype": "anat", "scope": "raw", "space": None, "desc": None, "description": None}
_ENDINGS = {".nii", ".nii.gz", "nii", "nii.gz"}
_PRESENT, _ABSENT = ("*", "Query.ANY", "Query.REQUIRED"), ("Query.NONE",)
_ANY_OR_NONE = "Query.OPTIONAL"


@dataclass(frozen=True)
class Query:
    """One entry of a filter file.

    Attributes
    ----------
    name : str
        As written there, e.g. ``t1w``.
    suffixes : tuple of str
        Suffixes it is about.
    values : dict of str to tuple
        Entity (short key) -> values it may have; None in a tuple: the entity is absent; "*": it is there.
    """

    name: str
    suffixes: tuple[str, ...]
    values: dict[str, tuple[str | None, ...]]

    def fits(self, image: Image) -> bool:
        """Whether an image is what this entry asks for."""
        return image.suffix in self.suffixes and all(
            _allowed(key, image.entities.get(key), values) for key, values in self.values.items()
        )


def read_filters(path: Path) -> tuple[list[Query], list[str]]:
    """Read a filter file in the way of fMRIPrep: ``{"t1w": {"session": "01", "acquisition": null, "run": [1, 2]}}``.

    Parameters
    ----------
    path : Path
        JSON. Keys are suffixes in lower case; entities have their long or short names; a value is a text, a number,
        a list of them, or null (the entity must be absent). ``suffix`` widens an entry to other suffixes.

    Returns
    -------
    queries : list of Query
    messages : list of str
        Entries that are about other data (``bold``), which are passed over.

    Raises
    ------
    InputError
        Not such a file, an unknown entity, or no entry about an anatomical image.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise InputError(f'{path}: is no filter file; write for example {{"t1w": {{"session": "01"}}}}')
    known = {suffix.lower(): suffix for suffix in SUFFIXES}
    queries, others = [], []
    for name, entry in content.items():
        suffixes = _texts(path, name, "suffix", entry.get("suffix", known.get(name.lower())))
        unknown = [suffix for suffix in suffixes if suffix not in SUFFIXES]
        if suffixes == (None,) or (unknown and name.lower() not in known):
            others.append(name)
            continue
        if unknown:
            raise InputError(f"{path}: {name}: no anatomical image has the suffix {unknown[0]}")
        values = {}
        for key, value in entry.items():
            if key != "suffix" and (short := _entity(path, name, key, value)):
                values[short] = _texts(path, name, key, value)
        queries.append(Query(name, tuple(s for s in suffixes if s), values))
    if not queries:
        raise InputError(f"{path}: has no entry about an anatomical image. Known are {', '.join(known)}.")
    return queries, [f"{path}: passed over {', '.join(others)}: only anatomical images are processed"] if others else []


def _entity(path: Path, name: str, key: str, value: Any) -> str:
    """Short key of an entity; "" for what always holds here."""
    short = _LONG.get(key, key)
    if short in ENTITIES:
        return short
    if key == "extension":
        fits = bool(_ENDINGS & {str(v) for v in (value if isinstance(value, list) else [value])})
    elif key in _FIXED:
        fits = _FIXED[key] in (value if isinstance(value, list) else [value])
    else:
        raise InputError(f"{path}: {name}: unknown entity {key!r}. Known are {', '.join(_LONG)}.")
    if not fits:
        raise InputError(f"{path}: {name}: {key} {json.dumps(value)} leaves no raw anatomical image")
    return ""


def _texts(path: Path, name: str, key: str, value: Any) -> tuple[str | None, ...]:
    """Values of an entry as texts, None for an absent entity, "*" for any."""
    made: list[str | None] = []
    for item in value if isinstance(value, list) else [value]:
        if item is not None and (isinstance(item, bool) or not isinstance(item, str | int)):
            raise InputError(f"{path}: {name}: {key} is {json.dumps(item)}; give a text, a number, null or a list")
        text = None if item is None or item in _ABSENT else str(item)
        if text == _ANY_OR_NONE:
            made += ["*", None]
        else:
            made.append("*" if text in _PRESENT else _bare(key, text))
    return tuple(made)


def _bare(key: str, text: str | None) -> str | None:
    """A label without the prefix that people like to write (``ses-01``)."""
    return text and text.removeprefix(f"{_LONG.get(key, key)}-")


def _allowed(key: str, own: str | None, values: tuple[str | None, ...]) -> bool:
    if own is None:
        return None in values
    return any(value is not None and (value == "*" or same_value(key, own, value)) for value in values)


def select(
    images: Sequence[Image],
    suffixes: Sequence[str] = (),
    runs: Sequence[str] = (),
    queries: Sequence[Query] = (),
) -> tuple[list[Image], list[str]]:
    """Images to process, in the order given, and what was left out, in words.

    Parameters
    ----------
    images : sequence of Image
    suffixes : sequence of str
        Of `SUFFIXES`; `STRUCTURAL` and those that the queries name by default.
    runs : sequence of str
        Labels, with or without ``run-``; images without a run stay out where this is given.
    queries : sequence of Query
        An image whose suffix has queries must fit one of them.
    """
    asked = tuple(suffix for query in queries for suffix in query.suffixes)
    chosen = set(suffixes or (*STRUCTURAL, *asked))
    labels = [run.removeprefix("run-") for run in runs]
    left_out: Counter[str] = Counter()
    kept = []
    for image in images:
        why = _reason(image, chosen, labels, queries)
        if why:
            left_out[why] += 1
        else:
            kept.append(image)
    kept = _first_echoes(kept, queries, left_out)
    messages = [f"left out {count} images: {why}" for why, count in sorted(left_out.items())]
    return kept, messages


def _reason(image: Image, suffixes: set[str], runs: Sequence[str], queries: Sequence[Query]) -> str:
    """Why an image is left out; "" when it is not."""
    if image.suffix not in suffixes:
        told = f" ({ON_REQUEST[image.suffix]})" if image.suffix in ON_REQUEST else ""
        return f"{image.suffix}{told}, not among the suffixes to process"
    if runs and not any(same_value("run", image.entities.get("run", ""), run) for run in runs):
        return "another run"
    about = [query for query in queries if image.suffix in query.suffixes]
    if about and not any(query.fits(image) for query in about):
        return "do not fit the filter file"
    if image.entities.get("part", "mag") != "mag" and not any("part" in query.values for query in about):
        return f"part-{image.entities['part']}, not a magnitude"
    return ""


def _first_echoes(images: list[Image], queries: Sequence[Query], left_out: Counter[str]) -> list[Image]:
    """Of several echoes of one image only the first, unless a query names echoes."""
    first: dict[tuple[Any, ...], int] = {}
    for image in images:
        if _is_echo(image, queries):
            series = _series(image)
            first[series] = min(first.get(series, 1 << 30), int(image.entities["echo"]))
    kept = [i for i in images if not _is_echo(i, queries) or int(i.entities["echo"]) == first[_series(i)]]
    if len(kept) < len(images):
        left_out["later echoes of an image; name echoes in a filter file to process them"] = len(images) - len(kept)
    return kept


def _is_echo(image: Image, queries: Sequence[Query]) -> bool:
    named = any("echo" in query.values for query in queries if image.suffix in query.suffixes)
    return image.entities.get("echo", "").isdigit() and not named


def _series(image: Image) -> tuple[Any, ...]:
    """What the echoes of one image have in common."""
    return image.suffix, *((key, value) for key, value in image.entities.items() if key != "echo")

