"""Boxes around masks and distances to their surface."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.box import bounding_box, box_or_all
from neuralprep.distance import signed_distance

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_box_holds_every_voxel_and_touches_one_on_each_face(order: str) -> None:
    mask = np.zeros((9, 12, 7), bool, order=order)
    mask[tuple(RNG.integers(1, n - 1, 6) for n in mask.shape)] = True
    box = bounding_box(mask)
    assert box is not None
    part = mask[box]
    assert part.sum() == mask.sum()
    for axis in range(3):
        assert part.take(0, axis).any()
        assert part.take(-1, axis).any()


def test_a_margin_grows_the_box_as_far_as_the_array_goes() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[1, 4:6, 8] = True
    assert bounding_box(mask, 2) == (slice(0, 4), slice(2, 8), slice(6, 10))
    assert bounding_box(mask, [0, 1, 5]) == (slice(1, 2), slice(3, 7), slice(3, 10))


def test_an_empty_mask_has_no_box() -> None:
    empty = np.zeros((4, 5), bool)
    assert bounding_box(empty, 3) is None
    assert empty[box_or_all(empty)].shape == (4, 5)


def test_a_part_of_a_larger_array_is_boxed_by_its_own_voxels() -> None:
    whole = np.zeros((8, 8, 8), bool)
    whole[2, 3, 4] = whole[7, 7, 7] = True
    assert bounding_box(whole[1:6, ::2, ::-1]) is None
    assert bounding_box(whole[1:6, 1::2, ::-1]) == (slice(1, 2), slice(1, 2), slice(3, 4))


def test_the_distance_of_a_half_space_counts_from_between_its_voxels() -> None:
    mask = np.zeros((8, 3, 3), bool)
    mask[:4] = True
    distance = signed_distance(mask, (2.0, 3.0, 5.0))
    assert np.allclose(distance[:, 1, 1], 2.0 * (np.arange(8) - 3.5))


def test_the_distance_to_a_ball_is_that_of_its_radius() -> None:
    at = np.linalg.norm(np.indices((41, 41, 41)) - 20.0, axis=0)
    distance = signed_distance(at < 12)
    assert np.abs(distance - (at - 12)).max() < 1.0
    assert np.abs((distance - (at - 12)).mean()) < 0.2
    assert np.array_equal(distance < 0, at < 12)
