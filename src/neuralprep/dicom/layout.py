"""Where the slices of a stack lie, worked out from their own tags, and whether they make a volume.

Positions are compared with a straight, evenly stepped line. Slices that are missing are refused: a volume without them
would be too short and everything beyond the gap in the wrong place. Two kinds of CT are no even box but are known
exactly, a tilted gantry and zones of different slice distance; `straightened` puts them onto an even box.
Tags: DICOM PS3.3, C.7.6.2.1.1 (Image Plane: position, orientation, pixel spacing).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from neuralprep.dicom.stacks import Slice, Stack
from neuralprep.grid import FloatArray

_EVEN_MM = 0.1
_EVEN = 0.02
_ROUNDED = 2e-3
UPRIGHT_DEGREES = 0.01
_ZONE = 3
_LEAST_STEP_MM = 0.05
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Layout:
    """Slices in order along the normal of their planes, and where they lie.

    Attributes
    ----------
    slices : tuple of Slice
        In order.
    affine : (4, 4)
        (column, row, slice) -> RAS mm of the evenly stepped line through the slices. Its third axis leans where the
        gantry was tilted.
    offsets : (N,)
        Where each slice lies on that line, in steps: 0, 1, 2, ... where they are evenly spaced.
    tilt : float
        Degrees between the third axis and the normal of the planes.
    fault : str
        Why the slices make no volume ("" if they do).
    """

    slices: tuple[Slice, ...]
    affine: FloatArray
    offsets: FloatArray
    tilt: float = 0.0
    fault: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        rows, columns = self.slices[0].instance.shape
        return columns, rows, len(self.slices)

    @property
    def even(self) -> bool:
        """Whether the slices make a box with right angles as they are."""
        return self.tilt <= UPRIGHT_DEGREES and bool(np.array_equal(self.offsets, np.arange(len(self.slices))))

    @property
    def extent(self) -> FloatArray:
        """Length from edge to edge in mm, along columns, rows and slices."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        columns, rows, _ = self.shape
        return steps * (columns, rows, self.offsets[-1] + 1)


def lay_out(stack: Stack) -> Layout:
    """Order the slices of a stack and find their line; a fault says why they make no volume."""
    def refused(fault: str) -> Layout:
        return Layout(stack.slices, np.eye(4), np.arange(len(stack.slices), dtype=float), fault=fault)

    frame = stack.slices[0].frame
    if any(part.frame.position is None for part in stack.slices) or frame.rows_cols is None or frame.spacing is None:
        return refused("its slices do not say where they lie (image position, orientation, pixel spacing)")
    along_row, along_column = np.array(frame.rows_cols[:3]), np.array(frame.rows_cols[3:])
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if max(*np.abs(lengths - 1), abs(along_row @ along_column)) > _ROUNDED or min(frame.spacing) <= 0:
        return refused("its orientation or its pixel spacing is no valid one; the tags are damaged")
    along_row = along_row / lengths[0]
    normal = np.cross(along_row, along_column)
    normal = normal / np.linalg.norm(normal)
    along_column = np.cross(normal, along_row)
    slices = tuple(sorted(stack.slices, key=lambda part: float(np.dot(normal, np.array(part.frame.position)))))
    places = np.array([part.frame.position for part in slices])
    gaps = np.diff(places @ normal)
    if gaps.min() < _LEAST_STEP_MM:
        return refused("several slices lie at the same place")
    step = (places[-1] - places[0]) / (len(slices) - 1)
    offsets = np.arange(len(slices), dtype=float)
    if not _on_line(places, places[0], step, offsets):
        fault = _uneven(gaps, stack.first.modality)
        if fault:
            return refused(fault)
        target = max(float(gaps.min()), float(gaps.mean()) / 2)
        step = (places[-1] - places[0]) / np.ceil(gaps.sum() / target - 1e-6)
        offsets = (places - places[0]) @ normal / float(step @ normal)
        if not _on_line(places, places[0], step, offsets):
            return refused("its slices do not lie on a straight line; they are not one volume")
    upright = normal * (step @ normal)
    if np.linalg.norm(step - upright) * offsets[-1] <= _EVEN_MM:  # rounded tags, no lean
        step = upright
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_row * frame.spacing[1], along_column * frame.spacing[0], step, places[0]])
    return Layout(slices, _RAS @ affine, offsets, tilt)


def straightened(values: NDArray[np.float32], layout: Layout) -> tuple[NDArray[np.float32], Layout]:
    """Values of a leaning or unevenly stepped stack, on an even box with right angles.

    Between slices values are linear along the line of the slices; then each is shifted in its plane by what the gantry
    leans, linear between pixels. World positions are kept.

    Parameters
    ----------
    values : (columns, rows, slices) float32
        In the order of the layout.
    layout : Layout
        Of the slices.

    Returns
    -------
    values, layout
        On the box; the layout has offsets 0, 1, 2, ... and no tilt.
    """
    affine = layout.affine.copy()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    upright = normal * (affine[:3, 2] @ normal)
    lean = np.linalg.lstsq(affine[:3, :2], affine[:3, 2] - upright, rcond=None)[0]  # voxels per step: columns, rows
    count = round(float(layout.offsets[-1])) + 1
    shifts = np.outer(np.arange(count), lean)
    low, high = np.floor(shifts.min(axis=0)).astype(int), np.ceil(shifts.max(axis=0)).astype(int)
    columns, rows, _ = layout.shape
    fill = float(values.min())
    out = np.empty((columns + high[0] - low[0], rows + high[1] - low[1], count), dtype=np.float32, order="F")
    for number in range(count):
        after = min(max(int(np.searchsorted(layout.offsets, number)), 1), len(layout.offsets) - 1)
        start, stop = layout.offsets[after - 1], layout.offsets[after]
        part = np.float32(np.clip((number - start) / (stop - start), 0, 1))
        plane = (1 - part) * values[:, :, after - 1] + part * values[:, :, after]
        out[:, :, number] = _shifted(plane, shifts[number] - low, out.shape[:2], fill)
    affine[:3, 2] = upright
    affine[:3, 3] += affine[:3, :2] @ low
    first = layout.slices[0]
    first = replace(first, instance=replace(first.instance, shape=(out.shape[1], out.shape[0])))
    return out, Layout((first,) * count, affine, np.arange(count, dtype=float))


def _shifted(plane: NDArray[np.float32], shift: FloatArray, shape: tuple[int, ...], fill: float) -> NDArray[np.float32]:
    """A slice moved by a fraction of pixels (not negative) within a larger plane; linear, `fill` outside."""
    whole = np.floor(shift).astype(int)
    wide = np.full((shape[0] + 1, shape[1] + 1), fill, dtype=np.float32)
    wide[whole[0]:whole[0] + plane.shape[0], whole[1]:whole[1] + plane.shape[1]] = plane
    for axis, part in enumerate(shift - whole):
        if part > 1e-6:
            before = np.roll(wide, 1, axis)  # the last line is fill: it comes round to the front
            wide = np.float32(1 - part) * wide + np.float32(part) * before
    return wide[:-1, :-1]


def _on_line(places: FloatArray, start: FloatArray, step: FloatArray, offsets: FloatArray) -> bool:
    """Whether places lie where the line says, up to rounded tags."""
    off = np.linalg.norm(places - (start + np.outer(offsets, step)), axis=1).max()
    return bool(off <= max(_EVEN_MM, _EVEN * float(np.linalg.norm(step))))


def _uneven(gaps: FloatArray, modality: str) -> str:
    """Why slices with unequal distances make no volume; "" for the zones of a CT."""
    runs: list[list[float]] = [[float(gaps[0])]]
    for before, gap in pairwise(gaps.tolist()):
        if abs(gap - before) <= max(_EVEN_MM, _EVEN * before):
            runs[-1].append(gap)
        else:
            runs.append([gap])
    typical = float(np.median(gaps))
    for number, run in enumerate(runs):
        beside = [r[0] for r in (*runs[max(0, number - 1):number], *runs[number + 1:number + 2])]
        if len(run) < _ZONE and beside and run[0] > max(beside) * (1 + _EVEN) + _EVEN_MM:
            missing = max(1, round(run[0] / typical) - 1)
            return (f"{missing} {'slice is' if missing == 1 else 'slices are'} missing (a gap of {run[0]:.2f} mm where "
                    f"slices are {typical:.2f} mm apart); export the whole series again")
    if modality != "CT" or max(len(run) for run in runs) < _ZONE:
        return (f"its slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart; slices are missing, or it is not one "
                "volume; export the series again")
    return ""
