"""What a velocity between two brains is worth: overlap of structures, known places, smoothness; all in the middle."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.networks.pair import STRUCTURES
from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.sample import COORDINATE_STRIDE
from neuralprep.synthesis.spatial import integrate

POINTS = 16_000
_FOLDED = tuple(STRUCTURES.index(name) for name in ("cerebral_wm", "cerebral_gm", "csf"))
_LEAST = 10.0  # points of a structure below which its overlap says little
_KNEE_MM = 1.0
_SQUARINGS = 4


class Meeting(NamedTuple):
    """Points of the middle and where the velocities carry them, voxels of the images (N, 3, P), z last."""

    middle: Tensor
    fixed: Tensor
    moving: Tensor


def meet(velocities: Tensor, either: Tensor, generator: torch.Generator) -> Meeting:
    """Random voxels of the brains and where they lie in both images of every pair.

    Parameters
    ----------
    velocities
        (N, 3, x, y, z) in voxels of their own grid, on half of the images' grid.
    either
        (N, X, Y, Z) bool, where one of the brains is.
    generator
        Draws the points.
    """
    points = torch.stack([_drawn(one, generator) for one in either])
    half = 0.5 * velocities
    moved = integrate(torch.cat([-half, half]), 1.0, _SQUARINGS)
    fixed, moving = (2 * at_points(moved, (points.repeat(2, 1, 1) - 0.5) / 2)).chunk(2)
    return Meeting(points, points + fixed, points + moving)


def _drawn(mask: Tensor, generator: torch.Generator) -> Tensor:
    index = mask.nonzero()
    if not len(index):
        index = torch.zeros(1, 3, dtype=torch.long, device=mask.device)
    return index[torch.randint(len(index), (POINTS,), generator=generator).to(index.device)].T.float()


def at_points(values: Tensor, index: Tensor) -> Tensor:
    """Values (N, C, X, Y, Z) at points (N, 3, P) in voxels, linear, (N, C, P); beyond the border the border's."""
    size = torch.tensor(values.shape[2:], device=values.device, dtype=index.dtype)[:, None]
    unit = (2 * index / (size - 1) - 1).flip(1).transpose(1, 2)[:, :, None, None]
    return F.grid_sample(values, unit, align_corners=True, padding_mode="border")[..., 0, 0]


def one_hot(classes: Tensor) -> Tensor:
    """Structures (N, C, X, Y, Z) float of class maps (N, X, Y, Z)."""
    return torch.stack([classes == INDEX[name] for name in STRUCTURES], 1).float()


def shares_of(structures: Tensor) -> Tensor:
    """Shares (N, C + 1, X/2, Y/2, Z/2) in blocks of two voxels, the last of the rest; of one-hot (N, C, X, Y, Z)."""
    shares = F.avg_pool3d(structures, 2)
    return torch.cat([shares, 1 - shares.sum(1, keepdim=True)], 1)


def share_entropy(logits: Tensor, shares: Tensor, brain: Tensor) -> Tensor:
    """Cross-entropy of shares (N, C, x, y, z), mean over blocks of the brains (N, 1, X, Y, Z); above its least value.

    Zero where the shares are met exactly.
    """
    inside = F.max_pool3d(brain.float(), 2)[:, 0]
    least = -torch.xlogy(shares, shares).sum(1)
    each = F.cross_entropy(logits.float(), shares, reduction="none") - least
    return (each * inside).sum() / inside.sum().clamp(min=1)


def overlaps(meeting: Meeting, fixed: Tensor, moving: Tensor) -> Tensor:
    """Soft Dice of the structures that both show (one-hot, (N, C, X, Y, Z)), mean of two resolutions, (N,).

    The three tissues of the folds count as much as all structures together: a cortex has many more places to be found
    than a pallidum.
    """
    scores = []
    for factor in (1, 2):
        offset = (factor - 1) / 2
        f, m = (at_points(maps if factor == 1 else F.avg_pool3d(maps, factor), (index - offset) / factor)
                for maps, index in ((fixed, meeting.fixed), (moving, meeting.moving)))
        scores.append(2 * (f * m).sum(2) / ((f * f).sum(2) + (m * m).sum(2)).clamp(min=1e-3))
        if factor == 1:
            seen = (torch.minimum(f.detach().sum(2), m.detach().sum(2)) > _LEAST).float()
    each = 0.5 * (scores[0] + scores[1]) * seen
    parts = [each[:, chosen].sum(1) / seen[:, chosen].sum(1).clamp(min=1) for chosen in (slice(None), list(_FOLDED))]
    return 0.5 * (parts[0] + parts[1])


def misplaced(meeting: Meeting, fixed: Tensor, moving: Tensor) -> Tensor:
    """Distances (mm, (N, P)) between places of one head that should meet; ``Sample.coordinates`` of both images."""
    offset = (COORDINATE_STRIDE - 1) / 2
    index = (torch.cat([meeting.fixed, meeting.moving]) - offset) / COORDINATE_STRIDE
    f, m = at_points(torch.cat([fixed, moving]), index).chunk(2)
    return torch.linalg.vector_norm(f - m, dim=1)


def soft_knee(distances: Tensor) -> Tensor:
    """Mean over the last axis of distances (mm) that count squared below about a millimetre and plainly above."""
    return ((distances**2 + _KNEE_MM**2).sqrt() - _KNEE_MM).mean(-1)


def membrane_energy(velocity: Tensor) -> Tensor:
    """Mean squared slope of a velocity (N, 3, x, y, z) in voxels of its grid, summed over components and axes."""
    return sum((velocity.diff(dim=axis).square().sum(1).mean() for axis in (2, 3, 4)), velocity.new_zeros(()))
