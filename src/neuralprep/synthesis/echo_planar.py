"""Echo-planar images: distortion along the phase-encoding axis, signal pile-up and dropout next to air."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from neuralprep.synthesis.brain import sampled
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import EchoPlanar
from neuralprep.synthesis.spatial import Frame, random_field, upsampled


def distorted(frame: Frame, head: DeviceHead, echo_planar: EchoPlanar) -> tuple[Frame, Tensor]:
    """Move the anatomy along the phase-encoding axis, every truth with it.

    The shift is proportional to the field that air inside the head makes around itself (here: the air, blurred), plus
    a smooth part as imperfect shimming leaves.

    Returns
    -------
    tuple
        The distorted frame, and the factor (X, Y, Z) by which compressed signal piles up and stretched signal thins.
    """
    coarse = frame.coarse_shape
    shift = _near_air(frame, head) + 0.35 * random_field(coarse, (4, 4, 4), echo_planar.seed, frame.warped.device)
    shift = echo_planar.shift_mm * shift
    full = upsampled(shift, frame.shape)[0]
    density = 1 + torch.gradient(full, spacing=frame.spacing_mm, dim=echo_planar.axis)[0]
    warped = frame.warped.clone()
    warped[echo_planar.axis] += full
    displacement = torch.zeros((3, *coarse), device=shift.device)
    if frame.displacement is not None:
        displacement = upsampled(frame.displacement, coarse)
    displacement[echo_planar.axis] += shift[0]
    return replace(frame, warped=warped, displacement=displacement), density.clamp(0.3, 2.5)


def dropout(frame: Frame, head: DeviceHead, strength: float) -> Tensor:
    """Share (X, Y, Z) of the signal that is left after dephasing next to air; ``strength`` 1 leaves none there."""
    lost = strength * (2.5 * _near_air(frame, head) - 0.4).clamp(0, 1)
    return 1 - upsampled(lost, frame.shape)[0]


def _near_air(frame: Frame, head: DeviceHead) -> Tensor:
    """The head's map of nearness to inner air (1, x, y, z) on the coarse grid."""
    return sampled(head.near_air, frame.coarse_positions(), head.map_from_head)
