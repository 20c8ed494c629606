"""Table of standard spaces, their grids and their packed images.

A space is one row of `SPACES` and two files: an .npz made by ``tools/make_templates.py`` (8-bit T1w, grey- and
white-matter images and a brain mask, every second voxel of the 1 mm grid), and one made by
``tools/make_structures.py`` (where the structures of sixteen brains lie, every fourth voxel).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.volume import Volume

STRUCTURES_MM = 4.0
"""Distance of the nodes of :class:`Structures`."""


@dataclass(frozen=True)
class Space:
    """One row of the table.

    Attributes
    ----------
    name : str
        TemplateFlow identifier.
    file : str
        Packed images, beside this module.
    structures : str
        Packed structures, beside this module.
    licence : str
        File with the licence text, beside this module.
    shape_1mm : three ints
        Of the 1 mm grid (RAS).
    origin : three floats
        mm of its first voxel.
    citation : str
    """

    name: str
    file: str
    structures: str
    licence: str
    shape_1mm: tuple[int, int, int]
    origin: tuple[float, float, float]
    citation: str


SPACES: dict[str, Space] = {
    space.name: space
    for space in (
        Space(
            name="MNI152NLin2009aSym",
            file="MNI152NLin2009aSym.npz",
            structures="MNI152NLin2009aSym_structures.npz",
            licence="LICENSE-MNI.txt",
            shape_1mm=(197, 233, 189),
            origin=(-98.0, -134.0, -72.0),
            citation="Fonov et al., NeuroImage 54 (2011) 313, doi:10.1016/j.neuroimage.2010.07.033",
        ),
    )
}


@dataclass(frozen=True, eq=False)
class Template:
    """Images of a standard space; all on one 2 mm grid, RAS.

    Attributes
    ----------
    name : str
    grid_1mm : Grid
        The space's own 1 mm grid.
    t1 : Volume
        Brain-only T1w image, float32 in [0, 1]; 0 outside the brain.
    brain_mask : Volume
        uint8. Brain with its ventricles and sulci (1964 ml in MNI152NLin2009aSym); it follows the brain's envelope,
        so the layer of CSF between the brain and the skull is not in it.
    gm, wm, csf : Volume
        Fractions, float32 in [0, 1], which sum to 1 in the brain mask. CSF is what grey and white matter leave over.
    """

    name: str
    grid_1mm: Grid
    t1: Volume
    brain_mask: Volume
    gm: Volume
    wm: Volume
    csf: Volume


@dataclass(frozen=True, eq=False)
class Structures:
    """Where the structures of the brain lie in a standard space.

    Attributes
    ----------
    names : tuple of str
        Classes of the head model: cerebral and cerebellar grey and white matter, deep nuclei, brainstem, fluids.
    grid : Grid
        Every fourth voxel of the space's 1 mm grid.
    shares : ndarray
        (K, X, Y, Z) float32 in [0, 1]: share of the sixteen brains, carried to the space by their affines and blurred
        by 1.5 mm, in which a point belongs to a structure.
    """

    names: tuple[str, ...]
    grid: Grid
    shares: NDArray[np.float32]


def space_grid(name: str, resolution_mm: float = 1.0) -> Grid:
    """Grid of a standard space at a resolution.

    The first voxel's centre is that of the 1 mm grid and the grid reaches at least to its last voxel, so that whole
    resolutions give every n-th voxel.

    Parameters
    ----------
    name : str
        A key of `SPACES`.
    resolution_mm : float
        Voxel size, 0.2 to 20 mm.

    Raises
    ------
    InputError
        Unknown space, or a resolution that makes no sense.
    """
    space = _space(name)
    if not 0.2 <= resolution_mm <= 20:
        raise InputError(f"a resolution of {resolution_mm} mm is out of range: give 0.2 to 20")
    # The small allowance keeps rounding from adding a voxel when the resolution divides the extent.
    shape = [int(np.ceil((extent - 1) / resolution_mm - 1e-6)) + 1 for extent in space.shape_1mm]
    affine = np.diag([resolution_mm, resolution_mm, resolution_mm, 1.0])
    affine[:3, 3] = space.origin
    return Grid((shape[0], shape[1], shape[2]), affine)


@lru_cache(maxsize=4)
def load_template(name: str = "MNI152NLin2009aSym") -> Template:
    """Read the packed images of a space; they are kept for further calls.

    Raises
    ------
    InputError
        Unknown space.
    """
    images = _packed(_space(name).file)
    grid = space_grid(name, 2.0)
    t1, gm, wm = (images[key] * np.float32(1 / 255) for key in ("t1", "gm", "wm"))
    mask = images["brain_mask"]
    inside = mask.astype(np.float32)
    gm *= inside
    wm *= inside
    # Rounding lets grey and white matter sum to slightly more than 1 in places.
    excess = np.maximum(gm + wm, np.float32(1))
    gm /= excess
    wm /= excess
    csf = inside - gm - wm
    np.clip(csf, 0, 1, out=csf)
    return Template(
        name=name,
        grid_1mm=space_grid(name, 1.0),
        t1=Volume(t1 * inside, grid),
        brain_mask=Volume(mask, grid),
        gm=Volume(gm, grid),
        wm=Volume(wm, grid),
        csf=Volume(csf, grid),
    )


@lru_cache(maxsize=4)
def load_structures(name: str = "MNI152NLin2009aSym") -> Structures:
    """Read where the structures of the brain lie in a space; they are kept for further calls.

    Raises
    ------
    InputError
        Unknown space.
    """
    packed = _packed(_space(name).structures)
    names = tuple(str(one) for one in packed["names"])
    return Structures(names, space_grid(name, STRUCTURES_MM), packed["shares"] * np.float32(1 / 255))


def _packed(file: str) -> dict[str, NDArray[Any]]:
    """All arrays of a file beside this module."""
    with (
        resources.files("neuralprep.templates").joinpath(file).open("rb") as stream,
        np.load(stream, allow_pickle=False) as packed,
    ):
        return dict(packed)


def _space(name: str) -> Space:
    if name not in SPACES:
        raise InputError(f"no such space: {name}. There are {', '.join(sorted(SPACES))}.")
    return SPACES[name]
