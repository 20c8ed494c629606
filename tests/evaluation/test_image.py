"""SSIM against sums over every window, PSNR against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from neuralprep.evaluation.image import psnr, ssim, ssim_map


def brute_ssim(image: np.ndarray, reference: np.ndarray, data_range: float) -> np.ndarray:
    """Window by window in plain loops, zeros beyond the array."""
    bell = [math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-2, 3)]
    total = sum(a * b * c for a, b, c in itertools.product(bell, repeat=3))
    first, second = np.pad(image, 2), np.pad(reference, 2)
    result = np.empty(image.shape)
    for i, j, k in np.ndindex(*image.shape):
        sums = dict.fromkeys(["x", "y", "xx", "yy", "xy"], 0.0)
        for a, b, c in itertools.product(range(5), repeat=3):
            weight = bell[a] * bell[b] * bell[c] / total
            x, y = first[i + a, j + b, k + c], second[i + a, j + b, k + c]
            for name, value in zip(sums, (x, y, x * x, y * y, x * y), strict=True):
                sums[name] += weight * value
        mx, my = sums["x"], sums["y"]
        vx, vy, cov = sums["xx"] - mx**2, sums["yy"] - my**2, sums["xy"] - mx * my
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        result[i, j, k] = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return result


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_brute_force(data_range: float) -> None:
    generator = np.random.default_rng(0)
    image = data_range * generator.random((6, 7, 5))
    reference = np.clip(image + 0.1 * data_range * generator.standard_normal(image.shape), 0, data_range)
    expected = brute_ssim(image, reference, data_range)
    np.testing.assert_allclose(ssim_map(image, reference, data_range), expected, atol=1e-10)
    assert ssim(image, reference, data_range) == pytest.approx(expected.mean())
    mask = generator.random(image.shape) < 0.4
    assert ssim(image, reference, data_range, mask) == pytest.approx(expected[mask].mean())


def test_ssim_of_equal_and_of_float32_images() -> None:
    image = np.random.default_rng(1).random((8, 8, 8)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1)
    assert ssim(image, 1 - image) < 0


def test_psnr_definition() -> None:
    generator = np.random.default_rng(2)
    image, reference = generator.random((2, 5, 6, 7))
    error = sum((image[i] - reference[i]) ** 2 for i in np.ndindex(image.shape)) / image.size
    assert psnr(image, reference) == pytest.approx(10 * math.log10(1 / error))
    assert psnr(255 * image, 255 * reference, 255) == pytest.approx(psnr(image, reference))
    assert psnr(image, image) == math.inf
    mask = np.zeros(image.shape)
    mask[2, 3, 4] = 1
    expected = -20 * math.log10(abs(image[2, 3, 4] - reference[2, 3, 4]))
    assert psnr(image, reference, mask=mask) == pytest.approx(expected)


def test_refusals() -> None:
    image = np.zeros((3, 3, 3))
    with pytest.raises(ValueError, match="differ"):
        ssim(image, np.zeros((3, 3, 4)))
    with pytest.raises(ValueError, match="data_range"):
        psnr(image, image, 0)
    with pytest.raises(ValueError, match="empty"):
        ssim(image, image, mask=image)
