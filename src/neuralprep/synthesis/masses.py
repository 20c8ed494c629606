"""Focal lesions: where they lie, which points they hold, and how they push the brain aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import Mass, Record
from neuralprep.synthesis.spatial import Frame, length

MARGIN_MM = 16.0
"""Masses are evaluated up to this far from their surface; beyond it their distance does not matter."""
_NODES = 7
_MAX_NOISE = 2.0

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class PlacedMass:
    """A mass in a head.

    Attributes
    ----------
    mass
        Its parameters.
    center
        (3,) head mm.
    box
        Voxels of the sample that may lie within MARGIN_MM of it.
    bumps
        (1, 1, n, n, n) noise that makes the ball irregular, over four radii.
    """

    mass: Mass
    center: np.ndarray
    box: Box
    bumps: Tensor

    def level(self, positions: Tensor) -> Tensor:
        """Signed distance-like level (mm, negative inside) at positions (3, X, Y, Z) in head mm."""
        distance, radius = self.polar(positions)
        return distance - radius

    def polar(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Distance from the centre and the mass's own radius in that place, mm."""
        center = torch.as_tensor(self.center, dtype=torch.float32, device=positions.device).view(3, 1, 1, 1)
        away = positions - center
        where = (away / (2 * self.mass.radius_mm)).flip(0).permute(1, 2, 3, 0)[None]
        noise = F.grid_sample(self.bumps, where, align_corners=True, padding_mode="border")[0, 0]
        return length(away), self.mass.radius_mm * (1 + self.mass.roughness * noise)

    def part(self, level: Tensor) -> Tensor:
        """Number of the layer (0 body, 1 core, 2 rim; int32) of points inside, from their level."""
        mass = self.mass
        core = level < -(1 - mass.core) * mass.radius_mm
        rim = level > -mass.rim_mm
        return torch.where(rim, 2, core.int()) if mass.rim_mm > 0 else core.int()


def placed_masses(record: Record, frame: Frame, head: DeviceHead) -> list[PlacedMass]:
    """The masses of a record that touch the sample."""
    out = []
    for mass in record.masses:
        center = _center(mass, head)
        box = _box(mass, center, record, frame)
        if all(s.stop > s.start for s in box):
            generator = torch.Generator().manual_seed(mass.seed)
            bumps = torch.randn((1, 1, _NODES, _NODES, _NODES), generator=generator).clamp_(-_MAX_NOISE, _MAX_NOISE)
            out.append(PlacedMass(mass, center, box, bumps.to(head.labels.device)))
    return out


def _center(mass: Mass, head: DeviceHead) -> np.ndarray:
    """Head mm of the centre; a ray from the brain's centre is followed to the inner skull."""
    if mass.center_mm is not None:
        inverse = np.linalg.inv(head.source.template_from_world)
        template: np.ndarray = inverse[:3, :3] @ np.asarray(mass.center_mm) + inverse[:3, 3]
        return template
    direction = np.asarray(mass.direction) / max(float(np.linalg.norm(mass.direction)), 1e-9)
    lengths = np.arange(0.0, 200.0, 0.5)
    points = head.center + lengths[:, None] * direction
    affine, distances = head.source.distance_affine, head.source.distances[1]
    index = np.rint((points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    i, j, k = np.clip(index, 0, np.array(distances.shape) - 1).T
    outside = np.flatnonzero(distances[i, j, k] >= 0)
    surface = lengths[outside[0]] if len(outside) else lengths[-1]
    center: np.ndarray = head.center + max(surface - mass.depth_mm, 0.0) * direction
    return center


def _box(mass: Mass, center: np.ndarray, record: Record, frame: Frame) -> Box:
    """Voxels within reach of the mass, whatever the deformation does."""
    inverse = np.linalg.inv(frame.head_from_sample)
    middle = inverse[:3, :3] @ center + inverse[:3, 3]
    reach = mass.radius_mm * (1 + _MAX_NOISE * mass.roughness) + mass.oedema_mm + MARGIN_MM
    shift = record.echo_planar.shift_mm if record.echo_planar is not None else 0.0
    half = reach * np.linalg.norm(inverse[:3, :3], 2) + 4 * record.pose.warp_mm + 2 * shift
    index = (middle - frame.affine[:3, 3]) / frame.spacing_mm
    low = np.clip(np.floor(index - half / frame.spacing_mm).astype(int), 0, frame.shape)
    high = np.clip(np.ceil(index + half / frame.spacing_mm).astype(int) + 1, 0, frame.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def pushed(positions: Tensor, placed: PlacedMass) -> Tensor:
    """Where the points (3, X, Y, Z) around a mass came from before it grew, head mm.

    The mass displaces ``push`` of its volume radially: a shell at distance rho came from (rho^3 - push r^3)^(1/3), so
    volume is kept; the push fades out between 1.5 and 4 radii, as tissue and fluid give way.
    """
    distance, radius = placed.polar(positions)
    center = torch.as_tensor(placed.center, dtype=torch.float32, device=positions.device).view(3, 1, 1, 1)
    ratio = (1 - placed.mass.push * (radius / distance.clamp(min=1e-3)) ** 3).clamp_(min=1e-3) ** (1 / 3)
    fade = ((4 - distance / radius) / 2.5).clamp_(0, 1)
    return center + (positions - center) * (1 - fade * (1 - ratio))
