"""A BIDS data set on disk: its anatomical images, found by one walk over the ``anat`` folders and nothing else.

Which images are taken is a matter of their suffix and entities (`take`); what is left out is counted by the reason.
JSON files that describe an image by the inheritance principle (same suffix, no entity that the image has not, in its
folder or above) are kept as paths and read when the image is processed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralprep.bids.entities import split_name
from neuralprep.bids.ignore import IgnoreRules
from neuralprep.bids.sidecars import DESCRIPTION_FILE, is_own_dataset
from neuralprep.errors import InputError

#: suffixes of images of the whole head that are processed unless others are named
STRUCTURAL = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "UNIT1", "inplaneT1", "inplaneT2", "T2star", "PD", "FLASH")
#: suffixes that are processed where they are named, and why not else
ON_REQUEST = {
    "angio": "angiograms: vessels, often a slab",
    "PDT2": "two images in one file; choose with --frame",
    "MEGRE": "echo series", "MESE": "echo series", "VFA": "flip angle series", "IRT1": "inversion series",
    "MP2RAGE": "inversion images; UNIT1 is taken", "MPM": "parameter series", "MTS": "parameter series",
    "MTR": "parameter series", "MTw": "parameter series",
    **dict.fromkeys(
        ("T1map", "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "PDmap", "MTRmap", "MTsat", "MWFmap", "Chimap",
         "S0map", "M0map", "PDT2map", "T1rho"), "quantitative map"),
}  # fmt: skip
SUFFIXES = (*STRUCTURAL, *ON_REQUEST)
_ENDINGS = (".nii.gz", ".nii")
_SHOWN = 5


@dataclass(frozen=True)
class Image:
    """An anatomical image.

    Attributes
    ----------
    path : Path
        Absolute.
    relative : str
        Below the data set's folder, with slashes.
    entities : dict of str to str
        Short key -> value.
    suffix : str
    sidecars : tuple of Path
        JSON files that describe it, the nearest last.
    """

    path: Path
    relative: str
    entities: dict[str, str]
    suffix: str
    sidecars: tuple[Path, ...] = ()

    @property
    def stem(self) -> str:
        """File name without extension."""
        name = self.path.name
        return next(name[: -len(ending)] for ending in _ENDINGS if name.endswith(ending))


@dataclass
class Dataset:
    """What was found.

    Attributes
    ----------
    root : Path
    description : dict
        Of ``dataset_description.json``; empty where there is none.
    subjects : list of str
        Labels of all subjects, or of those asked for.
    images : list of Image
        Of the anatomical suffixes, sorted by path.
    messages : list of str
        What was left out or is amiss, in words.
    """

    root: Path
    description: dict[str, Any] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Sidecar:
    path: Path
    entities: dict[str, str]
    suffix: str


def read_dataset(root: Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()) -> Dataset:
    """Find the anatomical images of a data set.

    Parameters
    ----------
    root : Path
        Top folder of the data set.
    participants, sessions : sequence of str
        Labels, with or without ``sub-`` and ``ses-``; all by default.

    Raises
    ------
    InputError
        No such folder, an output folder, no subject, or a participant or session that is not there.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder. The first argument is the top folder of a BIDS data set.")
    if is_own_dataset(root):
        raise InputError(f"{root}: holds outputs of neuralprep. Give the folder of the raw data set.")
    found = Dataset(root)
    found.description = _description(root, found.messages)
    folders, files = _listing(root)
    labels = sorted(name.removeprefix("sub-") for name in folders if name.startswith("sub-") and name != "sub-")
    if not labels:
        raise InputError(f"{root}: has no folder sub-... in it, so it is no BIDS data set. For other folders of "
                         "images there is `neuralprep run`.")
    found.subjects = _chosen("participant", "sub-", participants, labels, root)
    walk = _Walk(found, IgnoreRules.read(root), [name.removeprefix("ses-") for name in sessions])
    above = walk.sidecars(root, files)
    for label in found.subjects:
        walk.subject(label, above)
    _chosen("session", "ses-", sessions, sorted(walk.sessions), root)
    walk.tell()
    return found


class _Walk:
    """One pass over the folders."""

    def __init__(self, found: Dataset, ignored: IgnoreRules, sessions: Collection[str]) -> None:
        self._found, self._ignored, self._wanted = found, ignored, sessions
        self.sessions: set[str] = set()
        self._left_out: Counter[str] = Counter()
        self._odd: list[str] = []
        self._without: list[str] = []

    def sidecars(self, folder: Path, files: Sequence[str]) -> list[_Sidecar]:
        """JSON files among these that describe images."""
        made = []
        for name in files:
            if name.endswith(".json"):
                entities, suffix = split_name(name.removesuffix(".json"))
                if suffix and (entities or suffix in SUFFIXES):
                    made.append(_Sidecar(folder / name, entities, suffix))
        return made

    def subject(self, label: str, above: list[_Sidecar]) -> None:
        """Images of one subject, in all its sessions."""
        top = self._found.root / f"sub-{label}"
        folders, files = _listing(top)
        above = [*above, *self.sidecars(top, files)]
        before = len(self._found.images)
        visits = [name for name in folders if name.startswith("ses-")]
        self.sessions.update(name.removeprefix("ses-") for name in visits)
        if "anat" in folders and not self._wanted:
            self._anat(top / "anat", f"sub-{label}/anat", {"sub": label}, above)
        for visit in visits:
            session = visit.removeprefix("ses-")
            if self._wanted and session not in self._wanted:
                continue
            inner, inner_files = _listing(top / visit)
            if "anat" in inner:
                here = [*above, *self.sidecars(top / visit, inner_files)]
                self._anat(top / visit / "anat", f"sub-{label}/{visit}/anat", {"sub": label, "ses": session}, here)
        if len(self._found.images) == before:
            self._without.append(label)

    def _anat(self, folder: Path, relative: str, expected: dict[str, str], above: list[_Sidecar]) -> None:
        """Images of one folder."""
        _, files = _listing(folder)
        candidates = [*above, *self.sidecars(folder, files)]
        names = set(files)
        for name in files:
            ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
            if ending is None:
                continue
            path = f"{relative}/{name}"
            entities, suffix = split_name(name.removesuffix(ending))
            if self._ignored(path):
                self._left_out["in .bidsignore"] += 1
            elif not suffix or {key: entities.get(key) for key in expected} != expected or "space" in entities:
                self._odd.append(path)
            elif ending == ".nii" and f"{name}.gz" in names:
                self._found.messages.append(f"{path}: left out, because the same image is there as {name}.gz")
            elif suffix not in SUFFIXES:
                self._left_out[suffix] += 1
            else:
                fits = (c for c in candidates if c.suffix == suffix and c.entities.items() <= entities.items())
                told = tuple(sidecar.path for sidecar in fits)
                self._found.images.append(Image(folder / name, path, entities, suffix, told))

    def tell(self) -> None:
        """Say what was left out."""
        say = self._found.messages.append
        if self._left_out:
            counts = ", ".join(f"{count} {why}" for why, count in sorted(self._left_out.items()))
            say(f"left out in anat folders: {counts}")
        if self._odd:
            more = f" and {len(self._odd) - _SHOWN} more" if len(self._odd) > _SHOWN else ""
            say(f"left out, their names are not those of raw BIDS images in these folders: "
                f"{', '.join(self._odd[:_SHOWN])}{more}")
        if self._without:
            more = f" and {len(self._without) - _SHOWN} more" if len(self._without) > _SHOWN else ""
            chosen = " in the sessions asked for" if self._wanted else ""
            say(f"without an anatomical image{chosen}: sub-{', sub-'.join(self._without[:_SHOWN])}{more}")


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of folders and of files, hidden ones left out; a link counts as what it leads to.

    Raises
    ------
    InputError
        The folder may not be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    # a link to a file that is not there (git-annex) is a file: reading it explains itself
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from error
    return sorted(folders), sorted(files)


def _description(root: Path, messages: list[str]) -> dict[str, Any]:
    """Content of the description; a fault is a message, because images can be found without it."""
    path = root / DESCRIPTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        messages.append(f"{path}: is missing, so this is no valid BIDS data set; going on without it")
        return {}
    except (OSError, ValueError) as error:
        messages.append(f"{path}: is not valid JSON ({error}); going on without it")
        return {}
    if not isinstance(content, dict):
        messages.append(f"{path}: is not a JSON object; going on without it")
        return {}
    if content.get("DatasetType") == "derivative":
        messages.append(f"{path}: says that these are derivatives; they are taken as if they were raw")
    return content


def _chosen(what: str, prefix: str, wanted: Sequence[str], there: list[str], root: Path) -> list[str]:
    """The labels asked for, or all."""
    if not wanted:
        return there
    labels = list(dict.fromkeys(label.removeprefix(prefix) for label in wanted))
    missing = [label for label in labels if label not in there]
    if missing:
        known = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        raise InputError(f"{root}: has no {what} {', '.join(missing)}. There are {known or 'none'}.")
    return [label for label in there if label in labels]

