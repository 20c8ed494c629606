"""Where every voxel of a sample comes from: pose, size and a smooth diffeomorphic deformation of a head."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

COARSE_MM = 6.0


@dataclass(frozen=True)
class Pose:
    """Parameters of the spatial transform from sample mm to head mm (a pull-back about the brain's centre).

    ``rotation_deg`` are Euler angles about x, y, z; ``scale`` is the size of the head in the sample relative to the
    label map, per axis; ``shift_mm`` is the position of the brain's centre in the sample; ``mirror`` swaps left and
    right. ``warp_mm`` is the standard deviation of the stationary velocity, drawn from ``warp_seed`` on nodes
    ``warp_spacing_mm`` apart. ``muzzle`` lengthens what lies in front of the brain by this factor; the brain and all
    truths of it stay as they are.
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shear: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirror: bool = False
    warp_mm: float = 0.0
    warp_spacing_mm: float = 24.0
    warp_seed: int = 0
    muzzle: float = 1.0

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

    def onto(self, axes: np.ndarray) -> Pose:
        """The same pose relative to other axes of the head: its :meth:`matrix` is ``axes @ self.matrix()``, (3, 3)."""
        linear = axes @ self.matrix()
        mirror = bool(np.linalg.det(linear) < 0)
        # Upper triangle times rotation, from NumPy's QR: of the matrix with its rows and columns turned round.
        q, r = np.linalg.qr((np.diag([-1.0 if mirror else 1.0, 1.0, 1.0]) @ linear)[::-1].T)
        upper, turn = r.T[::-1, ::-1], q.T[::-1]
        signs = np.sign(np.diag(upper))
        upper, turn = upper * signs, signs[:, None] * turn
        sizes = np.diag(upper)
        angles = (math.atan2(turn[2, 1], turn[2, 2]), -math.asin(min(max(turn[2, 0], -1.0), 1.0)),
                  math.atan2(turn[1, 0], turn[0, 0]))
        rx, ry, rz = np.rad2deg(angles).tolist()
        (_, xy, xz), (_, _, yz), _ = (upper / sizes[:, None]).tolist()
        x, y, z = (1 / sizes).tolist()
        return replace(self, rotation_deg=(rx, ry, rz), scale=(x, y, z), shear=(xy, xz, yz), mirror=mirror)

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
    values = torch.randn((channels, *nodes), generator=generator).to(device)
    return upsampled(values, shape)


@lru_cache(maxsize=256)
def _linear_weights(size: int, nodes: int, device: torch.device) -> Tensor:
    """(size, nodes) matrix of linear interpolation between ``nodes`` that span the axis."""
    place = torch.linspace(0, nodes - 1, size, device=device)
    return (1 - (place[:, None] - torch.arange(nodes, device=device)[None]).abs()).clamp(min=0)


def upsampled(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Trilinear interpolation of (C, x, y, z) nodes, the outermost at the outermost voxels, to (C, *shape).

    Three matrix products do what ``F.interpolate(..., align_corners=True)`` does at a third of its cost on a CPU.
    """
    x, y, z = (_linear_weights(n, m, values.device) for n, m in zip(shape, values.shape[1:], strict=True))
    plane = y @ (values @ z.T)
    return (x @ plane.flatten(2)).view(values.shape[0], *shape)


@lru_cache(maxsize=64)
def blur_matrix(size: int, spacing_mm: float, fwhm_mm: float) -> Tensor:
    """(size, size) Gaussian blur of an axis, rows summing to one (at the ends the kernel is cut and rescaled)."""
    position = spacing_mm * torch.arange(size, dtype=torch.float32)
    sigma = fwhm_mm / math.sqrt(8 * math.log(2))
    kernel = torch.exp(-0.5 * ((position[:, None] - position[None]) / sigma) ** 2)
    return kernel / kernel.sum(1, keepdim=True)


def along_axis(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply ``matrix`` along one axis of a (X, Y, Z) image."""
    matrix = matrix.to(image.device)
    if axis == 2:
        return image @ matrix.T
    if axis == 1:
        return matrix @ image
    return (matrix @ image.flatten(1)).view(-1, *image.shape[1:])


def integrate(velocity: Tensor, spacing_mm: float, steps: int = 5) -> Tensor:
    """Displacement exp(v) - id of a stationary velocity by scaling and squaring.

    Parameters
    ----------
    velocity
        (3, X, Y, Z) in mm, components along the axes of the array; or any number of them, (N, 3, X, Y, Z).
    spacing_mm
        Distance of the nodes.

    Returns
    -------
    Tensor
        Displacement in mm, of the same shape.
    """
    if velocity.dim() == 4:
        return integrate(velocity[None], spacing_mm, steps)[0]
    shape = velocity.shape[2:]
    axes = [torch.linspace(-1, 1, n, device=velocity.device) for n in shape]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    to_unit = torch.tensor([2 / ((n - 1) * spacing_mm) for n in shape], device=velocity.device).view(3, 1, 1, 1)
    displacement = velocity / 2**steps
    for _ in range(steps):
        where = (identity + displacement * to_unit).flip(1).permute(0, 2, 3, 4, 1)
        moved = F.grid_sample(displacement, where, align_corners=True, padding_mode="border")
        displacement = displacement + moved
    return displacement


@dataclass(frozen=True, eq=False)
class Frame:
    """The sampling frame of one sample: a cubic or box grid centred on the world origin, axes RAS.

    ``warped`` holds, for every voxel, the position x + u(x) in sample mm (3, X, Y, Z); multiplying it with
    ``head_from_sample`` gives head mm. ``displacement`` is u on a coarser grid with the same outermost nodes.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    head_from_sample: np.ndarray
    warped: Tensor
    velocity: Tensor | None
    displacement: Tensor | None = None

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel index -> sample mm."""
        out = np.diag([self.spacing_mm] * 3 + [1.0])
        out[:3, 3] = -self.spacing_mm * (np.asarray(self.shape) - 1) / 2
        return out

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """Nodes per axis, about COARSE_MM apart, of the grid on which smooth things are computed."""
        x, y, z = (min(n, round(self.spacing_mm * (n - 1) / COARSE_MM) + 1) for n in self.shape)
        return x, y, z

    def coarse_positions(self) -> Tensor:
        """Head mm (3, x, y, z) of every node of the coarse grid."""
        nodes = grid_positions(self.shape, self.spacing_mm, self.coarse_shape, self.warped.device)
        if self.displacement is not None:
            nodes += upsampled(self.displacement, self.coarse_shape)
        return apply_affine(self.head_from_sample, nodes)

    def coordinates(self, target_from_head: np.ndarray, stride: int = 1) -> Tensor:
        """Every voxel's position after ``target_from_head`` o head_from_sample o warp, (3, X, Y, Z) float32.

        With ``stride`` s the positions are those of the centres of blocks of s voxels per axis.
        """
        warped = self.warped if stride == 1 else F.avg_pool3d(self.warped[None], stride)[0]
        return apply_affine(target_from_head @ self.head_from_sample, warped)


def apply_affine(matrix: np.ndarray, positions: Tensor) -> Tensor:
    """Apply a (4, 4) matrix to positions (3, X, Y, Z)."""
    m = torch.as_tensor(np.ascontiguousarray(matrix), dtype=torch.float32, device=positions.device)
    return torch.addmm(m[:3, 3:], m[:3, :3], positions.reshape(3, -1)).view_as(positions)


def length(vectors: Tensor) -> Tensor:
    """Euclidean length of vectors (3, ...); several times faster on a CPU than a norm over the first axis."""
    x, y, z = vectors
    return (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()


def make_frame(pose: Pose, shape: tuple[int, int, int], spacing_mm: float, head_center: np.ndarray,
               device: torch.device) -> Frame:
    """Build the sampling frame of ``pose``; the deformation is computed on a quarter-resolution grid."""
    velocity = displacement = None
    warped = grid_positions(shape, spacing_mm, shape, device)
    if pose.warp_mm > 0:
        coarse = tuple(max(n // 4, 4) for n in shape)
        extent = [spacing_mm * (n - 1) for n in shape]
        nodes = tuple(max(round(e / pose.warp_spacing_mm) + 1, 3) for e in extent)
        velocity = pose.warp_mm * random_field(coarse, nodes, pose.warp_seed, device, channels=3)
        displacement = integrate(velocity, extent[0] / (coarse[0] - 1))
        warped += upsampled(displacement, shape)
    return Frame(shape, spacing_mm, pose.head_from_sample(head_center), warped, velocity, displacement)


def grid_positions(shape: tuple[int, int, int], spacing_mm: float, nodes: tuple[int, int, int],
                   device: torch.device) -> Tensor:
    """Sample mm (3, *nodes) of nodes spread evenly over a grid centred on the origin."""
    axes = []
    for n, count in zip(shape, nodes, strict=True):
        reach = spacing_mm * (n - 1) / 2
        axes.append(torch.linspace(-reach, reach, count, device=device))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
