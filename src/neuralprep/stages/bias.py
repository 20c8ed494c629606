"""Bias: refine the network's log gain with a mixture model of the brain's structures.

The network's field is a good start but, being trained on every contrast at once, leaves part of strong fields. The
refinement is the classical one (Wells et al., IEEE TMI 15 (1996) 429; Ashburner and Friston, NeuroImage 26 (2005)
839): expectation maximisation of a Gaussian mixture of log intensities, with the field as a smooth series fitted to
what the classes leave over. Two things keep anatomy out of the field. The classes are structures and not three
tissues, each with a level of its own: the cerebellum's cortex, the thalamus or the brainstem are brighter or darker
than other grey and white matter, and a mixture of three tissues calls that a field (an error of 5 % where there is no
field at all). And only voxels in flat surroundings count, because the partial volumes at the cortex follow its shape.
It works on some 15,000 voxels of the working grid, so it costs a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.box import bounding_box
from neuralprep.stages.conform import SPACING_MM
from neuralprep.stages.look import Look
from neuralprep.templates import Structures
from neuralprep.transform import Affine

FloatArray = NDArray[np.float64]
#: fewer voxels of tissue say too little of a field
_FEWEST_VOXELS = 2000
#: darker voxels of the working image (0 to 1) have a logarithm of noise
_DARK = 0.02
#: Gaussian scale of the gradient, voxels of the working grid
_SLOPE_VOX = 0.7


@dataclass(frozen=True)
class BiasSettings:
    """Constants of the refinement.

    ``order`` is the highest total degree of the Legendre series over the working grid (about 200 mm wide: degree 6
    bends every 35 mm); ``penalty`` weighs its roughness per voxel at lambda = 0.1 and grows with lambda;
    ``start_mm`` smooths the network's field, whose finer detail is anatomy; ``trust`` mixes the structures' places with
    their square roots, because an affine puts them only roughly in place; ``flat`` is the share of brain voxels that
    count, those with the smallest gradients. Chosen on label maps 17 and 18 with simulated fields of 0, 20 and 60 % and
    on the variation left in the white matter of real heads.
    """

    order: int = 6
    penalty: float = 1e-5
    start_mm: float = 24.0
    trust: float = 0.9
    flat: float = 0.25
    iterations: int = 20
    voxels: int = 15_000


def smooth_log_gain(found: Look, settings: BiasSettings = BiasSettings()) -> NDArray[np.float32]:
    """The network's log gain without its anatomical detail: what is left to use where nothing can be refined."""
    return _smoothed(found, settings.start_mm / (2 * SPACING_MM))


def flat_log_gain(found: Look) -> NDArray[np.float32]:
    """No field at all: CT has none."""
    return np.zeros_like(found.prediction.log_gain)


def refine_log_gain(
    found: Look, template_from_scan: Affine, structures: Structures, lam: float,
    settings: BiasSettings = BiasSettings(),
) -> tuple[NDArray[np.float32], bool]:
    """Refined natural logarithm of the gain on the half grid of the look (same shape as ``prediction.log_gain``).

    Parameters
    ----------
    found
        The look to refine; its image, distances and log gain are used.
    template_from_scan
        Pull-back of the registration, template mm -> scan mm.
    structures
        Where the structures of the brain lie in the space.
    lam
        Smoothness lambda: ten times as much makes the series ten times as stiff.
    settings
        Constants.

    Returns
    -------
    tuple of ndarray and bool
        The network's field, smoothed and refined, and True. Where too little tissue is visible, only smoothed, and
        False.
    """
    start = smooth_log_gain(found, settings)
    chosen = _flat_voxels(found, settings)
    if len(chosen) < _FEWEST_VOXELS:
        return start, False
    image = found.working.image[tuple(chosen.T)].astype(np.float64)
    log_image = np.log(image) + ndimage.map_coordinates(start, (chosen.T - 0.5) / 2, order=1, mode="nearest")
    world = found.working.grid.voxel_to_world(chosen)
    priors = _priors(template_from_scan.inverse().apply(world), structures, settings.trust)
    shape = np.asarray(found.working.grid.shape)
    powers = _powers(settings.order)
    basis = _series(2 * chosen / (shape - 1) - 1, powers)
    stiffness = settings.penalty * (lam / 0.1) * (powers.sum(1) ** 4) * len(chosen)
    coefficients = _expectation_maximisation(log_image, priors, basis, stiffness, settings.iterations)
    half = tuple(n // 2 for n in found.working.grid.shape)
    nodes = [2 * (2 * np.arange(n) + 0.5) / (m - 1) - 1 for n, m in zip(half, shape, strict=True)]
    return (start + _on_grid(nodes, powers, coefficients)).astype(np.float32), True


def _smoothed(found: Look, sigma_vox: float) -> NDArray[np.float32]:
    """The network's field, averaged over brain only."""
    inside = (found.half_grid_distance() < 0).astype(np.float32)
    if not inside.any():
        return found.prediction.log_gain
    share = ndimage.gaussian_filter(inside, sigma_vox, truncate=3)
    value = ndimage.gaussian_filter(inside * found.prediction.log_gain, sigma_vox, truncate=3)
    mean = float(found.prediction.log_gain[inside > 0].mean())
    # Far from the brain nothing was measured: the mean takes over.
    smooth: NDArray[np.float32] = ((value + 1e-3 * mean) / (share + 1e-3)).astype(np.float32)
    return smooth


def _flat_voxels(found: Look, settings: BiasSettings) -> NDArray[np.intp]:
    """Voxels (N, 3) inside the brain's surface, visible, not dark and in flat surroundings, evenly thinned."""
    image = found.working.image
    inside = (found.prediction.distances[0] < -0.5) & (found.prediction.distances[1] < -1.0)
    inside &= found.working.visible & (image > _DARK)
    box = bounding_box(inside, 3)
    if box is None:
        return np.empty((0, 3), np.intp)
    slope = ndimage.gaussian_gradient_magnitude(np.log(np.maximum(image[box], _DARK)), _SLOPE_VOX)
    within = inside[box]
    limit = np.quantile(slope[within], settings.flat)
    voxels = np.argwhere(within & (slope <= limit)) + [part.start for part in box]
    return voxels[:: max(1, round(len(voxels) / settings.voxels))]


def _priors(points: FloatArray, structures: Structures, trust: float) -> FloatArray:
    """Prior probability (K, N) of every structure at template points (N, 3) in mm."""
    index = structures.grid.world_to_voxel(points).T
    found = np.stack([ndimage.map_coordinates(one, index, order=1, mode="nearest") for one in structures.shares])
    shares = (found + 1e-3).astype(np.float64)
    shares /= shares.sum(0)
    soft = np.sqrt(shares)
    return trust * shares + (1 - trust) * soft / soft.sum(0)


def _powers(order: int) -> NDArray[np.intp]:
    """Degrees (M, 3) of the series: all with total degree 1 to ``order`` (the constant is calibrated elsewhere)."""
    grid = np.stack(np.meshgrid(*[np.arange(order + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    total = grid.sum(1)
    return grid[(total > 0) & (total <= order)]


def _legendre(points: FloatArray, order: int) -> FloatArray:
    """Legendre polynomials of degree 0 to ``order`` at ``points``, (order + 1, N)."""
    return np.stack([np.polynomial.legendre.legval(points, np.eye(order + 1)[k]) for k in range(order + 1)])


def _series(points: FloatArray, powers: NDArray[np.intp]) -> FloatArray:
    """Design matrix (N, M) of products of Legendre polynomials at points (N, 3) in [-1, 1]."""
    tables = [_legendre(points[:, axis], int(powers.max())) for axis in range(3)]
    return (tables[0][powers[:, 0]] * tables[1][powers[:, 1]] * tables[2][powers[:, 2]]).T


def _on_grid(nodes: list[FloatArray], powers: NDArray[np.intp], coefficients: FloatArray) -> FloatArray:
    """The series on a grid of nodes per axis, by one small product per axis."""
    order = int(powers.max())
    cube = np.zeros((order + 1,) * 3)
    cube[tuple(powers.T)] = coefficients
    x, y, z = (_legendre(axis, order) for axis in nodes)
    return np.einsum("abc,ai,bj,ck->ijk", cube, x, y, z, optimize=True)


def _expectation_maximisation(
    log_image: FloatArray, priors: FloatArray, basis: FloatArray, stiffness: FloatArray, iterations: int
) -> FloatArray:
    """Coefficients of the log gain that makes the tissues' log intensities tightest.

    Every class is Gaussian; a flat class of 1 % takes outliers such as lesions and vessels.
    """
    coefficients = np.zeros(basis.shape[1])
    posterior = priors / priors.sum(0)
    corrected = log_image.copy()
    flat = 0.01 / max(float(np.ptp(log_image)), 1e-3)
    for _ in range(iterations):
        size = posterior.sum(1) + 1e-6
        mean = (posterior * corrected).sum(1) / size
        variance = (posterior * (corrected - mean[:, None]) ** 2).sum(1) / size + 1e-4
        deviation = (corrected[None] - mean[:, None]) ** 2 / variance[:, None]
        density = priors * np.exp(-0.5 * deviation) / np.sqrt(2 * np.pi * variance[:, None])
        posterior = density / (density.sum(0) + flat)
        precision = posterior / variance[:, None]
        weight = precision.sum(0)
        wanted = (precision * (mean[:, None] - log_image[None])).sum(0) / np.maximum(weight, 1e-9)
        weight /= weight.mean() + 1e-12
        gram = basis.T @ (basis * weight[:, None]) + np.diag(stiffness)
        # The level is free: project the weighted mean out, so that only the shape is fitted.
        share = weight / weight.sum()
        center = share @ basis
        gram -= weight.sum() * np.outer(center, center)
        moment = basis.T @ (weight * wanted) - weight.sum() * center * (share @ wanted)
        coefficients = np.linalg.solve(gram, moment)
        corrected = log_image + basis @ coefficients
    return coefficients
