"""A data set in the layout of nnU-Net v2, checked for everything its own verifier and trainer would stumble over.

Layout: ``Dataset###_Name/{imagesTr,labelsTr,imagesTs}/CASE[_0000].nii.gz`` and ``dataset.json``; beside them our
``splits_final.json``, ``sources.tsv``, ``neuralprep_export.json`` and the transforms back to the scans.
Source: nnU-Net 2.8, documentation/dataset_format.md and experiment_planning/verify_dataset_integrity.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.bids.derivatives import BY_OUTPUT, ScanName
from neuralprep.bids.sidecars import write_json, write_text
from neuralprep.errors import InputError
from neuralprep.evaluation.labels import read_labels
from neuralprep.export.cases import Found
from neuralprep.export.checks import Checked, NnunetOptions, check_cases, check_names, each
from neuralprep.export.classes import Classes, make_classes
from neuralprep.export.folds import assign_folds, splits
from neuralprep.export.native import Origin, carry_labels
from neuralprep.export.record import (
    RECORD_FILE,
    SOURCES_FILE,
    TRANSFORM_FOLDER,
    grid_json,
    write_record,
    write_sources,
)
from neuralprep.formats.text import read_matrix
from neuralprep.grid import Grid
from neuralprep.volume import Volume, load, save

ENDING = ".nii.gz"
SPLITS_FILE = "splits_final.json"
#: nnU-Net compares voxel sizes to a hundred-thousandth, so a file further off than this is given the common grid
_AS_IS_MM = 1e-4
_IMAGES = {"train": "imagesTr", "test": "imagesTs"}
_LABELS = {"train": "labelsTr", "test": "labelsTs"}  # nnU-Net does not read labelsTs; evaluations do


@dataclass
class Exported:
    """Folder of the data set, its classes, what was done in words, and numbers of cases."""

    folder: Path
    classes: Classes
    training: int
    testing: int
    folds: int
    messages: list[str] = field(default_factory=list)


def export_nnunet(found: Found, raw: Path, options: NnunetOptions) -> Exported:
    """Write a data set.

    Parameters
    ----------
    found
        Cases and channels.
    raw
        nnU-Net's folder of raw data sets.
    options
        How.

    Raises
    ------
    InputError
        Anything that nnU-Net could not read or would silently get wrong; faults of several cases come together.
    """
    check_names(found, raw, options)
    checked = check_cases(found, options)
    train = [entry for entry in checked if entry.case.split == "train"]
    if not train and not options.test_only:
        raise InputError("no case has a label map, so there is nothing to train on; give --labels, or --test-only")
    messages = [*found.messages, *_on_both_sides(checked)]
    classes = _classes(checked, options)
    fold_of = assign_folds([entry.case for entry in train], options.folds, options.seed) if train else {}
    done = Exported(raw / options.folder, classes, len(train), len(checked) - len(train),
                    max(fold_of.values(), default=-1) + 1, messages)
    with _staged(done.folder, options.overwrite) as folder:
        for name in (*_IMAGES.values(), *_LABELS.values(), TRANSFORM_FOLDER):
            (folder / name).mkdir()
        rows = each(checked, lambda entry: _write_case(entry, found.channels, folder, classes, options), options.jobs)
        files = [{**row, "fold": fold_of.get(row["case"])} for case_rows in rows for row in case_rows]
        _write_descriptions(folder, checked, found.channels, classes, options, fold_of)
        write_sources(folder, files)
        for name in (_LABELS["test"], TRANSFORM_FOLDER):
            if not any((folder / name).iterdir()):
                (folder / name).rmdir()
    written = Counter(row["note"] for row in files if row["note"])
    done.messages += [f"{count} files written anew, see {SOURCES_FILE}: {note}" for note, count in written.items()]
    return done


def commands(exported: Exported, number: int) -> list[str]:
    """Lines for a shell that train nnU-Net's large residual encoder on a data set, and predict its test cases."""
    lines = [f"nnUNetv2_plan_and_preprocess -d {number} -pl nnUNetPlannerResEncL --verify_dataset_integrity"]
    if exported.folds:
        lines.append(f'cp "{exported.folder / SPLITS_FILE}" "$nnUNet_preprocessed/{exported.folder.name}/"')
    lines.append(f"nnUNetv2_train {number} 3d_fullres FOLD -p nnUNetResEncUNetLPlans")
    if exported.testing:
        lines.append(f'nnUNetv2_predict -i "{exported.folder / "imagesTs"}" -o PREDICTIONS -d {number} -c 3d_fullres '
                     "-p nnUNetResEncUNetLPlans")
    return lines


def _on_both_sides(checked: Sequence[Checked]) -> list[str]:
    """Warn of subjects with cases in training and in testing; refuse if their test cases have labels to score with."""
    trained = {entry.case.subject for entry in checked if entry.case.split == "train"}
    tested = [entry.case for entry in checked if entry.case.split == "test" and entry.case.subject in trained]
    scored = next((case for case in tested if case.label is not None), None)
    if scored is not None:
        raise InputError(f"subject {scored.subject} is trained on, but its case {scored.name} is for testing; put all "
                         "cases of a subject on one side")
    return [f"{case.name}: for testing, while other cases of {case.subject} are trained on" for case in tested]


def _classes(checked: Sequence[Checked], options: NnunetOptions) -> Classes:
    """Classes of all label maps; a data set for prediction alone needs none."""
    if options.test_only and not options.classes:
        return Classes({}, options.label_map)
    return make_classes(sorted({n for entry in checked for n in entry.found}), options.classes, options.label_map)


def _write_case(entry: Checked, channels: Sequence[str], folder: Path, classes: Classes,
                options: NnunetOptions) -> list[dict[str, Any]]:
    """Write the files of a case; a row of the table of sources for each."""
    case, rows = entry.case, []
    common = {"case": case.name, "split": case.split, "subject": case.subject}
    for number, channel in enumerate(channels):
        target = folder / _IMAGES[case.split] / f"{case.name}_{number:04d}{ENDING}"
        action, note = _place(case.channels[channel], target, entry.grid, options.hard_links)
        origin = entry.origins.get(channel)
        if origin is not None:
            shutil.copyfile(origin.transform, folder / transform_file(origin))
        rows.append({**common, "role": channel, "file": target.relative_to(folder).as_posix(),
                     "source": str(case.channels[channel].absolute()), "action": action, "note": note,
                     "space": origin.space if origin else None,
                     "transform": transform_file(origin) if origin else None})
    if case.label is not None:
        target = folder / _LABELS[case.split] / f"{case.name}{ENDING}"
        action, note = _place_label(entry, case.label, target, classes, options.hard_links)
        rows.append({**common, "role": "label", "file": target.relative_to(folder).as_posix(),
                     "source": str(case.label.absolute()), "action": action, "note": note,
                     "transform": transform_file(entry.carried_from) if entry.carried_from else None})
    return rows


def _place(source: Path, target: Path, grid: Grid, hard_links: bool) -> tuple[str, str]:
    """Bring an image into the data set: as it is where nnU-Net reads it as we do, else written anew, and why."""
    volume = load(source, checks=False)
    reasons = [*volume.notes, *_unlike(source, volume.grid, grid)]
    if not reasons:
        return _copied(source, target, hard_links), ""
    save(Volume(volume.data, grid), target, dtype=np.float32)
    return "written", "; ".join(reasons)


def _place_label(
    entry: Checked, source: Path, target: Path, classes: Classes, hard_links: bool
) -> tuple[str, str]:
    """The same for a label map, which may also have to be carried to the images' grid, or renumbered."""
    labels = read_labels(source)
    drawn_on = entry.carried_from
    reasons = list(labels.notes)
    if drawn_on is not None:
        reasons.append("carried from the grid of its scan")
        labels = carry_labels(labels, entry.grid, read_matrix(drawn_on.transform))
    else:
        reasons += _unlike(source, labels.grid, entry.grid)
    if classes.mapping is not None:
        reasons.append("numbers mapped")
    if not reasons:
        return _copied(source, target, hard_links), ""
    numbers = classes.mapped(labels.data)
    save(Volume(numbers.astype(np.uint8 if numbers.max() < 256 else np.int16), entry.grid), target)
    return "written", "; ".join(reasons)


def _unlike(source: Path, grid: Grid, wanted: Grid) -> list[str]:
    """What keeps a file from being taken as it is."""
    import nibabel as nib

    reasons = []
    if not source.name.lower().endswith(ENDING):
        reasons.append(f"no {ENDING} file")
    elif len(nib.load(source).shape) != 3:  # type: ignore[attr-defined]  # our own reader drops axes of length 1
        reasons.append("more than three dimensions")
    if not grid.same_as(wanted, tol_mm=_AS_IS_MM):
        reasons.append("header rounded otherwise than that of the first channel")
    return reasons


def _copied(source: Path, target: Path, hard_links: bool) -> str:
    try:
        if not hard_links:
            shutil.copyfile(source, target)
            return "copied"
        os.link(source.resolve(), target)
    except OSError as error:
        fix = ("both must lie on one file system that has hard links, else leave out --hard-links" if hard_links
               else "check the folder and the free space")
        raise InputError(f"{source}: cannot be brought to {target.parent} ({error.strerror}); {fix}") from error
    return "linked"


def transform_file(origin: Origin) -> str:
    """Name of a transform within the data set; the name of the scan tells the channels of a case apart."""
    name = ScanName(origin.scan, "")
    return f"{TRANSFORM_FOLDER}/{name.stem(BY_OUTPUT['template_from_scan'], origin.space)}.txt"


def _write_descriptions(folder: Path, checked: Sequence[Checked], channels: Sequence[str], classes: Classes,
                        options: NnunetOptions, fold_of: dict[str, int]) -> None:
    """``dataset.json``, ``splits_final.json`` and our own record."""
    training = sum(entry.case.split == "train" for entry in checked)
    content: dict[str, Any] = {"name": options.name, "channel_names": dict(map(_numbered, enumerate(channels))),
                               **classes.json(), "numTraining": training, "file_ending": ENDING}
    if any(entry.sheared for entry in checked):
        content["overwrite_image_reader_writer"] = "NibabelIO"  # ITK, the default, refuses sheared axes
    write_json(folder / "dataset.json", content)
    if fold_of:
        write_text(folder / SPLITS_FILE, json.dumps(splits(fold_of), indent=1) + "\n")
    write_record(folder, {
        "dataset": options.folder,
        "channels": list(channels),
        "classes": {name: list(numbers) for name, numbers in classes.members.items()},
        "label_map": None if classes.mapping is None else {str(k): v for k, v in classes.mapping.items()},
        "cases": {entry.case.name: {
            "split": entry.case.split, "subject": entry.case.subject, "fold": fold_of.get(entry.case.name),
            "grid": grid_json(entry.grid), "label": None if entry.case.label is None else str(entry.case.label),
            "channels": {channel: _channel_json(entry, channel) for channel in channels},
        } for entry in checked},
    })


def _channel_json(entry: Checked, channel: str) -> dict[str, Any]:
    origin = entry.origins.get(channel)
    return {
        "source": str(entry.case.channels[channel].absolute()),
        "scan": origin.scan if origin else "",
        "space": origin.space if origin else "",
        "transform": transform_file(origin) if origin else "",
        "native": grid_json(origin.native) if origin else None,
    }


@contextmanager
def _staged(final: Path, overwrite: bool) -> Iterator[Path]:
    """Folder that becomes `final` when the block ends well, else is removed."""
    if final.exists() and not (overwrite and (final / RECORD_FILE).is_file()):
        fix = "was not written by neuralprep export; move it away" if overwrite else "exists; give --overwrite"
        raise InputError(f"{final}: {fix}, or choose another --id or --name")
    staging, old = (final.with_name(f".{kind}-{final.name}-{os.getpid()}") for kind in ("partial", "old"))
    try:
        staging.mkdir()
    except OSError as error:
        raise InputError(f"{final.parent}: cannot be written to ({error.strerror}); check the folder") from error
    try:
        yield staging
        if final.exists():
            final.replace(old)
        staging.replace(final)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _numbered(channel: tuple[int, str]) -> tuple[str, str]:
    return str(channel[0]), channel[1]
