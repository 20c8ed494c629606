"""Other people's published weights: where they are, how they are fetched, and where they are kept.

Nothing here runs by itself: ``neuralprep weights get`` fetches a file once, on request, and only the file with the
checksum in the table is taken.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from neuralprep.errors import WeightsError

_TIMEOUT_S = 60.0
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Published:
    """A file of published weights.

    Parameters
    ----------
    name
        What ``--model`` calls it.
    url
        Public address of the raw file.
    sha256
        Of exactly that file.
    size
        In bytes; a larger answer is not read to its end.
    licence, source
        In words.
    spacing_mm
        Voxel size that the network will see; another than its own changes its dilations, not its tensors.
    """

    name: str
    url: str
    sha256: str
    size: int
    licence: str
    source: str
    spacing_mm: float = 1.0

    def how_to_get(self) -> str:
        """Which command fetches it, with and without a network."""
        return (
            f"Fetch them once ({self.size / _MEBIBYTE:.1f} MiB): neuralprep weights get {self.name}. "
            f"Without a network: save {self.url} on another machine, copy it here and run "
            f"neuralprep weights get {self.name} --from FILE"
        )


_MINDGRAB = Published(
    name="mindgrab",
    url="https://raw.githubusercontent.com/neuroneural/brainchop-models/main/meshnet/mindgrab/model.pth",
    sha256="31f1bda17b8d3eee17a54cf3f199899763a6615a049f05ab2a05f18eb98ec23a",
    size=595_371,
    licence="MIT (brainchop)",
    source="Fani et al., arXiv 2506.11860",
)
PUBLISHED: dict[str, Published] = {
    model.name: model for model in (_MINDGRAB, replace(_MINDGRAB, name="mindgrab-2mm", spacing_mm=2.0))
}
"""Every model that can be fetched, by name."""


def cache_folder() -> Path:
    """Where fetched weights are kept: ``neuralprep/weights`` in the user's cache folder (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "neuralprep" / "weights"


def read_published(model: Published, source: str | None = None) -> bytes:
    """Content of a published file, checked.

    Parameters
    ----------
    model
        Which one.
    source
        A file or an address to take it from; None takes the public address.

    Raises
    ------
    WeightsError
        It cannot be read, or is another file than the one published.
    """
    where = source or model.url
    content = _download(where, model) if "://" in where else _read(Path(where).expanduser())
    found = hashlib.sha256(content).hexdigest()
    if found != model.sha256:
        raise WeightsError(
            f"{where}: is not the published file of {model.name}: its sha256 is {found[:16]}..., not "
            f"{model.sha256[:16]}.... Save {model.url} again"
        )
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); give the published file") from error


def _download(url: str, model: Published) -> bytes:
    import http.client  # these take a tenth of a second to import, and only a download needs them
    import urllib.request

    if not url.startswith(("https://", "http://", "file://")):
        raise WeightsError(f"{url}: give a file, or an address that starts with https://")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return bytes(answer.read(model.size + _MEBIBYTE))
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are kinds of OSError
        raise WeightsError(
            f"{url}: cannot be downloaded ({error}). Check the network and its proxy (HTTPS_PROXY), or save the "
            f"file on another machine and run neuralprep weights get {model.name} --from FILE"
        ) from error
