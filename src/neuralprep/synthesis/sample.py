"""Rendering one sample: an image and every truth, from a record of parameters (the deterministic twin)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.synthesis import degrade
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, Head
from neuralprep.synthesis.classes import (
    CLASSES,
    FLUID,
    GREY_MATTER,
    INDEX,
    WHITE_MATTER,
    indices,
)
from neuralprep.synthesis.contrast import SOFT_BINS
from neuralprep.synthesis.spatial import Frame, Pose, apply_affine, make_frame, random_field

NORMAL_LEVEL = 110 / 255
"""Mean of the brain tissue in a normalised image (0-1): FreeSurfer's white-matter value of its uint8 scale."""


@dataclass(frozen=True)
class Blob:
    """A lesion-like region: an irregular ball in template mm with its own intensity."""

    center_mm: tuple[float, float, float]
    radius_mm: float
    intensity: float
    seed: int


@dataclass(frozen=True)
class Record:
    """Everything that determines a sample; ``json.dumps(asdict(record))`` replays it with :func:`render`.

    Lengths are mm; ``means`` and ``spreads`` are per entry of the intensity table; ``resolution`` holds per axis
    (slice distance, slice thickness, phase) or None; ``cut`` the fractions of each axis outside the field of view;
    ``stripped_mm`` removes everything further than this outside the inner skull; ``deface_deg`` is the tilt of the
    plane that cuts the face away at ``deface_mm`` from the brain.
    """

    head: str
    look: str
    shape: tuple[int, int, int] = (128, 128, 128)
    spacing_mm: float = 2.0
    pose: Pose = field(default_factory=Pose)
    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    texture_seed: int = 0
    soft_seed: int = 0
    blobs: tuple[Blob, ...] = ()
    bias_strength: float = 0.0
    bias_nodes: tuple[int, int, int] = (3, 3, 3)
    bias_seed: int = 0
    resolution: tuple[tuple[float, float, float] | None, ...] = (None, None, None)
    noise: float = 0.0
    rician: bool = False
    noise_seed: int = 0
    invert: bool = False
    cut: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    stripped_mm: float | None = None
    deface_deg: float | None = None
    deface_mm: float = 5.0
    subsamples: int = 4

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Record:
        """Rebuild a record from :meth:`as_dict` (tuples may have become lists)."""
        values = {key: _tuples(value) for key, value in values.items()}
        values["pose"] = Pose(**{k: _tuples(v) for k, v in values["pose"].items()})
        values["blobs"] = tuple(Blob(**{k: _tuples(v) for k, v in blob.items()}) for blob in values["blobs"])
        return Record(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


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
        (4, X, Y, Z) fractions of grey matter, white matter, fluid and everything else; sums to one.
    classes
        (X, Y, Z) uint8 class at the voxel centre.
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
    record: Record


COORDINATE_STRIDE = 4
"""``Sample.coordinates`` are given for blocks of this many voxels per axis."""

# A tetrahedral pattern samples a voxel evenly with the fewest points; offsets in voxels.
_OFFSETS = {1: ((0.0, 0.0, 0.0),), 2: ((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25)),
            4: ((-0.25, -0.25, -0.25), (-0.25, 0.25, 0.25), (0.25, -0.25, 0.25), (0.25, 0.25, -0.25))}


@dataclass(frozen=True, eq=False)
class DeviceHead:
    """A :class:`Head` as tensors on a device."""

    source: Head
    labels: Tensor
    distances: Tensor
    center: np.ndarray

    @staticmethod
    def load(head: Head, device: torch.device) -> DeviceHead:
        """Upload ``head``; its centre is the centroid of the inner skull."""
        inside = np.argwhere(head.distances[1] < 0)
        center = head.distance_affine[:3, :3] @ inside.mean(0) + head.distance_affine[:3, 3]
        labels = torch.from_numpy(np.ascontiguousarray(head.labels)).to(device)
        distances = torch.from_numpy(head.distances).to(device).float() * DISTANCE_STEP_MM
        return DeviceHead(head, labels, distances, center)


def intensity_range(image: Tensor, inside: Tensor | None = None) -> tuple[float, float]:
    """Lowest and highest value of the working scale: min(0, 0.5th percentile) and the 99.5th percentile.

    Zero stays zero for magnitude images, so that a multiplier acts as a gain. Percentiles are taken over
    every seventh voxel of ``inside`` (bool), or of the image.
    """
    values = (image if inside is None else image[inside]).flatten()[::7]
    ordered = torch.sort(values).values
    low = ordered[int(0.005 * (len(ordered) - 1))].item()
    high = ordered[int(0.995 * (len(ordered) - 1))].item()
    return min(low, 0.0), max(high, low + 1e-6)


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
    device = head.labels.device
    frame = make_frame(record.pose, record.shape, record.spacing_mm, head.center, device)
    distances = _distances(frame, head)
    clean, fractions, labels = _paint(record, frame, head, want_fractions)
    if record.stripped_mm is not None:
        keep = distances[1] < record.stripped_mm
        clean = clean * keep
        distances = torch.stack([distances[0], torch.maximum(distances[1], distances[1] - record.stripped_mm)])
    if record.deface_deg is not None:
        clean = clean * ~_face(record, frame, head)
    shape = record.shape
    bias = degrade.bias_field(shape, record.bias_nodes, record.bias_strength, record.bias_seed, device)
    image, clean = _acquire(record, clean * bias, clean)
    inside = degrade.field_of_view(shape, record.cut, device)
    image = (image * inside).clamp(min=0)
    low, high = intensity_range(image)
    tissue = (distances[0] < 0) & inside
    level = NORMAL_LEVEL / clean[tissue].mean().clamp(min=1e-3)
    log_gain = torch.log(level * high / bias)
    template_from_head = head.source.template_from_world
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0]) if record.pose.mirror else np.eye(4)
    coordinates = frame.coordinates(mirror @ template_from_head, COORDINATE_STRIDE)
    affine = _fit_affine(frame, coordinates, F.avg_pool3d(distances[None, 1], COORDINATE_STRIDE)[0] < 0)
    return Sample(
        image=((image - low) / (high - low)).clamp(0, 1),
        clean=level * clean,
        log_gain=log_gain,
        distances=distances,
        field_of_view=inside,
        frame=frame,
        coordinates=coordinates,
        template_from_sample=affine,
        fractions=fractions,
        classes=labels,
        record=record,
    )


def _distances(frame: Frame, head: DeviceHead) -> Tensor:
    """Distances carried by the pose and re-scaled to mm of the sample by their own gradient."""
    index = frame.coordinates(np.linalg.inv(head.source.distance_affine))
    size = torch.tensor(head.distances.shape[1:], device=index.device).view(3, 1, 1, 1)
    unit = (2 * index / (size - 1) - 1).flip(0).permute(1, 2, 3, 0)[None]
    carried = F.grid_sample(head.distances[None], unit, align_corners=True, padding_mode="border")[0]
    # A warped distance has the right zero level but a stretched slope: dividing by |grad| is exact to first order.
    # The slope is as smooth as the deformation, so half the resolution is enough to measure it.
    # Where fronts meet (sulci, the medial axis) or the stored distance saturates, the gradient collapses; such voxels
    # borrow their neighbours' slope, or the pose's where there are none.
    expected = abs(float(np.linalg.det(frame.head_from_sample[:3, :3]))) ** (1 / 3)
    coarse = carried[:, ::2, ::2, ::2]
    slope = torch.zeros_like(coarse)
    for gradient in torch.gradient(coarse, spacing=2 * frame.spacing_mm, dim=(1, 2, 3)):
        slope.addcmul_(gradient, gradient)
    slope = slope.sqrt_().clamp_(max=1.6 * expected)
    trust = (slope / expected - 0.7).clamp_(0, 0.3)
    pair = F.avg_pool3d(torch.cat([slope * trust + 1e-3 * expected, trust + 1e-3])[None], 3, stride=1, padding=1)[0]
    slope = (pair[:2] / pair[2:])[None]
    return carried / F.interpolate(slope, size=carried.shape[1:], mode="trilinear")[0]


def _paint(record: Record, frame: Frame, head: DeviceHead, want_fractions: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Intensities with partial volume (the mean over sub-voxel positions), tissue fractions and classes."""
    device = head.labels.device
    index_from_world = np.linalg.inv(head.source.affine)
    index = frame.coordinates(index_from_world)
    step = (index_from_world @ frame.head_from_sample)[:3, :3] * frame.spacing_mm
    table = torch.tensor(record.means, dtype=torch.float32, device=device)
    spreads = torch.tensor(record.spreads, dtype=torch.float32, device=device)
    regions = _soft_regions(record, device)
    groups = _group_table(device)
    image = torch.zeros(record.shape, device=device)
    spread = torch.zeros(record.shape, device=device)
    fractions = torch.zeros((4, *record.shape) if want_fractions else (0,), device=device)
    offsets = _OFFSETS[record.subsamples]
    for offset in offsets:
        classes = _lookup(head.labels, index, step @ np.asarray(offset))
        entries = torch.where(classes == INDEX["soft_tissue"], regions, classes)
        image += table[entries]
        spread += spreads[entries]
        if want_fractions:
            for k in range(4):
                fractions[k] += groups[classes] == k
    count = len(offsets)
    image, spread, fractions = image / count, spread / count, fractions / count
    generator = torch.Generator(device=device).manual_seed(record.texture_seed)
    image += spread * torch.randn(record.shape, generator=generator, device=device)
    for blob in record.blobs:
        image = _with_blob(image, blob, record, frame, head)
    if record.invert:
        image = torch.where(image > 0.02, 1.05 - image, image)
    labels = _lookup(head.labels, index, np.zeros(3)).to(torch.uint8) if want_fractions else fractions
    return image.clamp(min=0), fractions, labels


def _lookup(labels: Tensor, index: Tensor, shift: np.ndarray) -> Tensor:
    """Class at the nearest voxel of ``index + shift``; the border layer of the map is air."""
    nx, ny, nz = labels.shape
    i = (index[0] + float(shift[0])).round_().clamp_(0, nx - 1).long()
    j = (index[1] + float(shift[1])).round_().clamp_(0, ny - 1).long()
    k = (index[2] + float(shift[2])).round_().clamp_(0, nz - 1).long()
    return labels.flatten()[(i.mul_(ny).add_(j)).mul_(nz).add_(k)].long()


def _soft_regions(record: Record, device: torch.device) -> Tensor:
    """Table entry of the soft tissue at every voxel: smooth regions of fat, muscle and glands."""
    nodes = tuple(max(int(n * record.spacing_mm / 20), 3) for n in record.shape)
    noise = random_field(record.shape, nodes, record.soft_seed, device)[0]
    return len(CLASSES) + ((noise * 0.8 + 1) * SOFT_BINS / 2).floor().clamp(0, SOFT_BINS - 1).long()


def _group_table(device: torch.device) -> Tensor:
    groups = torch.full((len(CLASSES),), 3, device=device)
    for k, names in enumerate((GREY_MATTER, WHITE_MATTER, FLUID)):
        groups[list(indices(names))] = k
    return groups


def _with_blob(image: Tensor, blob: Blob, record: Record, frame: Frame, head: DeviceHead) -> Tensor:
    where = frame.coordinates(head.source.template_from_world, 2)
    center = torch.tensor(blob.center_mm, device=image.device).view(3, 1, 1, 1)
    radius = torch.linalg.vector_norm(where - center, dim=0)
    noise = random_field(tuple(radius.shape), (9, 9, 9), blob.seed, image.device)[0]
    outside = radius - blob.radius_mm * (1 + 0.3 * noise)
    weight = torch.sigmoid(-F.interpolate(outside[None, None], size=image.shape, mode="trilinear")[0, 0])
    return torch.lerp(image, weight.new_tensor(blob.intensity), weight)


def _face(record: Record, frame: Frame, head: DeviceHead) -> Tensor:
    """Bool mask of what lies in front of and below a plane that clears the brain by ``deface_mm``."""
    angle = np.deg2rad(record.deface_deg or 0.0)
    normal = np.array([0.0, np.cos(angle), -np.sin(angle)])
    brain = np.argwhere(head.source.distances[1][::4, ::4, ::4] < 0) * 4
    world = brain @ head.source.distance_affine[:3, :3].T + head.source.distance_affine[:3, 3]
    limit = float((world @ normal).max()) + record.deface_mm
    position = apply_affine(frame.head_from_sample, frame.warped)
    height = torch.einsum("i,ixyz->xyz", torch.tensor(normal, dtype=torch.float32, device=position.device), position)
    return height > limit


def _acquire(record: Record, image: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Slice both images alike; noise joins at the acquired resolution and is interpolated with the image."""
    matrices = [
        (axis, *degrade.acquisition_matrices(record.shape[axis], record.spacing_mm, *spec))
        for axis, spec in enumerate(record.resolution)
        if spec is not None
    ]
    for axis, average, _ in matrices:
        image, clean = degrade.along_axis(image, average, axis), degrade.along_axis(clean, average, axis)
    image = degrade.add_noise(image, record.noise, record.rician, record.noise_seed)
    for axis, _, interpolate in matrices:
        image, clean = degrade.along_axis(image, interpolate, axis), degrade.along_axis(clean, interpolate, axis)
    return image, clean


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
