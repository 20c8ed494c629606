"""Surface distances against brute force over all pairs of surface voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.evaluation.surface import hausdorff95, mean_surface_distance, surface_distances


def brute_surface(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Positions (mm) of mask voxels that have a face neighbour outside the mask or the array."""
    points = []
    for index in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                neighbor = index.copy()
                neighbor[axis] += step
                outside = not 0 <= neighbor[axis] < mask.shape[axis]
                if outside or not mask[tuple(neighbor)]:
                    points.append(tuple(index))
    return np.array(sorted(set(points)), dtype=float).reshape(-1, 3) * spacing


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), slices=st.floats(0.5, 6))
def test_equals_brute_force(seed: int, slices: float) -> None:
    generator = np.random.default_rng(seed)
    spacing = (1.0, 0.8, slices)
    field = generator.standard_normal((2, 9, 8, 5))
    mask, reference = field[0] > 0.4, field[1] + 0.5 * field[0] > 0.3
    first, second = brute_surface(mask, spacing), brute_surface(reference, spacing)
    pairs = np.linalg.norm(first[:, None] - second[None], axis=2)
    from_first, from_second = pairs.min(1), pairs.min(0)
    got = surface_distances(mask, reference, spacing)
    np.testing.assert_allclose(np.sort(got.from_mask), np.sort(from_first), atol=1e-9)
    np.testing.assert_allclose(np.sort(got.from_reference), np.sort(from_second), atol=1e-9)
    assert got.mean == pytest.approx((from_first.sum() + from_second.sum()) / (len(first) + len(second)))
    expected95 = max(np.percentile(from_first, 95), np.percentile(from_second, 95))
    assert got.hausdorff95 == pytest.approx(expected95)
    assert got.hausdorff() == pytest.approx(max(from_first.max(), from_second.max()))


def test_concentric_balls_are_their_radii_apart() -> None:
    position = np.stack(np.meshgrid(*[np.arange(-24, 25)] * 3, indexing="ij"), -1)[..., :]
    radius = np.linalg.norm(position, axis=-1)
    assert mean_surface_distance(radius <= 20, radius <= 15) == pytest.approx(5, abs=0.3)
    assert hausdorff95(radius <= 20, radius <= 15) == pytest.approx(5, abs=0.6)


def test_shift_along_a_coarse_axis_counts_in_mm() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 2] = True
    assert hausdorff95(mask, np.roll(mask, 3, 2), (1, 1, 2.5)) == pytest.approx(7.5)


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 3, 3)), np.ones((3, 3, 3))
    assert mean_surface_distance(empty, empty) == hausdorff95(empty, empty) == 0
    assert mean_surface_distance(full, empty) == hausdorff95(empty, full) == np.inf


def test_refusals() -> None:
    with pytest.raises(ValueError, match="spacing"):
        mean_surface_distance(np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 1, 0))
    with pytest.raises(ValueError, match="differ"):
        mean_surface_distance(np.ones((2, 2, 2)), np.ones((2, 2, 1)))
