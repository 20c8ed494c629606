"""Thin-plate splines through landmarks: the dial between an affine map and an exact fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neuralprep.errors import GeometryError
from neuralprep.grid import FloatArray
from neuralprep.transform import Affine

_PAIRS_PER_BLOCK = 1 << 17  # a megabyte of distances, which stays in the cache


@dataclass(frozen=True, eq=False)
class ThinPlateSpline:
    """y = A x + t + sum_k w_k U(|x - c_k|) with the kernel U(r) = -r, the biharmonic one of three dimensions.

    Make one with :meth:`fit`. Source: Bookstein, IEEE PAMI 11:567 (1989) for the idea; Rohr et al., IEEE TMI 20:526
    (2001) for the approximating form. The kernel r^2 log r that some implementations use belongs to two dimensions.

    Attributes
    ----------
    controls : (K, 3) float64
        Landmarks c_k in the fixed space, RAS mm.
    weights : (K, 3) float64
        w_k; they sum to zero and have no linear moment, so far away the map tends to the affine part.
    affine : Affine
        The affine part, fixed -> moving.
    """

    controls: np.ndarray
    weights: np.ndarray
    affine: Affine

    def __post_init__(self) -> None:
        controls, weights = (np.array(v, dtype=np.float64) for v in (self.controls, self.weights))
        if controls.ndim != 2 or controls.shape[1] != 3 or controls.shape != weights.shape:
            raise GeometryError(f"a spline needs (K, 3) controls and weights; got {controls.shape}, {weights.shape}")
        if not (np.isfinite(controls).all() and np.isfinite(weights).all()):
            raise GeometryError("a spline's controls or weights are not finite; fit it again")
        for name, value in (("controls", controls), ("weights", weights)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def fit(
        cls, fixed: ArrayLike, moving: ArrayLike, stiffness: float = 0.0, weights: ArrayLike | None = None
    ) -> ThinPlateSpline:
        """Fit the spline that takes fixed landmarks to moving ones.

        It minimises mean_k p_k |y_k - f(x_k)|^2 + stiffness * s * bending(f), where s is the root mean square distance
        of the fixed landmarks from their centroid: neither the number of landmarks nor the unit of length changes what
        a value of the dial means.

        Parameters
        ----------
        fixed, moving : (K, 3) array_like
            Corresponding landmarks, RAS mm; K >= 4 and not in one plane.
        stiffness : float
            lambda of the dial: 0 passes through every landmark; at 10 the map is nearly the affine fit.
        weights : (K,) array_like, optional
            p_k >= 0, how much each landmark is trusted (scaled to mean 1). Landmarks of weight 0 are left out.

        Raises
        ------
        GeometryError
            Too few landmarks, landmarks in one plane or twice the same, or values that are not finite.
        """
        x, y, trust = checked_landmarks(fixed, moving, weights)
        if not (np.isfinite(stiffness) and stiffness >= 0):
            raise GeometryError(f"stiffness is {stiffness}; it must be zero or positive")
        center = x.mean(0)
        scale = float(np.sqrt(((x - center) ** 2).sum(1).mean()))
        unit = (x - center) / max(scale, 1e-300)  # unit length keeps the system well conditioned
        count = len(x)
        apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
        apart[np.diag_indices(count)] = np.inf
        linear = np.column_stack([unit, np.ones(count)])
        if np.linalg.matrix_rank(linear, tol=1e-9) < 4 or (stiffness == 0 and apart.min() < 1e-9):
            raise GeometryError("landmarks do not determine a spline: two are the same, or all lie in one plane")
        kernel = -apart
        kernel[np.diag_indices(count)] = stiffness * count / trust
        system = np.block([[kernel, linear], [linear.T, np.zeros((4, 4))]])
        solution = np.linalg.solve(system, np.concatenate([y, np.zeros((4, 3))]))
        matrix = np.eye(4)
        matrix[:3, :3] = solution[count : count + 3].T / scale
        matrix[:3, 3] = solution[count + 3] - matrix[:3, :3] @ center
        return cls(x, solution[:count] / scale, Affine(matrix))

    def apply(self, points: ArrayLike) -> FloatArray:
        """Map points (..., 3) mm."""
        points = np.asarray(points, dtype=np.float64)
        flat = points.reshape(-1, 3)
        out = self.affine.apply(flat)
        step = max(1, _PAIRS_PER_BLOCK // len(self.controls))
        for start in range(0, len(flat), step):
            block = flat[start : start + step]
            out[start : start + step] -= _distances(block, self.controls) @ self.weights
        return out.reshape(points.shape)

    def gradient(self, points: ArrayLike) -> FloatArray:
        """dy/dx at points (N, 3): (N, 3, 3), row = component of y."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        out = np.empty((len(points), 3, 3))
        step = max(1, _PAIRS_PER_BLOCK // (3 * len(self.controls)))
        for start in range(0, len(points), step):
            block = points[start : start + step]
            distance = _distances(block, self.controls)
            # At a landmark the kernel has a kink; its mean slope there is zero.
            inverse = np.divide(-1, distance, out=np.zeros_like(distance), where=distance > 0)
            for axis in range(3):
                slope = (block[:, axis, None] - self.controls[:, axis]) * inverse
                out[start : start + step, :, axis] = slope @ self.weights
        return out + self.affine.matrix[:3, :3]

    def inverse(self) -> InverseThinPlateSpline:
        """The map in the other direction: this spline's own inverse, not a second fit."""
        return InverseThinPlateSpline(self)


@dataclass(frozen=True, eq=False)
class InverseThinPlateSpline:
    """The inverse of a spline, solved for each point by Newton's method with step control."""

    spline: ThinPlateSpline

    def apply(self, points: ArrayLike, iterations: int = 50, tol_mm: float = 1e-6) -> FloatArray:
        """Map points (..., 3) mm, moving -> fixed.

        Raises
        ------
        GeometryError
            A point has no pre-image that the iteration finds: the spline folds.
        """
        points = np.asarray(points, dtype=np.float64)
        wanted = points.reshape(-1, 3)
        found = self.spline.affine.inverse().apply(wanted)
        residual = wanted - self.spline.apply(found)
        error = np.linalg.norm(residual, axis=1)
        for _ in range(iterations):
            active = np.flatnonzero(error > tol_mm)
            if not len(active):
                return found.reshape(points.shape)
            try:
                step = np.linalg.solve(self.spline.gradient(found[active]), residual[active, :, None])[..., 0]
            except np.linalg.LinAlgError:
                break
            damping = np.ones(len(active))
            for _ in range(12):  # halve the step of every point that would get worse
                trial = found[active] + damping[:, None] * step
                left = wanted[active] - self.spline.apply(trial)
                worse = np.linalg.norm(left, axis=1) >= error[active]
                if not worse.any():
                    break
                damping[worse] /= 2
            found[active], residual[active] = trial, left
            error[active] = np.linalg.norm(left, axis=1)
        lost = int((error > 1e3 * tol_mm).sum())
        if lost:
            raise GeometryError(f"the spline has no inverse at {lost} points: it folds; raise its stiffness")
        return found.reshape(points.shape)

    def inverse(self) -> ThinPlateSpline:
        """The spline itself."""
        return self.spline


def checked_landmarks(
    fixed: ArrayLike, moving: ArrayLike, weights: ArrayLike | None = None, least: int = 4
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Two (K, 3) landmark sets and their weights (mean 1, all positive), or an error in words.

    Raises
    ------
    GeometryError
        Shapes differ, values are not finite, weights are negative, or fewer than `least` landmarks have weight.
    """
    x, y = np.asarray(fixed, dtype=np.float64), np.asarray(moving, dtype=np.float64)
    trust = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 2 or x.shape[1:] != (3,) or x.shape != y.shape or trust.shape != x.shape[:1]:
        shapes = ", ".join(str(v.shape) for v in (x, y, trust))
        raise GeometryError(f"landmarks must be two (K, 3) sets with K weights; got {shapes}")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(trust).all() and (trust >= 0).all()):
        raise GeometryError("landmarks or their weights are not finite, or a weight is negative")
    used = trust > 0
    if used.sum() < least:
        raise GeometryError(f"{int(used.sum())} landmarks with weight are too few; {least} are needed")
    return x[used], y[used], trust[used] / trust[used].mean()


def _distances(points: FloatArray, controls: FloatArray) -> FloatArray:
    """(N, K) distances; expanded squares would cancel badly close to a landmark."""
    total = np.zeros((len(points), len(controls)))
    for axis in range(3):
        offset = points[:, axis, None] - controls[:, axis]
        total += offset * offset
    return np.sqrt(total, out=total)
