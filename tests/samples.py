"""Awkward geometry for tests: oblique, anisotropic, left-handed, not cubic. And the same things in SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from neuralprep.grid import Grid
from neuralprep.transform import Affine, Displacement
from neuralprep.volume import Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_matrix(rotation: tuple[float, ...], scales: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    """4x4 from a rotation vector (rad), column scales (negative flips) and a translation (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rotation).as_matrix() * scales
    matrix[:3, 3] = origin
    return matrix


def moving_grid() -> Grid:
    """Oblique, anisotropic, left-handed, not cubic."""
    return Grid((38, 46, 24), affine_matrix((0.2, -0.3, 0.15), (-1.1, 0.9, 2.3), (22, -25, -20)))


def fixed_grid() -> Grid:
    """Oblique the other way, right-handed, not cubic."""
    return Grid((33, 41, 27), affine_matrix((-0.1, 0.3, 0.25), (1.3, 1.1, 1.6), (-20, -22, -24)))


def smooth_volume(grid: Grid | None = None, seed: int = 0) -> Volume:
    """Smooth random image with values of about 0 to 100."""
    grid = grid or moving_grid()
    noise = gaussian_filter(np.random.default_rng(seed).random(grid.shape), 1.5)
    noise = (noise - noise.min()) / (noise.max() - noise.min()) * 100
    return Volume(noise.astype(np.float32), grid)


def pull_back() -> Affine:
    """Rotation, anisotropic scales and a shift."""
    return Affine(affine_matrix((0.1, 0.2, -0.1), (1.05, 0.95, 1.02), (3, -2, 4)))


def smooth_field(seed: int = 1, size_mm: float = 3.0) -> Displacement:
    """Invertible displacement on an oblique left-handed grid that covers the fixed grid."""
    grid = Grid((20, 22, 17), affine_matrix((0.15, 0.1, -0.2), (-3.4, 3.1, 3.7), (34, -34, -30)))
    rng = np.random.default_rng(seed)
    vectors = np.stack([gaussian_filter(rng.standard_normal(grid.shape), 3) for _ in range(3)], axis=-1)
    return Displacement((vectors / np.abs(vectors).max() * size_mm).astype(np.float32), grid)


def points(count: int = 200, seed: int = 2, extent: float = 20.0) -> np.ndarray:
    """Random world points."""
    return np.random.default_rng(seed).uniform(-extent, extent, (count, 3))


def lps(array: np.ndarray) -> np.ndarray:
    """RAS points or vectors <-> LPS."""
    return array * (-1, -1, 1)


def to_sitk(volume: Volume) -> Any:
    """SimpleITK image of a volume."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    affine = LPS @ volume.grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def sitk_resample(volume: Volume, grid: Grid, transform: Any, order: int = 1, fill: float = 0.0) -> np.ndarray:
    """SimpleITK's resampling of a volume through one of its own transforms."""
    import SimpleITK as sitk

    reference = to_sitk(Volume(np.zeros(grid.shape, np.float32), grid))
    interpolator = sitk.sitkLinear if order else sitk.sitkNearestNeighbor
    return sitk.GetArrayFromImage(sitk.Resample(to_sitk(volume), reference, transform, interpolator, fill)).T


def sitk_affine(affine: Affine, center: tuple[float, float, float] = (0, 0, 0)) -> Any:
    """SimpleITK transform of an affine, with another centre of rotation."""
    import SimpleITK as sitk

    matrix = LPS @ affine.matrix @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetCenter(center)
    c = np.array(center)
    transform.SetTranslation((matrix[:3, 3] - c + matrix[:3, :3] @ c).tolist())
    return transform


def sitk_points(transform: Any, at: np.ndarray) -> np.ndarray:
    """RAS points through a SimpleITK transform."""
    return np.array([lps(np.array(transform.TransformPoint(lps(p).tolist()))) for p in at])
