"""PUMBA: eroded brain, boundary and background as three classes, with the published loss.

Source: Park et al., arXiv 2505.07159 (2025), and its public code.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.loading import PUMBA_LAYOUT
from neuralprep.networks.unet import PUMBA_WIDTHS, PumbaUNet
from neuralprep.training.batch import Batch
from neuralprep.training.losses import summed, weighted_mean
from neuralprep.training.tasks.base import Forward, Task, Terms, hard_dice


@dataclass(frozen=True)
class PumbaConfig:
    """Widths per level; the defaults are the published 5,896,947 parameters."""

    widths: tuple[int, ...] = PUMBA_WIDTHS


@dataclass(frozen=True)
class PumbaTask(Task):
    """Learns the three classes; the loss is 1 minus the sum of the soft Dice of the two that are not background."""

    name: ClassVar[str] = "pumba"
    layout: ClassVar[str] = PUMBA_LAYOUT
    multiple: ClassVar[int] = 32
    input_is: ClassVar[str] = "128 cubed at 2 mm, percentiles 1 to 99 scaled to 0..1"

    network: PumbaConfig = field(default_factory=PumbaConfig)

    def build(self) -> nn.Module:
        """See :class:`Task`."""
        return PumbaUNet(self.network.widths)

    def config(self) -> dict[str, object]:
        """See :class:`Task`."""
        return asdict(self.network)

    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """See :class:`Task`."""
        classes = pumba_classes(batch.truth.brain())
        probabilities = torch.softmax(forward(batch.image).float(), 1)[:, :2]
        axes = (2, 3, 4)
        overlap = 2 * (probabilities * classes).sum(axes) + 1
        dice = overlap / (probabilities.sum(axes) + classes.sum(axes) + 1)
        known = batch.truth.has_distance[:, 1]
        eroded, boundary = (weighted_mean(dice[:, c], known) for c in range(2))
        # Halves of the 1, so that each term falls to -0.5 and the total is the published one.
        return summed({"eroded": 0.5 - eroded, "boundary": 0.5 - boundary})

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Dice of the two classes and of their union."""
        truth = pumba_classes(batch.truth.brain()) > 0
        found = forward(batch.image).argmax(1)
        rows = []
        for k, wanted in enumerate(truth):
            masks = [found[k] == c for c in range(2)]
            rows.append({"dice_eroded": hard_dice(masks[0], wanted[0]), "dice_boundary": hard_dice(masks[1], wanted[1]),
                         "dice_icv": hard_dice(masks[0] | masks[1], wanted[0] | wanted[1])})
        return rows

    def example(self) -> tuple[Tensor, ...]:
        """See :class:`Task`."""
        return (torch.rand(1, 1, 64, 64, 64),)


def pumba_classes(brain: Tensor) -> Tensor:
    """Eroded brain and boundary of masks (N, 1, X, Y, Z), (N, 2, X, Y, Z) float.

    The boundary is thick: every voxel with both brain and background among itself and its 26 neighbours.
    """
    mask = brain.float()
    grown, shrunk = F.max_pool3d(mask, 3, 1, 1), 1 - F.max_pool3d(1 - mask, 3, 1, 1)
    return torch.cat([shrunk, grown - shrunk], 1)
