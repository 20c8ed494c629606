"""Brains of real anatomy with known tissue means (tissues of the packaged template), and head CTs of shells."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from neuralprep.grid import Grid
from neuralprep.normalization.catalog import Contrast
from neuralprep.templates import load_template
from neuralprep.volume import Volume

#: mean of fluid, grey and white matter, before any scale
MEANS: dict[Contrast, tuple[float, float, float]] = {
    "t1": (250, 620, 900), "t2": (950, 450, 300), "flair": (120, 640, 500), "pd": (820, 760, 600),
}  # fmt: skip
_FLUID_MM = 4.0
_BLUR_VOX = 0.5


@cache
def _tissues() -> tuple[np.ndarray, np.ndarray, Grid]:
    """Fractions (3, X, Y, Z) of fluid, grey and white matter, the mask with fluid around the brain, and the grid.

    The template's fractions are averages over people; the likeliest tissue, blurred by less than a voxel, is one brain.
    """
    template = load_template("MNI152NLin2009aSym")
    inside = template.brain_mask.data > 0
    mask = ndimage.distance_transform_edt(~inside, template.t1.grid.spacing) <= _FLUID_MM
    likeliest = np.argmax([template.csf.data, template.gm.data, template.wm.data], axis=0)
    hard = np.stack([np.where(inside, likeliest == k, k == 0) for k in range(3)]).astype(np.float32)
    return np.stack([ndimage.gaussian_filter(part, _BLUR_VOX) for part in hard]), mask, template.t1.grid


def brain(contrast: Contrast = "t1", noise: float = 0.03, bias: float = 0.0, seed: int = 0) -> tuple[Volume, Volume]:
    """A brain with the fluid around it, and its mask; zero outside.

    The white matter mean is ``MEANS[contrast][2]``; noise is relative to the brightest tissue, bias the largest
    deviation of a smooth field from one, or nearly.
    """
    fractions, mask, grid = _tissues()
    image = np.tensordot(MEANS[contrast], fractions, axes=1)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in mask.shape), indexing="ij", sparse=True)
    image = image * (1 + bias * (0.5 * x - 0.3 * y * z + 0.2 * z))
    image = image + noise * max(MEANS[contrast]) * np.random.default_rng(seed).standard_normal(mask.shape)
    image = np.where(mask, np.maximum(image, 1.0), 0.0).astype(np.float32)
    return Volume(image, grid), Volume(mask.astype(np.uint8), grid)


def white_matter() -> np.ndarray:
    """(X, Y, Z) bool: voxels that are white matter only."""
    fractions, mask, _ = _tissues()
    return mask & (fractions[2] > 0.99)


def head_ct(seed: int = 0) -> tuple[Volume, Volume]:
    """A CT in HU of whole numbers: air with noise, scalp fat, skull, brain with ventricles; and the brain mask."""
    grid = Grid.centered((64, 72, 60), 4.0)
    points = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(grid.voxel_to_world(points), -1, 0)
    radius = np.sqrt((x / 66) ** 2 + (y / 84) ** 2 + (z / 66) ** 2)
    image = np.full(grid.shape, -1000.0)
    image[radius < 1.32] = -80
    image[radius < 1.2] = 900
    image[radius < 1.06] = 12
    image[radius < 1.0] = 38
    image[radius < 0.85] = 28
    image[radius < 0.3] = 8
    image += np.random.default_rng(seed).normal(0, 5, grid.shape)
    mask = radius < 1.06
    return Volume(np.rint(image).astype(np.float32), grid), Volume(mask.astype(np.uint8), grid)
