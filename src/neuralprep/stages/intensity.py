"""Intensity: the multiplier field on the native grid, the bias-corrected and normalised images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuralprep.grid import Grid
from neuralprep.lattice import through_lattice
from neuralprep.resample import resample
from neuralprep.stages.look import Look
from neuralprep.transform import Affine
from neuralprep.volume import Volume

NORMAL_LEVEL = 110.0
"""Mean of the brain tissue in normalised images (0-255 scale), FreeSurfer's white-matter value."""

Fill = Literal["zero", "min"] | float


@dataclass(frozen=True, eq=False)
class Normalised:
    """Images on the native grid.

    ``preproc = gain * (scan - offset)``, with the tissue mean at 110. The multiplier field chi of the paper is the gain
    times the brain mask.
    """

    gain: Volume
    preproc: Volume
    offset: float


def normalise(scan: Volume, found: Look, log_gain: NDArray[np.float32], tissue: Volume) -> Normalised:
    """Apply the gain to a (windowed) scan.

    Parameters
    ----------
    scan
        Native image.
    found
        Look that the field belongs to.
    log_gain
        Natural logarithm of the gain on the half grid of the look, see :mod:`neuralprep.stages.bias`.
    tissue
        Native mask over which the mean becomes 110: exact calibration of the predicted scale.
    """
    working = found.working
    gain = through_lattice(np.exp(_extended(found, log_gain)), working.grid.blocks(2), scan.grid)
    preproc = np.subtract(scan.data, working.low, dtype=np.float32)
    preproc *= gain
    inside = tissue.data > 0
    level = float(preproc[inside].mean()) if inside.any() else 0.0
    span = working.high - working.low
    factor = np.float32(NORMAL_LEVEL / level if level > 0 else 255 / span)
    gain *= factor
    preproc *= factor
    np.maximum(preproc, 0, out=preproc)
    return Normalised(scan.with_data(gain), scan.with_data(preproc), working.low)


def _extended(found: Look, log_gain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log gain smoothly continued from the brain outwards: away from it nothing was measured.

    Normalised averaging with growing windows, inside values kept.
    """
    from scipy import ndimage

    shape = log_gain.shape
    near = found.half_grid_distance() < 4.0
    if not near.any():
        return log_gain
    out = np.full(shape, log_gain[near].mean(), np.float32)
    weight = near.astype(np.float32)
    for sigma in (12.0, 6.0, 3.0, 1.5):  # coarse to fine, in 4 mm voxels: finer estimates replace coarser ones
        total = ndimage.gaussian_filter(weight, sigma, truncate=2.5)
        value = ndimage.gaussian_filter(weight * log_gain, sigma, truncate=2.5) / np.maximum(total, 1e-6)
        trust = np.clip(total / 0.1, 0, 1)
        out += trust * (value - out)
    edge = ndimage.gaussian_filter(weight, 1.0)
    edge[~near] = 0
    return out + edge * (log_gain - out)


def masked(image: Volume, mask: Volume, fill: Fill = "zero") -> Volume:
    """An image with everything outside a mask replaced: by zero, by the image's minimum, or by a value."""
    value = 0.0 if fill == "zero" else float(image.data.min()) if fill == "min" else float(fill)
    return image.with_data(np.where(mask.data > 0, image.data, np.float32(value)))


def to_space(image: Volume, grid: Grid, template_from_scan: Affine, threads: int = 1, fill: float = 0.0) -> Volume:
    """Carry an image into template space with one interpolation."""
    return resample(image, grid, template_from_scan, fill=fill, threads=threads, antialias=True)
