"""Doubt: how far the network's looks at one head disagree about the surface of the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuralprep.resample import resample
from neuralprep.stages.look import Look
from neuralprep.volume import Volume

_LIMIT_MM = 10.0
"""The networks learn distances up to this; beyond it, differences mean nothing."""


def both_distances(found: Look) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Signed distances (2, X, Y, Z) that a close look saw in the head, and in its mirror image (turned back)."""
    assert found.apart is not None
    return found.prediction.distances + found.apart, found.prediction.distances - found.apart


def other_distance(other: Look, found: Look) -> NDArray[np.float32]:
    """Signed distance to the inner skull of another look, on the grid of ``found``."""
    volume = Volume(other.prediction.distances[1], other.working.grid)
    return np.asarray(resample(volume, found.working.grid, fill=2 * _LIMIT_MM).data)


def mask_dice(distance: NDArray[np.float32], other: NDArray[np.float32], visible: NDArray[np.bool_]) -> float:
    """Dice of the masks {distance < 0} of two distances inside the field of view: low where they contradict."""
    one, two = ((values < 0) & visible for values in (distance, other))
    total = int(one.sum()) + int(two.sum())
    return 2 * float((one & two).sum()) / total if total else 0.0


def spread_mm(distances: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Standard deviation in mm of several signed distances, voxel by voxel, each limited to +-10 mm."""
    limited = [np.clip(distance, -_LIMIT_MM, _LIMIT_MM) for distance in distances]
    mean = sum(limited) / np.float32(len(limited))
    squares = sum((one - mean) ** 2 for one in limited)
    return np.asarray(np.sqrt(squares / np.float32(len(limited))), np.float32)
