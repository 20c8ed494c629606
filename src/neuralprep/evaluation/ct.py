"""The classical way to strip a head CT, to compare with, and the units that a public CT template comes in."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from neuralprep.stages.look import main_component
from neuralprep.volume import Volume

_DARK, _MIDDLE, _STRETCH = 900.0, 200.0, 11.0


def hounsfield_from_cormack(values: ArrayLike) -> NDArray[np.float32]:
    """Hounsfield units of an image in the Cormack units of SPM's Clinical Toolbox.

    They count from -1000 HU and stretch the 200 units from -100 to 100 HU elevenfold.
    Source: Rorden et al., NeuroImage 61:957 (2012).

    Parameters
    ----------
    values
        Cormack units; negative ones count as 0.

    Returns
    -------
    numpy.ndarray
        float32, at least -1000 HU.
    """
    given = np.maximum(np.asarray(values, dtype=np.float32), 0)
    stretched = np.clip(given - _DARK, 0, _MIDDLE * _STRETCH)
    return np.asarray(given - 1000 - stretched * (1 - 1 / _STRETCH), dtype=np.float32)


def threshold_strip(
    scan: Volume,
    soft_hu: tuple[float, float] = (10.0, 90.0),
    opening_mm: float = 3.5,
    closing_mm: float = 3.0,
) -> Volume:
    """Brain mask of a head CT by thresholds: soft tissue, cut loose from the skin by an opening, largest piece.

    What radiology pipelines did before learning: brain lies between 10 and 90 HU, the skull above and the fat of the
    scalp below keep it apart from other soft tissue except where vessels and nerves leave.
    Source: after Muschelli et al., NeuroImage 114:379 (2015), without BET.

    Parameters
    ----------
    scan
        Hounsfield units.
    soft_hu
        Range of brain.
    opening_mm, closing_mm
        Radii of the erosion that cuts bridges, and of the closing before holes are filled. The result depends much
        on the first: wide bridges at the skull base need up to 9 mm, which loses thin parts of small brains.

    Returns
    -------
    Volume
        bool, on the scan's grid; empty if nothing lies in the range.
    """
    spacing = scan.grid.spacing
    smooth = ndimage.gaussian_filter(scan.data.astype(np.float32), [1.0 / s for s in spacing])
    soft = (smooth >= soft_hu[0]) & (smooth <= soft_hu[1])
    core = main_component(_grown(soft, -opening_mm, spacing))
    if not core.any():
        return scan.with_data(core)
    brain = soft & _grown(core, opening_mm + max(spacing), spacing)
    brain = _grown(_grown(brain, closing_mm, spacing), -closing_mm, spacing)
    return scan.with_data(np.asarray(ndimage.binary_fill_holes(main_component(brain))))


def _grown(mask: NDArray[np.bool_], by_mm: float, spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """A mask grown (or shrunk, negative) by a ball; beyond the array is outside, so it shrinks from there, too."""
    if by_mm >= 0:
        return np.asarray(ndimage.distance_transform_edt(~mask, spacing) <= by_mm)
    padded = np.pad(mask, 1)
    return np.asarray(ndimage.distance_transform_edt(padded, spacing) > -by_mm)[1:-1, 1:-1, 1:-1]
