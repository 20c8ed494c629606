"""Deformable registration of two brains: learns the velocity between any two of a group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuralprep.networks.loading import NPP_LAYOUT, PAIR_LAYOUT, STRIP_LAYOUT
from neuralprep.networks.pair import PAIR_MULTIPLE, RING, PairConfig, PairNet, PairOutput
from neuralprep.training.batch import Batch
from neuralprep.training.losses import summed
from neuralprep.training.pair_losses import (
    meet,
    membrane_energy,
    misplaced,
    one_hot,
    overlaps,
    share_entropy,
    shares_of,
    soft_knee,
)
from neuralprep.training.tasks.base import Forward, Task, Terms

STANDARD_LOG10_STIFFNESS = -1.0


@dataclass(frozen=True)
class PairWeights:
    """Weights of the terms.

    ``smooth`` is that of the membrane energy at the standard stiffness 0.1; it grows with the square root of the
    stiffness, whose logarithm is drawn from ``stiffness_log10``, or the standard with probability ``standard``.
    ``places`` is per mm, for pairs of one head; ``structures`` of the cross-entropy of what is read. With probability
    ``shown`` a group's velocities are learnt from its true structures and not from those that were read.
    """

    structures: float = 0.5
    shown: float = 0.4
    smooth: float = 0.3
    places: float = 0.05
    stiffness_log10: tuple[float, float] = (-3.0, 1.0)
    standard: float = 0.5


@dataclass(frozen=True)
class PairTask(Task):
    """Overlap of structures, distance of known places, and smoothness by the stiffness that the network is told."""

    name: ClassVar[str] = "pair"
    layout: ClassVar[str] = PAIR_LAYOUT
    starts_from: ClassVar[tuple[str, ...]] = (NPP_LAYOUT, STRIP_LAYOUT)
    begins_anew: ClassVar[tuple[str, ...]] = ("structure_head.", "bend.")
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
        structures, brains = one_hot(batch.truth.classes), batch.truth.brain()
        shares = shares_of(structures)
        shown = torch.full_like(shares, -1.0)
        for group in range(0, len(shares), RING):
            if rng.random() < weights.shown:
                shown[group : group + RING] = shares[group : group + RING]
        (velocities, logits), others = self._answer(forward, batch, stiffness, shown)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        meeting = meet(velocities, (brains | brains[others])[:, 0], generator)
        coordinates, known = batch.truth.coordinates, batch.truth.has_pose
        away = soft_knee(misplaced(meeting, coordinates, coordinates[others]))
        smooth = weights.smooth * 10 ** (0.5 * (stiffness - STANDARD_LOG10_STIFFNESS))
        return summed({
            "overlap": 1 - overlaps(meeting, structures, structures[others]).mean(),
            "structures": weights.structures * share_entropy(logits, shares, brains),
            "places": weights.places * (known * away).mean(),
            "smooth": smooth * membrane_energy(velocities),
        })

    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Overlap of structures before and after, distance of known places (mm), energy; share of blocks read right.

        Pairs of one head and of two heads have scores of their own: undoing a made-up warp is the easier task.
        """
        (velocities, logits), others = self._answer(forward, batch, STANDARD_LOG10_STIFFNESS, None)
        structures, brains = one_hot(batch.truth.classes), batch.truth.brain()
        wanted, read = shares_of(structures).argmax(1), logits.argmax(1)
        rows: list[dict[str, float]] = []
        for k, velocity in enumerate(velocities):
            inside = wanted[k] < structures.shape[1]
            rows.append({"energy": membrane_energy(velocity[None]).item(),
                         "read": (wanted[k] == read[k])[inside].float().mean().item()})
        coordinates, either = batch.truth.coordinates, (brains | brains[others])[:, 0]
        for name, share in (("before", 0.0), ("after", 1.0)):
            meeting = meet(share * velocities, either, torch.Generator().manual_seed(0))
            overlap = overlaps(meeting, structures, structures[others])
            away = misplaced(meeting, coordinates, coordinates[others]).mean(1)
            for k, row in enumerate(rows):
                one_head = bool(batch.truth.has_pose[k] > 0)
                row[f"{'one_head' if one_head else 'dice'}_{name}"] = overlap[k].item()
                if one_head:
                    row[f"mm_{name}"] = away[k].item()
        return rows

    def example(self) -> tuple[Tensor, ...]:
        """See :class:`Task`."""
        return torch.rand(1, 1, 32, 32, 32), torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1)

    def _answer(
        self, forward: Forward, batch: Batch, log10_stiffness: float, shown: Tensor | None
    ) -> tuple[PairOutput, list[int]]:
        """What the network says of all pairs of every group, and the number of each image's moving one."""
        others = [RING * (k // RING) + (k + 1) % RING for k in range(len(batch.image))]
        stiffness = torch.full((len(others), 1), log10_stiffness, device=batch.image.device)
        answer = forward(batch.image * batch.truth.brain(), None, stiffness, shown)
        assert isinstance(answer, PairOutput)
        return answer, others
