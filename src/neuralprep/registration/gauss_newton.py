"""Affine fit by damped Gauss-Newton steps on explained variance.

One criterion serves every contrast. At the sample points of the fixed image let F be a small set of regressors (a
constant and one image for NCC; a constant and the GM, WM and CSF fractions for the tissue criterion) and m the moving
image pulled back. The fit maximises R, the multiple correlation of m with F: |NCC| in the first case, and in the
second the correlation of m with the best contrast that tissues can explain, whichever way that contrast goes. It is
the variable-projection form of ECC (Evangelidis & Psarakis 2008, doi:10.1109/TPAMI.2008.113): the regression is
eliminated at every step, so the only unknowns are the transform's.

All sums a step needs are entries of one Gram matrix of [F, m, dm/dp], at most 17 x 17.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import expm

from neuralprep.registration.pyramid import FixedLevel, FloatArray, MovingLevel, sample_with_gradient

Kind = Literal["rigid", "similarity", "affine"]
Criterion = Literal["ncc", "tissue"]
KINDS: tuple[Kind, ...] = ("rigid", "similarity", "affine")

# Scales the linear unknowns to mm at the surface of a brain, so that one damping serves all unknowns.
BRAIN_RADIUS_MM = 70.0
# A fit is worthless where fewer of the fixed points than this can be seen in the moving image.
MIN_KNOWN_SHARE = 0.25
# The quality score looks deeper than this. On 22 brains of all contrasts the tissue criterion gave 0.46 to 0.81 there
# for right fits and at most 0.37 for wrong ones (upside down, back to front); over the whole mask the two overlap.
CORE_DEPTH_MM = 10.0
_BLOCK = 1 << 12
"""Points whose part of the Gram matrix is summed at a time."""


@dataclass(frozen=True)
class Objective:
    """Score of one transform and the quadratic model around it, in all 12 unknowns."""

    score: float
    gradient: FloatArray
    hessian: FloatArray


def generators(kind: Kind) -> FloatArray:
    """Basis (12, d) of the small motions a kind allows.

    Rows are 3 translations and the 9 entries (row-major) of the linear part times `BRAIN_RADIUS_MM`; columns are the
    d unknowns: 6 for rigid, 7 for similarity, 12 for affine.
    """
    if kind == "affine":
        return np.eye(12)
    columns = list(np.eye(12)[:3])
    for i, j in ((2, 1), (0, 2), (1, 0)):
        rotation = np.zeros((3, 3))
        rotation[i, j], rotation[j, i] = 1.0, -1.0
        columns.append(np.concatenate([np.zeros(3), rotation.ravel() / np.sqrt(2)]))
    if kind == "similarity":
        columns.append(np.concatenate([np.zeros(3), np.eye(3).ravel() / np.sqrt(3)]))
    return np.stack(columns, axis=1)


def project_to_kind(matrix: FloatArray, kind: Kind, center: FloatArray) -> FloatArray:
    """Nearest (4, 4) matrix of a kind which moves `center` (mm) to the same place (polar decomposition)."""
    matrix = np.asarray(matrix, np.float64)
    if kind == "affine":
        return matrix.copy()
    left, stretch, right = np.linalg.svd(matrix[:3, :3])
    linear = left @ right
    if kind == "similarity":
        linear = linear * float(np.exp(np.log(stretch).mean()))
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = matrix[:3, :3] @ center + matrix[:3, 3] - linear @ center
    return out


def regressors(values: FloatArray, criterion: Criterion) -> list[FloatArray]:
    """Regressor matrices (N, k), one for each moving channel.

    "ncc": one [1, f_c] per fixed channel; "tissue": a single [1, f_1, ..., f_C] for the one moving image.
    """
    ones = np.ones(values.shape[1])
    if criterion == "tissue":
        return [np.stack([ones, *values.astype(np.float64)], axis=1)]
    return [np.stack([ones, channel.astype(np.float64)], axis=1) for channel in values]


def evaluate(
    fixed: FixedLevel, designs: Sequence[FloatArray], moving: MovingLevel, matrix: FloatArray, center: FloatArray
) -> Objective:
    """Score of `matrix` (fixed mm -> moving mm), its gradient and Gauss-Newton Hessian.

    The score is the mean over moving channels of R (for one regressor: the signed correlation). Gradient and Hessian
    belong to the sum of 1 - R^2, for motions of the fixed side, x -> x + (translation + linear (x - center)).
    """
    linear, shift = matrix[:3, :3].astype(np.float32), matrix[:3, 3].astype(np.float32)
    width = designs[0].shape[1]
    grams = np.zeros((len(designs), width + 13, width + 13))
    columns = np.empty((width + 13, _BLOCK))  # reused: a block and what it is made from stay in the processor's cache
    known = 0
    for start in range(0, len(fixed.points), _BLOCK):
        block = slice(start, start + _BLOCK)
        points = fixed.points[block]
        values, gradients, seen = sample_with_gradient(moving, points @ linear.T + shift)
        arms = (points - center.astype(np.float32)).T / np.float32(BRAIN_RADIUS_MM)
        known += int(np.count_nonzero(seen))
        for gram, design, value, slope in zip(grams, designs, values, gradients, strict=True):
            part = columns[:, : len(points)]
            pulled = linear.T @ slope.T
            part[:width] = design[block].T
            part[width] = value
            part[width + 1 : width + 4] = pulled
            for row, one in enumerate(pulled):
                np.multiply(one, arms, out=part[width + 4 + 3 * row : width + 7 + 3 * row])
            kept = part if seen.all() else part[:, seen]
            gram += kept @ kept.T
    nothing = Objective(-1.0, np.zeros(12), np.eye(12))
    if known < MIN_KNOWN_SHARE * len(fixed.points):
        return nothing
    gradient, hessian, score = np.zeros(12), np.zeros((12, 12)), 0.0
    for gram in grams:
        explained = _explained(gram, width)
        if explained is None:
            return nothing
        score += explained.score
        gradient += explained.gradient
        hessian += explained.hessian
    return Objective(score / len(designs), gradient, hessian)


def _explained(gram: FloatArray, width: int) -> Objective | None:
    """Explained variance of column `width` by the columns before it, from the Gram matrix of all columns."""
    count = gram[0, 0]
    mean = gram[0] / count
    centred = gram - count * np.outer(mean, mean)
    inner, cross, outer = centred[1:width, 1:width], centred[1:width, width:], centred[width:, width:]
    variance = outer[0, 0]
    ridge = 1e-9 * np.trace(inner) / len(inner)
    if not variance > 1e-12 * count or not ridge > 0:
        return None
    weights = np.linalg.solve(inner + ridge * np.eye(len(inner)), cross)
    residual = outer - cross.T @ weights
    unexplained = residual[0, 0] / variance
    along = outer[0, 1:] / variance
    # r = Qm/s with s^2 = variance; dr = (Q dm - Q m (m.dm)/s^2)/s.
    gradient = (residual[0, 1:] - residual[0, 0] * along) / variance
    mixed = np.outer(residual[0, 1:], along)
    hessian = (residual[1:, 1:] - mixed - mixed.T + residual[0, 0] * np.outer(along, along)) / variance
    score = float(np.sqrt(np.clip(1.0 - unexplained, 0.0, 1.0)))
    if width == 2 and cross[0, 0] < 0:
        score = -score
    return Objective(score, gradient, hessian)


def fit_level(
    fixed: FixedLevel,
    moving: MovingLevel,
    start: FloatArray,
    center: FloatArray,
    kind: Kind = "affine",
    criterion: Criterion = "ncc",
    iterations: int = 20,
    tolerance: float = 0.02,
) -> tuple[FloatArray, float]:
    """Best transform of a kind near `start` at one level.

    Parameters
    ----------
    fixed, moving : the level's samples and images
    start : (4, 4)
        Fixed mm -> moving mm; must already be of the kind.
    center : (3,)
        mm, about which the fixed side is turned and stretched.
    kind, criterion : see the module
    iterations : int
        At most this many evaluations.
    tolerance : float
        Stop when a step moves the brain's surface by less than this, mm.

    Returns
    -------
    matrix : (4, 4) float64
    score : float
    """
    designs = regressors(fixed.values, criterion)
    basis = generators(kind)
    matrix = np.asarray(start, np.float64)
    current = evaluate(fixed, designs, moving, matrix, center)
    damping = 1e-2
    for _ in range(iterations):
        hessian = basis.T @ current.hessian @ basis
        diagonal = np.diag(hessian)
        # The floor keeps unknowns which the image cannot see (a slab's through-plane tilt) where they are.
        damped = hessian + np.diag(damping * np.maximum(diagonal, 1e-3 * diagonal.max()) + 1e-12)
        step = -basis @ np.linalg.solve(damped, basis.T @ current.gradient)
        size = float(np.sqrt((step**2).sum()))
        # A step beyond the blur of the level leaves the region in which the gradient means anything.
        reach = 3.0 * fixed.spacing
        if size > reach:
            step *= reach / size
        trial_matrix = matrix @ _motion(step, center)
        trial = evaluate(fixed, designs, moving, trial_matrix, center)
        if trial.score > current.score:
            matrix, current = trial_matrix, trial
            damping = max(damping / 5, 1e-6)
            if size < tolerance:
                break
        else:
            damping *= 8
            if size < tolerance or damping > 1e4:
                break
    return matrix, current.score


def core_score(
    fixed: FixedLevel,
    moving: MovingLevel,
    matrix: FloatArray,
    center: FloatArray,
    criterion: Criterion = "ncc",
    depth: float = CORE_DEPTH_MM,
) -> float:
    """Score of a transform deep inside the mask, where the outline of the brain, which any fit gets right, is no help.

    Returns
    -------
    float
        As `evaluate`'s score; 0 where the fixed image is uniform that deep (a mask), or nothing is that deep.
    """
    core = fixed.core(depth)
    if core.values.shape[1] < 50 or not (core.values.std(axis=1) > 1e-6).any():
        return 0.0
    return evaluate(core, regressors(core.values, criterion), moving, matrix, center).score


def _motion(step: FloatArray, center: FloatArray) -> FloatArray:
    """(4, 4) matrix of a small motion (12,) of the fixed side about `center`."""
    rate = np.zeros((4, 4))
    rate[:3, :3] = step[3:].reshape(3, 3) / BRAIN_RADIUS_MM
    rate[:3, 3] = step[:3] - rate[:3, :3] @ center
    return expm(rate)
