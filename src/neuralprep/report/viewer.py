"""Interactive three-dimensional viewer: one page with the volumes and the NiiVue library in it.

NiiVue is not part of this package. It is taken at run time from an installed ipyniivue, whose widget carries the whole
library as text for pages of its own; the page then needs neither a network nor a server, so it opens from a file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import numpy as np
from isal import igzip

from neuralprep.bids.derivatives import VIEWER, ScanName
from neuralprep.bids.sidecars import write_text
from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.nifti_io import build_header
from neuralprep.report.page import render
from neuralprep.report.slices import frame_around, window
from neuralprep.resample import resample

if TYPE_CHECKING:
    from neuralprep.volume import Volume

INSTALL = "pip install 'neuralprep[viewer]'"
_PACKAGE = "ipyniivue"
_SPACING_MM = 1.5
_MARGIN_MM = 14.0
# The library stands in the widget as one string in URL encoding; nothing else there is a tenth as long.
_ENCODED = re.compile(r"[\"`]([A-Za-z0-9_.!~*'()%-]{500000,})[\"`]")
_EXPORTS = re.compile(r"export\s*\{[^{}]*\bNiivue\b[^{}]*\};?\s*$")

Kind = Literal["image", "mask"]


@dataclass(frozen=True)
class Layer:
    """One volume of the viewer.

    Attributes
    ----------
    name : what a person reads.
    kind : "image" (grey) or "mask".
    volume : on any grid of the same space.
    """

    name: str
    kind: Kind
    volume: Volume


def available() -> bool:
    """Whether the library is installed; it is not read yet."""
    return _widget() is not None


def write_viewer(folder: Path, name: str, layers: Sequence[Layer], files: ScanName | None = None) -> Path:
    """Write the viewer page of a scan, ``<prefix>_viewer.html``, into its folder.

    Raises
    ------
    InputError
        The library is not installed or not of a version that is known, or the folder cannot be written.
    """
    path = folder / (files or ScanName.of(name)).file(VIEWER)
    write_text(path, viewer_page(name, layers))
    return path


def viewer_page(name: str, layers: Sequence[Layer]) -> str:
    """Text of a self-contained viewer page.

    Parameters
    ----------
    name : heading.
    layers : images of one space first, then masks of it; the first mask says where the head is. Images are carried to
        a grid of 1.5 mm around it and stored with 8 bits; the page is for looking, not for measuring.

    Raises
    ------
    InputError
        The library is not installed or not of a version that is known, or there is no image.
    """
    images = [layer for layer in layers if layer.kind == "image"]
    if not images:
        raise InputError(f"{name}: there is no image to show; run again with preproc among the outputs")
    library = niivue()
    masks = [layer for layer in layers if layer.kind == "mask"]
    grid = _grid_around((masks or images)[0].volume)
    soft = [resample(_real(layer.volume), grid) for layer in masks]
    inside = soft[0].data > 0.5 if soft else np.ones(grid.shape, bool)
    packed = [(layer, _grey(resample(_real(layer.volume), grid, antialias=True), inside)) for layer in images]
    packed += [(layer, (part.data > 0.5).astype(np.uint8)) for layer, part in zip(masks, soft, strict=True)]
    header = build_header(grid.shape, grid.affine, np.dtype(np.uint8), "other", "neuralprep viewer")
    volumes = [{"name": layer.name, "kind": layer.kind, "data": _packed(data.tobytes(order="F"))}
               for layer, data in packed]
    return render("viewer.html.j2", styles=("style.css", "viewer.css"), scripts=("viewer.js",), name=name,
                  library=library, header=_packed(header), volumes=volumes,
                  policy=("script-src blob:", "img-src data: blob:", "connect-src data: blob:"))


@lru_cache(maxsize=1)
def niivue() -> str:
    """The NiiVue module (JavaScript), compressed and in base64.

    Raises
    ------
    InputError
        ipyniivue is not installed, or its widget does not carry the library in the way that is known here.
    """
    path = _widget()
    if path is None:
        raise InputError(f"the 3-D viewer needs the package {_PACKAGE}, which is not installed: {INSTALL}")
    found = _ENCODED.search(path.read_text(encoding="utf-8"))
    code = unquote(found[1]) if found else ""
    if not _EXPORTS.search(code):
        raise InputError(f"{path}: carries no NiiVue module that this version of neuralprep can read; "
                         f"install a release of {_PACKAGE} that it was tested with: {INSTALL}")
    return _packed(code.encode())


def _widget() -> Path | None:
    """The file of the widget, found without importing the package, which would load a notebook."""
    spec: Any = util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "static" / "widget.js"
    return path if path.is_file() else None


def _packed(content: bytes) -> str:
    return base64.b64encode(igzip.compress(content, compresslevel=3)).decode("ascii")


def _real(volume: Volume) -> Volume:
    return volume.with_data(volume.data.astype(np.float32, copy=False))


def _grid_around(volume: Volume) -> Grid:
    """Grid along the world axes around the head."""
    frame = frame_around(volume, 1, _MARGIN_MM)
    counts = np.maximum(2, np.rint((frame.high - frame.low) / _SPACING_MM)).astype(int)
    return Grid.centered([int(n) for n in counts], _SPACING_MM, (frame.low + frame.high) / 2)


def _grey(image: Volume, inside: np.ndarray) -> np.ndarray:
    """8 bits over the grey window that shows the brain; a little noise less, as seven bits show the same."""
    low, high = window(image.data, inside)
    scaled = np.clip((image.data - low) * (254 / (high - low)), 0, 254).astype(np.uint8)
    return scaled & np.uint8(0xFE)
