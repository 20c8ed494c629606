"""What a scanner and a careless pipeline do to an image: thick slices, noise, bias, cropping, masking."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from neuralprep.synthesis.spatial import random_field


def bias_field(shape: tuple[int, int, int], nodes: tuple[int, int, int], strength: float, seed: int,
               device: torch.device) -> Tensor:
    """Smooth multiplicative field exp(strength * noise), (X, Y, Z), geometric mean 1."""
    log_field = strength * random_field(shape, nodes, seed, device)[0]
    return torch.exp(log_field - log_field.mean())


@lru_cache(maxsize=64)
def acquisition_matrices(size: int, spacing_mm: float, step_mm: float, slice_mm: float, phase: float
                         ) -> tuple[Tensor, Tensor]:
    """Matrices that sample an axis into slices and interpolate the slices back.

    Parameters
    ----------
    size, spacing_mm
        Voxels of the axis and their distance.
    step_mm, slice_mm
        Distance and thickness (box profile) of the slices; a step below the voxel size only blurs.
    phase
        Position of the first slice in steps, 0-1.

    Returns
    -------
    tuple of Tensor
        (slices, size) averaging matrix and (size, slices) linear interpolation matrix, rows summing to one.
    """
    positions = spacing_mm * torch.arange(size, dtype=torch.float32)
    count = max(int((positions[-1].item() - phase * step_mm) // step_mm) + 1, 2)
    centres = phase * step_mm + step_mm * torch.arange(count, dtype=torch.float32)
    overlap = (slice_mm + spacing_mm) / 2 - (centres[:, None] - positions[None]).abs()
    # A voxel's own extent overlaps the slice by at most the smaller of the two widths.
    average = overlap.clamp(1e-6, min(slice_mm, spacing_mm))
    average = torch.where(overlap > 0, average, torch.zeros(()))
    average = average / average.sum(1, keepdim=True).clamp(min=1e-6)
    tent = (1 - (positions[:, None] - centres[None]).abs() / step_mm).clamp(min=0)
    tent[positions < centres[0], 0] = 1
    tent[positions > centres[-1], -1] = 1
    return average, tent / tent.sum(1, keepdim=True).clamp(min=1e-6)


def along_axis(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply ``matrix`` along one axis of a (X, Y, Z) image."""
    moved = image.movedim(axis, 0)
    out = (matrix.to(image.device) @ moved.reshape(moved.shape[0], -1)).reshape(-1, *moved.shape[1:])
    return out.movedim(0, axis)


def add_noise(image: Tensor, level: float, rician: bool, seed: int) -> Tensor:
    """Gaussian or Rician noise of standard deviation ``level``; drawn on the image's device from ``seed``."""
    if level <= 0:
        return image
    generator = torch.Generator(device=image.device).manual_seed(seed)
    noisy = image + level * torch.randn(image.shape, generator=generator, device=image.device)
    if not rician:
        return noisy
    other = level * torch.randn(image.shape, generator=generator, device=image.device)
    return torch.sqrt(noisy**2 + other**2)


def field_of_view(shape: tuple[int, int, int], cut: tuple[tuple[float, float], ...], device: torch.device) -> Tensor:
    """Boolean mask (X, Y, Z) of what is left when fractions of each axis are cut off at both ends."""
    keep = []
    for n, (low, high) in zip(shape, cut, strict=True):
        index = torch.arange(n, device=device)
        keep.append((index >= math.floor(low * n)) & (index < n - math.floor(high * n)))
    return keep[0][:, None, None] & keep[1][None, :, None] & keep[2][None, None]
