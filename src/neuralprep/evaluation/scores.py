"""All scores of one case as a row of a table: masks, images, fields, labels, transforms against their truth.

The names of the scores and which way is better stand in `MEASURES`; tables and comparisons read them from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from neuralprep.errors import InputError
from neuralprep.evaluation.affine import point_error
from neuralprep.evaluation.bias import field_scores
from neuralprep.evaluation.image import best_factor, correlation, mean_absolute_error, psnr, ssim
from neuralprep.evaluation.overlap import dice_by_label, label_sizes, overlap
from neuralprep.evaluation.surface import element_distances, surface_distances
from neuralprep.transform import Transform
from neuralprep.volume import Volume

Best = Literal["high", "low", ""]
SurfaceKind = Literal["elements", "voxels"]


@dataclass(frozen=True)
class Measure:
    """One score: what it is called, its unit, and which way is better ("" for a mere description)."""

    label: str
    unit: str = ""
    best: Best = "high"


MEASURES: dict[str, Measure] = {
    "dice": Measure("Dice"),
    "tissue_dice": Measure("Dice of the tissue mask"),
    "jaccard": Measure("Jaccard"),
    "sensitivity": Measure("sensitivity"),
    "specificity": Measure("specificity"),
    "msd": Measure("mean surface distance", "mm", "low"),
    "rmsd": Measure("RMS surface distance", "mm", "low"),
    "hd": Measure("Hausdorff distance", "mm", "low"),
    "hd95": Measure("95 % Hausdorff distance", "mm", "low"),
    "lesion_dice": Measure("lesion-wise Dice"),
    "lesion_hd95": Measure("lesion-wise HD95", "mm", "low"),
    "legacy_dice": Measure("legacy Dice"),
    "legacy_hd95": Measure("legacy HD95", "mm", "low"),
    "surface_dice": Measure("surface Dice"),
    "volume": Measure("volume", "ml", ""),
    "truth_volume": Measure("volume of the truth", "ml", ""),
    "volume_error": Measure("volume difference", "%", ""),
    "ssim": Measure("SSIM"),
    "ssim_brain": Measure("SSIM within the brain"),
    "psnr": Measure("PSNR", "dB"),
    "mae": Measure("mean absolute error", "", "low"),
    "correlation": Measure("correlation"),
    "factor": Measure("global factor", "", ""),
    "gain_error": Measure("gain error (SD of the log ratio)", "", "low"),
    "field_ssim": Measure("SSIM of the field"),
    "field_psnr": Measure("PSNR of the field", "dB"),
    "whole_field_ssim": Measure("SSIM of the field, whole volume"),
    "whole_field_psnr": Measure("PSNR of the field, whole volume", "dB"),
    "mean_mm": Measure("mean error", "mm", "low"),
    "median_mm": Measure("median error", "mm", "low"),
    "p95_mm": Measure("95th percentile of the error", "mm", "low"),
    "max_mm": Measure("largest error", "mm", "low"),
    "mean_dice": Measure("mean Dice of the labels"),
    "worst_dice": Measure("lowest Dice of a label"),
    "labels": Measure("labels", "", ""),
    "seconds": Measure("wall time", "s", "low"),
    "cpu_seconds": Measure("CPU time", "s", "low"),
    "variation": Measure("residual variation", "", "low"),
}


def score_masks(
    prediction: Volume, truth: Volume, surface: SurfaceKind = "elements", tolerance_mm: float | None = None
) -> dict[str, float]:
    """Overlap, surface distances and volumes of a mask on the truth's grid.

    An empty prediction is a result (Dice 0, distances infinite); an empty truth leaves nothing to compare with.

    Parameters
    ----------
    prediction, truth
        Masks.
    surface
        What a surface is: "elements" weighted by their area (right on thick slices), or "voxels" that count alike; see
        `neuralprep.evaluation.surface`.
    tolerance_mm
        Also give the surface Dice: the share of both surfaces within this distance. Needs elements.

    Raises
    ------
    InputError
        The truth is empty.
    """
    if not truth.data.any():
        raise InputError(f"{truth.source or 'the truth'}: the mask is empty; there is nothing to compare with")
    counts = overlap(prediction.data, truth.data)
    areas = element_distances(prediction.data, truth.data, truth.grid.spacing) if surface == "elements" else None
    distances = areas or surface_distances(prediction.data, truth.data, truth.grid.spacing)
    near = {} if tolerance_mm is None or areas is None else {"surface_dice": areas.surface_dice(tolerance_mm)}
    found, expected = (float(np.count_nonzero(v.data)) * v.grid.voxel_volume / 1000 for v in (prediction, truth))
    return {
        "dice": counts.dice,
        "jaccard": counts.jaccard,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "msd": distances.mean,
        "rmsd": distances.rms,
        "hd": distances.hausdorff(),
        "hd95": distances.hausdorff95,
        **near,
        "volume": found,
        "truth_volume": expected,
        "volume_error": 100 * (found - expected) / expected,
    }


def score_images(
    prediction: Volume,
    truth: Volume,
    mask: ArrayLike | None = None,
    data_range: float | None = None,
    match_scale: bool = False,
) -> dict[str, float]:
    """Likeness of an image to the true one on the same grid.

    Parameters
    ----------
    prediction, truth
        Images.
    mask
        (X, Y, Z) where to average; the whole volume, background included, if None (as NPP does).
    data_range
        Of SSIM and PSNR; None takes the truth's (largest minus smallest value).
    match_scale
        First bring the prediction to the truth's scale by one factor (least squares).

    Raises
    ------
    InputError
        An empty mask, a constant truth, or a range that is not positive.
    """
    values, reference = prediction.data.astype(np.float64), truth.data.astype(np.float64)
    inside = _checked(mask, truth)
    span = data_range if data_range is not None else float(np.ptp(reference))
    if not span > 0:
        raise InputError(f"{truth.source or 'the truth'}: has no range of values (range {span:g}); is it an image?")
    factor = 1.0
    if match_scale:
        if not values.any():
            raise InputError(f"{prediction.source or 'the result'}: is zero everywhere; it cannot be scaled")
        factor = best_factor(values, reference, inside)
        values *= factor
    return {
        "ssim": ssim(values, reference, span, inside),
        "psnr": psnr(values, reference, span, inside),
        "mae": mean_absolute_error(values, reference, inside),
        "correlation": correlation(values, reference, inside),
        "factor": factor,
    }


def score_fields(prediction: Volume, truth: Volume, mask: ArrayLike | None = None) -> dict[str, float]:
    """A bias or gain field against the true one up to a global factor (see `bias.field_scores`).

    Parameters
    ----------
    prediction, truth
        Fields of the same kind on one grid.
    mask
        (X, Y, Z) where to compare; None takes all voxels where both are positive.

    Raises
    ------
    InputError
        No voxel where both fields are positive.
    """
    inside = _checked(mask, truth)
    inside = (inside if inside is not None else np.ones(truth.grid.shape, bool)) & (truth.data > 0)
    if not (inside & (prediction.data > 0)).any():
        raise InputError(
            f"{prediction.source or 'the result'}: has no positive value where the truth "
            f"{truth.source or ''} has one; are both multiplicative fields (not their logarithms)?"
        )
    scores = field_scores(prediction.data, truth.data, inside)
    return {
        "gain_error": scores.gain_error,
        "field_ssim": scores.ssim,
        "field_psnr": scores.psnr,
        "factor": scores.factor,
    }


def score_labels(
    prediction: Volume, truth: Volume, labels: Iterable[int] | None = None
) -> tuple[dict[str, float], dict[int, float]]:
    """Dice of every label of a map on the truth's grid.

    Parameters
    ----------
    prediction, truth
        Integer maps (see `neuralprep.evaluation.labels.read_labels`); 0 is background.
    labels
        Labels to score; None takes all that the truth has.

    Returns
    -------
    dict
        Mean and lowest Dice, number of labels.
    dict
        Label to Dice; a label that neither map has is left out.

    Raises
    ------
    InputError
        The truth holds none of the labels.
    """
    present = label_sizes(truth.data)
    wanted = sorted(present) if labels is None else sorted(set(labels))
    by_label = dice_by_label(prediction.data, truth.data)
    if not present.keys() & set(wanted):
        raise InputError(f"{truth.source or 'the truth'}: holds none of the labels to score; is it the right map?")
    scored = {name: by_label[name] for name in wanted if name in by_label}
    values = list(scored.values())
    return {"mean_dice": float(np.mean(values)), "worst_dice": min(values), "labels": float(len(values))}, scored


def score_transforms(prediction: Transform, truth: Transform, points: ArrayLike) -> dict[str, float]:
    """Distance (mm) between where two transforms of the same direction send points (N, 3)."""
    error = asdict(point_error(prediction, truth, points))
    return {
        "mean_mm": error["mean"],
        "median_mm": error["median"],
        "p95_mm": error["percentile95"],
        "max_mm": error["largest"],
    }


def _checked(mask: ArrayLike | None, truth: Volume) -> np.ndarray | None:
    if mask is None:
        return None
    inside = np.asarray(mask) != 0
    if inside.shape != truth.grid.shape:
        raise InputError(f"the mask has shape {inside.shape} and the truth {truth.grid.shape}; give one on its grid")
    if not inside.any():
        raise InputError("the mask is empty; there is nothing to average over")
    return inside
