"""NPP against its own ablations: four uses of one network, all trained to reconstruct the finished image.

Only what the paper compares differs. Every variant sees the same heads in the same order and has the same trunk,
schedule and reconstruction loss (1 - SSIM of the stripped, normalised image in the template frame); ``npp`` adds
lambda times the total variation of its field, which is its definition (He et al. 2023, equation 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuralprep.networks.ablation import AblationConfig, AblationNet, AblationOutput
from neuralprep.networks.loading import ABLATION_LAYOUT
from neuralprep.networks.npp import GRID_MULTIPLE
from neuralprep.training.batch import Batch, Truth
from neuralprep.training.losses import ssim3d, summed, to_template, total_variation, weighted_mean
from neuralprep.training.tasks.base import Forward, Task, Terms

PAPER_FIELD_MM = 2.0
"""Spacing of the multiplier field in the paper."""


@dataclass(frozen=True)
class AblationWeights:
    """``lambda_log10`` is the range from which log10(lambda) is drawn uniformly, once per batch."""

    lambda_log10: tuple[float, float] = (-3.0, 1.0)


@dataclass(frozen=True)
class AblationTask(Task):
    """Learns the finished image of the template frame from the raw one."""

    name: ClassVar[str] = "ablation"
    layout: ClassVar[str] = ABLATION_LAYOUT
    multiple: ClassVar[int] = GRID_MULTIPLE
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


def finished(truth: Truth) -> Tensor:
    """The stripped, normalised image in the template frame, (N, 1, X, Y, Z) in [0, 1]."""
    clean = truth.clean[:, None].clamp(max=1) * truth.brain()
    return to_template(clean, truth.affine, truth.spacing_mm, tuple(clean.shape[2:]), truth.spacing_mm)
