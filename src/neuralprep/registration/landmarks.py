"""Closed-form transforms between two sets of corresponding landmarks, in RAS mm.

Nothing is fitted in unit-cube coordinates: on a box that is not a cube such a fit is not rigid where it says so.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from neuralprep.errors import GeometryError
from neuralprep.grid import FloatArray
from neuralprep.registration.averages import midpoint
from neuralprep.thin_plate import ThinPlateSpline, checked_landmarks
from neuralprep.transform import Affine

LandmarkKind = Literal["rigid", "similarity", "affine", "tps"]
LANDMARK_KINDS: tuple[LandmarkKind, ...] = ("rigid", "similarity", "affine", "tps")
OUTLIER_MM = 5.0
"""Landmarks that miss by more than this count less (Huber)."""


def fit_landmarks(
    fixed: ArrayLike,
    moving: ArrayLike,
    kind: LandmarkKind = "affine",
    weights: ArrayLike | None = None,
    stiffness: float = 0.1,
    outlier_mm: float | None = OUTLIER_MM,
) -> Affine | ThinPlateSpline:
    """Fit the transform of a kind that takes fixed landmarks to moving ones.

    Rigid, similarity and affine fits are symmetric: exchanging the two sets gives exactly the inverse. The rigid fit is
    Arun's (IEEE PAMI 9:698, 1987), the scale of the similarity the symmetric one of Horn (J Opt Soc Am A 4:629, 1987).
    The affine is the average, in the logarithm, of the least-squares fit and the inverse of the one in the other
    direction.

    Parameters
    ----------
    fixed, moving : (K, 3) array_like
        Corresponding landmarks, RAS mm: at least 3 for rigid and similarity, 4 otherwise.
    kind : {"rigid", "similarity", "affine", "tps"}
    weights : (K,) array_like, optional
        How much each landmark is trusted.
    stiffness : float
        For "tps": the dial of `ThinPlateSpline.fit`.
    outlier_mm : float, optional
        Landmarks that miss the linear fit by more than this are re-weighted three times (Huber); None trusts all.

    Raises
    ------
    GeometryError
        Too few landmarks, or they lie in a line or plane that leaves the transform undetermined.
    """
    if kind not in LANDMARK_KINDS:
        raise GeometryError(f"kind is {kind!r}; it must be one of {', '.join(LANDMARK_KINDS)}")
    x, y, trust = checked_landmarks(fixed, moving, weights, least=3 if kind in ("rigid", "similarity") else 4)
    linear = "affine" if kind == "tps" else kind
    base = trust
    matrix = _linear_fit(x, y, trust, linear)
    for _ in range(3 if outlier_mm is not None else 0):
        miss = _two_sided_miss(matrix, x, y)
        trust = base * np.minimum(1.0, float(outlier_mm or 0) / np.maximum(miss, 1e-9))
        matrix = _linear_fit(x, y, trust, linear)
    if kind == "tps":
        return ThinPlateSpline.fit(x, y, stiffness, trust)
    return Affine(matrix)


def residual_mm(transform: Affine | ThinPlateSpline, fixed: ArrayLike, moving: ArrayLike) -> FloatArray:
    """How far each fixed landmark (K, 3) lands from its moving one, mm."""
    return np.asarray(np.linalg.norm(transform.apply(fixed) - np.asarray(moving, dtype=np.float64), axis=1))


def _two_sided_miss(matrix: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Residual seen from both sides and averaged, so that re-weighting is symmetric too."""
    forward, back = Affine(matrix), Affine(np.linalg.inv(matrix))
    return (residual_mm(forward, x, y) + residual_mm(back, y, x)) / 2


def _linear_fit(x: FloatArray, y: FloatArray, trust: FloatArray, kind: str) -> FloatArray:
    share = trust / trust.sum()
    x_center, y_center = share @ x, share @ y
    x, y = x - x_center, y - y_center
    linear = _affine_part(x, y, share) if kind == "affine" else _orthogonal_part(x, y, share, kind == "similarity")
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = y_center - linear @ x_center
    return matrix


def _orthogonal_part(x: FloatArray, y: FloatArray, share: FloatArray, scaled: bool) -> FloatArray:
    covariance = (y * share[:, None]).T @ x
    left, strength, right = np.linalg.svd(covariance)
    if strength[1] <= 1e-9 * max(strength[0], 1e-300):
        raise GeometryError("landmarks lie on one line; a rotation cannot be told from them")
    # A reflection is no motion of a head: where it would fit better, the weakest direction is turned back.
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ turn @ right
    if not scaled:
        return np.asarray(rotation)
    size_x, size_y = ((share[:, None] * v * v).sum() for v in (x, y))
    return np.asarray(rotation * np.sqrt(size_y / size_x))


def _affine_part(x: FloatArray, y: FloatArray, share: FloatArray) -> FloatArray:
    weighted = x * share[:, None]
    spread_x, spread_y, cross = weighted.T @ x, (y * share[:, None]).T @ y, weighted.T @ y
    for spread, which in ((spread_x, "fixed"), (spread_y, "moving")):
        values = np.linalg.eigvalsh(spread)
        if values[0] <= 1e-9 * max(values[-1], 1e-300):
            raise GeometryError(f"the {which} landmarks lie in one plane; an affine cannot be told from them")
    forward = np.linalg.solve(spread_x, cross).T
    back = np.linalg.solve(spread_y, cross.T).T
    if np.linalg.det(forward) <= 0 or np.linalg.det(back) <= 0:
        raise GeometryError("the landmarks of the two images are mirrored; check left and right of both")
    # The average must not depend on which of the two is called the first: the midpoint of the geodesic between them.
    try:
        middle = midpoint(*(Affine(linalg.block_diag(one, 1)) for one in (forward, np.linalg.inv(back))))
    except GeometryError:
        fault = "the landmarks contradict an affine map in the two directions; too many are wrong"
        raise GeometryError(fault) from None
    return middle.matrix[:3, :3]
