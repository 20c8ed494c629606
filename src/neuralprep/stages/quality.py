"""Quality of one result: measures, and the decision ok or check with its reasons in words.

Everything is plain numpy on the native masks, the signed distance and the affine. Topology, gradients and
intensities are read from a sample of about 2 mm, so that a 256^3 scan costs a fraction of a second; volumes
are exact. A measure that its inputs do not allow (no registration, no distance) is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage

from neuralprep.box import box_or_all
from neuralprep.stages.quality_limits import LIMITS, MEASURES, Measure, QualityLimits

if TYPE_CHECKING:
    from neuralprep.grid import Grid
    from neuralprep.templates import Template
    from neuralprep.transform import Affine
    from neuralprep.volume import Volume

_SAMPLE_MM = 2.0  # topology and gradients
_LATTICE_MM = 3.0  # overlap in template space: about 100 000 points inside the template brain
_CLOSING_RADIUS_MM, _CLOSING_SAMPLE_MM = 12.0, 3.0
_BRAIN_RADIUS_MM = 70.0
_MARGIN_MM = 14.0  # around the mask: wide enough for the shell that tells a stripped scan from a head


@dataclass(frozen=True)
class Quality:
    """Measures of one result and what they mean.

    Attributes
    ----------
    measures : name -> value; names are those of `MEASURES`.
    decision : "ok", or "check" when a person should look.
    reasons : why "check", in words; empty when ok.
    notes : things to know that do not ask for a check.
    """

    measures: dict[str, float]
    decision: Literal["ok", "check"]
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Sample:
    """The neighbourhood of the mask, thinned to about 2 mm: arrays of one shape, and their spacing in mm."""

    scan: np.ndarray
    mask: np.ndarray
    distance: np.ndarray | None
    gain: np.ndarray | None
    spacing: np.ndarray


def assess(
    *,
    scan: Volume,
    brain_mask: Volume,
    nocsf_mask: Volume | None = None,
    distance: Volume | None = None,
    template_from_scan: Affine | None = None,
    template: Template | None = None,
    space_brain_mask: Volume | None = None,
    registration_score: float | None = None,
    agreement: float | None = None,
    gain: Volume | None = None,
    mirror_agreement: float | None = None,
    residual_mm: float | None = None,
    kept_voxels: int | None = None,
    predict: Callable[[Mapping[str, float]], float | None] | None = None,
    limits: QualityLimits = LIMITS,
) -> Quality:
    """Measure one result and decide whether a person should look at it.

    Parameters
    ----------
    scan : the native image.
    brain_mask, nocsf_mask : masks on the grid of `scan`, inside of the skull and tissue only.
    distance : signed distance of the inner skull in mm, negative inside, before cleaning, same grid.
    template_from_scan : pull-back of the registration, template mm -> scan mm.
    template : the template registered to.
    space_brain_mask : brain mask as written in template space; without it the native mask is looked up.
    registration_score : correlation with the template.
    agreement : Dice of the masks of two passes.
    gain : multiplier field on the grid of `scan`.
    mirror_agreement : Dice of the masks of the head and of its mirror image.
    residual_mm : disagreement of the predicted coordinates with an affine.
    kept_voxels : voxels of a label that were added to the mask.
    predict : Dice of the mask with the truth from the other measures, see `stages.trust`; None where it cannot say.
    """
    mask = brain_mask.data != 0
    spacing = np.asarray(scan.grid.spacing)
    measures: dict[str, float] = {"largest_voxel_mm": float(spacing.max())}
    if not mask.any():
        reason = "No brain was found: check that this is a head scan, and its header."
        return Quality(measures, "check", (reason,))
    sample = _sample(scan, mask, distance, gain, spacing)
    measures |= _volumes(mask, nocsf_mask, scan.grid.voxel_volume)
    measures |= _topology(sample)
    measures["dent_share"] = _dents(sample)
    measures |= _intensities(sample)
    blank = measures.get("blank_shell_share", 0.0) > limits.blank_shell_share.usual_high
    extent = _whole(mask.shape) if blank else _extent(scan.data)
    measures |= _contact(mask, extent, scan.grid)
    given = {"registration_score": registration_score, "agreement": agreement, "mirror_agreement": mirror_agreement,
             "residual_mm": residual_mm, "kept_voxels": kept_voxels}
    measures |= {name: float(value) for name, value in given.items() if value is not None}
    if template_from_scan is not None:
        measures |= _stretch(np.asarray(template_from_scan.matrix))
        if template is not None:
            measures |= _in_template(mask, scan.grid, extent, template_from_scan, template, space_brain_mask)
    predicted = None if predict is None else predict(measures)
    if predicted is not None:
        measures["predicted_dice"] = predicted
    return judge(measures, limits)


def judge(measures: dict[str, float], limits: QualityLimits = LIMITS) -> Quality:
    """Compare measures with their limits; a value that is not a number asks for a check."""
    reasons: list[str] = []
    notes: list[str] = []
    for measure in MEASURES:
        if measure.name not in measures:
            continue
        value, bounds = measures[measure.name], getattr(limits, measure.name)
        if not np.isfinite(value):
            reasons.append(f"{measure.label} could not be computed: look at the figures.")
        elif not bounds.low <= value <= bounds.high:
            reasons.append(_sentence(measure, value, bounds.low, bounds.high))
        elif not bounds.usual_low <= value <= bounds.usual_high:
            notes.append(_sentence(measure, value, bounds.usual_low, bounds.usual_high))
    return Quality(measures, "check" if reasons else "ok", tuple(reasons), tuple(notes))


def _sentence(measure: Measure, value: float, low: float, high: float) -> str:
    """What was measured, what is expected, what to do."""
    def text(number: float) -> str:
        return f"{number:.{measure.digits}f} {measure.unit}".rstrip()

    if value < low:
        return f"{measure.label} is {text(value)}, below {text(low)}: {measure.low}."
    return f"{measure.label} is {text(value)}, above {text(high)}: {measure.high}."


def _sample(scan: Volume, mask: np.ndarray, distance: Volume | None, gain: Volume | None,
            spacing: np.ndarray) -> _Sample:
    """Thin the box around the mask to about 2 mm per axis."""
    step = np.maximum(1, np.round(_SAMPLE_MM / spacing)).astype(int)
    box = box_or_all(mask, np.ceil(_MARGIN_MM / spacing).astype(int).tolist())
    window = tuple(slice(edge.start, edge.stop, each) for edge, each in zip(box, step.tolist(), strict=True))

    def thin(volume: Volume | None) -> np.ndarray | None:
        return None if volume is None else np.ascontiguousarray(volume.data[window], dtype=np.float32)

    intensities = np.ascontiguousarray(scan.data[window], dtype=np.float32)
    inside = np.ascontiguousarray(mask[window])
    return _Sample(intensities, inside, thin(distance), thin(gain), spacing * step)


def _volumes(mask: np.ndarray, nocsf_mask: Volume | None, voxel_mm3: float) -> dict[str, float]:
    inside = int(np.count_nonzero(mask))
    measures = {"icv_ml": inside * voxel_mm3 / 1000.0}
    if nocsf_mask is not None:
        tissue_mask = nocsf_mask.data != 0
        tissue = int(np.count_nonzero(tissue_mask))
        outside = tissue - int(np.count_nonzero(tissue_mask & mask))
        measures["tissue_ml"] = tissue * voxel_mm3 / 1000.0
        measures["csf_share"] = 1.0 - (tissue - outside) / inside
        measures["tissue_outside_share"] = outside / max(tissue, 1)
    return measures


def _topology(sample: _Sample) -> dict[str, float]:
    """Pieces before cleaning, holes, and the steadiness of the distance at the surface."""
    raw = sample.mask if sample.distance is None else sample.distance < 0
    labels, count = ndimage.label(raw)
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    second = float(sizes[1] / sizes.sum()) if count > 1 else 0.0
    # Background that cannot be reached from outside is a hole; a rim is added so that "outside" exists.
    air, count = ndimage.label(np.pad(~sample.mask, 1, constant_values=True))
    holes = np.count_nonzero(air) - np.count_nonzero(air == air[0, 0, 0]) if count > 1 else 0
    measures = {"second_component_share": second, "hole_ml": holes * float(np.prod(sample.spacing)) / 1000.0}
    if sample.distance is not None and min(sample.distance.shape) > 1:
        band = np.abs(sample.distance) < 2.5
        if band.any():
            slope = np.zeros_like(sample.distance)
            for axis in range(3):
                slope += np.gradient(sample.distance, float(sample.spacing[axis]), axis=axis) ** 2
            slope = np.sqrt(slope[band])
            measures["odd_gradient_share"] = float(np.mean((slope < 0.6) | (slope > 1.5)))
    return measures


def _dents(sample: _Sample) -> float:
    """Share of the mask's volume that a closing with a ball adds.

    Closing is two distance maps, on a sample of about 3 mm with room for the ball all around.
    """
    step = np.maximum(1, np.round(_CLOSING_SAMPLE_MM / sample.spacing)).astype(int)
    spacing = sample.spacing * step
    room = np.ceil(_CLOSING_RADIUS_MM / spacing).astype(int) + 1
    mask = np.pad(sample.mask[tuple(slice(None, None, int(n)) for n in step)], [(int(n), int(n)) for n in room])
    if not mask.any():
        return 0.0
    grown = ndimage.distance_transform_edt(~mask, spacing) <= _CLOSING_RADIUS_MM
    closed = ndimage.distance_transform_edt(grown, spacing) > _CLOSING_RADIUS_MM
    return float(np.count_nonzero(closed & ~mask) / np.count_nonzero(mask))


def _intensities(sample: _Sample) -> dict[str, float]:
    inside = sample.scan[sample.mask]
    inside = inside[:: max(1, inside.size // 60_000)]
    low, middle, high = np.percentile(inside, (25, 50, 75))
    measures = {
        "brain_variation": float((high - low) / 1.349 / max(abs(middle), 1e-6 * max(abs(high), 1e-30))),
        "distinct_values": float(np.unique(inside).size),
    }
    turns = max(1, round(4.0 / sample.spacing.max()))
    near = ndimage.binary_dilation(sample.mask, iterations=turns)
    shell = ndimage.binary_dilation(near, iterations=2 * turns) & ~near
    if np.count_nonzero(shell) > 500:
        values = sample.scan[shell]
        # A value that fills at least half of the shell is its median: zero, -1024 or another pad value.
        measures["blank_shell_share"] = float(np.mean(values == np.median(values)))
    if sample.gain is not None:
        low, high = np.percentile(sample.gain[sample.mask], (1, 99))
        measures["gain_range"] = float(high / low) if low > 0 else 0.0
    return measures


def _whole(shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def _extent(scan: np.ndarray) -> tuple[slice, slice, slice]:
    """Voxel box that holds signal: planes of one constant value at the rim are padding, not field of view."""
    box = []
    for axis in range(3):
        thin = [slice(None, None, max(1, size // 64)) for size in scan.shape]
        thin[axis] = slice(None)
        planes = np.moveaxis(scan[tuple(thin)], axis, 0).reshape(scan.shape[axis], -1)
        rows = np.flatnonzero(planes.max(axis=1) > planes.min(axis=1))
        box.append(slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, scan.shape[axis]))
    return box[0], box[1], box[2]


def _contact(mask: np.ndarray, extent: tuple[slice, slice, slice], grid: Grid) -> dict[str, float]:
    """Area of the mask on the faces of the field of view, the lower face apart, cm2.

    Networks often leave out the outermost plane, so the next one counts too. An uncut brain may also end there: its
    cap of height h has the area 2 pi R h, which is taken off on all faces but the lower one.
    """
    lower_faces = {"S": "start", "I": "stop"}
    contact = {"fov_contact_cm2": 0.0, "fov_contact_inferior_cm2": 0.0}
    for axis in range(3):
        spacing, first, last = grid.spacing[axis], extent[axis].start, extent[axis].stop - 1
        face_cm2 = grid.voxel_volume / spacing / 100.0
        caps = [2 * np.pi * _BRAIN_RADIUS_MM * spacing * (depth + 1) / 100.0 for depth in (0, 1)]
        for face, planes in (("start", (first, first + 1)), ("stop", (last, last - 1))):
            # indexing gives a view; np.take would copy a volume that lies in memory first axis fastest
            areas = [np.count_nonzero(mask[(slice(None),) * axis + (plane,)]) * face_cm2
                     for plane in planes if first <= plane <= last]
            if face == lower_faces.get(grid.axis_codes[axis]):
                contact["fov_contact_inferior_cm2"] += max(areas)
            else:
                contact["fov_contact_cm2"] += max(0.0, *(area - cap for area, cap in zip(areas, caps, strict=False)))
    return contact


def _stretch(matrix: np.ndarray) -> dict[str, float]:
    """Scales (singular values), shear (off-diagonal of the QR factor over its diagonal) and determinant."""
    linear = matrix[:3, :3]
    if not np.isfinite(linear).all():
        return dict.fromkeys(("scale_min", "scale_max", "shear", "affine_determinant"), float("nan"))
    scales = np.linalg.svd(linear, compute_uv=False)
    upper = np.linalg.qr(linear, mode="r")
    diagonal = np.abs(np.diag(upper))
    shear = np.abs(np.triu(upper, 1)) / np.maximum(diagonal, 1e-9)[:, None]
    return {
        "scale_min": float(scales[-1]),
        "scale_max": float(scales[0]),
        "shear": float(shear.max()),
        "affine_determinant": float(np.linalg.det(linear)),
    }


def _in_template(mask: np.ndarray, grid: Grid, extent: tuple[slice, slice, slice], template_from_scan: Affine,
                 template: Template, space_brain_mask: Volume | None) -> dict[str, float]:
    """Overlap with the template brain, coverage, and left/right consistency, on a lattice of template space.

    The lattice is symmetric about x = 0, the mid-plane of symmetric templates: mirroring is an index flip.
    """
    atlas = template.brain_mask
    corners = atlas.grid.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = np.arange(_LATTICE_MM / 2, max(high[0], -low[0]), _LATTICE_MM)
    axes = (np.concatenate([-half[::-1], half]), np.arange(low[1], high[1], _LATTICE_MM),
            np.arange(low[2], high[2], _LATTICE_MM))
    shape = tuple(axis.size for axis in axes)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    expected, _ = _look_up(atlas.data, atlas.grid, points)
    found, covered = _look_up(mask, grid, template_from_scan.apply(points), extent)
    if space_brain_mask is not None:
        found, _ = _look_up(space_brain_mask.data, space_brain_mask.grid, points)
    left, right = (part.reshape(-1) for part in np.split(found.reshape(shape), 2))
    mirrored = right.reshape(shape[0] // 2, shape[1], shape[2])[::-1].reshape(-1)
    total = max(int(np.count_nonzero(found)), 1)
    template_total = max(int(np.count_nonzero(expected)), 1)
    return {
        "template_dice": float(2 * np.count_nonzero(expected & found) / (total + template_total)),
        "uncovered_share": float(1.0 - covered[expected].mean()) if expected.any() else 0.0,
        "left_right_difference": float(abs(np.count_nonzero(left) - np.count_nonzero(right)) / total),
        "left_right_dice": float(2 * np.count_nonzero(left & mirrored) / total),
    }


def _look_up(mask: np.ndarray, grid: Grid, points: np.ndarray,
             extent: tuple[slice, slice, slice] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Nearest voxel of each world point: (value != 0, whether the point lies inside `extent`)."""
    index = np.rint(grid.world_to_voxel(points)).astype(np.int32)
    box = extent or _whole(mask.shape)
    start, stop = np.array([s.start for s in box]), np.array([s.stop for s in box])
    inside = np.all((index >= start) & (index < stop), axis=1)
    found = np.zeros(len(points), dtype=bool)
    found[inside] = mask[tuple(index[inside].T)] != 0
    return found, inside
