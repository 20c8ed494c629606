"""A head on a device: refined classes, and smooth maps of it that deformations and artefacts need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.errors import InputError
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, Head
from neuralprep.synthesis.classes import CLASSES, CONTENTS, INDEX, indices
from neuralprep.synthesis.spatial import along_axis, apply_affine, blur_matrix, length

FAT_LAYER_VOX = 4
"""Soft tissue this close to the skin is subcutaneous fat."""
_POOL = 2  # voxels of the label map per voxel of the smooth maps
_MARGIN_MM = 16.0
_CUT_SHARE = 0.06  # of the largest section: less is a nose or an ear that touches the edge of the map
_NECK_SHARE = 0.42
_FWHM = float(np.sqrt(8 * np.log(2)))  # per standard deviation
_CURVE = np.linspace(0.84, 1.16, 11)  # linear sizes of the brain at which its volume is tabulated


@dataclass(frozen=True, eq=False)
class DeviceHead:
    """A :class:`Head` as tensors on a device.

    Attributes
    ----------
    source
        The head.
    labels
        (X, Y, Z) uint8 class indices, refined by :func:`refined`.
    distances
        (2, x, y, z) float32, signed distances in mm of the head, continued beyond the label map.
    distance_affine
        (4, 4) voxel index of ``distances`` -> head mm.
    center
        (3,) centroid of the inner skull, head mm.
    """

    source: Head
    labels: Tensor
    distances: Tensor
    distance_affine: np.ndarray
    center: np.ndarray

    @staticmethod
    def load(head: Head, device: torch.device) -> DeviceHead:
        """Upload ``head``.

        Raises
        ------
        InputError
            The label map has more than 2^24 voxels, which single precision cannot count.
        """
        if head.labels.size > 2**24:
            raise InputError(f"head '{head.name}': a label map of {head.labels.shape} voxels is too large; "
                             "crop it to the head or resample it to 1 mm (at most 2^24 voxels)")
        inside = np.argwhere(head.distances[1] < 0)
        center = head.distance_affine[:3, :3] @ inside.mean(0) + head.distance_affine[:3, 3]
        labels = refined(torch.from_numpy(np.ascontiguousarray(head.labels)).to(device))
        distances, affine = _continued(head, device)
        return DeviceHead(head, labels, distances, affine, center)

    @property
    def spacing_mm(self) -> float:
        """Voxel size of the labels, which are isotropic."""
        return float(np.cbrt(abs(np.linalg.det(self.source.affine[:3, :3]))))

    @property
    def map_from_head(self) -> np.ndarray:
        """(4, 4) head mm -> voxel index of :attr:`ventricle_pull` and :attr:`near_air`."""
        affine = np.array(self.source.affine)
        affine[:3, 3] += affine[:3, :3] @ np.full(3, (_POOL - 1) / 2)
        affine[:3, :3] *= _POOL
        return np.linalg.inv(affine)

    @cached_property
    def ventricle_potential(self) -> Tensor:
        """(1, x, y, z): the ventricles blurred by 7 mm, highest value 1; tells what is periventricular."""
        blurred = self._blurred("ventricle", 7.0)
        return blurred / blurred.max().clamp(min=1e-6)

    @cached_property
    def ventricle_pull(self) -> Tensor:
        """(3, x, y, z) directions towards the nearest ventricle, length 0-1, fading out away from it."""
        blurred = self._blurred("ventricle", 4.0)[0]
        gradient = torch.stack(torch.gradient(blurred))
        size = length(gradient)
        return gradient / (size + 0.15 * size.max().clamp(min=1e-6))

    @cached_property
    def near_air(self) -> Tensor:
        """(1, x, y, z): the air inside the head blurred by 9 mm, highest value 1."""
        blurred = self._blurred("internal_air", 9.0)
        return blurred / blurred.max().clamp(min=1e-6)

    def _blurred(self, name: str, sigma_mm: float) -> Tensor:
        mask = (self.labels == INDEX[name]).float()[None, None]
        coarse = F.avg_pool3d(mask, _POOL)
        coarse = coarse[0, 0]
        for axis, size in enumerate(coarse.shape):
            coarse = along_axis(coarse, blur_matrix(size, _POOL * self.spacing_mm, _FWHM * sigma_mm), axis)
        return coarse[None]

    @cached_property
    def foramen(self) -> np.ndarray | None:
        """(3,) head mm where the cord leaves the skull, or None without a cord; this point of the brain is fixed."""
        cord = np.argwhere(self.source.labels[::2, ::2, ::2] == INDEX["cord"]) * 2
        if not len(cord):
            return None
        world = cord @ self.source.affine[:3, :3].T + self.source.affine[:3, 3]
        index = np.rint((world - self.source.distance_affine[:3, 3]) @ np.linalg.inv(
            self.source.distance_affine[:3, :3]).T).astype(int)
        i, j, k = np.clip(index, 0, np.array(self.source.distances.shape[1:]) - 1).T
        nearest: np.ndarray = world[self.source.distances[1][i, j, k].argmin()]
        return nearest

    @cached_property
    def cut_face(self) -> tuple[int, int] | None:
        """(axis, side) of the face of the label map that cuts through the head (the neck), or None."""
        found = []
        for axis, areas in enumerate(self._sections):
            largest = max(float(areas.max()), 1.0)
            found += [(areas[1] / largest, axis, 0), (areas[-2] / largest, axis, 1)]
        share, axis, side = max(found)
        return (axis, side) if share > _CUT_SHARE else None

    @cached_property
    def neck_depth(self) -> int:
        """Voxels from the cut face to the slice that the neck is continued from.

        Maps that were cut obliquely end in a sliver; the first slice of a neck's size within 30 mm is taken, if it is
        well below the brain.
        """
        if self.cut_face is None:
            return 1
        axis, side = self.cut_face
        areas = self._sections[axis] if side == 0 else self._sections[axis][::-1]
        wide = np.flatnonzero(areas[1:] >= _NECK_SHARE * areas.max()) + 1
        inside = (self.source.distances[1] < 0).any(axis=tuple(a for a in range(3) if a != axis))
        brain = np.flatnonzero(inside if side == 0 else inside[::-1])[:1]
        coarse = float(np.cbrt(abs(np.linalg.det(self.source.distance_affine[:3, :3]))))
        clear = (brain[0] * coarse - 10) / self.spacing_mm if len(brain) else 0.0
        limit = min(30 / self.spacing_mm, clear)
        return int(wide[0]) if len(wide) and wide[0] <= limit else 1

    @cached_property
    def _sections(self) -> list[np.ndarray]:
        """Voxels of the head in every slice, for each axis."""
        occupied = self.source.labels > 0
        return [occupied.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]

    def size_for_volume(self, change: float) -> float:
        """Linear factor by which the brain must be scaled so that its volume inside the skull changes by ``change``."""
        ratios = self._volume_curve / np.interp(1.0, _CURVE, self._volume_curve)
        rising = np.maximum.accumulate(ratios) + 1e-9 * np.arange(len(ratios))
        return float(np.interp(1 + change, rising, _CURVE))

    @cached_property
    def _volume_curve(self) -> np.ndarray:
        """Volume of the scaled tissue inside the skull, for each size of ``_CURVE`` (arbitrary unit)."""
        affine = self.source.distance_affine
        spacing = float(np.cbrt(abs(np.linalg.det(affine[:3, :3]))))
        stride = max(round(4 / spacing), 1)
        distances = torch.from_numpy(self.source.distances[None]).float() * DISTANCE_STEP_MM
        skull = distances[0, 1, ::stride, ::stride, ::stride]
        inside = skull < stride * spacing
        index = stride * inside.nonzero().float().T
        points = apply_affine(affine, index)
        size = torch.tensor(distances.shape[2:]).view(3, 1)
        volumes = []
        for factor in _CURVE:
            back = apply_affine(np.linalg.inv(affine), scaled_about(points, factor, self))
            unit = (2 * back / (size - 1) - 1).flip(0).T[None, :, None, None]
            tissue = F.grid_sample(distances[:, :1], unit, align_corners=True, padding_mode="border").flatten()
            level = torch.maximum(tissue * factor, skull[inside])
            volumes.append((0.5 - level / (stride * spacing)).clamp(0, 1).sum().item())
        return np.asarray(volumes)


def _continued(head: Head, device: torch.device) -> tuple[Tensor, np.ndarray]:
    """Distances with a margin in which they grow by the distance from the map, and their voxel -> head mm affine.

    Maps end close to the brain, some just below it; a distance that stayed what it is at the last voxel would tell
    that the brain's surface runs on for ever.
    """
    affine = np.array(head.distance_affine)
    spacing = float(np.cbrt(abs(np.linalg.det(affine[:3, :3]))))
    margin = int(np.ceil(_MARGIN_MM / spacing))
    stored = torch.from_numpy(head.distances).to(device).float() * DISTANCE_STEP_MM
    padded = F.pad(stored[None], (margin,) * 6, mode="replicate")[0]
    squares = []
    for n in stored.shape[1:]:
        index = torch.arange(-margin, n + margin, device=device)
        squares.append(((index - index.clamp(0, n - 1)) * spacing).square())
    beyond = (squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None]).sqrt()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    return padded + beyond, affine


def scaled_about(positions: Tensor, factor: float, head: DeviceHead) -> Tensor:
    """Where the points (3, ...) of a brain scaled by ``factor`` came from, head mm; the foramen stays in place."""
    shape = (3, *[1] * (positions.ndim - 1))
    center = torch.as_tensor(head.center, dtype=torch.float32, device=positions.device).view(shape)
    away = positions - center
    if head.foramen is None:
        return positions + (1 / factor - 1) * away
    fixed = torch.as_tensor(head.foramen, dtype=torch.float32, device=positions.device).view(shape)
    near = (length(positions - fixed) / 35).clamp_(0, 1)
    return positions + (1 / factor - 1) * (near * near * (3 - 2 * near)) * away


def refined(labels: Tensor) -> Tensor:
    """Split classes of a label map by their place: air inside the head, dura, the bone next to it, fat below the skin.

    Air is inside where the head lies in at least five of the six axis directions. The bone voxels that touch fluid or
    brain become ``dura``, the next layer ``inner_table``.
    """
    occupied = labels > 0
    around = torch.zeros_like(labels)
    for axis in range(3):
        n = labels.shape[axis]
        shape = [1, 1, 1]
        shape[axis] = n
        place = torch.arange(1, n + 1, device=labels.device, dtype=torch.int16).view(shape)
        last = (occupied * place).amax(axis, keepdim=True)
        first = n + 1 - (occupied * (n + 1 - place)).amax(axis, keepdim=True)
        around += (place > first).to(torch.uint8)
        around += (place < last).to(torch.uint8)
    out = labels.masked_fill(~occupied & (around >= 5), INDEX["internal_air"])
    lookup = torch.zeros(len(CLASSES), dtype=torch.bool, device=labels.device)
    lookup[list(indices(CONTENTS))] = True
    contents = lookup[labels.int()]
    bone = (labels == INDEX["cortical_bone"]) | (labels == INDEX["cancellous_bone"])
    inner = _dilated(contents, 1)
    out.masked_fill_(bone & inner, INDEX["dura"])
    out.masked_fill_(bone & ~inner & _dilated(inner, 1), INDEX["inner_table"])
    near_skin = _dilated(labels == INDEX["skin"], FAT_LAYER_VOX)
    return out.masked_fill_((labels == INDEX["soft_tissue"]) & near_skin, INDEX["fat"])


def _dilated(mask: Tensor, radius: int) -> Tensor:
    """Mask grown by ``radius`` voxels along each axis in turn (a cube)."""
    for axis in range(3):
        grown = mask.clone()
        for shift in range(1, radius + 1):
            n = mask.shape[axis] - shift
            grown.narrow(axis, shift, n).logical_or_(mask.narrow(axis, 0, n))
            grown.narrow(axis, 0, n).logical_or_(mask.narrow(axis, shift, n))
        mask = grown
    return mask
