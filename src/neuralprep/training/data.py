"""Where training examples come from: label maps (whole, or brains in groups), made-up heads, real images, PUMBA's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from neuralprep.errors import InputError
from neuralprep.synthesis.sample import DeviceHead, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.synthesis.shapes import ADULT_WIDTH_MM, shape_head
from neuralprep.synthesis.shapes_distance import signed_distance
from neuralprep.synthesis.shapes_pumba import PUBLISHED_SIZE, pumba_sample
from neuralprep.training.batch import Batch, Example, collate
from neuralprep.training.brains import draw_group
from neuralprep.training.real import RealImage
from neuralprep.training.recipe import Recipe, Stage

_PUMBA_SPACING_MM = 2.0
_PUMBA_LIMIT_MM = 20.0


@dataclass(frozen=True, eq=False)
class Pool:
    """Sources of examples on a device.

    Attributes
    ----------
    heads, reals
        Label maps and real images.
    shapes, real
        Shares of examples from the shape engine and from ``reals``; the rest comes from ``heads``.
    generator
        ``"heads"``; ``"pumba"`` for that generator alone; ``"brains"`` for groups of brains to be registered.
    """

    device: torch.device
    heads: tuple[DeviceHead, ...] = ()
    reals: tuple[RealImage, ...] = ()
    shapes: float = 0.0
    real: float = 0.0
    generator: str = "heads"

    def __post_init__(self) -> None:
        if self.real > 0 and not self.reals:
            raise InputError(f"the recipe asks for a share of {self.real:g} real images; give --real TABLE")
        if self.generator != "pumba" and not self.heads and self.real + self.shapes < 1:
            raise InputError("there is no label map to train on: name train_heads, or set shapes = 1.0 in the recipe")

    def draw(self, rng: np.random.Generator, settings: SamplerSettings) -> Example:
        """Draw one example; ``rng`` alone decides it."""
        if self.generator == "pumba":
            return self._pumba(rng, settings)
        if self.shapes or self.real:
            kind = rng.random()
            if kind < self.real:
                return self.reals[int(rng.integers(len(self.reals)))].draw(rng, settings)
            if kind < self.real + self.shapes:
                source = shape_head(int(rng.integers(2**31)), _shape_size(settings.spacing_mm), self.device)
                head = DeviceHead.load(source, self.device)
                # A made-up head has no place in the template: what is drawn there must not teach where it lies.
                return Example.from_sample(render(draw_record(source.name, rng, settings), head), has_pose=False)
        head = self.heads[int(rng.integers(len(self.heads)))]
        return Example.from_sample(render(draw_record(head.source.name, rng, settings), head))

    def _pumba(self, rng: np.random.Generator, settings: SamplerSettings) -> Example:
        size = settings.shape[0]
        image, mask = pumba_sample(rng, size, self.device)
        spacing = _PUMBA_SPACING_MM * PUBLISHED_SIZE / size
        distance = signed_distance(mask, spacing, _PUMBA_LIMIT_MM)
        everywhere = torch.ones_like(mask)
        return Example.from_distances(image, torch.stack([distance, distance]), everywhere, spacing, (False, True))


def _shape_size(spacing_mm: float) -> int:
    """Voxels per axis of a made-up head for images of a spacing: a little finer than they are, within reason."""
    return int(min(max(ADULT_WIDTH_MM / spacing_mm, 64), 192))


def make_batch(pool: Pool, recipe: Recipe, stage: Stage, seed: tuple[int, ...], rank: int = 0) -> Batch:
    """Draw one batch; ``seed`` (ending in the step number) and ``rank`` decide it, which makes resuming exact.

    Processes that train together draw different parts of one larger batch.
    """
    shape, count = stage.at(seed[-1])
    settings = replace(recipe.sampler, shape=shape, spacing_mm=stage.spacing_mm)
    numbers = range(rank * count, (rank + 1) * count)
    if pool.generator == "brains":
        return collate([one for k in numbers for one in draw_group(pool.heads, seed, k, settings)])
    return collate([pool.draw(np.random.default_rng((*seed, k)), settings) for k in numbers])
