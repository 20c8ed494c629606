"""The default network: multiplier field, pose and two distances together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.loading import NPP_LAYOUT
from neuralprep.networks.npp import (
    GRID_MULTIPLE,
    CompactNPP,
    NPPConfig,
    NPPOutput,
    coordinate_weights,
    fit_affine,
)
from neuralprep.training.batch import Batch, Truth
from neuralprep.training.losses import LossWeights, npp_loss, ssim3d
from neuralprep.training.tasks.base import Forward, Task, Terms, distance_scores

_VALIDATION_LOG10_LAMBDA = -1.0


@dataclass(frozen=True)
class NPPTask(Task):
    """Learns every truth at once (see :func:`neuralprep.training.losses.npp_loss`)."""

    name: ClassVar[str] = "npp"
    layout: ClassVar[str] = NPP_LAYOUT
    multiple: ClassVar[int] = GRID_MULTIPLE
    input_is: ClassVar[str] = "2 mm RAS grid, percentiles 0.5 (at most 0) to 99.5 scaled to 0..1; log10(lambda)"

    network: NPPConfig = field(default_factory=NPPConfig)
    loss_weights: LossWeights = field(default_factory=LossWeights)

    def build(self) -> nn.Module:
        """See :class:`Task`."""
        return CompactNPP(self.network)

    def config(self) -> dict[str, object]:
        """See :class:`Task`."""
        return self.network.as_dict()

    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """See :class:`Task`."""
        log10_lambda = _lambdas(batch.image, float(rng.uniform(*self.loss_weights.lambda_log10)))
        output = _output(forward, batch.image, log10_lambda)
        return npp_loss(output, batch.image, batch.truth, log10_lambda, self.loss_weights)

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Dice of both masks, affine error (mm), gain error and SSIM of the normalised brain."""
        image, truth = batch
        output = _output(forward, image, _lambdas(image, _VALIDATION_LOG10_LAMBDA))
        fitted = fit_affine(output.coordinates, coordinate_weights(output.distances), 4 * truth.spacing_mm)
        rows = []
        for k in range(len(image)):
            row = distance_scores(output.distances, truth, k)
            if truth.has_pose[k] > 0:
                row["affine_mm"] = _affine_error(fitted[k], truth, k)
            if truth.has_field[k] > 0:
                row |= _field_scores(output, image, truth, k)
            rows.append(row)
        return rows

    def example(self) -> tuple[Tensor, ...]:
        """See :class:`Task`."""
        return torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1)


def _output(forward: Forward, image: Tensor, log10_lambda: Tensor) -> NPPOutput:
    return NPPOutput(*forward(image, log10_lambda))


def _lambdas(image: Tensor, value: float) -> Tensor:
    return torch.full((len(image), 1), value, device=image.device)


def _affine_error(fitted: Tensor, truth: Truth, k: int) -> float:
    """Mean distance (mm) between the fitted affine and the true coordinates inside the skull."""
    points = truth.coordinates[k].flatten(1)[:, (F.avg_pool3d(truth.distances[k, 1:], 4) < 0).flatten()]
    inverse = torch.linalg.inv(truth.affine[k])
    back = inverse[:3, :3] @ points + inverse[:3, 3:]
    return torch.linalg.vector_norm(fitted[:, :3] @ back + fitted[:, 3:] - points, dim=0).mean().item()


def _field_scores(output: NPPOutput, image: Tensor, truth: Truth, k: int) -> dict[str, float]:
    half = F.avg_pool3d(truth.distances[k : k + 1, 1:], 2) < 0
    gain = (output.log_gain[k : k + 1] - F.avg_pool3d(truth.log_gain[k : k + 1, None], 2))[half]
    made = output.multiplier()[k : k + 1] * F.avg_pool3d(image[k : k + 1], 2)
    clean = F.avg_pool3d(truth.clean[k, None, None].clamp(max=1) * (truth.distances[k : k + 1, 1:] < 0), 2)
    return {"gain_std": gain.std().item(), "ssim": ssim3d(made.clamp(0, 1), clean).item()}
