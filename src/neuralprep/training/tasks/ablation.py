"""NPP against its own ablations: four uses of one network, all trained to reconstruct the finished image.

Only what the paper compares differs. Every variant sees the same heads in the same order and has the same trunk,
schedule and reconstruction loss (1 - SSIM of the stripped, normalised image in the template frame); ``npp`` adds
lambda times the total variation of its field, which is its definition (He et al. 2023, equation 3).

Beyond the paper, a variant with a spatial transformer is told the pose as well (where every block of the brain lies,
and the affine), as the shipped network is: the likeness teaches it, but slowly, for images that lie 20 mm apart have
little in common that a small turn improves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuralprep.networks.ablation import AblationConfig, AblationNet, AblationOutput
from neuralprep.networks.loading import ABLATION_LAYOUT, NPP_LAYOUT
from neuralprep.networks.npp import FRAME_CENTER_MM, GRID_MULTIPLE
from neuralprep.training.batch import Batch, Truth
from neuralprep.training.losses import (
    apply,
    brain_blocks,
    coordinates_error,
    corner_points,
    square,
    ssim3d,
    summed,
    to_template,
    total_variation,
    weighted_mean,
)
from neuralprep.training.tasks.base import Forward, Task, Terms

PAPER_FIELD_MM = 2.0
"""Spacing of the multiplier field in the paper."""


@dataclass(frozen=True)
class AblationWeights:
    """Weights of what a transformer is told, per 10 mm; ``lambda_log10`` is the range of log10(lambda), drawn once per
    batch.
    """

    pose: float = 0.2
    places: float = 0.5
    lambda_log10: tuple[float, float] = (-3.0, 1.0)


@dataclass(frozen=True)
class AblationTask(Task):
    """Learns the finished image of the template frame from the raw one."""

    name: ClassVar[str] = "ablation"
    layout: ClassVar[str] = ABLATION_LAYOUT
    multiple: ClassVar[int] = GRID_MULTIPLE
    starts_from: ClassVar[tuple[str, ...]] = (NPP_LAYOUT,)
    begins_anew: ClassVar[tuple[str, ...]] = ("hypernetwork.", "field_head.", "image_head.", "trust_head.")
    input_is: ClassVar[str] = "RAS grid of the recipe's spacing, percentiles 0.5 (at most 0) to 99.5 scaled to 0..1"
    has_graph: ClassVar[bool] = False  # no grid_sample in three dimensions

    network: AblationConfig = field(default_factory=AblationConfig)
    loss_weights: AblationWeights = field(default_factory=AblationWeights)

    def build(self) -> nn.Module:
        """See :class:`Task`."""
        return AblationNet(self.network)

    def config(self) -> dict[str, object]:
        """See :class:`Task`."""
        return self.network.as_dict()

    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """See :class:`Task`."""
        log10_lambda = float(rng.uniform(*self.loss_weights.lambda_log10))
        register_first = bool(rng.random() < 0.5) and self.network.variant == "umirgpit"
        output = run_ablation(forward, batch.image, log10_lambda, register_first)
        likeness = ssim3d(output.warped, finished(batch.truth))  # not limited: what is clipped cannot be learnt from
        terms = {"ssim": weighted_mean(1 - likeness, batch.truth.has_pose * batch.truth.has_field)}
        if output.pose.numel():
            terms["pose"] = self.loss_weights.pose / 10 * pose_error(output.pose, batch.truth)
            terms["places"] = self.loss_weights.places / 10 * places_error(output.places, batch.truth)
        if self.network.variant == "npp":
            # Differences per step of 2 mm, the paper's grid, so that lambda means the same on every grid.
            step = PAPER_FIELD_MM / (2 * batch.truth.spacing_mm)
            terms["tv"] = 10**log10_lambda * step * total_variation(output.multiplier)
        return summed(terms)

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """SSIM and PSNR of the finished image at lambda 0.1, translating first."""
        made = run_ablation(forward, batch.image, -1.0).warped.clamp(0, 1)
        wanted = finished(batch.truth)
        error = (made - wanted).square().mean((1, 2, 3, 4)).clamp(min=1e-10)
        return [{"ssim": s, "psnr": p}
                for s, p in zip(ssim3d(made, wanted).tolist(), (-10 * torch.log10(error)).tolist(), strict=True)]

    def example(self) -> tuple[Tensor, ...]:
        """See :class:`Task`."""
        return torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1)


def run_ablation(forward: Forward, image: Tensor, log10_lambda: float, register_first: bool = False) -> AblationOutput:
    """The network's output at one lambda."""
    exponents = torch.full((len(image), 1), log10_lambda, device=image.device)
    return AblationOutput(*forward(image, exponents, register_first))


def true_pose(truth: Truth) -> Tensor:
    """The matrices (N, 3, 4) that a spatial transformer should find."""
    half, center = _half_mm(truth), truth.affine.new_tensor(FRAME_CENTER_MM)
    inverse = torch.linalg.inv(square(truth.affine))
    matrix, shift = inverse[:, :3, :3], inverse[:, :3, 3]
    shift = (matrix @ center + shift) / half
    return torch.cat([matrix.flip(1, 2), shift.flip(1)[:, :, None]], 2)


def pose_error(pose: Tensor, truth: Truth) -> Tensor:
    """Mean distance (mm) between where a transformer and the true affine fetch the corners of the brain from."""
    here = corner_points(truth.affine)
    half = _half_mm(truth)
    template = (apply(truth.affine, here) - here.new_tensor(FRAME_CENTER_MM)) / half
    fetched = half * apply(pose, template.flip(-1)).flip(-1)
    return weighted_mean(torch.linalg.vector_norm(fetched - here, dim=2).clamp(max=100).mean(1), truth.has_pose)


def places_error(places: Tensor, truth: Truth) -> Tensor:
    """Mean distance (mm, see `coordinates_error`) between where blocks in the brain are said to lie and do."""
    said = _half_mm(truth) * places + places.new_tensor(FRAME_CENTER_MM).view(3, 1, 1, 1)
    return coordinates_error(said, truth, brain_blocks(truth))


def _half_mm(truth: Truth) -> float:
    """Half an edge of the frame, mm."""
    return truth.spacing_mm * truth.distances.shape[-1] / 2


def finished(truth: Truth) -> Tensor:
    """The stripped, normalised image in the template frame, (N, 1, X, Y, Z) in [0, 1]."""
    clean = truth.clean[:, None].clamp(max=1) * truth.brain()
    return to_template(clean, truth.affine, truth.spacing_mm, tuple(clean.shape[2:]), truth.spacing_mm)
