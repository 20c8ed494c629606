"""Building blocks of anatomy-free heads: smooth noise, implicit surfaces (mm, negative inside) and random tubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Vector = Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False)
class Field:
    """A cubic grid of ``size`` voxels of ``spacing_mm`` centred on the origin, and a source of random numbers.

    Every random number comes from ``rng`` on the CPU, so a seed makes the same head on every device.
    """

    size: int
    spacing_mm: float
    rng: np.random.Generator
    device: torch.device

    @property
    def extent_mm(self) -> float:
        """Distance between the outermost voxel centres."""
        return self.spacing_mm * (self.size - 1)

    def points(self) -> Tensor:
        """Positions of the voxel centres, (3, size, size, size) float32 mm."""
        axis = self.spacing_mm * (torch.arange(self.size, device=self.device) - (self.size - 1) / 2)
        return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))

    def noise(self, period_mm: float, channels: int = 1) -> Tensor:
        """Smooth noise of zero mean and unit variance with bumps about ``period_mm`` apart, (channels, X, Y, Z).

        Linear interpolation alone would leave creases along the lattice, so the lattice is refined and averaged first.
        """
        nodes = max(round(self.extent_mm / period_mm) + 1, 3)
        values = torch.from_numpy(self.rng.standard_normal((1, channels, nodes, nodes, nodes), np.float32))
        fine = min(3 * nodes, self.size)
        values = F.interpolate(values, size=(fine,) * 3, mode="trilinear", align_corners=True)
        values = F.avg_pool3d(F.pad(values, (1,) * 6, mode="replicate"), 3, stride=1)
        spread, mean = torch.std_mean(values, dim=(2, 3, 4), keepdim=True)
        values = ((values - mean) / spread.clamp(min=1e-6)).to(self.device)
        return F.interpolate(values, size=(self.size,) * 3, mode="trilinear", align_corners=True)[0]

    def octaves(self, period_mm: float, amplitude_mm: float, count: int = 3) -> Tensor:
        """Noise whose period and amplitude halve ``count`` times, (X, Y, Z) mm."""
        total = torch.zeros((self.size,) * 3, device=self.device)
        for octave in range(count):
            total.add_(self.noise(period_mm / 2**octave)[0], alpha=amplitude_mm / 2**octave)
        return total

    def box(self, low: Vector, high: Vector, margin_mm: float) -> tuple[slice, slice, slice]:
        """Slices of the voxels between two positions and ``margin_mm`` around them; at least one voxel per axis."""
        middle = (self.size - 1) / 2
        first = np.floor((np.asarray(low, float) - margin_mm) / self.spacing_mm + middle)
        last = np.ceil((np.asarray(high, float) + margin_mm) / self.spacing_mm + middle) + 1
        first = np.clip(first, 0, self.size - 1).astype(int)
        last = np.clip(last, first + 1, self.size).astype(int)
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return x, y, z

    def near(self, center: Vector, spread: Vector) -> np.ndarray:
        """A random position: ``center`` +- ``spread`` (uniform), mm."""
        return np.asarray(center, float) + self.rng.uniform(-1, 1, 3) * np.asarray(spread, float)


def shifted(position: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """A position moved by mm along the axes."""
    return position + np.array([x, y, z], float)


def ellipsoid(points: Tensor, center: Vector, radii: Vector) -> Tensor:
    """Approximate signed distance to an ellipsoid with axes along the grid, first-order exact at its surface."""
    length = torch.full_like(points[0], 1e-6)
    slope = torch.full_like(points[0], 1e-9)
    # Component by component: a norm over the leading axis is ten times slower on a CPU.
    for position, middle, radius in zip(points, center, radii, strict=True):
        squared = ((position - float(middle)) / float(radius)).square_()
        length += squared
        slope.add_(squared, alpha=1 / float(radius) ** 2)
    return (length - length.sqrt()).div_(slope.sqrt_())


def capsule(points: Tensor, start: Vector, end: Vector, radius: float) -> Tensor:
    """Signed distance to a rod with round ends."""
    first, axis = np.asarray(start, float), np.asarray(end, float) - np.asarray(start, float)
    weights = axis / (axis @ axis)
    along = torch.full_like(points[0], -float(first @ weights))
    for position, weight in zip(points, weights, strict=True):
        along.add_(position, alpha=float(weight))
    along.clamp_(0, 1)
    squared = torch.zeros_like(along)
    for position, corner, step in zip(points, first, axis, strict=True):
        squared += (position - float(corner)).sub_(along, alpha=float(step)).square_()
    return squared.sqrt_().sub_(radius)


def union(first: Tensor, second: Tensor, blend_mm: float = 0.0) -> Tensor:
    """Union of two bodies; ``blend_mm`` rounds the seam (polynomial smooth minimum)."""
    joined = torch.minimum(first, second)
    if blend_mm > 0:
        overlap = (blend_mm - (first - second).abs()).clamp_(min=0) / blend_mm
        joined = joined - overlap * overlap * (blend_mm / 4)
    return joined


def random_walk(field: Field, start: np.ndarray, steps: int, radius_vox: int) -> Tensor:
    """Voxel numbers (flat) of a winding tube that starts at a voxel index."""
    turns = field.rng.standard_normal((steps, 3))
    direction = np.zeros((steps, 3))
    heading = field.rng.standard_normal(3)
    for k in range(steps):
        heading = heading / np.linalg.norm(heading) + 0.35 * turns[k]
        direction[k] = heading / np.linalg.norm(heading)
    path = np.rint(start + np.cumsum(direction, axis=0)).astype(np.int64)
    reach = np.arange(-radius_vox, radius_vox + 1)
    ball = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), -1).reshape(-1, 3)
    ball = ball[(ball**2).sum(1) <= radius_vox**2 + 0.5]
    voxels = (path[:, None] + ball[None]).reshape(-1, 3)
    voxels = voxels[((voxels > 0) & (voxels < field.size - 1)).all(1)]
    flat = (voxels[:, 0] * field.size + voxels[:, 1]) * field.size + voxels[:, 2]
    return torch.from_numpy(np.unique(flat)).to(field.device)
