"""Volumes for the viewer, read back from the files of a finished scan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralprep.bids.derivatives import BY_OUTPUT
from neuralprep.bids.layout import Home, home_of
from neuralprep.engine.record import read_quality, read_status, records_of
from neuralprep.errors import InputError
from neuralprep.report import write_index
from neuralprep.report.scan_page import has_viewer, link_viewer
from neuralprep.report.viewer import Layer, viewer_page, write_viewer
from neuralprep.volume import Volume, load

if TYPE_CHECKING:
    from neuralprep.engine.record import ScanRecord

_IMAGES = (("preproc", "Normalised"), ("preproc_brain", "Brain"))
_MASKS = (("brain_mask", "brain mask"), ("nocsf_mask", "tissue"))


def scan_viewer(out_dir: Path, scan: str) -> str:
    """Viewer page of a finished scan.

    Raises
    ------
    InputError
        The scan is not finished, none of its images is there, or the library is not installed.
    """
    return viewer_page(scan, _layers(out_dir, scan))


def write_viewers(out_dir: Path, records: Iterable[ScanRecord]) -> list[str]:
    """Write the viewer page of each finished scan that has none, or one older than its results.

    The pages of the scans get links to them, and the index page is brought up to date.

    Returns
    -------
    list of str
        Which scans have no page, and why.
    """
    faults = []
    for record in records:
        if record.status == "failed":
            continue
        home = home_of(out_dir, record.scan)
        try:
            _write_viewer(out_dir, record.scan, home)
        except InputError as error:
            faults.append(f"no viewer of {record.scan}: {error}")
    write_index(out_dir, records_of(read_status(out_dir)))
    return faults


def _write_viewer(out_dir: Path, scan: str, home: Home) -> None:
    """Write the viewer page of a scan if it has to be, and let the page of the scan say whether there is one."""
    try:
        if not has_viewer(home.folder, home.files):
            write_viewer(home.folder, scan, _layers(out_dir, scan), home.files)
    finally:
        link_viewer(home.folder, home.files)


def _layers(out_dir: Path, scan: str) -> list[Layer]:
    """The scan as it was, where its file is still there, and the native images and masks that were written."""
    home = home_of(out_dir, scan)
    content = read_quality(home.quality)
    if content is None:
        raise InputError(f"{out_dir / scan}: has no finished scan, so there is nothing to show")
    layers = [Layer("Scan", "image", volume) for volume in _source(content)]
    for kind, table in (("image", _IMAGES), ("mask", _MASKS)):
        for output, title in table:
            path = home.folder / f"{home.files.stem(BY_OUTPUT[output], '')}.nii.gz"
            if path.is_file():
                layers.append(Layer(title, "image" if kind == "image" else "mask", load(path, checks=False)))
    names = [layer.name for layer in layers]
    return [layer for layer in layers if layer.name != "Brain" or "Normalised" not in names]


def _source(content: dict[str, Any]) -> list[Volume]:
    """The input, or nothing where it was moved or changed since."""
    path = Path(str(content.get("source") or ""))
    if not path.is_file():
        return []
    try:
        return [load(path, frame=content.get("settings", {}).get("frame"), checks=False)]
    except InputError:
        return []
