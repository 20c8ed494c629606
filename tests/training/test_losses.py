"""Losses against plain restatements and known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from neuralprep.networks.npp import FRAME_CENTER_MM, NPPOutput
from neuralprep.training.batch import Truth
from neuralprep.training.losses import (
    TEMPLATE_SHAPE,
    LossWeights,
    npp_loss,
    ssim3d,
    to_template,
    total_variation,
    weighted_mean,
)


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM with a full 3-D Gaussian window of 5 voxels, zero padding: the definition, without separability."""
    x = np.arange(5) - 2
    g = np.exp(-(x**2) / (2 * 1.5**2))
    g /= g.sum()
    window = g[:, None, None] * g[None, :, None] * g[None, None]

    def mean(v: np.ndarray) -> np.ndarray:
        return ndimage.convolve(v, window, mode="constant")

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 1e-4, 9e-4
    return float((((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


def test_separable_ssim_is_the_full_window_ssim() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((14, 15, 16)), rng.random((14, 15, 16))
    fast = ssim3d(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None]).item()
    assert fast == pytest.approx(plain_ssim(a, b), abs=1e-9)
    assert ssim3d(torch.from_numpy(a)[None, None], torch.from_numpy(a)[None, None]).item() == pytest.approx(1)


def test_total_variation_of_a_ramp_and_of_a_step() -> None:
    ramp = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 6, 5)
    assert total_variation(ramp).item() == pytest.approx(1.0)
    assert total_variation(torch.ones(1, 1, 5, 5, 5)).item() == 0


def make_truth(size: int = 32, spacing: float = 6.0) -> tuple[torch.Tensor, Truth]:
    """A ball-shaped brain in a brighter ball, at the template's centre."""
    axis = spacing * (torch.arange(size) - (size - 1) / 2)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    distances = torch.stack([radius - 55, radius - 62])[None]
    image = (0.8 * (radius < 85).float() * (1 - 0.002 * x))[None, None]
    log_gain = torch.log((110 / 255) / 0.8 / (1 - 0.002 * x))[None]
    positions = torch.stack([x, y, z])
    coordinates = torch.nn.functional.avg_pool3d(positions[None], 4)
    clean = torch.exp(log_gain) * image[:, 0]
    affine = torch.eye(4)[None]
    return image, Truth(clean, log_gain, distances, torch.ones(1, size, size, size, dtype=torch.bool), coordinates,
                        affine, spacing, torch.ones(1), torch.ones(1), torch.ones(1, 2))


def perfect(truth: Truth) -> NPPOutput:
    half = torch.nn.functional.avg_pool3d(truth.distances[:, 1:], 2)
    gain = torch.nn.functional.avg_pool3d(truth.log_gain[:, None], 2)
    return NPPOutput(truth.distances.clone(), truth.coordinates.clone(), gain, -half / 1.5)


def test_the_truth_has_the_least_loss_in_every_term() -> None:
    image, truth = make_truth()
    lam = torch.full((1, 1), -3.0)
    best = perfect(truth)
    _, terms = npp_loss(best, image, truth, lam, LossWeights())
    assert terms["distance"].item() < 1e-3
    assert terms["dice"].item() < 1e-4
    assert terms["coordinates"].item() < 1e-6
    assert terms["affine"].item() < 0.01
    assert terms["gain"].item() < 1e-6
    assert terms["gain_shape"].item() < 1e-6
    worse = {
        "distance": best._replace(distances=best.distances + 2),
        "dice": best._replace(distances=best.distances + 2),
        "coordinates": best._replace(coordinates=best.coordinates + 5),
        "affine": best._replace(coordinates=best.coordinates * 1.1),
        "gain": best._replace(log_gain=best.log_gain + 0.1),
        "gain_shape": best._replace(log_gain=1.5 * best.log_gain),
        "ssim": best._replace(log_gain=best.log_gain + 0.5),
        "mask": best._replace(mask_logit=best.mask_logit + 2),
        "tv": best._replace(log_gain=best.log_gain + torch.randn_like(best.log_gain)),
    }
    for name, output in worse.items():
        _, other = npp_loss(output, image, truth, lam, LossWeights())
        assert other[name] > terms[name] + 1e-4, name


def test_lambda_scales_the_smoothness_term_only() -> None:
    image, truth = make_truth()
    output = perfect(truth)
    _, low = npp_loss(output, image, truth, torch.full((1, 1), -2.0), LossWeights())
    _, high = npp_loss(output, image, truth, torch.full((1, 1), 0.0), LossWeights())
    assert high["tv"].item() == pytest.approx(100 * low["tv"].item(), rel=1e-4)
    assert all(torch.equal(low[k], high[k]) for k in low if k != "tv")


def test_warping_to_the_template_grid_puts_world_points_where_they_belong() -> None:
    axis = 6.0 * (torch.arange(48) - 23.5)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    template_from_grid = torch.tensor([[[0.0, 1, 0, 3], [-1, 0, 0, -5], [0, 0, 1.0, 7]]])
    warped = to_template(torch.stack([x, y, z])[None], template_from_grid, 6.0)[0]
    index = (10, 20, 30)
    template = np.array([4 * (i - (n - 1) / 2) + c for i, n, c in zip(index, TEMPLATE_SHAPE, FRAME_CENTER_MM,
                                                                    strict=True)])
    grid_point = np.linalg.solve(template_from_grid[0, :, :3].numpy(), template - template_from_grid[0, :, 3].numpy())
    assert warped[(slice(None), *index)].numpy() == pytest.approx(grid_point, abs=1e-3)


def together(first: Truth, second: Truth) -> Truth:
    """Two truths as one batch."""
    values = {name: torch.cat([getattr(first, name), getattr(second, name)])
              for name in vars(first) if name != "spacing_mm"}
    return Truth(**values, spacing_mm=first.spacing_mm)


@pytest.mark.parametrize(("flag", "blind", "seeing"), [
    ("has_pose", ("coordinates",), ("distances", "log_gain", "mask_logit")),
    ("has_field", ("log_gain",), ("distances", "coordinates", "mask_logit")),
    ("has_distance", ("distances",), ("coordinates", "log_gain")),
])
def test_what_is_not_known_is_not_learnt(flag: str, blind: tuple[str, ...], seeing: tuple[str, ...]) -> None:
    image, truth = make_truth(16, 12.0)
    unknown = replace(truth, **{flag: torch.zeros_like(getattr(truth, flag))})
    batch = together(truth, unknown)
    images = image.repeat(2, 1, 1, 1, 1)
    output = NPPOutput(*(t.repeat(2, 1, 1, 1, 1).add(0.3).requires_grad_() for t in perfect(truth)))
    total, _ = npp_loss(output, images, batch, torch.full((2, 1), -20.0), LossWeights())
    total.backward()
    for name in (*blind, *seeing):
        first, second = getattr(output, name).grad.abs().sum((1, 2, 3, 4))
        assert first > 0, name
        # The total variation needs no truth; at this lambda it weighs nothing.
        assert (second < 1e-12 * first) == (name in blind), name


def test_a_sample_without_truth_does_not_dilute_the_others() -> None:
    image, truth = make_truth(16, 12.0)
    nothing = replace(truth, has_pose=torch.zeros(1), has_field=torch.zeros(1), has_distance=torch.zeros(1, 2))
    output = NPPOutput(*(t + 0.3 for t in perfect(truth)))
    lam = torch.full((1, 1), -1.0)
    _, alone = npp_loss(output, image, truth, lam, LossWeights())
    doubled = NPPOutput(*(t.repeat(2, 1, 1, 1, 1) for t in output))
    _, mixed = npp_loss(doubled, image.repeat(2, 1, 1, 1, 1), together(truth, nothing), lam.repeat(2, 1), LossWeights())
    for name in ("dice", "affine", "gain", "ssim", "tv"):
        assert mixed[name].item() == pytest.approx(alone[name].item(), rel=1e-4), name
    _, none = npp_loss(output, image, nothing, lam, LossWeights())
    assert all(value == 0 for name, value in none.items() if name != "tv")


def test_weighted_mean_of_nothing_is_zero() -> None:
    assert weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 1.0])) == 5
    assert weighted_mean(torch.tensor([1.0, 5.0]), torch.zeros(2)) == 0


def test_gradients_reach_every_output() -> None:
    image, truth = make_truth(16, 12.0)
    output = NPPOutput(*(t.clone().requires_grad_() for t in perfect(truth)))
    noisy = NPPOutput(*(t + 0.1 for t in output))
    total, _ = npp_loss(noisy, image, truth, torch.zeros(1, 1), LossWeights())
    total.backward()
    for name, tensor in zip(NPPOutput._fields, output, strict=True):
        assert tensor.grad is not None, name
        assert tensor.grad.abs().sum() > 0, name
