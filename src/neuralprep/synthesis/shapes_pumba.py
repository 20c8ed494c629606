"""The published generator of PUMBA: an ellipsoid of noise in a shell of noise, warped.

Source: Park et al., "PUMBA", arXiv 2505.07159 (2025), and the settings of its public code. Kept as published, with its
white-noise texture, nearest-neighbour warp and its hole positions (on the diagonal of one octant only), so that a
network trained on it is a fair comparison with the shape engine of :mod:`neuralprep.synthesis.shapes`. Two details
differ: the image is turned once instead of three times in a row, linearly instead of with cubic splines, and the
mask is cut at one half after turning instead of being truncated. Volumes are not pre-generated but drawn anew.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis.shapes_distance import closed
from neuralprep.synthesis.spatial import Pose

PUBLISHED_SIZE = 128
"""Voxels per axis; lengths below are voxels of this grid (2 mm)."""
_NODES, _HALF = 10, 64


def pumba_sample(rng: np.random.Generator, size: int = PUBLISHED_SIZE, device: torch.device | str = "cpu"
                 ) -> tuple[Tensor, Tensor]:
    """Draw one volume.

    Parameters
    ----------
    rng
        Source of every random number.
    size
        Voxels per axis; lengths scale with it (published: 128, at 2 mm).
    device
        Where to compute.

    Returns
    -------
    image : (size, size, size) float32 in [0, 1]
    mask : (size, size, size) bool
        The brain: the inner ellipsoid, closed with a ball of 2 voxels.
    """
    device = torch.device(device)
    unit = size / PUBLISHED_SIZE
    image, brain, inner = _ellipsoids(rng, size, unit, device)
    holes = torch.ones_like(brain)
    for _ in range(int(rng.integers(2, 5))):
        widths = rng.integers(3, 10, 3)
        diagonal = int(rng.integers(0, max(inner[0] // 2 - widths[0] // 2, 1)))
        holes &= ~_ellipsoid(size, unit, (diagonal,) * 3, widths, device)
    both = _warped(torch.stack([image, brain.float()]), rng)
    turned = _turned(both, rng.uniform(-15, 15, 3))
    image = (turned[0] * holes).clamp_(0, 1)
    mask = closed(turned[1] > 0.5, 2)
    flips = [axis for axis in range(3) if rng.random() < 0.5]
    shifts = [int(value) for value in np.rint(unit * rng.uniform(-10, 10, 3))]
    return tuple(volume.flip(flips).roll(shifts, (0, 1, 2)) for volume in (image, mask))  # type: ignore[return-value]


def _ellipsoids(rng: np.random.Generator, size: int, unit: float, device: torch.device
                ) -> tuple[Tensor, Tensor, np.ndarray]:
    """Image and brain before any deformation, and the brain's diameters."""
    outer = rng.integers(120, 126, 3)
    skull = outer - rng.integers(5, 50, 3)
    inner = skull - np.array([rng.integers(0, 20), rng.integers(0, 20), rng.integers(10, 30)])
    head = _ellipsoid(size, unit, (0, 0, 0), outer, device)
    rolled = [int(value) for value in np.rint(unit * rng.integers(0, 10, 3))]
    shell = head.roll(rolled, (0, 1, 2)) ^ _ellipsoid(size, unit, (0, 0, 0), skull, device)
    brain = _ellipsoid(size, unit, (0, 0, 0), inner, device)
    background = _noise(rng, (size,) * 3, 0.1, 0.1, device) * ~(shell | brain)
    around = _blocks(rng, size, unit, (0, 0, 0), np.full(3, PUBLISHED_SIZE), device) * shell
    for _ in range(5):
        widths = rng.integers(10, 30, 3)
        place = rng.integers(20, 31, 3) * rng.choice((-1, 1), 3)
        small = _ellipsoid(size, unit, place, widths, device)
        around = torch.where(small, _blocks(rng, size, unit, place, widths, device), around)
    image = _blocks(rng, size, unit, (0, 0, 0), inner, device) * brain + around * ~brain + background
    return image, brain, inner


def _ellipsoid(size: int, unit: float, place: np.ndarray | tuple[int, ...], widths: np.ndarray, device: torch.device
               ) -> Tensor:
    """Bool ellipsoid of diameters ``widths`` about the centre + ``place``, in voxels of the published grid."""
    axis = torch.arange(size, device=device, dtype=torch.float32) / unit - PUBLISHED_SIZE / 2
    squares = [((axis - float(p)) / max(int(w) // 2, 1)) ** 2 for p, w in zip(place, widths, strict=True)]
    return squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None] <= 1


def _noise(rng: np.random.Generator, shape: tuple[int, ...], mean: float, spread: float, device: torch.device
           ) -> Tensor:
    """White Gaussian noise limited to [0, 1]."""
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**31)))
    return torch.randn(shape, generator=generator, device=device).mul_(spread).add_(mean).clamp_(0, 1)


def _blocks(rng: np.random.Generator, size: int, unit: float, place: np.ndarray | tuple[int, ...],
            widths: np.ndarray, device: torch.device) -> Tensor:
    """A box cut into 2 x 2 x 2 blocks of noise, each of its own mean U(0.4, 1) and spread U(0, 0.4)."""
    out = torch.zeros((size,) * 3, device=device)
    edges = []
    for p, w in zip(place, widths, strict=True):
        middle = PUBLISHED_SIZE // 2 + int(p)
        marks = (middle - int(w) // 2, middle, middle + int(w) // 2)
        edges.append([min(max(round(unit * mark), 0), size) for mark in marks])
    for i in range(2):
        for j in range(2):
            for k in range(2):
                where = tuple(slice(marks[n], marks[n + 1]) for marks, n in zip(edges, (i, j, k), strict=True))
                shape = tuple(out[where].shape)
                mean, spread = rng.uniform(0.4, 1), rng.uniform(0, 0.4)
                if min(shape) > 0:
                    out[where] = _noise(rng, shape, mean, spread, device)
    return out


def _warped(volumes: Tensor, rng: np.random.Generator) -> Tensor:
    """Nearest-neighbour warp by the exponential of a random velocity (seven squarings on a grid of 64)."""
    device, size = volumes.device, volumes.shape[-1]
    spread = int(rng.integers(10, 15))
    seed = int(rng.integers(2**31))
    values = spread * torch.randn((1, 3, _NODES, _NODES, _NODES), generator=torch.Generator().manual_seed(seed))
    # The published resizing puts sample i at node i / zoom, holds the last node beyond it and keeps the values.
    displacement = _at_indices(values.to(device), _lattice(_HALF, device) * (_NODES / _HALF), "bilinear") / 2**7
    lattice = _lattice(_HALF, device)
    for _ in range(7):
        displacement = displacement + _at_indices(displacement, lattice + displacement[0], "bilinear")
    fine = _at_indices(displacement, _lattice(size, device) * (_HALF / size), "bilinear")[0]
    unit = size / PUBLISHED_SIZE
    return _at_indices(volumes[None], _lattice(size, device) + unit * fine, "nearest")[0]


def _lattice(size: int, device: torch.device) -> Tensor:
    axis = torch.arange(size, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


def _at_indices(volumes: Tensor, where: Tensor, mode: str, padding: str = "border") -> Tensor:
    """Values of (1, C, X, Y, Z) at voxel indices (3, A, B, C)."""
    last = torch.tensor([max(n - 1, 1) for n in volumes.shape[2:]], device=where.device).view(3, 1, 1, 1)
    unit = (2 * where / last - 1).flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(volumes, unit, mode=mode, padding_mode=padding, align_corners=True)


def _turned(volumes: Tensor, angles_deg: np.ndarray) -> Tensor:
    """Volumes rotated about the grid's centre, linearly interpolated, zero beyond the edge."""
    size, device = volumes.shape[-1], volumes.device
    x, y, z = (float(a) for a in angles_deg)
    matrix = torch.as_tensor(Pose(rotation_deg=(x, y, z)).matrix(), dtype=torch.float32, device=device)
    middle = (size - 1) / 2
    where = torch.einsum("ij,jxyz->ixyz", matrix, _lattice(size, device) - middle) + middle
    return _at_indices(volumes[None], where, "bilinear", "zeros")[0]
