"""Where every voxel of a sample comes from: pose, size and a smooth diffeomorphic deformation of a head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pose:
    """Parameters of the spatial transform from sample mm to head mm (a pull-back about the brain's centre).

    ``rotation_deg`` are Euler angles about x, y, z; ``scale`` is the size of the head in the sample relative to the
    label map, per axis; ``shift_mm`` is the position of the brain's centre in the sample; ``mirror`` swaps left and
    right. ``warp_mm`` is the standard deviation of the stationary velocity, drawn from ``warp_seed`` on nodes
    ``warp_spacing_mm`` apart.
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shear: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirror: bool = False
    warp_mm: float = 0.0
    warp_spacing_mm: float = 24.0
    warp_seed: int = 0

    def matrix(self) -> np.ndarray:
        """(3, 3) linear part of the map from sample mm to head mm."""
        rx, ry, rz = np.deg2rad(self.rotation_deg)
        cx, sx, cy, sy, cz, sz = math.cos(rx), math.sin(rx), math.cos(ry), math.sin(ry), math.cos(rz), math.sin(rz)
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        xy, xz, yz = self.shear
        shear = np.array([[1, xy, xz], [0, 1, yz], [0, 0, 1.0]])
        flip = np.diag([-1.0 if self.mirror else 1.0, 1.0, 1.0])
        return flip @ np.diag(1 / np.asarray(self.scale)) @ shear @ about_z @ about_y @ about_x

    def head_from_sample(self, head_center: np.ndarray) -> np.ndarray:
        """(4, 4) matrix carrying sample mm to head mm, without the deformation."""
        out = np.eye(4)
        out[:3, :3] = self.matrix()
        out[:3, 3] = head_center - out[:3, :3] @ np.asarray(self.shift_mm)
        return out


def random_field(shape: tuple[int, ...], nodes: tuple[int, ...], seed: int, device: torch.device,
                 channels: int = 1) -> Tensor:
    """Smooth unit-variance noise: Gaussian values on ``nodes`` per axis, interpolated to (channels, *shape).

    The values are drawn on the CPU, so a seed gives the same field on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((1, channels, *nodes), generator=generator).to(device)
    return F.interpolate(values, size=shape, mode="trilinear", align_corners=True)[0]


def integrate(velocity: Tensor, spacing_mm: float, steps: int = 5) -> Tensor:
    """Displacement exp(v) - id of a stationary velocity by scaling and squaring.

    Parameters
    ----------
    velocity
        (3, X, Y, Z) in mm, components along the axes of the array.
    spacing_mm
        Distance of the nodes.

    Returns
    -------
    Tensor
        (3, X, Y, Z) displacement in mm.
    """
    shape = velocity.shape[1:]
    axes = [torch.linspace(-1, 1, n, device=velocity.device) for n in shape]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    to_unit = torch.tensor([2 / ((n - 1) * spacing_mm) for n in shape], device=velocity.device).view(3, 1, 1, 1)
    displacement = velocity / 2**steps
    for _ in range(steps):
        where = (identity + displacement * to_unit).flip(0).permute(1, 2, 3, 0)[None]
        moved = F.grid_sample(displacement[None], where, align_corners=True, padding_mode="border")[0]
        displacement = displacement + moved
    return displacement


@dataclass(frozen=True, eq=False)
class Frame:
    """The sampling frame of one sample: a cubic or box grid centred on the world origin, axes RAS.

    ``warped`` holds, for every voxel, the position x + u(x) in sample mm (3, X, Y, Z); multiplying it with
    ``head_from_sample`` gives head mm.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    head_from_sample: np.ndarray
    warped: Tensor
    velocity: Tensor | None

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel index -> sample mm."""
        out = np.diag([self.spacing_mm] * 3 + [1.0])
        out[:3, 3] = -self.spacing_mm * (np.asarray(self.shape) - 1) / 2
        return out

    def coordinates(self, target_from_head: np.ndarray, stride: int = 1) -> Tensor:
        """Every voxel's position after ``target_from_head`` o head_from_sample o warp, (3, X, Y, Z) float32.

        With ``stride`` s the positions are those of the centres of blocks of s voxels per axis.
        """
        warped = self.warped if stride == 1 else F.avg_pool3d(self.warped[None], stride)[0]
        return apply_affine(target_from_head @ self.head_from_sample, warped)


def apply_affine(matrix: np.ndarray, positions: Tensor) -> Tensor:
    """Apply a (4, 4) matrix to positions (3, X, Y, Z)."""
    m = torch.as_tensor(matrix, dtype=torch.float32, device=positions.device)
    return torch.einsum("ij,jxyz->ixyz", m[:3, :3], positions) + m[:3, 3].view(3, 1, 1, 1)


def make_frame(pose: Pose, shape: tuple[int, int, int], spacing_mm: float, head_center: np.ndarray,
               device: torch.device) -> Frame:
    """Build the sampling frame of ``pose``; the deformation is computed on a quarter-resolution grid."""
    axes = [spacing_mm * (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) for n in shape]
    velocity = None
    warped = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if pose.warp_mm > 0:
        coarse = tuple(max(n // 4, 4) for n in shape)
        extent = [spacing_mm * (n - 1) for n in shape]
        nodes = tuple(max(round(e / pose.warp_spacing_mm) + 1, 3) for e in extent)
        velocity = pose.warp_mm * random_field(coarse, nodes, pose.warp_seed, device, channels=3)
        displacement = integrate(velocity, extent[0] / (coarse[0] - 1))
        warped = warped + F.interpolate(displacement[None], size=shape, mode="trilinear", align_corners=True)[0]
    return Frame(shape, spacing_mm, pose.head_from_sample(head_center), warped, velocity)
