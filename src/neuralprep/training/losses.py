"""Losses, all in float32.

The paper's loss is SSIM3D(warped, truth) + lambda * TV(chi) (He et al. 2023, equation 3; the released code minimises
its negative SSIM). The head model also knows distances, gain, template coordinates and the affine exactly, so each is
supervised directly. Every term leaves out the samples whose truth is not known (see
:class:`neuralprep.training.batch.Truth`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.networks.npp import FRAME_CENTER_MM, NPPOutput, coordinate_weights, fit_affine
from neuralprep.training.batch import Truth

TEMPLATE_SHAPE = (48, 56, 48)
TEMPLATE_SPACING_MM = 4.0
"""Coarse template-space grid on which the warped images are compared."""


@dataclass(frozen=True)
class DistanceWeights:
    """Weights of the two terms about the surfaces."""

    distance: float = 1.0
    dice: float = 1.0


@dataclass(frozen=True)
class LossWeights(DistanceWeights):
    """Weights of the direct terms beside 1 - SSIM + lambda * TV.

    ``lambda_log10`` is the range from which log10(lambda) is drawn uniformly, once per batch.
    """

    coordinates: float = 0.5
    affine: float = 0.2
    gain: float = 0.5
    gain_shape: float = 3.0
    mask: float = 0.2
    lambda_log10: tuple[float, float] = (-3.0, 1.0)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of values with weights of 0 or 1; 0 where nothing counts."""
    return (values * weights).sum() / weights.sum().clamp(min=1)


def ssim3d(a: Tensor, b: Tensor, window: int = 5, sigma: float = 1.5) -> Tensor:
    """Mean structural similarity (N,) of each pair of images (N, 1, X, Y, Z) with values in [0, 1].

    Gaussian window, zero padding, C1 = 0.01^2 and C2 = 0.03^2 as in NPP; the window is applied separably, which
    costs a fifth of the 3-D kernel and gives the same numbers.
    """
    x = torch.arange(window, device=a.device, dtype=a.dtype) - window // 2
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    stack = torch.cat([a, b, a * a, b * b, a * b], 1)
    channels = stack.shape[1]
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = window
        padding = [0, 0, 0]
        padding[axis] = window // 2
        weight = kernel.view(1, 1, *shape).expand(channels, 1, *shape)
        stack = F.conv3d(stack, weight, padding=padding, groups=channels)
    mu_a, mu_b, aa, bb, ab = stack.unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mu_a * mu_b + c1) * (2 * (ab - mu_a * mu_b) + c2)
    bottom = (mu_a**2 + mu_b**2 + c1) * ((aa - mu_a**2) + (bb - mu_b**2) + c2)
    return (top / bottom).mean((1, 2, 3))


def total_variation(field: Tensor) -> Tensor:
    """Mean absolute forward difference along each axis, summed over axes (N, C, X, Y, Z)."""
    return sum((field.diff(dim=axis).abs().mean() for axis in (2, 3, 4)), field.new_zeros(()))


def soft_dice(prediction: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - Dice of soft masks with squared sizes, so that equal soft masks score 0.

    Mean over the samples and channels for which ``known`` (N, C) is 1.
    """
    axes = (2, 3, 4)
    overlap = 2 * (prediction * truth).sum(axes)
    scores = 1 - (overlap + 1) / ((prediction**2).sum(axes) + (truth**2).sum(axes) + 1)
    return weighted_mean(scores, known)


def summed(terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of a loss's terms, and the terms detached."""
    return torch.stack(list(terms.values())).sum(), {name: value.detach() for name, value in terms.items()}


def npp_loss(output: NPPOutput, image: Tensor, truth: Truth, log10_lambda: Tensor, weights: LossWeights
             ) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its terms (detached) for a batch.

    Parameters
    ----------
    output
        Network output for ``image``.
    image
        (N, 1, X, Y, Z) network input.
    truth
        Truths of the batch.
    log10_lambda
        (N, 1); one value for the batch, as in the paper.
    weights
        Weights of the direct terms.
    """
    return summed({
        **distance_terms(output.distances, truth, weights),
        **_pose_terms(output, truth, weights),
        **_field_terms(output, image, truth, log10_lambda, weights),
    })


def distance_terms(distances: Tensor, truth: Truth, weights: DistanceWeights) -> dict[str, Tensor]:
    """Terms about the two surfaces, from predicted signed distances (N, 2, X, Y, Z) in mm."""
    inside = truth.inside[:, None].float()
    known = truth.has_distance
    counted = inside * known[:, :, None, None, None]
    return {
        "distance": weights.distance * _distance_loss(distances, truth.distances, counted),
        "dice": weights.dice * soft_dice(torch.sigmoid(-distances) * inside,
                                         torch.sigmoid(-truth.distances) * inside, known),
    }


def _distance_loss(prediction: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Smooth L1 in mm, weighted towards the surface.

    Beyond +-15 mm only the sign counts: nobody needs the exact distance there, and learning it costs capacity.
    """
    limit = 15.0
    limited = truth.clamp(-limit, limit)
    beyond = (truth.abs() >= limit) & (prediction.detach() * truth.sign() >= limit)
    error = F.smooth_l1_loss(prediction, limited, reduction="none", beta=1.0).masked_fill(beyond, 0.0)
    weight = (0.15 + torch.exp(-limited.abs() / 4)) * counted
    return (error * weight).sum() / (weight.sum() + 1) / 3


def _pose_terms(output: NPPOutput, truth: Truth, weights: LossWeights) -> dict[str, Tensor]:
    brain = brain_blocks(truth)
    fitted = fit_affine(output.coordinates, brain, 4 * truth.spacing_mm)
    points = corner_points(truth.affine)
    distance = apply(fitted, points) - apply(truth.affine, points)
    return {
        "coordinates": weights.coordinates * coordinates_error(output.coordinates, truth, brain) / 10,
        "affine": weights.affine / 10 * weighted_mean(
            torch.linalg.vector_norm(distance, dim=2).clamp(max=100).mean(1), truth.has_pose),
    }


def brain_blocks(truth: Truth) -> Tensor:
    """Share of brain, in view and of known pose, of each block of four voxels, (N, 1, X/4, Y/4, Z/4)."""
    visible = F.avg_pool3d(truth.inside[:, None].float(), 4)
    return coordinate_weights(truth.distances) * visible * truth.has_pose.view(-1, 1, 1, 1, 1)


def coordinates_error(said: Tensor, truth: Truth, brain: Tensor) -> Tensor:
    """Mean over blocks of brain of the distance (mm, sum of the axes, smooth below 2) to their template coordinates."""
    error = F.smooth_l1_loss(said, truth.coordinates, reduction="none", beta=2.0)
    return (error * brain).sum() / (brain.sum() + 1)


def corner_points(affine: Tensor) -> Tensor:
    """Sample mm positions of eight points around the brain in the template, (N, 8, 3)."""
    corners = torch.cartesian_prod(*(torch.tensor([c - e, c + e]) for c, e in zip(FRAME_CENTER_MM, (50, 65, 50),
                                                                                 strict=True))).to(affine)
    inverse = torch.linalg.inv(square(affine))
    return torch.einsum("nij,pj->npi", inverse[:, :3, :3], corners) + inverse[:, None, :3, 3]


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (N, P, 3) through matrices (N, 3 or 4, 4)."""
    return torch.einsum("nij,npj->npi", matrix[:, :3, :3], points) + matrix[:, None, :3, 3]


def square(matrix: Tensor) -> Tensor:
    """Affines (N, 3, 4) or (N, 4, 4) as (N, 4, 4) float32."""
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=matrix.device).expand(matrix.shape[0], 1, 4)
    return torch.cat([matrix[:, :3].float(), last], 1)


def _field_terms(output: NPPOutput, image: Tensor, truth: Truth, log10_lambda: Tensor, weights: LossWeights
                 ) -> dict[str, Tensor]:
    multiplier = output.multiplier()
    half = F.avg_pool3d(truth.distances[:, 1:], 2)
    seen = F.avg_pool3d(truth.inside[:, None].float(), 2)
    visible = seen * truth.has_field.view(-1, 1, 1, 1, 1)
    near = (torch.sigmoid((3 - half) / 1.0) + 0.05) * visible
    gain_error = output.log_gain - F.avg_pool3d(truth.log_gain[:, None], 2)
    # The overall level is calibrated exactly later (tissue mean 110); what matters is the shape of the field.
    brain = torch.sigmoid(-half) * visible
    axes = (1, 2, 3, 4)
    level_error = (gain_error * brain).sum(axes, keepdim=True) / (brain.sum(axes, keepdim=True) + 1)
    shape_error = (gain_error - level_error).abs()
    target_mask = torch.sigmoid(-half / 1.5)
    mask_error = F.binary_cross_entropy_with_logits(output.mask_logit, target_mask, reduction="none")
    predicted = multiplier * F.avg_pool3d(image, 2)
    wanted = F.avg_pool3d(truth.clean[:, None].clamp(max=1) * (truth.distances[:, 1:] < 0), 2)
    bounded = seen * truth.has_distance[:, 1].view(-1, 1, 1, 1, 1)
    weight = coordinate_weights(output.distances.detach())
    fitted = _trusted(fit_affine(output.coordinates, weight, 4 * truth.spacing_mm), truth)
    spacing = 2 * truth.spacing_mm
    warped = to_template(predicted * visible, fitted, spacing)
    target = to_template(wanted * visible, truth.affine, spacing)
    strength = 10 ** log10_lambda.mean()
    return {
        "gain": weights.gain * weighted_mean(level_error.abs().flatten(), truth.has_field),
        "gain_shape": weights.gain_shape * (shape_error * near).sum() / (near.sum() + 1),
        "mask": weights.mask * (mask_error * bounded).mean(),
        "ssim": weighted_mean(1 - ssim3d(warped.clamp(0, 1), target), truth.has_field),
        "tv": strength * total_variation(multiplier),
    }


def _trusted(fitted: Tensor, truth: Truth) -> Tensor:
    """The fitted affine, or the true one where the fit is off by more than the images' resolution.

    A misaligned pair tells the multiplier field nothing but to blur. A head without a place in the template is carried
    by its stand-in, as both images of the pair must be.
    """
    points = corner_points(truth.affine)
    error = torch.linalg.vector_norm(apply(fitted, points) - apply(truth.affine, points), dim=2).mean(1).detach()
    good = ((error < TEMPLATE_SPACING_MM) & (truth.has_pose > 0)).view(-1, 1, 1)
    return torch.where(good, fitted[:, :3], truth.affine[:, :3].to(fitted))


def to_template(images: Tensor, template_from_grid: Tensor, spacing_mm: float,
                shape: tuple[int, ...] = TEMPLATE_SHAPE, template_spacing_mm: float = TEMPLATE_SPACING_MM) -> Tensor:
    """Carry images (N, C, X, Y, Z), centred on the origin, onto a template grid about FRAME_CENTER_MM."""
    device = images.device
    axes = [template_spacing_mm * (torch.arange(s, device=device) - (s - 1) / 2) + c
            for s, c in zip(shape, FRAME_CENTER_MM, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)
    inverse = torch.linalg.inv(square(template_from_grid))
    where = apply(inverse, points.expand(images.shape[0], -1, -1))
    half = torch.tensor([(n - 1) / 2 * spacing_mm for n in images.shape[2:]], device=device)
    unit = (where / half).flip(-1).view(images.shape[0], *shape, 3)
    return F.grid_sample(images, unit, align_corners=True)
