"""What lies around the head: textured or noisy air, a head rest, a couch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neuralprep.synthesis.classes import CLASSES, INDEX
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import Background, Record
from neuralprep.synthesis.spatial import Frame, apply_affine, grid_positions, random_field

NO_SIGNAL = {"air": 1.0, "internal_air": 1.0, "cortical_bone": 0.9, "inner_table": 0.9, "dura": 0.7}
"""Share of the signal that is missing in classes without signal, for the ratio of an MP2RAGE."""


def no_signal_table(count: int, device: torch.device) -> Tensor:
    """(count,) share of missing signal per class; further entries (masses) have full signal."""
    table = torch.zeros(count, device=device)
    table[: len(CLASSES)] = torch.tensor([NO_SIGNAL.get(name, 0.0) for name in CLASSES])
    return table


def blobs(background: Background, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Smooth texture (X, Y, Z) >= 0 of two octaves: patches of amplitude ``level`` with gaps between them."""
    coarse = random_field(shape, (5, 5, 5), background.seed, device)[0]
    fine = random_field(shape, (14, 14, 14), background.seed + 1, device)[0]
    return background.level * (coarse + 0.5 * fine).clamp_(min=0)


def holder_weight(record: Record, frame: Frame, head: DeviceHead) -> Tensor:
    """Share (X, Y, Z) of every voxel that a U-shaped head rest (and the couch below it) would fill."""
    background = record.background
    grid = grid_positions(frame.shape, frame.spacing_mm, frame.shape, head.labels.device)
    x, y, z = apply_affine(frame.head_from_sample, grid)  # stiff: not deformed with the head
    affine, size = head.source.affine, np.array(head.source.labels.shape)
    low, high = affine[:3, 3], affine[:3, 3] + affine[:3, :3] @ size
    wide, deep = (high[0] - low[0]) / 2, head.center[1] - low[1]
    middle = (high[0] + low[0]) / 2
    radial = torch.sqrt(((x - middle) / wide) ** 2 + ((y - head.center[1]) / deep) ** 2)
    outer = (radial - 1) * min(wide, deep) - background.holder_gap_mm
    thick = background.holder_mm
    shell = (outer - thick / 2).abs() - thick / 2
    shell = torch.maximum(shell, y - (head.center[1] - 0.15 * deep))
    shell = torch.maximum(shell, (z - head.center[2] - 10).abs() - 100)
    if background.table:
        top = low[1] - background.holder_gap_mm - thick - 8
        couch = torch.minimum((y - top).abs() - 2, (y - (top - 35)).abs() - 2)  # a hollow couch: two thin plates
        shell = torch.minimum(shell, torch.maximum(couch, (x - middle).abs() - 210))
    return torch.sigmoid(-2 * shell)


def with_surroundings(image: Tensor, outside: Tensor, record: Record, frame: Frame, head: DeviceHead
                      ) -> tuple[Tensor, Tensor]:
    """Paint what is around the head.

    Parameters
    ----------
    image
        (X, Y, Z) intensities.
    outside
        (X, Y, Z) share of every voxel that is air around the head.

    Returns
    -------
    tuple of Tensor
        Image, and the share that is still air.
    """
    background = record.background
    if background.kind == "blobs":
        image = image + outside * blobs(background, record.shape, image.device)
    if background.holder is not None:
        weight = outside * holder_weight(record, frame, head)
        image = image + weight * (background.holder - record.means[INDEX["air"]])
        outside = outside - weight
    return image, outside


def mp2rage(image: Tensor, missing: Tensor, level: float, high: float, seed: int) -> Tensor:
    """Ratio image of two inversions: where neither has signal, it is noise over the full range.

    With signal s and noise n the ratio is a mixture of its true value and of a number that depends on the noise alone,
    weighted by the squares of their sizes (Marques et al., NeuroImage 2010, equation 3 with noise added to both).

    Parameters
    ----------
    image
        (X, Y, Z) ratio without noise.
    missing
        (X, Y, Z) share of the signal that is missing, 0-1.
    level
        Noise relative to the signal.
    high
        Upper end of the range of the ratio; the lower end is zero.
    seed
        Of the noise, drawn on the image's device.
    """
    generator = torch.Generator(device=image.device).manual_seed(seed)
    signal = 1 - missing
    first, second = level * torch.randn((2, *image.shape), generator=generator, device=image.device)
    noise = first**2 + second**2
    pure = high * (0.5 + first * second / noise.clamp(min=1e-12))
    weight = signal**2 / (signal**2 + noise).clamp(min=1e-12)
    return weight * image + (1 - weight) * pure
