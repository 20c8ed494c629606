"""Faults of raw data: motion, ghosts, spikes, wrap-around and truncation, as functions of the finished image.

Each returns the magnitude of what a scanner would reconstruct. All but spikes and wrap-around act along one axis at
a time, so one-dimensional transforms are enough.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis.record import Kspace, Motion
from neuralprep.synthesis.spatial import Pose


def with_faults(image: Tensor, faults: Kspace, spacing_mm: float) -> Tensor:
    """Apply every fault of ``faults`` to a (X, Y, Z) image, in the order in which they arise."""
    if faults.motion is not None:
        image = with_motion(image, faults.motion, spacing_mm)
    if faults.ghost is not None:
        image = with_ghost(image, *faults.ghost)
    if faults.spikes:
        image = with_spikes(image, faults.spikes)
    if min(faults.gibbs) < 1:
        image = truncated(image, faults.gibbs)
    if faults.wrap is not None:
        image = wrapped_around(image, *faults.wrap)
    return image


def line_numbers(size: int, device: torch.device) -> Tensor:
    """Signed number of cycles per field of view of every line, in the order of ``torch.fft.fft``."""
    return torch.fft.fftfreq(size, d=1 / size, device=device)


def with_motion(image: Tensor, motion: Motion, spacing_mm: float) -> Tensor:
    """Mix the lines of several rigid poses along the phase-encoding axis; lines are taken from one end to the other."""
    size = image.shape[motion.axis]
    order = torch.argsort(line_numbers(size, image.device))
    bounds = np.rint(np.cumsum([0.0, *motion.shares]) / sum(motion.shares) * size).astype(int)
    center = int(np.searchsorted(bounds, size // 2, side="right")) - 1
    total: Tensor | None = None
    for number, pose in enumerate(motion.poses):
        moved = image if number == center else rigidly_moved(image, pose, spacing_mm)
        lines = torch.zeros(size, device=image.device)
        lines[order[int(bounds[number]) : int(bounds[number + 1])]] = 1
        part = torch.fft.fft(moved, dim=motion.axis) * _along(lines, motion.axis)
        total = part if total is None else total + part
    assert total is not None
    return torch.fft.ifft(total, dim=motion.axis).abs()


def rigidly_moved(image: Tensor, pose: tuple[float, ...], spacing_mm: float) -> Tensor:
    """Rotate (degrees about x, y, z) and shift (mm) an image about its centre; linear interpolation, zero outside."""
    rotation, shift = pose[:3], pose[3:]
    matrix = Pose(rotation_deg=(rotation[0], rotation[1], rotation[2])).matrix()
    size = np.asarray(image.shape)
    # affine_grid works in units of half the field of view and in the order z, y, x.
    unit = matrix * size[None] / size[:, None]
    theta = np.column_stack([unit, -2 * (matrix @ np.asarray(shift)) / (spacing_mm * size)])[::-1]
    theta[:, :3] = theta[:, 2::-1].copy()
    grid = F.affine_grid(torch.as_tensor(theta.copy(), dtype=torch.float32, device=image.device)[None],
                         [1, 1, *image.shape], align_corners=False)
    return F.grid_sample(image[None, None], grid, align_corners=False)[0, 0]


def with_ghost(image: Tensor, axis: int, copies: int, level: float, phase: float) -> Tensor:
    """Modulate the lines with period ``copies``: two copies of half the ``level`` appear at +-1/``copies`` of the
    field of view, as breathing, pulsation or an uncorrected Nyquist ghost (two copies) do.
    """
    number = line_numbers(image.shape[axis], image.device)
    lines = 1 + level * torch.cos(2 * math.pi * number / copies + phase)
    return torch.fft.ifft(torch.fft.fft(image, dim=axis) * _along(lines, axis), dim=axis).abs()


def with_spikes(image: Tensor, spikes: tuple[tuple[int, int, int, float, float], ...]) -> Tensor:
    """Add to single points of k-space: a grating of cosines over the whole image for each.

    A spike of (kx, ky, kz, amplitude, phase) adds amplitude * N / 2 * exp(i phase) to that point and its conjugate
    to the opposite one, which is the cosine written here; no transform is needed.
    """
    out = image
    for kx, ky, kz, amplitude, phase in spikes:
        angles = [2 * math.pi * k / n * torch.arange(n, device=image.device)
                  for k, n in zip((kx, ky, kz), image.shape, strict=True)]
        angle = angles[0][:, None, None] + angles[1][None, :, None] + angles[2][None, None] + phase
        out = out + amplitude * torch.cos(angle)
    return out.abs()


def truncated(image: Tensor, kept: tuple[float, float, float]) -> Tensor:
    """Set all but the lowest share of the spatial frequencies along each axis to zero: Gibbs ringing and blur."""
    for axis, share in enumerate(kept):
        if share < 1:
            size = image.shape[axis]
            spectrum = torch.fft.rfft(image, dim=axis)
            number = torch.arange(spectrum.shape[axis], device=image.device)
            low = (number <= share * size / 2).float()
            image = torch.fft.irfft(spectrum * _along(low, axis), n=size, dim=axis)
    return image.abs()


def wrapped_around(image: Tensor, axis: int, low: float, high: float) -> Tensor:
    """Fold what lies outside a smaller field of view into it, from the other side; outside is zero afterwards."""
    start, stop = window(image.shape[axis], low, high)
    width = stop - start
    out = torch.zeros_like(image)
    before, after = -(-start // width), -(-(image.shape[axis] - stop) // width)  # rounded up
    for turn in range(-before, after + 1):
        _add_shifted(out, image, axis, (start, stop), turn * width)
    return out


def window(size: int, low: float, high: float) -> tuple[int, int]:
    """First voxel and one past the last of a field of view cut by fractions ``low`` and ``high``."""
    return math.floor(low * size), size - math.floor(high * size)


def _add_shifted(out: Tensor, image: Tensor, axis: int, span: tuple[int, int], shift: int) -> None:
    """out[x] += image[x + shift] for x within span, where the image has data."""
    first = max(span[0], -shift)
    last = min(span[1], image.shape[axis] - shift)
    if last > first:
        out.narrow(axis, first, last - first).add_(image.narrow(axis, first + shift, last - first))


def _along(values: Tensor, axis: int) -> Tensor:
    shape = [1, 1, 1]
    shape[axis] = -1
    return values.view(shape)
