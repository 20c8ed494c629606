"""What a scanner and a careless pipeline do to an image: bias, blur, thick and faulty slices, noise, cropping."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neuralprep.synthesis.background import mp2rage
from neuralprep.synthesis.record import Coils, Record, Slices
from neuralprep.synthesis.spatial import along_axis, blur_matrix, random_field, upsampled

_COIL_NODES = 16
_COIL_WIDTH_MM = 70.0
_HEAD_RADIUS_MM = 95.0


def bias_field(shape: tuple[int, int, int], nodes: tuple[int, int, int], strength: float, seed: int,
               device: torch.device) -> Tensor:
    """Smooth multiplicative field exp(strength * noise), (X, Y, Z), geometric mean 1."""
    log_field = random_field(shape, nodes, seed, device)[0].mul_(strength)
    return log_field.sub_(log_field.mean()).exp_()


def coil_field(coils: Coils, shape: tuple[int, int, int], spacing_mm: float, center_mm: tuple[float, ...],
               device: torch.device) -> Tensor:
    """Sensitivity (X, Y, Z) of a root-sum-of-squares image of an array of receive coils around ``center_mm``.

    Each coil is sensitive as (1 + (d / 70 mm)^2)^(-3/2), a loop on its axis. Scaled so that it runs from 1 to
    1 - strength within 95 mm of the centre (the smooth field is computed on few nodes).
    """
    rng = np.random.default_rng(coils.seed)
    unit = np.linspace(-1, 1, _COIL_NODES)
    axes = [unit * spacing_mm * (n - 1) / 2 - c for n, c in zip(shape, center_mm, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    directions = rng.standard_normal((coils.count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gains = rng.uniform(0.4, 1, coils.count)
    total = np.zeros(points.shape[:3])
    for direction, gain in zip(directions, gains, strict=True):
        distance = np.linalg.norm(points - rng.uniform(115, 150) * direction, axis=-1)
        total += (gain * (1 + (distance / _COIL_WIDTH_MM) ** 2) ** -1.5) ** 2
    total = np.sqrt(total)
    inside = np.linalg.norm(points, axis=-1) < _HEAD_RADIUS_MM
    inside |= ~inside.any()
    low, high = total[inside].min(), total[inside].max()
    scaled = (1 - coils.strength * (high - total) / max(high - low, 1e-9)).clip(0.5 * (1 - coils.strength) + 0.02, 2)
    return upsampled(torch.as_tensor(scaled, dtype=torch.float32, device=device)[None], shape)[0]


def slice_gains(count: int, faults: Slices) -> Tensor:
    """(count,) factor of every slice."""
    gains = torch.ones(count)
    gains[1::2] += faults.interleave
    if faults.corrupted:
        rng = np.random.default_rng(faults.seed)
        for place in rng.integers(0, count, faults.corrupted):
            gains[int(place)] *= float(rng.uniform(0.0, 0.5))
    return gains


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


def acquire(record: Record, layers: list[Tensor]) -> list[Tensor]:
    """Blur and slice images alike; faults and noise of the record befall the first one only.

    Noise joins at the acquired resolution and is interpolated with the image. Slices no thicker than the voxels of the
    sample change nothing and are passed over.

    Parameters
    ----------
    record
        ``psf_mm``, ``resolution``, ``slices``, ``background`` and the noise are used.
    layers
        (X, Y, Z) images: the one that is measured, the clean one if wanted and, third, the share of missing signal
        if the background of an MP2RAGE is wanted.

    Returns
    -------
    list of Tensor
        The same images as seen on the sample's grid.
    """
    steps = [_axis_matrices(record, axis) for axis in range(3)]
    image, *others = layers
    ratio = record.background.kind == "mp2rage" and len(layers) == 3
    for axis, (average, interpolate) in enumerate(steps):
        if average is not None:
            image = along_axis(image, average, axis)
            if interpolate is not None and not ratio:
                average = interpolate @ average  # nothing happens in between
            others = [along_axis(layer, average, axis) for layer in others]
    if record.slices is not None:
        shape = [1, 1, 1]
        shape[record.slices.axis] = -1
        image = image * slice_gains(image.shape[record.slices.axis], record.slices).to(image.device).view(shape)
    image = add_noise(image, record.noise, record.rician, record.noise_seed)
    if ratio:
        image = mp2rage(image, others[1], record.background.level, 1.0, record.background.seed)
    for axis, (_, interpolate) in enumerate(steps):
        if interpolate is not None:
            image = along_axis(image, interpolate, axis)
            if ratio:
                others = [along_axis(layer, interpolate, axis) for layer in others]
    return [image, *others]


def _axis_matrices(record: Record, axis: int) -> tuple[Tensor | None, Tensor | None]:
    """Matrix from voxels to slices and back (None: nothing to do) of one axis of a record."""
    size, spec = record.shape[axis], record.resolution[axis]
    blur = blur_matrix(size, record.spacing_mm, record.psf_mm) if record.psf_mm > 0 else None
    if spec is None or max(spec[:2]) <= record.spacing_mm:
        return blur, None
    average, interpolate = acquisition_matrices(size, record.spacing_mm, *spec)
    return (average if blur is None else average @ blur), interpolate


def field_of_view(shape: tuple[int, int, int], cut: tuple[tuple[float, float], ...], device: torch.device) -> Tensor:
    """Boolean mask (X, Y, Z) of what is left when fractions of each axis are cut off at both ends."""
    keep = []
    for n, (low, high) in zip(shape, cut, strict=True):
        index = torch.arange(n, device=device)
        keep.append((index >= math.floor(low * n)) & (index < n - math.floor(high * n)))
    return keep[0][:, None, None] & keep[1][None, :, None] & keep[2][None, None]
