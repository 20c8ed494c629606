"""What a velocity between two brains is worth: overlap of structures, known places, smoothness; all in the middle."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.sample import COORDINATE_STRIDE
from neuralprep.synthesis.spatial import integrate

STRUCTURES = ("cerebral_wm", "cerebral_gm", "thalamus", "striatum", "pallidum", "hippocampus", "cerebellar_wm",
              "cerebellar_gm", "brainstem", "ventricle", "csf")
POINTS = 30_000
_LEAST = 10.0  # points of a structure below which its overlap says little
_KNEE_MM = 1.0


class Meeting(NamedTuple):
    """Points of the middle and where the velocity carries them, voxels of the image (3, N), z last."""

    middle: Tensor
    fixed: Tensor
    moving: Tensor


def meet(velocity: Tensor, either: Tensor, generator: torch.Generator) -> Meeting:
    """Random voxels of the brains and where they lie in both images.

    Parameters
    ----------
    velocity
        (3, x, y, z) in voxels of its own grid, on half of the images' grid.
    either
        (X, Y, Z) bool, where one of the brains is.
    generator
        Draws the points.
    """
    index = either.nonzero()
    if len(index) > POINTS:
        index = index[torch.randint(len(index), (POINTS,), generator=generator).to(index.device)]
    points = index.T.float()
    half = 0.5 * velocity
    both = [2 * at_points(integrate(part, 1.0), (points - 0.5) / 2) for part in (-half, half)]
    return Meeting(points, points + both[0], points + both[1])


def at_points(values: Tensor, index: Tensor) -> Tensor:
    """Values (C, X, Y, Z) at points (3, N) in voxels, linear, (C, N); beyond the border the border's."""
    size = torch.tensor(values.shape[1:], device=values.device, dtype=index.dtype)[:, None]
    unit = (2 * index / (size - 1) - 1).flip(0).T[None, :, None, None]
    return F.grid_sample(values[None], unit, align_corners=True, padding_mode="border")[0, :, :, 0, 0]


def one_hot(classes: Tensor) -> Tensor:
    """Structures (C, X, Y, Z) float of a class map (X, Y, Z)."""
    return torch.stack([classes == INDEX[name] for name in STRUCTURES]).float()


def overlaps(meeting: Meeting, fixed: Tensor, moving: Tensor) -> Tensor:
    """Soft Dice of the structures (one-hot, (C, X, Y, Z)) that both brains show, mean of two resolutions, (C',)."""
    scores = []
    for factor in (1, 2):
        maps = [m if factor == 1 else F.avg_pool3d(m[None], factor)[0] for m in (fixed, moving)]
        offset = (factor - 1) / 2
        f, m = (at_points(values, (index - offset) / factor)
                for values, index in zip(maps, (meeting.fixed, meeting.moving), strict=True))
        scores.append(2 * (f * m).sum(1) / ((f * f).sum(1) + (m * m).sum(1)).clamp(min=1e-3))
        if factor == 1:
            seen = torch.minimum(f.detach().sum(1), m.detach().sum(1)) > _LEAST
    return (0.5 * (scores[0] + scores[1]))[seen]


def misplaced(meeting: Meeting, fixed: Tensor, moving: Tensor) -> Tensor:
    """Distances (mm, (N,)) between places of one head that should meet; ``Sample.coordinates`` of both images."""
    offset = (COORDINATE_STRIDE - 1) / 2
    f, m = (at_points(values, (index - offset) / COORDINATE_STRIDE)
            for values, index in zip((fixed, moving), (meeting.fixed, meeting.moving), strict=True))
    return torch.linalg.vector_norm(f - m, dim=0)


def soft_knee(distances: Tensor) -> Tensor:
    """Mean of distances (mm) that count squared below about a millimetre and plainly above."""
    return ((distances**2 + _KNEE_MM**2).sqrt() - _KNEE_MM).mean()


def membrane_energy(velocity: Tensor) -> Tensor:
    """Mean squared slope of a velocity (N, 3, x, y, z) in voxels of its grid, summed over components and axes."""
    return sum((velocity.diff(dim=axis).square().sum(1).mean() for axis in (2, 3, 4)), velocity.new_zeros(()))
