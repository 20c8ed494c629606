"""Surface distances against brute force, against the ``surface-distance`` package and against MONAI."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.evaluation.surface import (
    element_areas,
    element_distances,
    element_surface,
    hausdorff95,
    mean_surface_distance,
    surface_dice,
    surface_distances,
)
from surface_oracle import oracle, oracle_areas

SPACINGS = [(1.0, 1.0, 1.0), (1.0, 0.8, 3.0), (0.35, 2.0, 5.5)]


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two ragged masks that have something in common and touch the array's faces."""
    generator = np.random.default_rng(seed)
    field = generator.standard_normal((2, *generator.integers(4, 12, 3)))
    return field[0] > generator.uniform(0, 1.2), field[1] + 0.7 * field[0] > generator.uniform(0, 1.2)


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
    assert got.directed_means == pytest.approx((from_first.mean(), from_second.mean()))
    squares = (from_first**2).sum() + (from_second**2).sum()
    assert got.rms == pytest.approx(np.sqrt(squares / (len(first) + len(second))))


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
    assert surface_distances(full, empty).rms == np.inf
    assert surface_distances(empty, empty).directed_means == (0, 0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="spacing"):
        mean_surface_distance(np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 1, 0))
    with pytest.raises(ValueError, match="differ"):
        mean_surface_distance(np.ones((2, 2, 2)), np.ones((2, 2, 1)))
    with pytest.raises(ValueError, match="spacing"):
        element_distances(np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 1))
    with pytest.raises(ValueError, match="three dimensions"):
        element_distances(np.ones((2, 2)), np.ones((2, 2)), (1, 1))
    with pytest.raises(ValueError, match="tolerance"):
        surface_dice(np.ones((2, 2, 2)), np.ones((2, 2, 2)), -1)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_element_areas_equal_the_package(spacing: tuple[float, float, float]) -> None:
    expected = oracle_areas(spacing)
    mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    np.testing.assert_allclose(element_areas(spacing)[mirrored], expected, rtol=1e-12)


def test_element_area_of_a_box_is_its_faces_with_bevelled_edges() -> None:
    a, b, c = spacing = (1.0, 0.7, 2.5)
    nx, ny, nz = 4, 5, 6
    mask = np.zeros((8, 8, 8), bool)
    mask[1 : 1 + nx, 2 : 2 + ny, 1 : 1 + nz] = True
    faces = 2 * ((nx - 1) * (ny - 1) * a * b + (ny - 1) * (nz - 1) * b * c + (nx - 1) * (nz - 1) * a * c)
    # an edge is cut half a voxel from its corner on both sides; a corner is the triangle between three such points
    edges = 4 * sum((n - 1) * s * np.hypot(t, u) / 2 for n, s, t, u in ((nx, a, b, c), (ny, b, a, c), (nz, c, a, b)))
    corners = 8 * np.linalg.norm([b * c, a * c, a * b]) / 8
    assert element_surface(mask, spacing).areas.sum() == pytest.approx(faces + edges + corners)


@pytest.mark.parametrize("seed", range(40))
def test_elements_equal_the_package(seed: int) -> None:
    spacing = SPACINGS[seed % 3]
    mask, reference = random_masks(seed)
    expected, got = oracle(mask, reference, spacing), element_distances(mask, reference, spacing)
    assert got.directed_means == pytest.approx(expected.means(), abs=1e-6)
    for percentile in (25, 50, 95, 99.5, 100):
        assert got.hausdorff(percentile) == pytest.approx(expected.hausdorff(percentile), abs=1e-6)
    assert got.hausdorff95 == got.hausdorff(95)
    for tolerance in (0.0, 0.5, 1.1, 3.3):
        assert got.overlaps(tolerance) == pytest.approx(expected.overlaps(tolerance), abs=1e-6)
        assert got.surface_dice(tolerance) == pytest.approx(expected.dice(tolerance), abs=1e-6)
        assert surface_dice(mask, reference, tolerance, spacing) == got.surface_dice(tolerance)


def test_elements_of_balls_equal_the_package() -> None:
    position = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"), -1)
    mask = np.linalg.norm(position * (1, 1, 2.0), axis=-1) <= 17
    reference = np.linalg.norm((position - (2, 0, 1)) * (1, 1, 2.0), axis=-1) <= 14
    expected, got = oracle(mask, reference, (1, 1, 2)), element_distances(mask, reference, (1, 1, 2))
    assert got.hausdorff95 == pytest.approx(expected.hausdorff(95), abs=1e-6)
    assert got.directed_means == pytest.approx(expected.means(), abs=1e-6)
    assert got.surface_dice(2) == pytest.approx(expected.dice(2), abs=1e-6)
    areas = got.mask_areas.sum(), got.reference_areas.sum()
    assert got.mean == pytest.approx(np.dot(got.directed_means, areas) / sum(areas))
    squares = (got.from_mask**2 @ got.mask_areas) + (got.from_reference**2 @ got.reference_areas)
    assert got.rms == pytest.approx(np.sqrt(squares / sum(areas)))


def test_elements_of_empty_masks() -> None:
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    nothing, one = element_distances(empty, empty), element_distances(full, empty)
    assert nothing.hausdorff95 == nothing.mean == nothing.rms == 0
    assert nothing.surface_dice(1) == 1
    assert nothing.overlaps(1) == (1, 1)
    assert one.hausdorff95 == one.mean == one.rms == oracle(full, empty, (1, 1, 1)).hausdorff(95) == np.inf
    assert one.directed_means == (np.inf, np.inf)
    assert one.surface_dice(1) == oracle(full, empty, (1, 1, 1)).dice(1) == 0
    assert one.overlaps(1) == (0, 1)


def test_area_weighs_what_voxels_do_not() -> None:
    # slices are 10 mm apart: the top of a slab is far larger than its rim, whatever the number of voxels
    mask, reference = np.zeros((2, 30, 30, 4), bool)
    reference[5:25, 5:25, 1:3] = True
    mask[5:25, 5:25, 1:2] = True
    spacing = (1.0, 1.0, 10.0)
    assert element_distances(reference, mask, spacing).directed_means[0] > 0.3 * 10
    assert surface_distances(reference, mask, spacing).directed_means[0] == pytest.approx(10 * 400 / (400 + 400))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI's own call
@pytest.mark.parametrize("seed", range(6))
def test_equals_monai(seed: int) -> None:
    pytest.importorskip("monai")
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    spacing = SPACINGS[seed % 3]
    masks = random_masks(100 + seed)
    mask, reference = (torch.from_numpy(array)[None, None].float() for array in masks)
    options = {"include_background": True, "spacing": spacing}
    voxels, elements = surface_distances(*masks, spacing), element_distances(*masks, spacing)
    for percentile in (95, 100):
        expected = compute_hausdorff_distance(mask, reference, percentile=percentile, **options)
        assert voxels.hausdorff(percentile) == pytest.approx(expected.item(), abs=1e-4)
    expected = compute_average_surface_distance(mask, reference, symmetric=True, **options)
    assert voxels.mean == pytest.approx(expected.item(), abs=1e-4)
    expected = compute_average_surface_distance(mask, reference, **options)
    assert voxels.directed_means[0] == pytest.approx(expected.item(), abs=1e-4)
    expected = compute_surface_dice(mask, reference, [0.9], use_subvoxels=True, **options)
    assert elements.surface_dice(0.9) == pytest.approx(expected.item(), abs=1e-4)
