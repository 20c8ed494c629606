"""Doubt: how far the network's looks at one head disagree about the surface of the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuralprep.inference.session import Prediction, Session
from neuralprep.resample import resample
from neuralprep.stages.look import Look
from neuralprep.volume import Volume

_LIMIT_MM = 10.0
"""The networks learn distances up to this; beyond it, differences mean nothing."""


def mirrored_distances(session: Session, found: Look, lam: float) -> NDArray[np.float32]:
    """Signed distances (2, X, Y, Z) of a look at the same head, its left and right exchanged, on the look's grid."""
    answer: Prediction = session.predict(found.working.image[::-1], lam)
    return np.ascontiguousarray(answer.distances[:, ::-1])


def other_distance(other: Look, found: Look) -> NDArray[np.float32]:
    """Signed distance to the inner skull of another look, on the grid of ``found``."""
    volume = Volume(other.prediction.distances[1], other.working.grid)
    return np.asarray(resample(volume, found.working.grid, fill=2 * _LIMIT_MM).data)


def mask_dice(distance: NDArray[np.float32], found: Look) -> float:
    """Dice of {distance < 0} with the look's own mask, inside the field of view: low where they contradict."""
    mask = (found.prediction.distances[1] < 0) & found.working.visible
    other = (distance < 0) & found.working.visible
    total = int(mask.sum()) + int(other.sum())
    return 2 * float((mask & other).sum()) / total if total else 0.0


def spread_mm(distances: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Standard deviation in mm of several signed distances, voxel by voxel, each limited to +-10 mm."""
    limited = [np.clip(distance, -_LIMIT_MM, _LIMIT_MM) for distance in distances]
    mean = sum(limited) / np.float32(len(limited))
    squares = sum((one - mean) ** 2 for one in limited)
    return np.asarray(np.sqrt(squares / np.float32(len(limited))), np.float32)
