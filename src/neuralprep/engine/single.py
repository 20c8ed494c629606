"""One scan to exactly the files that were named, without a folder around them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuralprep.dicom.search import holds_dicom, series_of
from neuralprep.engine.frames import process_frames
from neuralprep.engine.images import Frame, read_scan, write_image
from neuralprep.engine.inputs import IMAGE_ENDINGS, Scan, expand, image_stem
from neuralprep.engine.record import ScanRecord
from neuralprep.errors import InputError
from neuralprep.files import check_output
from neuralprep.pipeline import Preprocessor, Settings
from neuralprep.volume import load


def check_targets(scan: Path, targets: Mapping[str, Path], keep: Path | None = None) -> None:
    """Refuse files that cannot be written or would replace the scan, the label or each other, before any work is done.

    Raises
    ------
    InputError
        With the file and what to change.
    """
    taken: dict[Path, str] = {}
    for output, path in targets.items():
        if image_stem(path) is None:
            raise InputError(f"{path}: not the name of an image; end it in one of {', '.join(IMAGE_ENDINGS)}")
        if not path.parent.is_dir():
            raise InputError(f"{path}: its folder does not exist; make it first")
        check_output(path, (scan,) if keep is None else (scan, keep))
        if path.resolve() in taken:
            raise InputError(f"{path}: is named for {taken[path.resolve()]} already; give another name")
        taken[path.resolve()] = output


def may_be_scan(path: Path) -> bool:
    """Whether a path is a file, a folder that holds DICOM, or stands for a DICOM series."""
    return path.is_file() or (holds_dicom(path) if path.is_dir() else series_of(path.absolute()) is not None)


def one_scan(path: Path) -> Scan:
    """The one scan that a path stands for: an image, or a DICOM folder or file with one anatomical series.

    Raises
    ------
    InputError
        It stands for none or for several.
    """
    if path.is_file() and image_stem(path) is not None:
        return Scan(path, image_stem(path) or path.name)
    scans = expand([path], Path(os.devnull)).scans
    if len(scans) > 1:
        names = ", ".join(scan.path.name for scan in scans)
        raise InputError(f"{path}: holds {len(scans)} scans ({names}); name one, or give a folder as OUT for all")
    if scans[0].fault:
        raise InputError(scans[0].fault)
    return scans[0]


def strip_file(scan: Path, targets: Mapping[str, Path], settings: Settings, frame: Frame = None,
               keep: Path | None = None) -> ScanRecord:
    """Strip one scan and write one file per output; files that exist are replaced.

    Parameters
    ----------
    scan
        The image, or DICOM that holds one anatomical series.
    targets
        Output name -> file to write, see :func:`check_targets`.
    settings
        For stripping; their ``outputs`` are taken from ``targets``.
    frame
        Which frame of a 4-D scan; "each" writes series.
    keep
        A label whose voxels belong to every mask.

    Raises
    ------
    NeuralprepError
        Anything wrong with the scan, the label or the files.
    """
    start = time.perf_counter()
    check_targets(scan, targets, keep)
    one = one_scan(scan)
    label = None if keep is None else load(keep, checks=False)
    preprocessor = Preprocessor(replace(settings, outputs=tuple(targets), keep=label))
    if frame == "each" and one.series is None:
        result = process_frames(scan, preprocessor, targets)
    else:
        result = preprocessor.run(read_scan(one, None if frame == "each" else frame))
        for output, path in targets.items():
            write_image(result, output, path, frame)
    judged = result.quality
    return ScanRecord(one.name, str(one.path), judged.decision, judged.reasons,
                      time.perf_counter() - start, {k: v for k, v in judged.measures.items() if v == v})
