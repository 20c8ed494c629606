"""Stripping alone: the default network without its field and its pose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import nn

from neuralprep.networks.loading import NPP_LAYOUT, STRIP_LAYOUT
from neuralprep.networks.npp import GRID_MULTIPLE, DistanceNet, StripConfig
from neuralprep.training.batch import Batch
from neuralprep.training.losses import DistanceWeights, distance_terms, summed
from neuralprep.training.tasks.base import Forward, Task, Terms, distance_scores


@dataclass(frozen=True)
class StripTask(Task):
    """Learns the signed distances to the brain tissue and to the inner skull."""

    name: ClassVar[str] = "strip"
    layout: ClassVar[str] = STRIP_LAYOUT
    starts_from: ClassVar[tuple[str, ...]] = (NPP_LAYOUT,)
    multiple: ClassVar[int] = GRID_MULTIPLE
    input_is: ClassVar[str] = "2 mm RAS grid, percentiles 0.5 (at most 0) to 99.5 scaled to 0..1"

    network: StripConfig = field(default_factory=StripConfig)
    loss_weights: DistanceWeights = field(default_factory=DistanceWeights)

    def build(self) -> nn.Module:
        """See :class:`Task`."""
        return DistanceNet(self.network)

    def config(self) -> dict[str, object]:
        """See :class:`Task`."""
        return self.network.as_dict()

    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """See :class:`Task`."""
        return summed(distance_terms(forward(batch.image), batch.truth, self.loss_weights))

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Dice of both masks."""
        distances = forward(batch.image)
        return [distance_scores(distances, batch.truth, k) for k in range(len(batch.image))]
