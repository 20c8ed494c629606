"""What a task is: the one thing that differs between networks in the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuralprep.training.batch import Batch, Truth

Forward = Callable[..., Any]
"""The network as the loop calls it: on several devices, in mixed precision; outputs as the network's ``forward``."""

Terms = tuple[Tensor, dict[str, Tensor]]
"""Total loss and its terms (detached)."""


@dataclass(frozen=True)
class Task(ABC):
    """A network and what it learns. Subclasses add fields for the tables of a recipe (``network``, ``loss``).

    Attributes
    ----------
    name
        What recipes call it.
    layout
        Layout of its weights file.
    starts_from
        Layouts of weights that may start it, beside its own.
    begins_anew
        Beginnings of the names of tensors that those other layouts lack; they stay as they were drawn.
    multiple
        Every axis of the training grid must be a multiple of this.
    input_is
        What the exported network expects, in words, for its card.
    has_graph
        Whether OpenVINO's graph format can hold the network.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    starts_from: ClassVar[tuple[str, ...]] = ()
    begins_anew: ClassVar[tuple[str, ...]] = ()
    multiple: ClassVar[int]
    input_is: ClassVar[str]
    has_graph: ClassVar[bool] = True

    @abstractmethod
    def build(self) -> nn.Module:
        """A fresh network."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """Arguments that build the network again, for its weights file (JSON-ready)."""

    @abstractmethod
    def loss(self, forward: Forward, batch: Batch, rng: np.random.Generator) -> Terms:
        """Loss of one batch; ``rng`` is the same on all processes that train together."""

    @abstractmethod
    def scores(self, forward: Forward, batch: Batch) -> list[dict[str, float]]:
        """Validation scores of each sample of a batch."""

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the smallest useful size, from which the graph is traced."""
        return (torch.rand(1, 1, 32, 32, 32),)


def hard_dice(prediction: Tensor, truth: Tensor) -> float:
    """Dice of two bool masks; 1 where both are empty."""
    total = (prediction.sum() + truth.sum()).item()
    return 2 * (prediction & truth).sum().item() / total if total else 1.0


def distance_scores(distances: Tensor, truth: Truth, sample: int) -> dict[str, float]:
    """Dice of the masks below zero distance within the field of view, of one sample."""
    seen = truth.inside[sample]
    names = ("dice_tissue", "dice_icv")
    return {
        name: hard_dice((distances[sample, c] < 0) & seen, (truth.distances[sample, c] < 0) & seen)
        for c, name in enumerate(names)
        if truth.has_distance[sample, c] > 0
    }
