"""Rendering one sample: an image and every truth, from a record of parameters (the deterministic twin)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis import degrade
from neuralprep.synthesis.brain import brain_displacement
from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.contrast import HU_HIGH, HU_LOW
from neuralprep.synthesis.echo_planar import distorted, dropout
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.kspace import with_faults
from neuralprep.synthesis.masses import PlacedMass, placed_masses
from neuralprep.synthesis.paint import beyond_neck, front_of_brain, paint
from neuralprep.synthesis.record import Record
from neuralprep.synthesis.spatial import Frame, apply_affine, make_frame, upsampled

__all__ = ["COORDINATE_STRIDE", "NORMAL_LEVEL", "DeviceHead", "Record", "Sample", "intensity_range", "render"]

NORMAL_LEVEL = 110 / 255
"""Mean of the brain tissue in a normalised image (0-1): FreeSurfer's white-matter value of its uint8 scale."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A rendered image and its truths; tensors on one device, world = sample RAS mm centred on the grid.

    Attributes
    ----------
    image
        (X, Y, Z) in [0, 1]: what a network sees, scaled by :func:`intensity_range`.
    clean
        (X, Y, Z) the same image without bias and noise, on the normalised scale (tissue mean NORMAL_LEVEL).
    log_gain
        (X, Y, Z) natural logarithm of the factor from the noise-free ``image`` to ``clean``.
    distances
        (2, X, Y, Z) signed distances (mm) to the brain-tissue and to the inner-skull surface.
    field_of_view
        (X, Y, Z) bool, where the scan has data.
    frame
        Geometry; ``frame.coordinates(head.template_from_world)`` are the template coordinates of every voxel.
    template_from_sample
        (4, 4) best-fitting affine of those coordinates inside the inner skull.
    fractions
        (5, X, Y, Z) tissue fractions in the order of :data:`neuralprep.synthesis.classes.FRACTIONS` (grey matter,
        white matter, fluid, everything else, lesion), exact for the sub-voxel positions; sums to one.
    classes
        (X, Y, Z) uint8 class at the voxel centre.
    hounsfield
        (X, Y, Z) the noisy image in Hounsfield units before the display window, for a CT with a late window.
    """

    image: Tensor
    clean: Tensor
    log_gain: Tensor
    distances: Tensor
    field_of_view: Tensor
    frame: Frame
    coordinates: Tensor
    template_from_sample: np.ndarray
    fractions: Tensor
    classes: Tensor
    hounsfield: Tensor | None
    record: Record


COORDINATE_STRIDE = 4
"""``Sample.coordinates`` are given for blocks of this many voxels per axis."""


_LEAST_REACH = 0.05
"""However dark the brain, a scale that ends there covers this share of the image's."""


def intensity_range(image: Tensor, inside: Tensor | None = None) -> tuple[float, float]:
    """Lowest and highest value of the working scale: min(0, 0.5th percentile) and the 99.5th percentile.

    Zero stays zero for magnitude images, so that a multiplier acts as a gain. Percentiles are taken over
    every seventh voxel of ``inside`` (bool), or of the image.
    """
    values = (image if inside is None else image[inside]).flatten()[::7]
    low, high = _quantiles(values, (0.005, 0.995))
    return min(low, 0.0), max(high, low + 1e-6)


def _brightest(values: Tensor) -> float:
    """98th percentile, as :func:`neuralprep.stages.look.brain_ceiling` takes it."""
    return _quantiles(values[:: max(1, len(values) // 100_000)], (0.98,))[0]


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> list[float]:
    """Elements of ``values`` that lie at these shares of their order, without sorting all of them."""
    ranks = [1 + int(share * (len(values) - 1)) for share in shares]
    found: list[float] = torch.stack([values.kthvalue(rank).values for rank in ranks]).tolist()
    return found


def render(record: Record, head: DeviceHead, *, want_fractions: bool = False) -> Sample:
    """Render the sample that ``record`` describes.

    Parameters
    ----------
    record
        The parameters.
    head
        The head named in the record, on the device to work on.
    want_fractions
        Also compute tissue fractions and the class map (otherwise empty tensors).
    """
    device, shape = head.labels.device, record.shape
    frame = make_frame(record.pose, shape, record.spacing_mm, head.center, device)
    bias = torch.ones((), device=device)
    if record.echo_planar is not None:
        frame, bias = distorted(frame, head, record.echo_planar)
    masses = placed_masses(record, frame, head)
    displacement = brain_displacement(record, frame, head, masses)
    distances = _distances(frame, head, displacement, masses)
    painted = paint(record, frame, head, displacement, masses, want_fractions)
    clean = _masked(record, frame, head, painted.image, distances)
    if record.stripped_mm is not None:
        skull = torch.maximum(distances[1], distances[1] - record.stripped_mm)
        distances = torch.stack([torch.maximum(distances[0], skull), skull])
    bias = bias * _receive_field(record, device)
    raw, clean = _scanned(record, frame, head, clean, bias, painted.missing)
    image = raw
    if record.window != "none":
        image, clean = image.clamp(0, 1), clean.clamp(0, 1)
    inside = _field_of_view(record, frame, head)
    image = (_with_background(record, image, painted.outside) * inside).clamp(min=0)
    low, high = intensity_range(image)
    if record.ceiling and (brain := (distances[1] < 0) & inside).any():
        high = max(min(high, _brightest(image[brain])), low + _LEAST_REACH * (high - low))
    tissue = (distances[0] < 0) & inside
    level = NORMAL_LEVEL / ((clean * tissue).sum() / tissue.sum().clamp(min=1)).clamp(min=1e-3)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0]) if record.pose.mirror else np.eye(4)
    coordinates = frame.coordinates(mirror @ head.source.template_from_world, COORDINATE_STRIDE)
    affine = _fit_affine(frame, coordinates, F.avg_pool3d(distances[None, 1], COORDINATE_STRIDE)[0] < 0)
    return Sample(
        image=((image - low) / (high - low)).clamp_(0, 1),
        clean=level * clean,
        log_gain=torch.log(level * high / bias),
        distances=distances,
        field_of_view=inside,
        frame=frame,
        coordinates=coordinates,
        template_from_sample=affine,
        fractions=painted.fractions,
        classes=painted.classes,
        hounsfield=HU_LOW + (HU_HIGH - HU_LOW) * raw if record.window == "late" else None,
        record=record,
    )


def _scanned(record: Record, frame: Frame, head: DeviceHead, clean: Tensor, bias: Tensor, missing: Tensor
             ) -> tuple[Tensor, Tensor]:
    """What the scanner makes of the head: the image with every fault, and the clean image of the same resolution."""
    if record.echo_planar is not None:
        clean = clean * dropout(frame, head, record.echo_planar.dropout)
    image = with_faults(clean * bias, record.kspace, record.spacing_mm)
    layers = [image, clean] if missing.numel() == 0 else [image, clean, missing]
    image, clean = degrade.acquire(record, layers)[:2]
    return image, clean


def _masked(record: Record, frame: Frame, head: DeviceHead, image: Tensor, distances: Tensor) -> Tensor:
    """Gamma, and what a pipeline has removed: the skull, the face. Removed parts are zero, in a CT air."""
    removed = record.means[INDEX["air"]] if record.window == "late" else 0.0
    if record.window != "late":
        image = image.clamp(min=0)
    if record.gamma != 1:
        image = image**record.gamma
    if record.stripped_mm is not None:
        image = image.masked_fill(distances[1] >= record.stripped_mm, removed)
    if record.deface_deg is not None:
        image = image.masked_fill(_face(record, frame, head), removed)
    return image


def _receive_field(record: Record, device: torch.device) -> Tensor:
    """Product of the smooth random field and the coils' sensitivity."""
    bias = degrade.bias_field(record.shape, record.bias_nodes, record.bias_strength, record.bias_seed, device)
    if record.coils is not None:
        center = record.pose.shift_mm
        bias = bias * degrade.coil_field(record.coils, record.shape, record.spacing_mm, center, device)
    return bias


def _field_of_view(record: Record, frame: Frame, head: DeviceHead) -> Tensor:
    """Where the scan has data: cut, folded and, where the label map ends, cropped with it."""
    device = head.labels.device
    inside = degrade.field_of_view(record.shape, record.cut, device)
    if record.kspace.wrap is not None:
        axis, *ends = record.kspace.wrap
        cut = tuple((ends[0], ends[1]) if a == axis else (0.0, 0.0) for a in range(3))
        inside = inside & degrade.field_of_view(record.shape, cut, device)
    if record.anatomy.neck == "crop":
        beyond = beyond_neck(frame, head, record.anatomy.neck_margin_mm)
        if beyond is not None:
            inside = inside & ~beyond
    return inside


def _with_background(record: Record, image: Tensor, outside: Tensor) -> Tensor:
    """Backgrounds that a scanner or a pipeline makes after the reconstruction."""
    background = record.background
    if background.kind == "zero":
        return image * (outside < 0.99)
    if background.kind == "noise":
        noisy = degrade.add_noise(image, background.level, True, background.seed)
        return torch.lerp(image, noisy, outside)
    return image


def _distances(frame: Frame, head: DeviceHead, displacement: Tensor | None, masses: list[PlacedMass]) -> Tensor:
    """Distances carried by the pose and re-scaled to mm of the sample by their own gradient."""
    to_index = np.linalg.inv(head.distance_affine)
    size = np.array(head.distances.shape[1:])
    to_unit = np.diag([*(2 / (size - 1)), 1.0])
    to_unit[:3, 3] = -1
    unit = frame.coordinates((to_unit @ to_index)[[2, 1, 0, 3]])  # grid_sample counts its axes backwards
    where = unit.permute(1, 2, 3, 0)[None]
    if displacement is None:
        carried = F.grid_sample(head.distances[None], where, align_corners=True, padding_mode="border")[0]
    else:
        linear = torch.as_tensor((to_unit @ to_index)[[2, 1, 0], :3], dtype=torch.float32, device=unit.device)
        moved = torch.addmm(unit.flatten(1), linear, displacement.flatten(1)).view_as(unit).permute(1, 2, 3, 0)[None]
        carried = torch.cat([
            F.grid_sample(head.distances[None, k : k + 1], at, align_corners=True, padding_mode="border")[0]
            for k, at in enumerate((moved, where))
        ])
    for placed in masses:
        if not placed.mass.fluid:
            box = (slice(None), *placed.box)
            level = placed.level(apply_affine(frame.head_from_sample, frame.warped[box]))
            carried[0][placed.box] = torch.minimum(carried[0][placed.box], level)
    if displacement is not None or masses:
        carried[0] = torch.maximum(carried[0], carried[1])  # nothing grows into the skull
    return _rescaled(carried, frame)


def _rescaled(carried: Tensor, frame: Frame) -> Tensor:
    """Distances (2, X, Y, Z) whose zero level is right and whose slope is stretched, divided by their slope.

    A warped distance has the right zero level but a stretched slope: dividing by |grad| is exact to first order. The
    slope is as smooth as the deformation, so half the resolution is enough to measure it. Where fronts meet (sulci,
    the medial axis) or the stored distance saturates, the gradient collapses; such voxels borrow their neighbours'
    slope, or the pose's where there are none.
    """
    expected = abs(float(np.linalg.det(frame.head_from_sample[:3, :3]))) ** (1 / 3)
    coarse = carried[:, ::2, ::2, ::2].contiguous()
    slope = torch.zeros_like(coarse)
    for gradient in torch.gradient(coarse, spacing=2 * frame.spacing_mm, dim=(1, 2, 3)):
        slope.addcmul_(gradient, gradient)
    slope = slope.sqrt_().clamp_(max=1.6 * expected)
    trust = (slope / expected - 0.7).clamp_(0, 0.3)
    pair = torch.cat([slope * trust + 1e-3 * expected, trust + 1e-3])
    pair = F.avg_pool3d(pair[None], 4, stride=2, padding=1, count_include_pad=False)[0]
    return carried / upsampled(pair[:2] / pair[2:], carried.shape[1:])


def _face(record: Record, frame: Frame, head: DeviceHead) -> Tensor:
    """Bool mask of what lies in front of and below a plane that clears the brain by ``deface_mm``."""
    angle = np.deg2rad(record.deface_deg or 0.0)
    normal = np.array([0.0, np.cos(angle), -np.sin(angle)])
    limit = front_of_brain(head, normal) + record.deface_mm
    position = apply_affine(frame.head_from_sample, frame.warped)
    height = torch.einsum("i,ixyz->xyz", torch.tensor(normal, dtype=torch.float32, device=position.device), position)
    return height > limit


def _fit_affine(frame: Frame, coordinates: Tensor, inside: Tensor) -> np.ndarray:
    """Least-squares affine from sample mm to the given template coordinates over ``inside``."""
    shape = coordinates.shape[1:]
    spacing = frame.spacing_mm * COORDINATE_STRIDE
    start = frame.affine[:3, 3] + frame.spacing_mm * (COORDINATE_STRIDE - 1) / 2
    mask = inside.cpu().numpy()
    if mask.sum() < 20:
        mask = np.ones(shape, bool)
    positions = np.argwhere(mask) * spacing + start
    targets = coordinates.permute(1, 2, 3, 0).cpu().numpy()[mask].astype(float)
    design = np.column_stack([positions, np.ones(len(positions))])
    solution, *_ = np.linalg.lstsq(design, targets, rcond=None)
    out = np.eye(4)
    out[:3] = solution.T
    return out
