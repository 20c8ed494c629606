"""Distances to the surface of a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def signed_distance(mask: NDArray[np.bool_], spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> NDArray[np.float32]:
    """Signed Euclidean distance to the surface half way between inside and outside voxels, negative inside.

    Parameters
    ----------
    mask
        (X, Y, Z) bool.
    spacing
        Voxel edges in mm; half of the smallest one is how far the surface lies from the voxels next to it.

    Returns
    -------
    ndarray
        (X, Y, Z) float32, mm.
    """
    from scipy import ndimage  # a training machine may lack it, and does not come here

    half = 0.5 * float(min(spacing))
    outside = ndimage.distance_transform_edt(~mask, spacing)
    inside = ndimage.distance_transform_edt(mask, spacing)
    return np.where(mask, half - inside, outside - half).astype(np.float32)
