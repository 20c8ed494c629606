"""How the brain moves inside the skull that stays: atrophy and growth, wider ventricles, the push of masses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis.heads import DeviceHead, scaled_about
from neuralprep.synthesis.masses import PlacedMass, pushed
from neuralprep.synthesis.record import Record
from neuralprep.synthesis.spatial import Frame, apply_affine, upsampled

_VENTRICLE_STEPS = 3


def brain_displacement(record: Record, frame: Frame, head: DeviceHead, masses: list[PlacedMass]) -> Tensor | None:
    """Displacement of the pull-back of everything inside the skull, in head mm, or None where nothing moves.

    Parameters
    ----------
    record
        ``anatomy`` and the masses' ``push`` are used.
    frame
        Sampling frame.
    head
        The head.
    masses
        The record's masses in this head.

    Returns
    -------
    Tensor or None
        (3, X, Y, Z): the tissue at head position p was at p plus this before the change; computed on the
        coarse grid, as it is smooth.
    """
    anatomy = record.anatomy
    pushing = [placed for placed in masses if placed.mass.push > 0]
    if anatomy.atrophy == 0 and anatomy.ventricles_mm == 0 and not pushing:
        return None
    start = position = frame.coarse_positions()
    for placed in pushing:
        position = pushed(position, placed)
    if anatomy.atrophy != 0:
        position = scaled_about(position, head.size_for_volume(anatomy.atrophy), head)
    if anatomy.ventricles_mm != 0:
        step = anatomy.ventricles_mm / _VENTRICLE_STEPS
        for _ in range(_VENTRICLE_STEPS):
            position = position + step * sampled(head.ventricle_pull, position, head.map_from_head)
    return upsampled(position - start, record.shape)


def sampled(values: Tensor, positions: Tensor, index_from_head: np.ndarray) -> Tensor:
    """Values (C, x, y, z) of a map of the head at positions (3, X, Y, Z) in head mm; zero outside the map."""
    index = apply_affine(index_from_head, positions)
    size = torch.tensor(values.shape[1:], device=values.device).view(3, 1, 1, 1)
    unit = (2 * index / (size - 1) - 1).flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(values[None], unit, align_corners=True)[0]
