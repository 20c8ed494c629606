"""Affine between a template and a FreeSurfer-numbered label map, through tissue fractions.

A label map has no intensities, but its labels say which tissue each voxel is. Averaged over 2 mm blocks they become
grey-matter, white-matter and CSF fractions, which are fitted to the template's own fractions channel by channel: a
fit that depends on anatomy alone, and so gives the same answer for every contrast that is drawn from the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage as ndi

from neuralprep.errors import InputError
from neuralprep.registration.gauss_newton import fit_level
from neuralprep.registration.pyramid import (
    FixedLevel,
    FloatArray,
    block_factors,
    block_matrix,
    block_mean,
    center_of_mass,
    fixed_level,
    moving_level,
    voxel_sizes,
)

GRAY_LABELS = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 17, 53, 18, 54, 26, 58, 80, *range(1000, 1036), *range(2000, 2036))
WHITE_LABELS = (2, 41, 7, 46, 16, 28, 60, 13, 52, 25, 57, 77, 78, 79, 85, *range(251, 256))
# Ventricles with their choroid plexus; the CSF around the brain (24) is left out on purpose: how much of it a map
# holds depends on age and on how far from the brain its author went on, not on where the brain lies.
VENTRICLE_LABELS = (4, 43, 5, 44, 14, 15, 31, 63, 72, 136, 163, 137, 164)

# mm of the fractions' voxels, and of the two levels of the fit.
FRACTION_SPACING_MM = 2.0
LEVELS_MM = (8.0, 4.0)
CENTRAL_DEPTH_MM = 20.0


def tissue_fractions(labels: np.ndarray, affine: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """Grey-matter, white-matter and ventricle fractions of a label map on a grid of about 2 mm.

    Parameters
    ----------
    labels : (X, Y, Z) integers
        FreeSurfer numbers.
    affine : (4, 4) voxel -> RAS mm

    Returns
    -------
    fractions : three (x, y, z) float32 arrays in [0, 1]
    affine : (4, 4) float64
        Of the fractions' grid.

    Raises
    ------
    InputError
        When the map holds no grey or no white matter.
    """
    affine = np.asarray(affine, np.float64)
    factors = block_factors(labels.shape, voxel_sizes(affine), FRACTION_SPACING_MM)
    labels = np.asarray(labels)
    highest = max(int(labels.max()), 2035)
    if labels.min() < 0 or highest > 100_000:
        raise InputError("the label map holds numbers outside 0..100000: give FreeSurfer-numbered labels")
    fractions = []
    for name, members in (("grey", GRAY_LABELS), ("white", WHITE_LABELS), ("ventricle", VENTRICLE_LABELS)):
        table = np.zeros(highest + 1, np.uint8)
        table[list(members)] = 1
        selected = table[labels]
        if name != "ventricle" and not selected.any():
            raise InputError(f"the label map holds no {name} matter: give FreeSurfer-numbered labels (2, 3, 41, ...)")
        fractions.append(block_mean(selected, factors))
    return fractions, affine @ block_matrix(factors)


def central_csf(csf: FloatArray, affine: FloatArray) -> FloatArray:
    """The part of a template's CSF that lies deep in the brain: the ventricles, and little else.

    Parameters
    ----------
    csf : (X, Y, Z) fractions
        Not zero all around the brain, so that its filled outline is the brain's.
    affine : (4, 4) voxel -> RAS mm
    """
    envelope = ndi.binary_fill_holes(csf > 0)
    depth = ndi.distance_transform_edt(envelope, sampling=voxel_sizes(affine))
    return np.where(depth > CENTRAL_DEPTH_MM, csf, 0).astype(np.float32)


def label_targets(
    template_fractions: Sequence[FloatArray], template_affine: FloatArray, mask: np.ndarray
) -> tuple[list[FixedLevel], FloatArray]:
    """Prepare the template once for many label maps.

    Parameters
    ----------
    template_fractions : [gm, wm, csf], each (X, Y, Z)
        The CSF should be that of the ventricles (see `central_csf`).
    template_affine : (4, 4) voxel -> template RAS mm
    mask : (X, Y, Z) bool
        Brain mask of the template.

    Returns
    -------
    levels : list of FixedLevel
    center : (3,) mm
        Centre of mass of the template's grey and white matter.
    """
    levels = [fixed_level(template_fractions, template_affine, spacing, mask) for spacing in LEVELS_MM]
    center, _ = center_of_mass(template_fractions[:2], template_affine)
    return levels, center


def affine_from_labels(
    labels: np.ndarray,
    affine: FloatArray,
    targets: tuple[list[FixedLevel], FloatArray],
) -> tuple[FloatArray, float]:
    """Affine from a label map's world to the template's.

    Starts from the centres of mass, so the label map's header must have the anatomical axes right (+-40 degrees).

    Parameters
    ----------
    labels : (X, Y, Z) integers
    affine : (4, 4) voxel -> RAS mm of the map
    targets : result of `label_targets`

    Returns
    -------
    template_from_label_world : (4, 4) float64
        Maps RAS mm points of the map to template mm points. (As a pull-back for images, use its inverse.)
    score : float
        Mean correlation of the three fractions within the template's brain, at 4 mm.
    """
    levels, center = targets
    fractions, fraction_affine = tissue_fractions(labels, affine)
    moving_center, _ = center_of_mass(fractions[:2], fraction_affine)
    matrix: FloatArray = np.eye(4)
    matrix[:3, 3] = moving_center - center
    score = -1.0
    for level in levels:
        moving = moving_level(fractions, fraction_affine, level.spacing)
        matrix, score = fit_level(level, moving, matrix, center, "affine", "ncc", iterations=30)
    return np.linalg.inv(matrix), score
