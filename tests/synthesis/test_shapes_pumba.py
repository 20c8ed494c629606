"""PUMBA's published generator: its numbers, read back from what it makes."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from neuralprep.synthesis.shapes_pumba import pumba_sample

SIZE = 64


def sample(seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    image, mask = pumba_sample(np.random.default_rng(seed), size)
    return image.numpy(), mask.numpy()


def test_a_seed_decides_everything() -> None:
    first, second, other = sample(1), sample(1), sample(2)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], other[1])


def test_brain_is_brighter_than_what_lies_around_the_head() -> None:
    for seed in range(6):
        image, mask = sample(seed)
        assert image.min() >= 0
        assert image.max() <= 1
        assert image[ndimage.binary_erosion(mask, iterations=3)].mean() > 0.35  # blocks have means of 0.4 to 1
        assert image[:3, :3, :3].mean() < 0.5
        assert 0.02 < mask.mean() < 0.4


def test_brain_sizes_follow_the_published_ranges() -> None:
    # Diameters: outer 120-125, minus 5-49, minus 0-19 (0-19, 10-29): the ellipsoid's share of the cube.
    shares = [sample(seed, 32)[1].mean() for seed in range(24)]
    diameters = np.array([122.5, 122.5, 122.5]) - 27 - np.array([9.5, 9.5, 19.5])
    expected = np.pi / 6 * np.prod(diameters / 128)
    assert abs(np.median(shares) - expected) < 0.35 * expected


def test_texture_is_white_noise_in_blocks() -> None:
    image, mask = sample(4, 128)
    inside = ndimage.binary_erosion(mask, iterations=6)
    residual = image - ndimage.uniform_filter(image, 9)
    shifted = np.roll(residual, 1, 0)
    correlation = np.corrcoef(residual[inside], shifted[inside])[0, 1]
    assert correlation < 0.75  # warped white noise, not a smooth texture
    assert image[inside].std() > 0.05


def test_small_grids_have_the_same_proportions() -> None:
    large = torch.from_numpy(sample(9, 128)[1]).float()[None, None]
    small = sample(9, 64)[1]
    pooled = torch.nn.functional.avg_pool3d(large, 2)[0, 0].numpy() > 0.5
    assert 2 * (pooled & small).sum() / (pooled.sum() + small.sum()) > 0.85
