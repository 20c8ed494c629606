"""Contact of labelled compartments with the edge of a stripped brain.

Skull stripping may cut what lies at the surface of the brain: of 1424 meningiomas, 1286 (90.3 %) had at least one
voxel that abuts the stripped edge (LaBella et al., MELBA 2025:003). This module counts how much of a compartment does.

A *compartment* is a set of labels, the *outside* is every voxel of the array that the mask leaves out. What lies beyond
the array is no outside unless asked for: a tumour cut by the field of view has not been cut by the stripping.

- **contact voxels**: voxels of the compartment within the mask that have an outside voxel among their 26 neighbours.
- **contact area**: total area of the voxel faces between the compartment (within the mask) and the outside. Exact for
  boxes along the axes; a smooth surface is overestimated by |n_x| + |n_y| + |n_z| of its normal n: 1 to 1.73, and 3/2
  on a whole sphere, however fine the voxels.
- **smooth contact area**: the same faces, each weighted by the cosine between it and the surface of the mask, whose
  normal is the gradient of the mask blurred by a Gaussian of 1.5 voxels (of the longest voxel edge). Right on smooth
  surfaces of any orientation to about 2 %, less than the face area at sharp edges.
  Source: integration of normals over surfels, Coeurjolly, Flin, Teytaud, Tougne, LNCS 2616 (2003) 101.
- **distance to the edge**: from the centre of a voxel within the mask to the nearest centre of an outside voxel, mm. A
  voxel in face contact is therefore one voxel edge away, not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from neuralprep.box import box_or_all
from neuralprep.evaluation.overlap import check_shapes
from neuralprep.grid import FloatArray, Grid

#: upper bounds of the distance histogram, mm; what is further away falls into a last open bin
BINS_MM = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
#: affines of float32 headers make a 1 mm voxel 1.0000001 mm long: still within 1 mm
_BIN_TOLERANCE_MM = 1e-3
#: width of the blur that gives the normal of the mask, in the longest voxel edge
_NORMAL_SIGMA = 1.5
_TRUNCATE = 3.0
_NEIGHBOURS = np.array([step for step in product((-1, 0, 1), repeat=3) if any(step)])

Regions = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class EdgeContact:
    """How a compartment meets the stripped edge.

    Attributes
    ----------
    compartment
        Its name.
    voxels, volume_mm3
        The whole compartment.
    outside_voxels, outside_mm3
        The part of it outside the mask: what the stripping takes away.
    contact_voxels
        Voxels within the mask with an outside voxel among their 26 neighbours.
    contact_area_mm2, contact_area_smooth_mm2
        Of the faces towards the outside; see the module's docstring for both.
    distance_min_mm, distance_median_mm, distance_max_mm
        Over the voxels within the mask; NaN if there are none.
    histogram_mm3
        Volume within the mask per distance bin; the last bin is open.
    """

    compartment: str
    voxels: int
    volume_mm3: float
    outside_voxels: int
    outside_mm3: float
    contact_voxels: int
    contact_area_mm2: float
    contact_area_smooth_mm2: float
    distance_min_mm: float
    distance_median_mm: float
    distance_max_mm: float
    histogram_mm3: tuple[float, ...]

    @property
    def at_edge(self) -> bool:
        """Whether at least one voxel abuts the edge or lies beyond it."""
        return self.contact_voxels > 0 or self.outside_voxels > 0


@dataclass(frozen=True, eq=False)
class EdgeVoxels:
    """Voxels of all compartments together, and what is known about each.

    Attributes
    ----------
    grid : Grid
        Of the label map.
    where : (N, 3) int
        Voxel indices.
    label : (N,) int
        Their labels.
    inside : (N,) bool
        Within the mask.
    contact : (N,) bool
        Within the mask with an outside voxel among the 26 neighbours.
    area, smooth_area : (N,) float64
        mm^2 of the faces towards the outside; 0 outside the mask.
    distance : (N,) float64
        mm to the nearest outside voxel; NaN outside the mask.
    """

    grid: Grid
    where: NDArray[np.int64]
    label: NDArray[np.integer]
    inside: NDArray[np.bool_]
    contact: NDArray[np.bool_]
    area: FloatArray
    smooth_area: FloatArray
    distance: FloatArray

    def compartment(self, name: str, members: Sequence[int], bins: Sequence[float] = BINS_MM) -> EdgeContact:
        """Sum up the voxels of some labels.

        Parameters
        ----------
        name
            Of the compartment.
        members
            Its labels.
        bins
            Rising upper bounds of the distance histogram, mm.
        """
        mine = np.isin(self.label, members)
        kept, voxel = mine & self.inside, self.grid.voxel_volume
        distance = self.distance[kept]
        edges = [-np.inf, *(bound + _BIN_TOLERANCE_MM for bound in bins), np.inf]
        counts = np.diff([np.count_nonzero(distance <= edge) for edge in edges])
        summary = (distance.min(), np.median(distance), distance.max()) if distance.size else (np.nan,) * 3
        lost = int(np.count_nonzero(mine & ~self.inside))
        return EdgeContact(
            compartment=name,
            voxels=int(np.count_nonzero(mine)),
            volume_mm3=float(np.count_nonzero(mine) * voxel),
            outside_voxels=lost,
            outside_mm3=float(lost * voxel),
            contact_voxels=int(np.count_nonzero(mine & self.contact)),
            contact_area_mm2=float(self.area[mine].sum()),
            contact_area_smooth_mm2=float(self.smooth_area[mine].sum()),
            distance_min_mm=float(summary[0]),
            distance_median_mm=float(summary[1]),
            distance_max_mm=float(summary[2]),
            histogram_mm3=tuple(float(count * voxel) for count in counts),
        )

    def contact_mask(self, members: Sequence[int]) -> NDArray[np.bool_]:
        """(X, Y, Z) bool, the contact voxels of some labels."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        mask[tuple(self.where[self.contact & np.isin(self.label, members)].T)] = True
        return mask


def edge_contact(
    labels: ArrayLike, mask: ArrayLike, grid: Grid, regions: Regions, *, bins: Sequence[float] = BINS_MM,
    border_is_edge: bool = False,
) -> list[EdgeContact]:
    """Measure how compartments meet the edge of a mask; parameters and faults as `edge_voxels`."""
    members = sorted({number for numbers in regions.values() for number in numbers})
    voxels = edge_voxels(labels, mask, grid, members, border_is_edge=border_is_edge)
    return [voxels.compartment(name, numbers, bins) for name, numbers in regions.items()]


def edge_voxels(
    labels: ArrayLike, mask: ArrayLike, grid: Grid, members: Sequence[int], *, border_is_edge: bool = False
) -> EdgeVoxels:
    """Find the voxels of some labels and measure each against the edge of a mask.

    Parameters
    ----------
    labels
        (X, Y, Z) integers.
    mask
        Of the same shape; what is not zero is the stripped brain.
    grid
        Of both; any spacing, oblique and sheared axes included.
    members
        Labels to look at.
    border_is_edge
        Let everything beyond the array count as outside; for images that were cropped to the brain.

    Raises
    ------
    ValueError
        The shapes differ, or there is no edge because the mask is empty or fills the array.
    """
    values, inside = np.asarray(labels), np.asarray(mask) != 0
    check_shapes(values, inside)
    if not inside.any() or (inside.all() and not border_is_edge):
        state = "holds nothing" if not inside.any() else "fills the whole array"
        raise ValueError(f"the mask {state}, so it has no edge")
    outside = np.pad(~inside, 1, constant_values=border_is_edge)
    where = np.argwhere(np.isin(values, members))
    kept = inside[tuple(where.T)]
    contact = np.zeros(len(where), dtype=bool)
    for step in _NEIGHBOURS:
        contact |= outside[tuple((where + step + 1).T)]
    contact &= kept
    area, smooth_area, distance = np.zeros(len(where)), np.zeros(len(where)), np.full(len(where), np.nan)
    if contact.any():
        # beyond the array the surface is taken to go on as it reaches the border
        blurred = outside if border_is_edge else np.pad(~inside, 1, mode="edge")
        area[contact], smooth_area[contact] = _face_areas(outside, blurred, where[contact], grid.affine[:3, :3])
    if kept.any():
        distance[kept] = _distances(outside, inside, where[kept], grid.affine[:3, :3])
    return EdgeVoxels(grid, where, values[tuple(where.T)], kept, contact, area, smooth_area, distance)


def stripped_mask(image: ArrayLike, fill: float = 0.0, *, count_holes: bool = False) -> NDArray[np.bool_]:
    """Mask of a stripped image: where it does not hold the fill value.

    Dark voxels within the brain may hold the same value. Voxels of the fill value that no path over faces joins to the
    border of the array are therefore taken for brain, unless `count_holes`.

    Parameters
    ----------
    image
        (X, Y, Z) intensities.
    fill
        Value outside the brain.
    count_holes
        Every voxel of the fill value is outside.

    Returns
    -------
    (X, Y, Z) bool
    """
    background = np.asarray(image) == fill
    if count_holes:
        return ~background
    components, _ = ndimage.label(background)
    faces = [np.take(components, end, axis) for axis in range(3) for end in (0, -1)]
    reached = np.unique(np.concatenate([face.ravel() for face in faces]))
    return ~np.isin(components, reached[reached > 0])


def _face_areas(
    outside: NDArray[np.bool_], blurred: NDArray[np.bool_], where: NDArray[np.int64], axes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Area (mm^2) of the faces of some voxels towards the outside, and the same weighted by the cosine to the surface.

    Parameters
    ----------
    outside
        Padded by one voxel.
    blurred
        The outside whose blur gives the normals, padded alike.
    where
        (N, 3) indices in the array without the padding.
    axes
        (3, 3), columns are the voxel edges in mm.
    """
    gradient, start = _gradient(blurred, where, axes)
    area, smooth = np.zeros(len(where)), np.zeros(len(where))
    here = where + 1
    for axis, side in product(range(3), (-1, 1)):
        face = np.cross(axes[:, axis - 2], axes[:, axis - 1])  # the area vector, normal to the face
        size = float(np.linalg.norm(face))
        there = here.copy()
        there[:, axis] += side
        open_side = outside[tuple(there.T)]
        # the face lies between two voxels, and so does its normal
        normal = gradient[tuple((here - start)[open_side].T)] + gradient[tuple((there - start)[open_side].T)]
        length = np.linalg.norm(normal, axis=1)
        cosine = np.abs(normal @ face) / (size * np.where(length > 0, length, 1.0))
        area[open_side] += size
        # no gradient: a sheet thinner than the blur, whose surface is the face itself
        smooth[open_side] += size * np.where(length > 0, np.minimum(cosine, 1.0), 1.0)
    return area, smooth


def _gradient(
    outside: NDArray[np.bool_], where: NDArray[np.int64], axes: FloatArray
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """World gradient of the blurred outside in a box around some voxels, and the box's first (padded) index."""
    spacing = np.linalg.norm(axes, axis=0)
    sigma = _NORMAL_SIGMA * spacing.max() / spacing
    margin = np.ceil(_TRUNCATE * sigma).astype(int) + 2
    start = np.maximum(where.min(0) + 1 - margin, 0)
    stop = np.minimum(where.max(0) + 2 + margin, outside.shape)
    part = outside[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].astype(np.float32)
    blurred = ndimage.gaussian_filter(part, sigma, truncate=_TRUNCATE, mode="nearest")
    by_voxel = np.stack(np.gradient(blurred), axis=-1)
    return by_voxel @ np.linalg.inv(axes).astype(np.float32), start


def _distances(
    outside: NDArray[np.bool_], inside: NDArray[np.bool_], where: NDArray[np.int64], axes: FloatArray
) -> FloatArray:
    """Distance (mm) of some voxels (indices without the padding, as `inside`) to the padded `outside`.

    The nearest outside voxel always touches the inside: a step from it towards the voxel comes closer, so it must leave
    the outside. Only those are searched.
    """
    padded = np.pad(inside, 1)
    box = box_or_all(padded, 1)
    near = ndimage.maximum_filter(padded[box].view(np.uint8), 3) > 0
    rim = np.argwhere(outside[box] & near) + [side.start - 1 for side in box]
    found, _ = KDTree(rim @ axes.T).query(where @ axes.T)
    return np.asarray(found, dtype=np.float64)
