"""Exhaustive start: score many rotations on a coarse grid, then improve the best few.

An optimiser started from the identity finds the brain only if the header is right to about 40 degrees. Here every
orientation is tried with the centres of mass aligned and the size taken from the radii, so no header is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage as ndi

from neuralprep.registration.gauss_newton import MIN_KNOWN_SHARE, Criterion, core_score, fit_level, regressors
from neuralprep.registration.pyramid import FixedLevel, FloatArray, MovingLevel
from neuralprep.registration.rotations import rotation_angle

# Candidates closer than this (degrees) lead to the same answer.
_DISTINCT_DEGREES = 20.0
# Rotations for which shifted centres are tried, and by how much (mm): a brain cut by the field of view, or a mask with
# a piece of neck, moves the centre of mass by 10 to 20 mm.
_SHIFTED_ROTATIONS = 24
_SHIFT_MM = 15.0
_SAMPLES_PER_BATCH = 250_000


def score_matrices(
    fixed: FixedLevel, moving: MovingLevel, matrices: FloatArray, criterion: Criterion = "ncc"
) -> FloatArray:
    """Score of many transforms at one level, without gradients.

    Parameters
    ----------
    fixed, moving : the level
    matrices : (M, 4, 4)
        Fixed mm -> moving mm.
    criterion : "ncc" or "tissue"

    Returns
    -------
    (M,) float64
        Mean over moving channels of the (for "ncc": signed) multiple correlation. Beyond the scan is
        background, or unknown where a face of the scan cuts the object; -1 where too little is known.
    """
    designs = regressors(fixed.values, criterion)
    voxel = (moving.voxel_from_world @ np.asarray(matrices, np.float64)).astype(np.float32)
    scores = np.zeros(len(voxel))
    batch = max(1, _SAMPLES_PER_BATCH // len(fixed.points))
    for start in range(0, len(voxel), batch):
        part = voxel[start : start + batch]
        where = fixed.points @ part[:, :3, :3].transpose(0, 2, 1) + part[:, None, :3, 3]
        known = _known(where, moving)
        coordinates = where.reshape(-1, 3).T
        total = np.zeros(len(part))
        for design, image in zip(designs, moving.channels, strict=True):
            values = ndi.map_coordinates(image, coordinates, order=1, mode="constant", output=np.float32)
            total += _correlations(design.astype(np.float32), values.reshape(len(part), -1), known)
        total[known.mean(axis=1) < MIN_KNOWN_SHARE] = -len(designs)
        scores[start : start + batch] = total
    return scores / len(designs)


def _known(voxel: FloatArray, moving: MovingLevel) -> FloatArray:
    """1 where points (M, N, 3), in voxels, are not beyond a face that cuts the object, else 0; (M, N) float32."""
    known = np.ones(voxel.shape[:2], dtype=bool)
    for axis, (low, high) in enumerate(moving.cut_faces):
        if low:
            known &= voxel[..., axis] >= -0.5
        if high:
            known &= voxel[..., axis] <= moving.channels.shape[axis + 1] - 0.5
    return known.astype(np.float32)


def _correlations(design: FloatArray, values: FloatArray, known: FloatArray) -> FloatArray:
    """Multiple correlation (M,) of each row of `values` (M, N) with the design (N, k), over the known points.

    The first column of the design is 1. With one other column the correlation is signed.
    """
    width = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), width * width)
    gram = (known @ products).reshape(-1, width, width).astype(np.float64)
    values = values * known
    cross = (values @ design).astype(np.float64)
    square = np.einsum("ij,ij->i", values, values).astype(np.float64)
    count = np.maximum(gram[:, 0, 0], 1.0)
    mean = gram[:, 0, 1:] / count[:, None]
    inner = gram[:, 1:, 1:] - count[:, None, None] * mean[:, :, None] * mean[:, None, :]
    outer = cross[:, 1:] - mean * cross[:, :1]
    variance = square - cross[:, 0] ** 2 / count
    # Fractions that sum to 1 make the system singular; single precision sums bound what the ridge may be.
    ridge = 1e-5 * np.trace(inner, axis1=1, axis2=2) / (width - 1) + 1e-12
    weights = np.linalg.solve(inner + ridge[:, None, None] * np.eye(width - 1), outer[:, :, None])[:, :, 0]
    explained = np.einsum("ij,ij->i", weights, outer) / np.maximum(variance, 1e-12)
    scores = np.sqrt(np.clip(explained, 0.0, 1.0))
    return scores * np.sign(outer[:, 0]) if width == 2 else scores


def rotation_starts(
    rotations: FloatArray, scale: float, fixed_center: FloatArray, moving_center: FloatArray
) -> FloatArray:
    """Matrices (M, 4, 4) that turn and scale about the fixed centre and carry it to the moving centre."""
    matrices = np.tile(np.eye(4), (len(rotations), 1, 1))
    matrices[:, :3, :3] = rotations * scale
    matrices[:, :3, 3] = moving_center - matrices[:, :3, :3] @ fixed_center
    return matrices


def best_starts(
    coarse: tuple[FixedLevel, MovingLevel],
    finer: tuple[FixedLevel, MovingLevel],
    starts: FloatArray,
    center: FloatArray,
    criterion: Criterion = "ncc",
    candidates: int = 10,
    iterations: int = 12,
) -> list[tuple[FloatArray, float]]:
    """Score all starts, try shifts of the best, improve the best distinct ones.

    Parameters
    ----------
    coarse : fixed and moving level for scoring (about 10 mm)
    finer : fixed and moving level for the local fit (about 8 mm)
    starts : (M, 4, 4)
        Fixed mm -> moving mm; rotations with one scale.
    center : (3,) mm
        Of the fixed image.
    candidates, iterations : int
        How many starts are improved, and for how long (as similarities).

    Returns
    -------
    list of (matrix, objective) at the finer level, best first
        Ranked by objective plus core score: a brain turned upside down fits the outline almost as well as the right
        one, but not the inside.
    """
    scores = score_matrices(*coarse, starts, criterion)
    best = starts[np.argsort(-scores)[:_SHIFTED_ROTATIONS]]
    steps = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]) * _SHIFT_MM
    shifted = np.repeat(best, len(steps), axis=0)
    shifted[:, :3, 3] += np.tile(steps, (len(best), 1))
    scores = score_matrices(*coarse, shifted, criterion)
    ranked = shifted[np.argsort(-scores)]
    fits = [
        fit_level(*finer, ranked[index], center, "similarity", criterion, iterations)
        for index in _distinct(ranked, candidates)
    ]
    fits.sort(key=lambda fit: -fit[1] - core_score(*finer, fit[0], center, criterion))
    # Several starts may have met in one optimum: the second entry should be the best *other* answer.
    return [fits[index] for index in _distinct([matrix for matrix, _ in fits], candidates)]


def _distinct(matrices: Sequence[FloatArray] | FloatArray, count: int) -> list[int]:
    """Indices of the first `count` matrices whose rotations differ from all chosen before."""
    chosen: list[int] = []
    turns: list[FloatArray] = []
    for index, matrix in enumerate(matrices):
        turn = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
        if all(rotation_angle(turn, other) > _DISTINCT_DEGREES for other in turns):
            chosen.append(index)
            turns.append(turn)
        if len(chosen) == count:
            break
    return chosen
