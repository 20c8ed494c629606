"""Stationary velocities: the flow they stand for, their inverse, and no folds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from neuralprep.errors import GeometryError
from neuralprep.grid import Grid
from neuralprep.transform import Affine, Chain, grid_points, jacobian_determinant, to_displacement
from neuralprep.velocity import Velocity, from_middle, refined_grid, split

# oblique, anisotropic and left-handed: nothing may depend on axes that are world axes
_TURN = np.array([[0.96, -0.20, 0.19], [0.24, 0.94, -0.25], [-0.13, 0.28, 0.95]])
OBLIQUE = Grid((28, 30, 24), np.block([[_TURN @ np.diag([-4.0, 3.5, 4.5]), np.array([[52.0], [-55], [-40]])],
                                       [np.zeros((1, 3)), np.ones((1, 1))]]))


def smooth(seed: int, largest_mm: float, grid: Grid = OBLIQUE, sigma: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=grid.shape), sigma) for _ in range(3)], axis=-1)
    return np.asarray(field * largest_mm / np.linalg.norm(field, axis=-1).max(), dtype=np.float32)


def inner_points(grid: Grid, margin: int = 6) -> np.ndarray:
    points = grid_points(grid).reshape(*grid.shape, 3)[margin:-margin, margin:-margin, margin:-margin]
    return points.reshape(-1, 3) + 0.37


def test_linear_velocity_gives_the_matrix_exponential() -> None:
    # v(x) = L x is the one velocity whose flow is known in closed form
    linear = np.array([[0.05, -0.12, 0.02], [0.10, -0.04, 0.06], [-0.03, -0.05, 0.03]])
    velocity = Velocity((grid_points(OBLIQUE) @ linear.T).reshape(*OBLIQUE.shape, 3), OBLIQUE)
    points = inner_points(OBLIQUE, 8)
    wanted = points @ expm(linear).T
    assert np.abs(velocity.apply(points) - wanted).max() < 0.01  # the flow moves them by up to 5 mm


def test_agrees_with_an_ordinary_differential_equation_solver() -> None:
    field = smooth(1, 8.0)
    velocity = Velocity(field, OBLIQUE)
    spline = [ndimage.spline_filter(field[..., c].astype(float), order=3) for c in range(3)]

    def speed(_: float, flat: np.ndarray) -> np.ndarray:
        voxels = OBLIQUE.world_to_voxel(flat.reshape(-1, 3)).T
        return np.stack([ndimage.map_coordinates(s, voxels, order=3, prefilter=False, mode="mirror")
                         for s in spline], -1).ravel()

    points = inner_points(OBLIQUE, 9)[::7]
    flow = solve_ivp(speed, (0, 1), points.ravel(), rtol=1e-8, atol=1e-8).y[:, -1].reshape(-1, 3)
    assert np.linalg.norm(velocity.apply(points) - flow, axis=1).max() < 0.05


@pytest.mark.parametrize("largest_mm", [4.0, 12.0])
def test_inverse_consistency(largest_mm: float) -> None:
    velocity = Velocity(smooth(2, largest_mm), OBLIQUE)
    points = inner_points(OBLIQUE)
    for first, second in ((velocity, velocity.inverse()), (velocity.inverse(), velocity)):
        error = np.linalg.norm(second.apply(first.apply(points)) - points, axis=1)
        assert np.percentile(error, 99) < 0.1
        assert error.max() < 0.3


def test_half_way_twice_is_the_whole_way() -> None:
    velocity = Velocity(smooth(3, 8.0), OBLIQUE)
    half = velocity.scaled(0.5)
    points = inner_points(OBLIQUE)
    assert np.linalg.norm(Chain([half, half]).apply(points) - velocity.apply(points), axis=1).max() < 0.1
    assert np.array_equal(velocity.scaled(0.0).apply(points), points)


def test_a_strong_velocity_does_not_fold() -> None:
    velocity = Velocity(smooth(4, 15.0), OBLIQUE)
    inner = Grid(tuple(n - 10 for n in OBLIQUE.shape), OBLIQUE.affine @ np.array(
        [[1, 0, 0, 5], [0, 1, 0, 5], [0, 0, 1, 5], [0, 0, 0, 1.0]]))
    assert jacobian_determinant(velocity, inner).min() > 0.1
    # the same vectors taken as a displacement do fold: the guarantee comes from the integration
    strong = Velocity(velocity.vectors * 2.5, OBLIQUE)
    assert jacobian_determinant(strong, inner).min() > 0


def test_squarings_converge() -> None:
    points = inner_points(OBLIQUE)
    field = smooth(5, 8.0)
    five, seven, nine = (Velocity(field, OBLIQUE, k).apply(points) for k in (5, 7, 9))
    assert np.abs(seven - nine).max() < np.abs(five - nine).max() < 0.2
    assert np.abs(seven - nine).max() < 0.05


def test_sampled_displacement_is_the_same_map() -> None:
    velocity = Velocity(smooth(6, 6.0), OBLIQUE)
    points = inner_points(OBLIQUE)
    sampled = to_displacement(velocity, refined_grid(OBLIQUE, 2.0))
    assert np.abs(sampled.apply(points) - velocity.apply(points)).max() < 1e-3


def test_refined_grid_keeps_the_box() -> None:
    fine = refined_grid(OBLIQUE, 2.0)
    assert max(fine.spacing) <= 2.0 + 1e-6
    last = [np.array(g.shape) - 1 for g in (OBLIQUE, fine)]
    assert np.allclose(OBLIQUE.voxel_to_world([last[0]]), fine.voxel_to_world([last[1]]))
    assert refined_grid(fine, 2.0).same_as(fine, tol_mm=0)


@pytest.mark.parametrize(
    ("vectors", "squarings", "message"),
    [
        (np.zeros((2, 2, 2, 3)), 7, "shape"),
        (np.full((*OBLIQUE.shape, 3), np.nan), 7, "finite"),
        (np.zeros((*OBLIQUE.shape, 3)), 99, "squarings"),
    ],
)
def test_bad_velocities(vectors: np.ndarray, squarings: int, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        Velocity(vectors, OBLIQUE, squarings)


def test_only_one_velocity_between_affines_has_a_middle() -> None:
    velocity = Velocity(smooth(3, 6.0), OBLIQUE)
    shift = np.eye(4)
    shift[:3, 3] = (4, -2, 1)
    points, whole = inner_points(OBLIQUE), Chain([Affine(shift), velocity, Affine(shift)])
    first = from_middle(whole.inverse()).inverse()  # fixed -> middle
    assert np.percentile(np.linalg.norm(from_middle(whole).apply(first.apply(points)) - whole.apply(points), axis=1),
                         99) < 0.1
    for other in (Chain(), Affine(shift), Chain([velocity, velocity]), velocity.displacement):
        with pytest.raises(GeometryError, match="one velocity"):
            split(other)


def test_another_grid_sees_the_same_velocity() -> None:
    velocity = Velocity(smooth(4, 6.0), OBLIQUE)
    assert np.abs(velocity.on(OBLIQUE) - velocity.vectors).max() < 1e-4
    finer = refined_grid(OBLIQUE, 2.0)
    inside = tuple(slice(8, -8) for _ in range(3))
    assert np.abs(velocity.on(finer)[::2, ::2, ::3][:5, :5, :5] - velocity.vectors[:5, :5, :5]).max() < 1e-3
    elsewhere = Grid.centered((32, 32, 32), 3.0, OBLIQUE.center)
    back = Velocity(velocity.on(elsewhere), elsewhere).on(OBLIQUE)
    assert np.abs(back - velocity.vectors)[inside].max() < 0.15


def test_displacements_of_a_whole_group_are_not_kept() -> None:
    import gc
    import weakref

    velocity = Velocity(smooth(5, 4.0), OBLIQUE)
    held = weakref.ref(velocity.displacement)
    assert velocity.displacement is held()  # looked up slab by slab, integrated once
    for seed in range(8):
        assert Velocity(smooth(seed, 1.0), OBLIQUE).displacement.grid.spacing
    gc.collect()
    assert held() is None
