"""Examples and batches: a network's input with every truth that is known about it, and what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis.sample import COORDINATE_STRIDE, Sample


def _no_classes() -> Tensor:
    return torch.zeros(0, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class Example:
    """One image and its truths; shapes as in :class:`neuralprep.synthesis.sample.Sample`.

    A truth that is not known is zero and its flag says so: ``has_pose`` for coordinates and affine, ``has_field`` for
    the clean image and the gain, ``has_distance`` for each of the two distances. ``classes`` (X, Y, Z) uint8 are empty
    unless a task needs them.
    """

    image: Tensor
    clean: Tensor
    log_gain: Tensor
    distances: Tensor
    inside: Tensor
    coordinates: Tensor
    affine: np.ndarray
    spacing_mm: float
    has_pose: bool = True
    has_field: bool = True
    has_distance: tuple[bool, bool] = (True, True)
    classes: Tensor = field(default_factory=_no_classes)

    @staticmethod
    def from_sample(sample: Sample, has_pose: bool = True) -> Example:
        """A rendered sample, of which everything is known."""
        return Example(sample.image, sample.clean, sample.log_gain, sample.distances, sample.field_of_view,
                       sample.coordinates, sample.template_from_sample, sample.frame.spacing_mm, has_pose,
                       classes=sample.classes)

    @staticmethod
    def from_distances(image: Tensor, distances: Tensor, inside: Tensor, spacing_mm: float,
                       has_distance: tuple[bool, bool]) -> Example:
        """An image of which only distances are known."""
        nothing = torch.zeros_like(image)
        coarse = F.avg_pool3d(nothing[None], COORDINATE_STRIDE)[0]
        return Example(image, nothing, nothing, distances, inside, coarse.expand(3, *coarse.shape), np.eye(4),
                       spacing_mm, False, False, has_distance)


@dataclass(frozen=True, eq=False)
class Truth:
    """A batch of truths; shapes as in :class:`Example` with a leading batch axis.

    ``has_pose`` and ``has_field`` are (N,) float, ``has_distance`` (N, 2) float: 1 where the truth is known, else 0.
    """

    clean: Tensor
    log_gain: Tensor
    distances: Tensor
    inside: Tensor
    coordinates: Tensor
    affine: Tensor
    spacing_mm: float
    has_pose: Tensor
    has_field: Tensor
    has_distance: Tensor
    classes: Tensor = field(default_factory=_no_classes)

    def brain(self) -> Tensor:
        """(N, 1, X, Y, Z) bool: inside of the skull, within the field of view."""
        return ((self.distances[:, 1] < 0) & self.inside)[:, None]

    def brain_share(self) -> Tensor:
        """(N, 1, X, Y, Z) in [0, 1]: how much of each voxel is :meth:`brain`, from the distance of its centre."""
        return ((0.5 - self.distances[:, 1] / self.spacing_mm).clamp(0, 1) * self.inside)[:, None]


class Batch(NamedTuple):
    """Images (N, 1, X, Y, Z) in [0, 1] and their truths."""

    image: Tensor
    truth: Truth


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples of one grid."""
    image = torch.stack([e.image for e in examples])[:, None].contiguous(memory_format=torch.channels_last_3d)

    def stack(name: str) -> Tensor:
        return torch.stack([getattr(e, name) for e in examples])

    def numbers(name: str) -> Tensor:
        return torch.tensor([getattr(e, name) for e in examples], dtype=torch.float32, device=image.device)

    affine = torch.from_numpy(np.stack([e.affine for e in examples])).float().to(image.device)
    return Batch(image, Truth(stack("clean"), stack("log_gain"), stack("distances"), stack("inside"),
                              stack("coordinates"), affine, examples[0].spacing_mm, numbers("has_pose"),
                              numbers("has_field"), numbers("has_distance"), stack("classes")))
