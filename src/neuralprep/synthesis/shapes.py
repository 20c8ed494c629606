"""Heads without anatomy: random nested surfaces that only share the topology of a head.

A network that is trained on label maps of 16 adults knows 16 adults. These heads know nothing but that a head is an
irregular brain in fluid in bone in flesh, with a face, eyes, air and vessels somewhere; sizes, thicknesses, folds,
orientation and regions are drawn anew for each. Mixed into training they stand for what no label map shows (other
ages, species, pathology), and alone they train a stripper that has never seen a brain (after Park et al., PUMBA,
arXiv 2505.07159, whose own cruder generator is :mod:`neuralprep.synthesis.shapes_pumba`).

A head comes in the classes and with the distances of :class:`neuralprep.synthesis.atlas.Head`, so everything that
works on label maps works on it. It has no place in the template: ``template_from_world`` only centres and scales it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralprep.errors import InputError
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, Head
from neuralprep.synthesis.classes import BRAIN_TISSUE, CLASSES, INDEX, indices
from neuralprep.synthesis.shapes_distance import closed, signed_distance
from neuralprep.synthesis.shapes_parts import Field, capsule, ellipsoid, random_walk, shifted, union

PREFIX = "shapes-"
"""Name of a head: this, its seed, and its voxels per axis, as in ``shapes-7-128``."""

ADULT_WIDTH_MM = 243.0
"""Width of the grid of a head of scale 1."""
_DISTANCE_LIMIT_MM = 20.0
_SMALL_MM = 30.0
"""Small parts are computed in a box with this margin: more than the common deformation can move them."""
_TEMPLATE_CENTER_MM = (0.0, -18.0, 10.0)
_REGION_CLASSES = tuple(name for name in BRAIN_TISSUE if name not in ("brain_vessel", "wm_lesion"))


@dataclass(frozen=True, eq=False)
class _Brain:
    """Bodies inside the skull as level sets (X, Y, Z) mm: smooth hull, inner skull, folded tissue, parts."""

    center: np.ndarray
    hull: Tensor
    icv: Tensor
    tissue: Tensor
    cerebellum: Tensor
    stem: Tensor
    stem_end_mm: float


def shape_head(seed: int, size: int = 128, device: torch.device | str = "cpu") -> Head:
    """Make the head of a seed.

    Parameters
    ----------
    seed
        Decides everything.
    size
        Voxels per axis; the head fills the grid whatever its size in mm, so small heads get small voxels.
    device
        Where to compute.

    Returns
    -------
    Head
        Its outermost layer is air.
    """
    rng = np.random.default_rng((seed, 20_25))
    scale = float(rng.uniform(0.8, 1.08) if rng.random() < 0.5 else rng.uniform(0.4, 1.3))
    field = Field(size, ADULT_WIDTH_MM / size, rng, torch.device(device))
    points = field.points() + rng.uniform(2, 9) * field.noise(80.0, channels=3)
    brain = _brain(field, points)
    labels = _outside(field, points, brain)
    _inside(field, points, brain, labels)
    _vessels(field, brain, labels)
    for axis in range(3):
        for face in (0, size - 1):
            labels.select(axis, face).zero_()
    lookup = torch.zeros(len(CLASSES), dtype=torch.bool, device=labels.device)
    lookup[list(indices((*BRAIN_TISSUE, "ventricle")))] = True
    tissue = closed(lookup[labels.long()], 1)
    below = field.points()[2] < brain.stem_end_mm - 3
    cavity = tissue | ((brain.icv < 0) & ~below)  # the spinal canal is not brain
    distances = signed_distance(torch.stack([tissue, cavity]), field.spacing_mm, _DISTANCE_LIMIT_MM)
    return _oriented(f"{PREFIX}{seed}-{size}", field, scale, labels, distances)


def named_shape_head(name: str, device: torch.device | str = "cpu") -> Head:
    """The head of a name, as records of samples hold it.

    Raises
    ------
    InputError
        Not such a name.
    """
    parts = name.removeprefix(PREFIX).split("-")
    if not name.startswith(PREFIX) or len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise InputError(f"'{name}' is not a head of the shape engine; they are called {PREFIX}<seed>-<size>")
    return shape_head(int(parts[0]), int(parts[1]), device)


def _brain(field: Field, points: Tensor) -> _Brain:
    """Hull of cerebrum, cerebellum and stem, the inner skull around it and the folded surface within it."""
    rng = field.rng
    center = field.near((0, -4, 26), (5, 8, 8))
    radii = np.array([66, 84, 60]) * rng.uniform(0.82, 1.12, 3)
    cerebrum = ellipsoid(points, center, radii)
    if rng.random() < 0.6:  # a flat base
        cerebrum = torch.maximum(cerebrum, (center[2] - rng.uniform(0.4, 0.8) * radii[2]) - points[2])
    low = center - (0, 0.3 * radii[1], 0.75 * radii[2])
    cerebellum = ellipsoid(points, field.near(low - (0, 25, 8), (5, 12, 8)), (40, 27, 22) * rng.uniform(0.6, 1.2, 3))
    stem_end = field.near(low - (0, 5, rng.uniform(30, 50)), (4, 8, 0))
    stem = capsule(points, center - (0, 10, 20), stem_end, rng.uniform(8, 15))
    hull = union(union(cerebrum, cerebellum, 8.0), stem, 8.0)
    hull = hull + field.octaves(60.0, rng.uniform(0.5, 4.0))
    gap = rng.uniform(0, 8) * (1 + 0.6 * field.noise(50.0)[0]).clamp_(min=0) if rng.random() < 0.85 else 0.0
    tissue = hull
    if rng.random() < 0.8:  # grooves along the zero lines of a noise
        width, depth = rng.uniform(0.08, 0.3), rng.uniform(3, 14)
        folds = field.noise(rng.uniform(14, 30))[0]
        tissue = tissue + depth * torch.exp(-((folds / width) ** 2))
    if rng.random() < 0.7:  # a fissure between the halves, not below
        across = points[0] - center[0]
        reach = ((points[2] - center[2]) / 10).clamp_(0, 1)
        tissue = tissue + rng.uniform(5, 40) * reach * torch.exp(-((across / rng.uniform(1.5, 4)) ** 2))
    return _Brain(center, hull, hull - gap, tissue, cerebellum, stem, float(stem_end[2]))


def _outside(field: Field, points: Tensor, brain: _Brain) -> Tensor:
    """Classes (uint8) of everything around the inner skull, which itself is filled with fluid."""
    rng, c = field.rng, brain.center
    bone = rng.uniform(1.5, 9) * (1 + 0.3 * field.noise(60.0)[0]).clamp_(min=0.3)
    flesh = rng.uniform(2, 16) * (1 + 0.4 * field.noise(60.0)[0]).clamp_(min=0.3)
    head = brain.icv - bone - flesh
    face = torch.full_like(head, 1e3)
    for _ in range(int(rng.integers(3, 9))):
        middle = field.near(shifted(c, 0, 62, -75), (32, 28, 38))
        radii = rng.uniform(14, 38, 3)
        where = field.box(middle, middle, float(radii.max()) + 22 + _SMALL_MM)  # 22: the rounding of the seams
        face[where] = union(face[where], ellipsoid(points[(slice(None), *where)], middle, radii), 10.0)
    if rng.random() < 0.25:  # a snout
        tip = shifted(c, 0, rng.uniform(85, 115), rng.uniform(-70, -10))
        face = union(face, capsule(points, shifted(c, 0, 50, -60), tip, rng.uniform(14, 26)), 14.0)
    head = union(head, face, 12.0)
    base = np.array([c[0], c[1] - 25, c[2] - 55])
    foot = np.array([c[0] + rng.uniform(-15, 15), c[1] + rng.uniform(-60, 20), -2 * field.extent_mm])
    if rng.random() < 0.9:  # a neck that leaves the field of view
        head = union(head, capsule(points, base, foot, rng.uniform(30, 58)), 14.0)
    labels = torch.zeros(head.shape, dtype=torch.uint8, device=head.device)
    skull = brain.icv - bone

    def paint(where: Tensor, name: str) -> None:
        labels.masked_fill_(where, INDEX[name])

    paint(head < 0, "soft_tissue")
    paint((head < 0) & (head > -rng.uniform(1, 4)), "skin")
    body = head < -4
    ridges = field.noise(rng.uniform(18, 40))[0]
    if rng.random() < 0.7:
        paint(body & (face < -6) & (ridges.abs() < rng.uniform(0.1, 0.3)), "cortical_bone")
        paint(body & (ridges > rng.uniform(1.2, 1.8)), "cancellous_bone")
    _column(field, points, brain, foot, labels, body)
    paint(skull < 0, "cortical_bone")
    marrow = (skull < -1.5) & (brain.icv > 1.5) & (ridges > rng.uniform(-1.5, 1.0))
    paint(marrow & (bone > 4), "cancellous_bone")
    _openings(field, points, brain, labels, body & (brain.icv > 0.6 * bone))
    paint(brain.icv < 0, "csf")
    return labels


def _column(field: Field, points: Tensor, brain: _Brain, foot: np.ndarray, labels: Tensor, body: Tensor) -> None:
    """A spine below the stem: bone around fluid around the cord."""
    rng = field.rng
    top = np.array([brain.center[0], brain.center[1] - 20, brain.stem_end_mm + 4])
    axis = capsule(points, top, foot, 0.0)
    cord = rng.uniform(4, 7)
    canal = cord + rng.uniform(1, 4)
    rings = field.noise(22.0)[0] > rng.uniform(-1.5, 0.3)
    labels.masked_fill_(body & (axis < canal + rng.uniform(3, 12)) & rings, INDEX["cancellous_bone"])
    labels.masked_fill_(body & (axis < canal), INDEX["csf"])
    labels.masked_fill_(body & (axis < cord), INDEX["cord"])


def _openings(field: Field, points: Tensor, brain: _Brain, labels: Tensor, allowed: Tensor) -> None:
    """Eyes with muscle and nerve, air cavities with their lining, an airway; only where ``allowed``."""
    rng, c = field.rng, brain.center

    def paint(name: str, start: np.ndarray, end: np.ndarray, radius: float | np.ndarray, rim: float = 0.0) -> None:
        """A rod, or an ellipsoid where start and end are one; ``rim`` mm of mucosa around it."""
        reach = float(np.max(radius)) + rim + _SMALL_MM
        where = field.box(np.minimum(start, end), np.maximum(start, end), reach)
        near = points[(slice(None), *where)]
        body = ellipsoid(near, start, np.broadcast_to(radius, 3)) if start is end else (
            capsule(near, start, end, float(np.max(radius))))
        if rim > 0:
            labels[where].masked_fill_((body < rim) & allowed[where], INDEX["mucosa"])
        labels[where].masked_fill_((body < 0) & allowed[where], INDEX[name])

    for _ in range(int(rng.integers(2, 8))):
        middle = field.near(shifted(c, 0, 62, -58), (26, 22, 32))
        paint("air", middle, middle, rng.uniform(4, 17, 3), rng.uniform(0, 3))
    if rng.random() < 0.6:
        spongy = (field.noise(8.0)[0] > 0.8) & (ellipsoid(points, c - (0, 25, 55), (75, 30, 25)) < 0)
        labels.masked_fill_(spongy & (brain.icv < 15) & allowed, INDEX["air"])
    if rng.random() < 0.7:
        paint("air", shifted(c, 0, 40, -80), shifted(c, 0, rng.uniform(-10, 30), -200), rng.uniform(4, 10), 2.0)
    if rng.random() < 0.9:
        radius, apart = rng.uniform(9, 15), rng.uniform(26, 42)
        eye = shifted(c, 0, rng.uniform(64, 86), rng.uniform(-48, -26))
        deep = shifted(c, 0, 38, -36)
        for side in (-1, 1):
            outer, inner = shifted(eye, side * apart, 0, 0), shifted(deep, side * 9, 0, 0)
            paint("eye_muscle", shifted(outer, 0, -10, 0), inner, rng.uniform(3, 8))
            paint("optic_nerve", shifted(outer, 0, -5, 0), inner, rng.uniform(1.5, 2.5))
            paint("eye", outer, outer, radius * rng.uniform(0.9, 1.1, 3))


def _inside(field: Field, points: Tensor, brain: _Brain, labels: Tensor) -> None:
    """Paint the tissue: 5 to 30 smooth regions of random classes, a rim, cerebellum, stem and ventricles."""
    rng = field.rng
    tissue = brain.tissue < 0
    first, second = int(rng.integers(3, 7)), int(rng.integers(2, 6))
    bins = [
        ((field.noise(rng.uniform(25, 70))[0] * 0.8 + 1) * count / 2).floor_().clamp_(0, count - 1).long()
        for count in (first, second)
    ]
    names = rng.choice(_REGION_CLASSES, first * second)
    if rng.random() < 0.6:  # mostly white, as in a grown brain
        names[rng.random(len(names)) < 0.7] = "cerebral_wm"
    table = torch.tensor([INDEX[name] for name in names], dtype=torch.uint8, device=labels.device)
    regions = table[bins[0] * second + bins[1]]
    rim = brain.tissue > -rng.uniform(1.5, 5.0)
    if rng.random() < 0.75:
        regions.masked_fill_(rim, INDEX["cerebral_gm"])
    if rng.random() < 0.8:
        small = brain.cerebellum < 0
        regions.masked_fill_(small, INDEX["cerebellar_wm"])
        regions.masked_fill_(small & (rim | (field.noise(7.0)[0] > 0)), INDEX["cerebellar_gm"])
    regions.masked_fill_(brain.stem < 0, INDEX["brainstem"])
    deep = brain.hull < -8
    for _ in range(int(rng.integers(0, 4))):
        middle = field.near(brain.center, (4, 30, 20))
        radii, apart = rng.uniform(3, 22, 3) * (0.6, 1, 0.8), rng.uniform(0, 18)
        for side in (-1, 1):
            hole = shifted(middle, side * apart, 0, 0)
            where = field.box(hole, hole, float(radii.max()) + _SMALL_MM)
            inside = ellipsoid(points[(slice(None), *where)], hole, radii) < 0
            regions[where].masked_fill_(inside & deep[where], INDEX["ventricle"])
    if rng.random() < 0.3:
        regions.masked_fill_(deep & (field.noise(rng.uniform(6, 20))[0] > 2.3), INDEX["wm_lesion"])
    torch.where(tissue, regions, labels, out=labels)


def _vessels(field: Field, brain: _Brain, labels: Tensor) -> None:
    """Winding tubes through the flesh and the fluid; the few that enter the brain count as brain."""
    rng = field.rng
    flat, level = labels.view(-1), brain.tissue.view(-1)
    for _ in range(int(rng.integers(4, 17))):
        start = rng.integers(size := field.size // 8, field.size - size, 3).astype(float)
        voxels = random_walk(field, start, int(rng.integers(40, 150)), int(rng.integers(0, 3)))
        kind = "artery" if rng.random() < 0.5 else "vein"
        inside = level[voxels] < 0
        air = flat[voxels] == INDEX["air"]
        flat[voxels[~inside & ~air]] = INDEX[kind]
        if rng.random() < 0.3:
            flat[voxels[inside]] = INDEX["brain_vessel"]


def _oriented(name: str, field: Field, scale: float, labels: Tensor, distances: Tensor) -> Head:
    """Turn the axes about, scale the head to its size and pack it."""
    order, flips = (0, 1, 2), [axis for axis in range(3) if axis == 0 and field.rng.random() < 0.5]
    if field.rng.random() < 0.5:
        a, b, c = field.rng.permutation(3)
        order, flips = (int(a), int(b), int(c)), [axis for axis in range(3) if field.rng.random() < 0.5]
    labels = labels.permute(order).flip(flips)
    distances = distances.permute(0, *(1 + axis for axis in order)).flip([1 + axis for axis in flips]) * scale
    spacing = scale * field.spacing_mm
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (field.size - 1) / 2
    stored = (distances / DISTANCE_STEP_MM).round_().clamp_(-127, 127).to(torch.int8).cpu().numpy()
    inside = np.argwhere(stored[1, ::2, ::2, ::2] < 0) * 2
    world = affine[:3, :3] @ inside.mean(0) + affine[:3, 3]
    template = np.eye(4)
    template[:3, :3] /= scale
    template[:3, 3] = _TEMPLATE_CENTER_MM - world / scale
    return Head(name, np.ascontiguousarray(labels.cpu().numpy()), affine, stored, affine, template)
