"""Painting: classes at sub-voxel positions become intensities with partial volume, tissue fractions, a class map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralprep.synthesis.background import no_signal_table, with_surroundings
from neuralprep.synthesis.brain import sampled
from neuralprep.synthesis.classes import CLASSES, CONTENTS, FLUID, FRACTIONS, GREY_MATTER, INDEX, WHITE_MATTER, indices
from neuralprep.synthesis.contrast import SOFT_BINS, table_size
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.masses import PlacedMass
from neuralprep.synthesis.record import Record
from neuralprep.synthesis.spatial import Frame, apply_affine, random_field, upsampled

# A tetrahedral pattern samples a voxel evenly with the fewest points; offsets in voxels.
_OFFSETS = {1: ((0.0, 0.0, 0.0),), 2: ((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25)),
            4: ((-0.25, -0.25, -0.25), (-0.25, 0.25, 0.25), (0.25, -0.25, 0.25), (0.25, 0.25, -0.25))}
_PARTS = 3  # table entries of a mass: body, core, rim
_SOFT = INDEX["soft_tissue"]


@dataclass(frozen=True, eq=False)
class Painted:
    """A painted sample.

    Attributes
    ----------
    image
        (X, Y, Z) intensities.
    fractions
        (5, X, Y, Z) in the order of FRACTIONS, exact for the sub-voxel positions; empty unless asked for.
    classes
        (X, Y, Z) uint8 class at the voxel centre; empty unless asked for.
    outside
        (X, Y, Z) share of air around the head; empty unless the background needs it.
    missing
        (X, Y, Z) share of missing signal; empty unless the background needs it.
    """

    image: Tensor
    fractions: Tensor
    classes: Tensor
    outside: Tensor
    missing: Tensor


class Painter:
    """Looks up what lies at any sub-voxel position of a sample: label map, displaced brain, masses, cut neck."""

    def __init__(self, record: Record, frame: Frame, head: DeviceHead, displacement: Tensor | None,
                 masses: list[PlacedMass]) -> None:
        self.record, self.frame, self.head, self.masses = record, frame, head, masses
        self.device = head.labels.device
        self.index_from_head = np.linalg.inv(head.source.affine)
        self.step = (self.index_from_head @ frame.head_from_sample)[:3, :3] * frame.spacing_mm
        self.index = frame.coordinates(self.index_from_head)
        self.moved: Tensor | None = None
        if displacement is not None:
            linear = torch.as_tensor(self.index_from_head[:3, :3], dtype=torch.float32, device=self.device)
            self.moved = torch.addmm(self.index.flatten(1), linear, displacement.flatten(1)).view_as(self.index)
        if record.pose.muzzle != 1:
            _stretch_muzzle(self.index, record.pose.muzzle, head)
        self.limits = [(0, n - 1) for n in head.labels.shape]
        if record.anatomy.neck != "cut" and head.cut_face is not None:
            axis, side = head.cut_face
            low, high = self.limits[axis]
            depth = head.neck_depth
            self.limits[axis] = (low + depth, high) if side == 0 else (low, high - depth)
            if record.anatomy.neck == "extend" and record.anatomy.shoulders > 0:
                _widen_neck(self.index, record.anatomy.shoulders, head)
        contents = torch.zeros(len(CLASSES), dtype=torch.bool, device=self.device)
        contents[list(indices(CONTENTS))] = True
        self.contents = contents.int()
        into = torch.where(contents, torch.arange(len(CLASSES), device=self.device), INDEX["csf"])
        self.into_skull = into.int()

    def at(self, offset: tuple[float, float, float]) -> Tensor:
        """Codes (X, Y, Z) int32 at voxel centre + offset (voxels): a class, or len(CLASSES) + 3 * mass + part."""
        shift = self.step @ np.asarray(offset)
        codes = self._lookup(self.index, shift)
        if self.moved is not None:
            # What is inside the skull and comes from outside the brain is fluid; what is not inside does not move.
            there = self.into_skull.index_select(0, self._lookup(self.moved, shift).flatten()).view_as(codes)
            inside = self.contents.index_select(0, codes.flatten()).view_as(codes)
            codes += inside * (there - codes)
        affine = self.head.source.affine
        for number, placed in enumerate(self.masses):
            box = (slice(None), *placed.box)
            index = self.index[box] + torch.as_tensor(shift, dtype=torch.float32, device=self.device).view(3, 1, 1, 1)
            level = placed.level(apply_affine(affine, index))
            here = codes[placed.box]
            inside = (level < 0) & (self.contents[here.clamp(max=len(CLASSES) - 1)] > 0) & (here < len(CLASSES))
            codes[placed.box] = torch.where(inside, len(CLASSES) + _PARTS * number + placed.part(level), here)
        return codes

    def _lookup(self, index: Tensor, shift: np.ndarray) -> Tensor:
        """Class (int32) at the nearest voxel of ``index + shift``; the border layer of the map is air."""
        flat: Tensor | None = None
        for axis, n in enumerate(self.head.labels.shape):
            place = (index[axis] + float(shift[axis])).round_().clamp_(*self.limits[axis])
            flat = place if flat is None else flat.mul_(n).add_(place)  # exact: maps have at most 2^24 voxels
        assert flat is not None
        return self.head.labels.view(-1).index_select(0, flat.int().flatten()).view_as(flat).int()


def paint(record: Record, frame: Frame, head: DeviceHead, displacement: Tensor | None, masses: list[PlacedMass],
          want_fractions: bool) -> Painted:
    """Intensities with partial volume (the mean over sub-voxel positions), and what they are made of."""
    device, shape = head.labels.device, record.shape
    painter = Painter(record, frame, head, displacement, masses)
    table, spreads, entry_of = _tables(record, masses, device)
    groups = _group_table(masses, device)
    regions = _soft_regions(record, device)
    count = len(CLASSES) + _PARTS * len(masses)
    white_needed = record.anatomy.lesions > 0 or any(p.mass.oedema_mm > 0 for p in masses)
    surroundings = record.background.kind != "air" or record.background.holder is not None
    shares = {  # share of every voxel with a property of its codes
        "white": torch.arange(count, device=device) == INDEX["cerebral_wm"] if white_needed else None,
        "outside": torch.arange(count, device=device) == INDEX["air"] if surroundings else None,
        "missing": no_signal_table(count, device) if record.background.kind == "mp2rage" else None,
    }
    wanted = {name: values.float() for name, values in shares.items() if values is not None}
    if want_fractions:
        wanted |= {name: (groups == k).float() for k, name in enumerate(FRACTIONS)}
    image, spread = torch.zeros((2, *shape), device=device)
    sums = {name: torch.zeros(shape, device=device) for name in wanted}
    offsets = _OFFSETS[record.subsamples]
    for offset in offsets:
        codes = painter.at(offset).flatten()
        entries = entry_of.index_select(0, codes)
        entries += (entries == _SOFT) * regions
        image += table.index_select(0, entries).view(shape)
        spread += spreads.index_select(0, entries).view(shape)
        for name, values in wanted.items():
            sums[name] += values.index_select(0, codes).view(shape)
    image /= len(offsets)
    for total in sums.values():
        total /= len(offsets)
    generator = torch.Generator(device=device).manual_seed(record.texture_seed)
    image += (spread / len(offsets)) * torch.randn(shape, generator=generator, device=device)
    if white_needed:
        image = _with_white_matter_changes(image, sums["white"], painter)
    empty = torch.zeros(0, device=device)
    outside = sums.get("outside", empty)
    if record.invert:
        image = torch.where(image > 0.02, 1.05 - image, image)
    if surroundings:
        image, outside = with_surroundings(image, outside, record, frame, head)
    fractions = torch.stack([sums[name] for name in FRACTIONS]) if want_fractions else empty
    classes = _class_map(painter) if want_fractions else empty
    return Painted(image, fractions, classes, outside, sums.get("missing", empty))


def _tables(record: Record, masses: list[PlacedMass], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and spread per table entry, masses appended, and the entry of every code."""
    means, spreads = list(record.means), list(record.spreads)
    entry = list(range(len(CLASSES)))
    anatomy = record.anatomy
    if not anatomy.fat:
        entry[INDEX["fat"]] = _SOFT
    if anatomy.dura < 1:
        entry[INDEX["dura"]] = INDEX["cortical_bone"]
    entry[INDEX["inner_table"]] = INDEX["dura" if anatomy.dura > 1 else "cortical_bone"]
    for first, second in anatomy.merged:
        entry[INDEX[first]] = entry[INDEX[second]]
    for number, placed in enumerate(masses):
        mass = placed.mass
        means += [mass.intensity, mass.core_intensity, mass.rim_intensity]
        spreads += [mass.texture] * _PARTS
        entry += [table_size() + _PARTS * number + part for part in range(_PARTS)]
    table = torch.tensor(means, dtype=torch.float32, device=device)
    if record.window == "early":
        table.clamp_(0, 1)
    return (table, torch.tensor(spreads, dtype=torch.float32, device=device),
            torch.tensor(entry, dtype=torch.int32, device=device))


def _group_table(masses: list[PlacedMass], device: torch.device) -> Tensor:
    """Number of the tissue (of FRACTIONS) of every code."""
    other, lesion, fluid = (FRACTIONS.index(name) for name in ("other", "lesion", "CSF"))
    groups = [other] * len(CLASSES)
    for k, names in enumerate((GREY_MATTER, WHITE_MATTER, FLUID)):
        for index in indices(names):
            groups[index] = k
    for placed in masses:
        groups += [fluid if placed.mass.fluid else lesion] * _PARTS
    return torch.tensor(groups, device=device)


def _soft_regions(record: Record, device: torch.device) -> Tensor:
    """Distance (int32, flat) from the soft-tissue entry to that of the region at every voxel: muscle, glands, fat."""
    nodes = tuple(max(int(n * record.spacing_mm / 20), 3) for n in record.shape)
    noise = random_field(record.shape, nodes, record.soft_seed, device)[0]
    bins = noise.mul_(0.8).add_(1).mul_(SOFT_BINS / 2).floor_().clamp_(0, SOFT_BINS - 1)
    return bins.int().add_(len(CLASSES) - _SOFT).flatten()


def _with_white_matter_changes(image: Tensor, white: Tensor, painter: Painter) -> Tensor:
    """Small lesions of the white matter and the oedema around masses; both stay white matter in every truth."""
    record = painter.record
    normal = record.means[INDEX["cerebral_wm"]]
    if record.anatomy.lesions > 0:
        image = image + white * lesion_weight(painter) * (record.anatomy.lesion_intensity - normal)
    for placed in painter.masses:
        if placed.mass.oedema_mm > 0:
            index = painter.index[(slice(None), *placed.box)]
            level = placed.level(apply_affine(painter.head.source.affine, index))
            weight = torch.sigmoid((placed.mass.oedema_mm - level) / 2) * white[placed.box]
            image[placed.box] += weight * (placed.mass.oedema_intensity - normal)
    return image


def lesion_weight(painter: Painter) -> Tensor:
    """Share (X, Y, Z) of the white matter of every voxel that small lesions would take.

    Peaks of a smooth noise above a threshold that falls towards the ventricles and with the lesion load.
    """
    record, frame, head = painter.record, painter.frame, painter.head
    near = sampled(head.ventricle_potential, frame.coarse_positions(), head.map_from_head)
    extent = [record.spacing_mm * (n - 1) for n in record.shape]
    nodes = tuple(max(round(e / 7) + 1, 3) for e in extent)
    noise = random_field(record.shape, nodes, record.anatomy.lesion_seed, painter.device)
    load = record.anatomy.lesions
    threshold = 1.7 - 0.5 * load - (1.2 + 1.8 * load) * near.clamp(max=0.5)
    weight = torch.sigmoid(6 * (noise - upsampled(threshold, record.shape)))[0]
    return weight * (weight > 0.05)


def _class_map(painter: Painter) -> Tensor:
    """Class at the voxel centres; masses are lesion or, cavities, fluid; small lesions are white-matter lesion."""
    codes = painter.at((0.0, 0.0, 0.0))
    table = list(range(len(CLASSES)))
    for placed in painter.masses:
        table += [INDEX["csf"] if placed.mass.fluid else INDEX["lesion"]] * _PARTS
    classes = torch.tensor(table, dtype=torch.uint8, device=codes.device)[codes]
    if painter.record.anatomy.lesions > 0:
        small = (lesion_weight(painter) > 0.5) & (classes == INDEX["cerebral_wm"])
        classes = classes.masked_fill(small, INDEX["wm_lesion"])
    return classes


def _stretch_muzzle(index: Tensor, factor: float, head: DeviceHead) -> None:
    """Lengthen by ``factor`` (in place) what lies in front of the brain; everything behind stays where it is."""
    normal = np.array([0.0, np.cos(np.deg2rad(20)), -np.sin(np.deg2rad(20))])
    limit = front_of_brain(head, normal) + 4
    affine = head.source.affine
    row = torch.as_tensor(normal @ affine[:3, :3], dtype=torch.float32, device=index.device)
    height = torch.einsum("i,ixyz->xyz", row, index) + float(normal @ affine[:3, 3]) - limit
    height.clamp_(min=0).mul_(1 - 1 / factor)
    direction = np.linalg.inv(affine[:3, :3]) @ normal
    for axis in range(3):
        index[axis].sub_(height, alpha=float(direction[axis]))


def front_of_brain(head: DeviceHead, normal: np.ndarray) -> float:
    """Largest height of the inner skull along a unit vector, head mm."""
    brain = np.argwhere(head.source.distances[1][::4, ::4, ::4] < 0) * 4
    world = brain @ head.source.distance_affine[:3, :3].T + head.source.distance_affine[:3, 3]
    return float((world @ normal).max())


def _widen_neck(index: Tensor, shoulders: float, head: DeviceHead) -> None:
    """Draw look-ups beyond the cut face together (in place), so that the extended neck widens to shoulders."""
    assert head.cut_face is not None
    axis, side = head.cut_face
    n = head.labels.shape[axis]
    last = head.neck_depth
    beyond = (last - index[axis]) if side == 0 else (index[axis] - (n - 1 - last))
    share = ((beyond * head.spacing_mm - 10) / 70).clamp_(0, 1)
    widths = [1.0, 0.35] if axis == 2 else [1.0, 1.0]  # shoulders are wider than deep
    for other, width in zip([a for a in range(3) if a != axis], widths, strict=True):
        middle = (head.labels.shape[other] - 1) / 2
        index[other].sub_(middle).div_(1 + shoulders * width * share).add_(middle)


def beyond_neck(frame: Frame, head: DeviceHead, margin_mm: float) -> Tensor | None:
    """Bool (X, Y, Z) of what lies beyond the plane of the cut face, or None where the map has none.

    The plane is that of the undeformed pose: scanners cut straight.
    """
    if head.cut_face is None:
        return None
    axis, side = head.cut_face
    row = (np.linalg.inv(head.source.affine) @ frame.head_from_sample @ frame.affine)[axis]
    limit = head.neck_depth - 0.5 + margin_mm / head.spacing_mm
    if side == 1:
        row, limit = -row, limit - (head.labels.shape[axis] - 1)
    parts = [torch.arange(n, device=head.labels.device) * float(row[a]) for a, n in enumerate(frame.shape)]
    height = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None] + float(row[3])
    return height < limit
