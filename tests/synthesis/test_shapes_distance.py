"""Distances and closing without SciPy, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from neuralprep.synthesis.atlas import signed_distance as exact_signed_distance
from neuralprep.synthesis.shapes_distance import closed, signed_distance, squared_distance


def random_mask(seed: int, threshold: float = 0.6) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((26, 31, 23)), 2.5)
    return noise > threshold * noise.std()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [2, 7])
def test_squared_distance_is_the_exact_one_up_to_the_limit(seed: int, limit: int) -> None:
    mask = random_mask(seed)
    exact = np.rint(ndimage.distance_transform_edt(~mask) ** 2).astype(int)
    found = squared_distance(torch.from_numpy(mask), limit).numpy()
    assert np.array_equal(found, np.minimum(exact, limit**2 + 1))


def test_distance_to_an_empty_mask_is_the_limit_everywhere() -> None:
    assert (squared_distance(torch.zeros(4, 5, 6, dtype=torch.bool), 3) == 10).all()
    with pytest.raises(ValueError, match="limit_vox 200"):
        squared_distance(torch.zeros(4, 5, 6, dtype=torch.bool), 200)


def test_signed_distance_agrees_with_the_packed_atlas_within_the_limit() -> None:
    masks = np.stack([random_mask(7), random_mask(8, 0.2)])
    found = signed_distance(torch.from_numpy(masks), 2.0, 12.0).numpy()
    for mask, distance in zip(masks, found, strict=True):
        exact = exact_signed_distance(mask, (2.0, 2.0, 2.0))
        near = np.abs(exact) < 10.9
        assert distance[near] == pytest.approx(exact[near], abs=1e-4)
        assert np.array_equal(distance < 0, mask)
        assert np.abs(distance).max() <= 12.0


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_closing_is_scipys_with_a_ball(radius: int) -> None:
    reach = np.arange(-radius, radius + 1)
    ball = (reach[:, None, None] ** 2 + reach[None, :, None] ** 2 + reach[None, None] ** 2) <= radius**2
    mask = np.pad(random_mask(3), radius + 1)
    expected = ndimage.binary_closing(mask, ball)
    assert np.array_equal(closed(torch.from_numpy(mask), radius).numpy(), expected)
