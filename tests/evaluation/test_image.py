"""SSIM against sums over every window, PSNR against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from neuralprep.evaluation.image import best_factor, correlation, mean_absolute_error, psnr, ssim, ssim_map


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


def test_zeros_around_two_images_count_as_alike() -> None:
    """What lies in air costs no time: windows that see nothing are not summed."""
    generator = np.random.default_rng(4)
    image, reference = np.zeros((2, 14, 12, 11))
    image[4:8, 3:9, :6] = generator.random((4, 6, 6))
    reference[5:9, 3:8, 1:6] = generator.random((4, 5, 5))
    expected = brute_ssim(image, reference, 1.0)
    np.testing.assert_allclose(ssim_map(image, reference), expected, atol=1e-10)
    assert expected[0, 0, -1] == 1
    seen = (image > 0) & (reference > 0)
    padded = ssim_map(np.pad(image, 7), np.pad(reference, 7), support=np.pad(seen, 7))
    np.testing.assert_array_equal(padded[7:-7, 7:-7, 7:-7][seen], ssim_map(image, reference, support=seen)[seen])
    np.testing.assert_array_equal(ssim_map(np.zeros((3, 4)), np.zeros((3, 4))), 1)


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


def test_windows_that_see_a_mask_only() -> None:
    generator = np.random.default_rng(3)
    image = generator.random((7, 6, 8))
    reference = np.clip(image + 0.1 * generator.standard_normal(image.shape), 0, 1)
    mask = generator.random(image.shape) < 0.6
    got = ssim_map(image, reference, 1.0, mask)
    bell = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.5**2))
    cube = bell[:, None, None] * bell[:, None] * bell
    for index in np.argwhere(mask)[::9]:
        padded = [np.pad(a, 2)[tuple(slice(i, i + 5) for i in index)] for a in (image, reference, mask)]
        weight = cube * padded[2] / (cube * padded[2]).sum()
        x, y = padded[:2]
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
        cov = (weight * (x - mx) * (y - my)).sum()
        expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        assert got[tuple(index)] == pytest.approx(expected)
    image[~mask] = 1e3  # what lies outside the mask is not seen
    np.testing.assert_allclose(ssim_map(image, reference, 1.0, mask)[mask], got[mask])


def test_interior_equals_monai() -> None:
    torch = pytest.importorskip("torch")
    regression = pytest.importorskip("monai.metrics.regression")
    generator = np.random.default_rng(4)
    image = generator.random((14, 12, 13))
    reference = np.clip(image + 0.2 * generator.standard_normal(image.shape), 0, 1)
    pair = [torch.from_numpy(a)[None, None] for a in (image, reference)]
    expected, _ = regression.compute_ssim_and_cs(
        *pair, spatial_dims=3, kernel_size=(5, 5, 5), kernel_sigma=(1.5, 1.5, 1.5), data_range=1.0
    )
    inner = ssim_map(image, reference)[2:-2, 2:-2, 2:-2]
    np.testing.assert_allclose(inner, expected.numpy()[0, 0], atol=2e-5)


def test_psnr_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    image, reference = np.random.default_rng(5).random((2, 9, 8, 7))
    expected = metrics.peak_signal_noise_ratio(reference, image, data_range=1.5)
    assert psnr(image, reference, 1.5) == pytest.approx(expected)


def test_absolute_error_correlation_and_factor() -> None:
    generator = np.random.default_rng(6)
    image, reference = generator.random((2, 5, 6, 7))
    mask = generator.random(image.shape) < 0.5
    assert mean_absolute_error(image, reference, mask) == pytest.approx(np.abs(image - reference)[mask].mean())
    expected = np.corrcoef(image[mask], reference[mask])[0, 1]
    assert correlation(image, reference, mask) == pytest.approx(expected)
    assert correlation(3 * image + 1, image) == pytest.approx(1)
    assert math.isnan(correlation(np.ones(image.shape), image))
    assert best_factor(image, 2.5 * image) == pytest.approx(2.5)
    factor = best_factor(image, reference, mask)
    error = [np.square(f * image - reference)[mask].sum() for f in (factor - 0.01, factor, factor + 0.01)]
    assert error[1] == min(error)
    with pytest.raises(ValueError, match="zero everywhere"):
        best_factor(np.zeros(image.shape), image)


def test_refusals() -> None:
    image = np.zeros((3, 3, 3))
    with pytest.raises(ValueError, match="differ"):
        ssim(image, np.zeros((3, 3, 4)))
    with pytest.raises(ValueError, match="data_range"):
        psnr(image, image, 0)
    with pytest.raises(ValueError, match="empty"):
        ssim(image, image, mask=image)
