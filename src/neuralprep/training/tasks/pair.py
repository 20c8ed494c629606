"""Deformable registration of two brains: learns the velocity between any two of a group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuralprep.networks.loading import PAIR_LAYOUT
from neuralprep.networks.pair import PAIR_MULTIPLE, RING, PairConfig, PairNet
from neuralprep.training.batch import Batch
from neuralprep.training.losses import summed
from neuralprep.training.pair_losses import meet, membrane_energy, misplaced, one_hot, overlaps, soft_knee
from neuralprep.training.tasks.base import Forward, Task, Terms

STANDARD_LOG10_STIFFNESS = -1.0


@dataclass(frozen=True)
class PairWeights:
    """Weights of the terms.

    ``smooth`` is that of the membrane energy at the standard stiffness 0.1; it grows with the square root of the
    stiffness, whose logarithm is drawn from ``stiffness_log10``, or the standard with probability ``standard``.
    ``places`` is per mm, for pairs of one head.
    """

    smooth: float = 0.3
    places: float = 0.05
    stiffness_log10: tuple[float, float] = (-3.0, 1.0)
    standard: float = 0.5


@dataclass(frozen=True)
class PairTask(Task):
    """Overlap of structures, distance of known places, and smoothness by the stiffness that the network is told."""

    name: ClassVar[str] = "pair"
    layout: ClassVar[str] = PAIR_LAYOUT
    multiple: ClassVar[int] = PAIR_MULTIPLE
    input_is: ClassVar[str] = (
        "two brains on one 2 mm RAS grid, affinely aligned, zero outside, 99th percentile 1; log10(stiffness)"
    )

    network: PairConfig = field(default_factory=PairConfig)
    loss_weights: PairWeights = field(default_factory=PairWeights)

    def build(self) -> nn.Module:
        """See :class:`Task`."""
        return PairNet(self.network)

    def config(self) -> dict[str, object]:
        """See :class:`Task`."""
        return self.network.as_dict()

    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """See :class:`Task`."""
        weights = self.loss_weights
        standard = bool(rng.random() < weights.standard)
        drawn = float(rng.uniform(*weights.stiffness_log10))
        stiffness = STANDARD_LOG10_STIFFNESS if standard else drawn
        velocities, first, second = self._velocities(forward, batch, stiffness)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        structures, brains = [one_hot(classes) for classes in batch.truth.classes], batch.truth.brain()[:, 0]
        missed, away = velocities.new_zeros(()), velocities.new_zeros(())
        for velocity, f, m in zip(velocities, first, second, strict=True):
            meeting = meet(velocity, brains[f] | brains[m], generator)
            missed = missed + 1 - overlaps(meeting, structures[f], structures[m]).mean()
            if batch.truth.has_pose[f] > 0:
                coordinates = batch.truth.coordinates
                away = away + soft_knee(misplaced(meeting, coordinates[f], coordinates[m]))
        smooth = weights.smooth * 10 ** (0.5 * (stiffness - STANDARD_LOG10_STIFFNESS))
        return summed({
            "overlap": missed / len(first),
            "places": weights.places * away / len(first),
            "smooth": smooth * membrane_energy(velocities),
        })

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Overlap of structures before and after, distance of known places (mm), and the membrane energy."""
        velocities, first, second = self._velocities(forward, batch, STANDARD_LOG10_STIFFNESS)
        structures, brains = [one_hot(classes) for classes in batch.truth.classes], batch.truth.brain()[:, 0]
        rows = []
        for velocity, f, m in zip(velocities, first, second, strict=True):
            row = {"energy": membrane_energy(velocity[None]).item()}
            for name, v in (("before", torch.zeros_like(velocity)), ("after", velocity)):
                meeting = meet(v, brains[f] | brains[m], torch.Generator().manual_seed(0))
                row[f"dice_{name}"] = overlaps(meeting, structures[f], structures[m]).mean().item()
                if batch.truth.has_pose[f] > 0:
                    coordinates = batch.truth.coordinates
                    row[f"mm_{name}"] = misplaced(meeting, coordinates[f], coordinates[m]).mean().item()
            rows.append(row)
        return rows

    def example(self) -> tuple[Tensor, ...]:
        """See :class:`Task`."""
        return torch.rand(1, 1, 32, 32, 32), torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1)

    def _velocities(
        self, forward: Forward, batch: Batch, log10_stiffness: float
    ) -> tuple[Tensor, list[int], list[int]]:
        """Velocities of all pairs of every group, and the numbers of their fixed and moving images."""
        first = list(range(len(batch.image)))
        second = [RING * (k // RING) + (k + 1) % RING for k in first]
        stiffness = torch.full((len(first), 1), log10_stiffness, device=batch.image.device)
        images = batch.image * batch.truth.brain()
        return forward(images, None, stiffness), first, second

