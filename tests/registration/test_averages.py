"""Averages of affines: against scipy's logarithm, and what an unbiased mean must not depend on."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import linalg
from scipy.spatial.transform import Rotation

from neuralprep.errors import GeometryError
from neuralprep.registration.averages import (
    bias,
    consensus,
    exponential,
    halves,
    logarithm,
    midpoint,
    square_root,
    unbiased,
)
from neuralprep.transform import Affine
from samples import points

UNITS = np.diag([0.01, 0.01, 0.01, 1])


def motion(rng: np.random.Generator, degrees: float, stretch: float = 0.0, shift: float = 30.0) -> Affine:
    matrix = np.eye(4)
    turn = rng.normal(size=3)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * turn / np.linalg.norm(turn)).as_matrix()
    matrix[:3, :3] = matrix[:3, :3] @ (np.eye(3) + rng.uniform(-stretch, stretch, (3, 3)))
    matrix[:3, 3] = rng.uniform(-shift, shift, 3)
    return Affine(matrix)


def times(outer: Affine, inner: Affine) -> Affine:
    return Affine(outer.matrix @ inner.matrix)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 170), st.floats(0, 0.15))
def test_logarithm_is_scipys_and_exponential_undoes_it(seed: int, degrees: float, stretch: float) -> None:
    one = motion(np.random.default_rng(seed), degrees, stretch)
    rate = logarithm(one)
    np.testing.assert_allclose(rate, linalg.logm(UNITS @ one.matrix @ np.linalg.inv(UNITS)), atol=1e-9)
    np.testing.assert_allclose(exponential(rate).matrix, one.matrix, atol=1e-9)
    np.testing.assert_allclose(logarithm(one.inverse()), -rate, atol=1e-9)


@pytest.mark.parametrize("matrix", [np.diag([-1.0, -1, 1, 1]), np.diag([-1.0, 1, 1, 1])])
def test_half_turns_and_mirrors_have_no_logarithm(matrix: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="logarithm"):
        logarithm(Affine(matrix))


@pytest.mark.parametrize("stretch", [0.0, 0.1])
def test_the_unbiased_space_has_the_identity_as_mean_and_depends_on_nothing_else(stretch: float) -> None:
    rng = np.random.default_rng(3)
    group = [motion(rng, 25, stretch) for _ in range(5)]
    made = [times(one, unbiased(group)) for one in group]
    assert bias(made) < 1e-12
    elsewhere = motion(rng, 70, stretch)  # the common space may start anywhere
    again = [times(times(one, elsewhere), unbiased([times(one, elsewhere) for one in group])) for one in group]
    for one, other in zip(made, again, strict=True):
        assert one.distance(other, points()) < 1e-7
    if stretch == 0:
        for one in made:
            np.testing.assert_allclose(one.matrix[:3, :3] @ one.matrix[:3, :3].T, np.eye(3), atol=1e-12)
    sizes = [np.log(np.linalg.det(one.matrix[:3, :3])) for one in made]
    assert abs(np.mean(sizes)) < 1e-12  # neither larger nor smaller than the group


def test_poses_in_the_scanner_do_not_count_where_they_are_given() -> None:
    rng = np.random.default_rng(4)
    shapes = [motion(rng, 5, 0.1, 5) for _ in range(4)]
    poses = [motion(rng, 170) for _ in range(4)]
    scans = [times(pose, shape) for pose, shape in zip(poses, shapes, strict=True)]
    shift = unbiased(scans, poses)
    assert shift.distance(unbiased(shapes), points()) < 1e-9
    assert bias([times(times(pose.inverse(), scan), shift) for pose, scan in zip(poses, scans, strict=True)]) < 1e-12


def test_spaces_without_a_mean_are_refused() -> None:
    turns = []
    for axis in ("x", "y", "z"):  # with the identity: their mean matrix is zero
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler(axis, 180, degrees=True).as_matrix()
        turns.append(Affine(matrix))
    with pytest.raises(GeometryError, match="standard poses"):
        unbiased([Affine.identity(), *turns])


def relations(group: list[Affine]) -> dict[tuple[int, int], tuple[Affine, float]]:
    pairs = combinations(range(len(group)), 2)
    return {(i, j): (times(group[j], group[i].inverse()), 1.0) for i, j in pairs}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_consistent_pairs_are_met_exactly(count: int) -> None:
    rng = np.random.default_rng(count)
    group = [motion(rng, 20, 0.05) for _ in range(count)]
    start = [times(one, motion(rng, 3, 0.02, 3)) for one in group]
    found, misses = consensus(relations(group), start, points())
    for (i, j), (relation, _) in relations(group).items():
        assert times(relation, found[i]).distance(found[j], points()) < 1e-6
    assert max(misses) < 1e-6


def test_one_wrong_pair_is_outvoted() -> None:
    rng = np.random.default_rng(9)
    group = [motion(rng, 10) for _ in range(5)]
    pairs = relations(group)
    pairs[1, 3] = (times(motion(rng, 15, 0, 10), pairs[1, 3][0]), 1.0)
    found, misses = consensus(pairs, group, points())
    good = [times(pairs[i, j][0], found[i]).distance(found[j], points()) for i, j in pairs if (i, j) != (1, 3)]
    assert max(good) < 1.0
    assert min(misses[1], misses[3]) > max(misses[0], misses[2], misses[4])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 179), st.floats(0, 0.15))
def test_the_root_is_half_of_the_logarithm(seed: int, degrees: float, stretch: float) -> None:
    one = motion(np.random.default_rng(seed), degrees, stretch)
    roots = np.linalg.eigvals(one.matrix)  # stretched across a large turn the eigenvalues become negative: no half
    assume(not np.any((np.abs(roots.imag) < 1e-3) & (roots.real < 0)))
    root = square_root(one)
    np.testing.assert_allclose(root.matrix @ root.matrix, one.matrix, rtol=0, atol=1e-7)
    half = linalg.expm(0.5 * linalg.logm(UNITS @ one.matrix @ np.linalg.inv(UNITS)))
    np.testing.assert_allclose(UNITS @ root.matrix @ np.linalg.inv(UNITS), half, atol=1e-6)
    if stretch == 0:
        np.testing.assert_allclose(root.matrix[:3, :3] @ root.matrix[:3, :3].T, np.eye(3), atol=1e-7)


@pytest.mark.parametrize("matrix", [np.diag([-1.0, -1, 1, 1]), np.diag([-1.0, 1, 1, 1]), np.diag([-1.2, -0.8, 1, 1])])
def test_half_turns_and_mirrors_have_no_root(matrix: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="no half"):
        square_root(Affine(matrix))
    with pytest.raises(GeometryError, match="no half"):
        midpoint(Affine.identity(), Affine(matrix))
    first, second = halves(Affine(matrix))
    assert np.array_equal(first.matrix, np.eye(4))
    assert np.array_equal(second.matrix, matrix)


def test_the_midpoint_lies_half_way_and_moves_along() -> None:
    rng = np.random.default_rng(5)
    one, other, elsewhere = (motion(rng, degrees) for degrees in (20, 70, 110))
    middle = midpoint(one, other)
    np.testing.assert_allclose(middle.matrix, midpoint(other, one).matrix, atol=1e-9)  # no order
    inverted = midpoint(one.inverse(), other.inverse())
    np.testing.assert_allclose(inverted.matrix, middle.inverse().matrix, atol=1e-9)
    moved = midpoint(times(elsewhere, one), times(elsewhere, other))
    np.testing.assert_allclose(moved.matrix, times(elsewhere, middle).matrix, atol=1e-9)
    np.testing.assert_allclose(middle.matrix[:3, :3] @ middle.matrix[:3, :3].T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 10.0, 120.0, 179.0])
def test_halves_make_the_whole_and_are_inverse_when_exchanged(degrees: float) -> None:
    whole = motion(np.random.default_rng(6), degrees, 0.1)
    first, second = halves(whole)
    np.testing.assert_allclose(times(second, first).matrix, whole.matrix, atol=1e-7)
    np.testing.assert_allclose(times(halves(whole.inverse())[0], first).matrix, np.eye(4), atol=1e-6)
