"""Where the files of a scan lie in an output folder.

A plain file gets a folder of its own (``OUT/scan/scan_...``). A scan of a BIDS data set lies where it lay in the data
set (``OUT/sub-01/ses-2/anat/sub-01_ses-2_...``), together with the other scans of that visit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuralprep.bids.derivatives import QUALITY, VISITS, ScanName
from neuralprep.bids.entities import split_name


@dataclass(frozen=True)
class Home:
    """Place of one scan.

    Attributes
    ----------
    folder : Path
        Holds its files.
    files : ScanName
        What they are called.
    """

    folder: Path
    files: ScanName

    @property
    def quality(self) -> Path:
        """The record; a scan is finished if and only if it is there."""
        return self.folder / self.files.file(QUALITY)


def bids_folder(name: str) -> str:
    """Folder of a scan of a BIDS data set below the top folder; "" for a name without a subject.

    Examples
    --------
    >>> bids_folder("sub-01_ses-2_run-1_T1w")
    'sub-01/ses-2/anat'
    >>> bids_folder("sub-01_longitudinal")
    'sub-01'
    >>> bids_folder("head")
    ''
    """
    entities, suffix = split_name(name)
    if not entities.get("sub"):
        return ""
    if suffix == VISITS[1]:  # its files lie in several sessions
        return f"sub-{entities['sub']}"
    visit = f"ses-{entities['ses']}/" if entities.get("ses") else ""
    return f"sub-{entities['sub']}/{visit}anat"


def home_in(out_dir: Path, name: str, folder: str = "") -> Home:
    """Place of a scan whose shared folder is known ("": it has its own)."""
    return Home(out_dir / (folder or name), ScanName.of(name, shared=bool(folder)))


def home_of(out_dir: Path, name: str) -> Home:
    """Place of a scan in an output folder of either kind, by its name and what is there."""
    folder = bids_folder(name)
    if folder and not (out_dir / name).is_dir() and (out_dir / folder).is_dir():
        return home_in(out_dir, name, folder)
    return home_in(out_dir, name)
