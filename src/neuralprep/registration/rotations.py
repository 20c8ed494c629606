"""Rotations spread evenly over all orientations."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from neuralprep.registration.pyramid import FloatArray

# The two irrational winding numbers of super-Fibonacci spirals: sqrt(2), and the root of psi^4 = psi + 4.
_PHI = 2.0**0.5
_PSI = 1.533751168755204288118041


def axis_rotations() -> FloatArray:
    """The 24 rotations (24, 3, 3) that carry coordinate axes to coordinate axes; the identity comes first."""
    found = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    found.sort(key=lambda matrix: -float(np.trace(matrix)))
    return np.stack(found)


def spiral_rotations(count: int) -> FloatArray:
    """Nearly uniform rotations (count, 3, 3).

    Super-Fibonacci spirals on the unit quaternions (Alexa, CVPR 2022): 1500 of them leave no rotation farther than
    about 20 degrees from its nearest neighbour.
    """
    s = np.arange(count) + 0.5
    outer, inner = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / _PHI, 2 * np.pi * s / _PSI
    quaternions = np.stack(
        [outer * np.sin(alpha), outer * np.cos(alpha), inner * np.sin(beta), inner * np.cos(beta)], axis=1
    )
    return quaternions_to_matrices(quaternions)


def quaternions_to_matrices(quaternions: FloatArray) -> FloatArray:
    """Rotation matrices (N, 3, 3) of unit quaternions (N, 4), scalar first."""
    w, x, y, z = np.asarray(quaternions, np.float64).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def rotation_angle(first: FloatArray, second: FloatArray) -> float:
    """Angle in degrees between two rotation matrices."""
    cosine = (np.trace(first @ second.T) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def search_rotations(count: int, seed: int = 0) -> FloatArray:
    """The set the search tries: axis rotations first, then spirals up to `count` in all.

    Parameters
    ----------
    count : int
        At least 24.
    seed : int
        0 leaves the spirals as they are; any other seed turns them all by one random rotation.
    """
    spirals = spiral_rotations(max(count - 24, 0))
    if seed:
        quaternion = np.random.default_rng(seed).normal(size=(1, 4))
        spirals = quaternions_to_matrices(quaternion / np.linalg.norm(quaternion)) @ spirals
    return np.concatenate([axis_rotations(), spirals])
