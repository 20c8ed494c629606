"""Cases of several channels: find them in a folder, strip them with one mask, window them, and write them for nnU-Net.

``isles24`` is the input of the ISLES'24 winner (Ren, Rivera et al., arXiv 2505.18424): five channels on the grid of
the non-contrast CT, each windowed and equalised within the brain, written as ``CASE_0000`` (CBF) to ``CASE_0004``
(CTA).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralprep.bids.sidecars import write_json, write_text
from neuralprep.engine.inputs import image_stem
from neuralprep.errors import InputError
from neuralprep.files import read_text
from neuralprep.normalization.catalog import WINDOWS, Preset
from neuralprep.normalization.files import mask_for
from neuralprep.normalization.hounsfield import check_hounsfield
from neuralprep.normalization.region import select
from neuralprep.normalization.windows import apply_window
from neuralprep.volume import Volume, load

if TYPE_CHECKING:
    from neuralprep.pipeline import Preprocessor

MASK_FOLDER = "masks"
TABLE = "cases.tsv"
_TOLERANCE_MM = 0.1
_REGISTERED = "space-ncct"
_RAW_TREES = ("raw_data", "rawdata")


@dataclass(frozen=True)
class Case:
    """Files of one case.

    Attributes
    ----------
    name
        Prefix of its files.
    channels
        Path of every channel, in order.
    reference
        Non-contrast CT, if there is one.
    label
        Drawing of the lesion, if there is one.
    """

    name: str
    channels: dict[str, Path]
    reference: Path | None
    label: Path | None = None


@dataclass
class CaseResult:
    """What came out of a case.

    Attributes
    ----------
    files
        Images written, in the order of the channels.
    reasons
        Why a person should look at it.
    measures
        By channel and name.
    notes
        By channel: what was repaired or decided while reading.
    """

    files: list[Path] = field(default_factory=list)
    reasons: tuple[str, ...] = ()
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Stripper:
    """Makes brain masks of CTs with the shipped network, which is loaded when the first mask is needed."""

    def __init__(self) -> None:
        self._preprocessor: Preprocessor | None = None

    def __call__(self, scan: Volume) -> tuple[Volume, tuple[str, ...]]:
        """Brain mask of a CT, and reasons to look at it."""
        if self._preprocessor is None:
            from neuralprep.pipeline import Preprocessor, Settings

            self._preprocessor = Preprocessor(Settings(normalize=False, register=False, outputs=("brain_mask",)))
        result = self._preprocessor.run(scan)
        mask = result.outputs["brain_mask"]
        assert isinstance(mask, Volume)
        return mask, tuple(result.quality.reasons)


def case_folders(inputs: Sequence[Path]) -> list[Path]:
    """Folders of cases: each input itself, or its ``sub-*`` folders (also those below ``derivatives``)."""
    folders: list[Path] = []
    for path in inputs:
        root = path / "derivatives" if (path / "derivatives").is_dir() else path
        subjects = sorted(p for p in root.glob("sub-*") if p.is_dir())
        folders.extend(subjects or [path])
    return folders


def find_case(folder: Path, preset: Preset) -> Case:
    """Find the channels of a case by the last part of their names, in the folder and below.

    ``tmax.nii.gz``, ``case7_Tmax.nii`` and ``sub-stroke0001_ses-01_space-ncct_tmax.nii.gz`` are all the channel tmax.
    Where a channel is there twice, the one in ``space-ncct`` is taken.

    Raises
    ------
    InputError
        No such folder, a channel that is missing, or several files for one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one folder per case, with the images of its channels")
    images = _images_below(folder)
    found = {channel: _one_of(images, (channel,), folder) for channel in preset.channels}
    missing = [channel for channel, path in found.items() if path is None]
    if missing:
        there = ", ".join(p.name for p in images[:12]) or "no image at all"
        raise InputError(f"{folder}: channel {', '.join(missing)} is missing. Expected a file whose name ends in "
                         f"_{missing[0]}.nii.gz; found {there}")
    reference = _one_of(images, preset.reference, folder) or _raw_reference(folder, preset.reference)
    lesions = [p for p in images if "lesion" in p.name.lower()]
    label = lesions[0] if len(lesions) == 1 else None
    return Case(case_name(folder), {c: p for c, p in found.items() if p is not None}, reference, label)


def case_name(folder: Path) -> str:
    """Name of a case: its folder; a session's folder gets its subject in front."""
    folder = folder.absolute()
    name = f"{folder.parent.name}_{folder.name}" if folder.name.startswith("ses-") else folder.name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "case"


def distinct_cases(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the name of their case.

    Raises
    ------
    InputError
        Two folders whose results would overwrite each other.
    """
    cases: dict[str, Path] = {}
    for folder in folders:
        name = case_name(folder)
        other = cases.setdefault(name, folder)
        if other.absolute() != folder.absolute():
            raise InputError(f"{folder}: its case would be called {name}, as that of {other}; rename one folder, or "
                             "write them to two output folders")
    return cases


def normalize_case(case: Case, preset: Preset, out: Path, stripper: Stripper, *, mask: Path | None = None,
                   fill: float = 0.0, checks: bool = True) -> CaseResult:
    """Window and equalise every channel within one brain mask; writing starts when all channels are done.

    Parameters
    ----------
    case, preset
        What to read.
    out
        Existing folder: gets ``NAME_0000.nii.gz`` and so on, ``NAME.json``, and ``masks/NAME.nii.gz``.
    stripper
        Makes the mask where none is given.
    mask
        Brain mask, or a folder of masks named like the cases.
    fill
        Value outside the mask.
    checks
        Refuse channels that are not in the units of their windows.

    Raises
    ------
    InputError
        Grids that differ, units that are wrong, a mask that does not fit, or anything wrong with a file.
    """
    images = _read_channels(case)
    brain, made_from, reasons = _brain_mask(case, preset, images, stripper, mask, checks)
    grid = next(iter(images.values())).grid
    result = CaseResult(reasons=reasons)
    volumes: list[tuple[Path, Volume]] = []
    for number, (channel, image) in enumerate(images.items()):
        done = apply_window(image, WINDOWS[channel], brain, equalize=True, fill=fill, checks=checks)
        result.measures[channel] = done.measures
        result.notes[channel] = image.notes
        # one affine for all: nnU-Net compares them, and rounding in headers must not tell them apart
        volumes.append((out / f"{case.name}_{number:04d}.nii.gz", Volume(done.image.data, grid, image.source)))
    (out / MASK_FOLDER).mkdir(exist_ok=True)
    inside = (brain.data > 0).astype("uint8")
    Volume(inside, grid).save(out / MASK_FOLDER / f"{case.name}.nii.gz", description="neuralprep brain mask")
    for path, volume in volumes:
        volume.save(path, description="neuralprep window equalized")
        result.files.append(path)
    write_json(out / f"{case.name}.json", _record(case, result, made_from, fill))
    return result


def write_table(preset: Preset, out: Path) -> None:
    """Table of all finished cases in a folder, as ``neuralprep export nnunet`` reads it: case, channels, label."""
    rows = [("case", *preset.channels, "label")]
    for mask in sorted((out / MASK_FOLDER).glob("*.nii.gz")):
        name = image_stem(mask) or ""
        if not (out / f"{name}.json").is_file():  # a run was stopped in the middle of this case
            continue
        record: Any = json.loads(read_text(out / f"{name}.json"))
        rows.append((name, *(item["File"] for item in record["Channels"]), record["Label"] or "n/a"))
    write_text(out / TABLE, "".join("\t".join(row) + "\n" for row in rows))


def _images_below(folder: Path) -> list[Path]:
    """Images in a folder and below, sorted; hidden files left out."""
    return [
        p for p in sorted(folder.rglob("*"))
        if image_stem(p) is not None and p.is_file() and not p.name.startswith(".")
    ]  # fmt: skip


def _one_of(images: list[Path], endings: tuple[str, ...], folder: Path) -> Path | None:
    """The image whose name ends in one of the words; those on the grid of the non-contrast CT go first."""
    matches = [p for p in images if re.split(r"[_\-. ]", image_stem(p) or "")[-1].lower() in endings]
    registered = [p for p in matches if _REGISTERED in p.name.lower()]
    matches = registered or matches
    if len(matches) > 1:
        names = ", ".join(str(p.relative_to(folder)) for p in matches)
        raise InputError(f"{folder}: several files could be the channel {endings[0]}: {names}. Keep one of them in the "
                         "folder of the case (one session per case)")
    return matches[0] if matches else None


def _raw_reference(folder: Path, endings: tuple[str, ...]) -> Path | None:
    """ISLES'24 keeps the non-contrast CT in another tree: ``raw_data/sub-X/ses-01`` beside ``derivatives/sub-X``."""
    parts = folder.absolute().parts
    if "derivatives" not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index("derivatives")
    for tree in _RAW_TREES:
        raw = Path(*parts[:place], tree, *parts[place + 1 :])
        if raw.is_dir():
            return _one_of(_images_below(raw), endings, raw)
    return None


def _read_channels(case: Case) -> dict[str, Volume]:
    """All channels, on one grid."""
    images: dict[str, Volume] = {}
    for channel, path in case.channels.items():
        images[channel] = load(path)
        first = next(iter(images.values()))
        if not images[channel].grid.same_as(first.grid, _TOLERANCE_MM):
            raise InputError(f"{path}: its grid {images[channel].grid.shape} is not that of {first.source}, "
                             f"{first.grid.shape} at the same place; register and resample all channels to the "
                             "non-contrast CT first")
    return images


def _brain_mask(case: Case, preset: Preset, images: dict[str, Volume], stripper: Stripper, mask: Path | None,
                checks: bool) -> tuple[Volume, str, tuple[str, ...]]:
    """Brain mask on the channels' grid, where it comes from, and reasons to look at it."""
    given = mask_for(mask, case.name)
    if given is not None:
        return load(given, checks=False), given.name, ()
    scan = images[preset.fallback]
    if case.reference is not None:
        reference = load(case.reference)
        if reference.grid.same_as(scan.grid, _TOLERANCE_MM):
            scan = reference
    if checks:
        check_hounsfield(select(scan, None, "min", checks=False), masked=False)
    brain, reasons = stripper(scan)
    name = scan.source.name if scan.source else ""
    return brain, f"made from {name}", tuple(f"brain mask: {reason}" for reason in reasons)


def _record(case: Case, result: CaseResult, mask: str, fill: float) -> dict[str, Any]:
    channels = [
        {"File": path.name, "Channel": channel, "Source": source.name, "Window": [WINDOWS[channel].low,
         WINDOWS[channel].high], "Units": WINDOWS[channel].units, "Measures": result.measures[channel],
         "Notes": list(result.notes[channel])}
        for path, (channel, source) in zip(result.files, case.channels.items(), strict=True)
    ]  # fmt: skip
    return {
        "Description": "Channels windowed to 0..1 and histogram equalised within the brain mask.",
        "Mask": mask,
        "Label": str(case.label.absolute()) if case.label else None,
        "ValueOutside": fill,
        "Channels": channels,
        "Reasons": list(result.reasons),
    }
