"""MindGrab: a stack of dilated convolutions that says brain or not, at full resolution.

Architecture: Fani et al., arXiv 2506.11860. Their loss and schedule are not published; cross-entropy and Dice are the
usual choice, here with the share of brain in each voxel as the target (less the entropy of that share, so that a
perfect answer costs nothing): on a coarse grid the border then lies where interpolated shares pass a half. Inputs are
scaled and ordered as the published network's are (2nd to 98th percentile to 0..1; axes left, inferior, anterior), so
that exported weights work wherever the published ones do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.loading import MESHNET_LAYOUT
from neuralprep.networks.meshnet import MINDGRAB_CHANNELS, MINDGRAB_DILATIONS, MeshNet
from neuralprep.training.batch import Batch
from neuralprep.training.losses import soft_dice, summed, weighted_mean
from neuralprep.training.tasks.base import Forward, Task, Terms, hard_dice


@dataclass(frozen=True)
class MeshNetConfig:
    """Width and dilations; the defaults are MindGrab's 146,237 parameters."""

    channels: int = MINDGRAB_CHANNELS
    dilations: tuple[int, ...] = MINDGRAB_DILATIONS


@dataclass(frozen=True)
class MindGrabTask(Task):
    """Learns the inside of the skull as one of two classes."""

    name: ClassVar[str] = "mindgrab"
    layout: ClassVar[str] = MESHNET_LAYOUT
    multiple: ClassVar[int] = 4
    input_is: ClassVar[str] = "LIA grid of the recipe's spacing and size, percentiles 2 to 98 scaled to 0..1"

    network: MeshNetConfig = field(default_factory=MeshNetConfig)

    def build(self) -> nn.Module:
        """See :class:`Task`."""
        return MeshNet(self.network.channels, self.network.dilations)

    def config(self) -> dict[str, object]:
        """See :class:`Task`."""
        return asdict(self.network)

    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """See :class:`Task`."""
        share = to_lia(batch.truth.brain_share())
        known = batch.truth.has_distance[:, 1:]
        logits = forward(mindgrab_input(batch.image)).float()
        likely = torch.log_softmax(logits, 1)
        divergence = F.kl_div(likely, torch.cat([1 - share, share], 1), reduction="none").sum(1).mean((1, 2, 3))
        overlap = soft_dice(likely[:, 1:].exp(), share, known)
        return summed({"divergence": weighted_mean(divergence, known[:, 0]), "dice": overlap})

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Dice of the mask."""
        brain = to_lia(batch.truth.brain())
        found = forward(mindgrab_input(batch.image)).argmax(1, keepdim=True) == 1
        return [{"dice_icv": hard_dice(found[k], brain[k])} for k in range(len(brain))]


def to_lia(volumes: Tensor) -> Tensor:
    """Volumes (N, C, X, Y, Z) of axes right, anterior, superior as left, inferior, anterior."""
    return volumes.flip(2, 4).transpose(3, 4)


def from_lia(volumes: Tensor) -> Tensor:
    """The inverse of :func:`to_lia`."""
    return volumes.transpose(3, 4).flip(2, 4)


def mindgrab_input(image: Tensor) -> Tensor:
    """Images (N, 1, X, Y, Z) in RAS order as the network wants them: LIA, 2nd to 98th percentile to 0..1."""
    ordered = image.flatten(1)[:, ::7].sort(1).values
    low, high = (ordered[:, int(share * (ordered.shape[1] - 1))].view(-1, 1, 1, 1, 1) for share in (0.02, 0.98))
    scaled = ((image - low) / (high - low + 1e-3 / 255)).clamp(0, 1)
    return to_lia(scaled).contiguous(memory_format=torch.channels_last_3d)
