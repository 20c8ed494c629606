"""Accuracy on synthetic heads that no network has seen, where every truth is exact.

A case is a label map rendered by the head model that training uses, cut to its field of view as a scanner would. Case
number k of a seed is the same whatever else is drawn, so that a benchmark can stop, go on, and share its work out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuralprep.evaluation.affine import mean_point_error, points_in_mask
from neuralprep.evaluation.bias import field_scores
from neuralprep.evaluation.image import psnr, ssim, ssim_map
from neuralprep.evaluation.overlap import dice, dice_by_label
from neuralprep.evaluation.surface import hausdorff95
from neuralprep.grid import Grid
from neuralprep.pipeline import Result
from neuralprep.resample import resample
from neuralprep.synthesis.atlas import load_atlas
from neuralprep.synthesis.classes import CONTENTS, INDEX
from neuralprep.synthesis.sample import DeviceHead, Record, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume

HELD_OUT = ("training_seg_19", "training_seg_20")
"""Label maps that are for testing only."""
UNIT = 255.0
"""What a value of 1.0 in the head model's clean image is in our normalised image."""


@dataclass(frozen=True, eq=False)
class Case:
    """A synthetic scan and its truths on the scan's grid.

    Attributes
    ----------
    scan
        What is given to the pipeline.
    icv, tissue
        (X, Y, Z) bool: inside of the skull; brain without outer fluid.
    clean
        (X, Y, Z) normalised image without bias and noise, with skull.
    multiplier
        (X, Y, Z) factor from the noise-free scan to `clean`.
    template_from_scan
        Pull-back, template mm -> scan mm.
    classes
        (X, Y, Z) anatomical classes (`neuralprep.synthesis.classes`); None if they were not asked for.
    record
        Everything that determines the sample.
    """

    scan: Volume
    icv: NDArray[np.bool_]
    tissue: NDArray[np.bool_]
    clean: NDArray[np.float32]
    multiplier: NDArray[np.float32]
    template_from_scan: Affine
    classes: NDArray[np.uint8] | None
    record: Record

    @property
    def look(self) -> str:
        """Contrast."""
        return self.record.look

    @property
    def field_measurable(self) -> bool:
        """Whether there is a bias field to find: tissue is in view, and it is no CT."""
        return bool(self.tissue.any()) and self.look != "CT"


class HeldOutHeads:
    """The held-out label maps, ready to render.

    Parameters
    ----------
    atlas
        Packed label maps (``neuralprep train --pack``).
    settings
        Distribution of the samples.
    names
        Maps to use, in turn.

    Raises
    ------
    InputError
        The atlas cannot be read or lacks a map.
    """

    def __init__(self, atlas: Path, settings: SamplerSettings, names: Sequence[str] = HELD_OUT) -> None:
        self.settings = settings
        self._heads = [DeviceHead.load(head, torch.device("cpu")) for head in load_atlas(atlas, tuple(names))]

    def case(
        self,
        index: int,
        seed: int,
        look: str | None = None,
        change: Callable[[Record], Record] | None = None,
        *,
        want_classes: bool = False,
    ) -> Case:
        """Case number `index` of `seed`.

        Parameters
        ----------
        index, seed
            Determine the sample.
        look
            Contrast; drawn if None.
        change
            Edits the record before it is rendered (to switch faults off, for example).
        want_classes
            Also give the anatomical classes.
        """
        head = self._heads[index % len(self._heads)]
        record = draw_record(head.source.name, np.random.default_rng([seed, index]), self.settings, look)
        record = record if change is None else change(record)
        sample = render(record, head, want_fractions=want_classes)
        seen = np.argwhere(sample.field_of_view.numpy())
        start, stop = seen.min(0), seen.max(0) + 1
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        shape = sample.image.shape
        grid = Grid((shape[0], shape[1], shape[2]), sample.frame.affine).cropped(start, stop)
        distances = sample.distances.numpy()[(slice(None), *box)]
        return Case(
            scan=Volume(np.ascontiguousarray(sample.image.numpy()[box]), grid),
            icv=distances[1] < 0,
            tissue=distances[0] < 0,
            clean=sample.clean.numpy()[box],
            multiplier=np.exp(sample.log_gain.numpy()[box]),
            # the head model states where a sample's points lie in the template: the inverse carries the scan there
            template_from_scan=Affine(sample.template_from_sample).inverse(),
            classes=sample.classes.numpy()[box] if want_classes else None,
            record=record,
        )


def score_geometry(case: Case, result: Result) -> dict[str, Any]:
    """Masks, affine and regions in template space of one case.

    Parameters
    ----------
    case
        Truth.
    result
        With the outputs brain_mask, nocsf_mask and template_from_scan.

    Returns
    -------
    dict
        ``dice``, ``hd95`` (mm) of the inside of the skull, ``tissue_dice``, ``mean_mm`` of the affine over the inside
        of the skull, ``mean_dice`` of the classes in template space (if the case has them), ``decision`` of the quality
        control. What cannot be measured (no brain in view) is None.
    """
    mask, nocsf = _array(result, "brain_mask"), _array(result, "nocsf_mask")
    found = result.outputs["template_from_scan"]
    assert isinstance(found, Affine)
    inside = points_in_mask(case.icv, case.scan.grid)
    error = None
    if len(inside):
        error = mean_point_error(found.inverse(), case.template_from_scan.inverse(), inside)
    return {
        "dice": dice(mask, case.icv),
        "hd95": hausdorff95(mask, case.icv, case.scan.grid.spacing),
        "tissue_dice": dice(nocsf, case.tissue),
        "mean_mm": error,
        "mean_dice": roi_dice(case, found) if case.classes is not None and len(inside) else None,
        "decision": result.quality.decision,
    }


def roi_dice(case: Case, found: Affine) -> float:
    """Mean Dice, over the classes inside the skull, of the case carried to the template by two affines.

    The found affine against the true one: what NPP's Figure 5 measures, but with an exact truth.
    """
    assert case.classes is not None
    template = load_template().brain_mask.grid
    brain = [INDEX[name] for name in CONTENTS]
    labels = Volume(np.where(np.isin(case.classes, brain), case.classes, 0).astype(np.uint8), case.scan.grid)
    carried = [resample(labels, template, affine, order=0).data for affine in (found, case.template_from_scan)]
    return float(np.mean(list(dice_by_label(*carried).values())))


def score_images(
    case: Case, multiplier: NDArray[np.float32], brain: NDArray[np.float32], mask: NDArray[np.bool_]
) -> dict[str, float]:
    """Multiplier field and normalised brain of one case.

    Parameters
    ----------
    case
        Truth.
    multiplier
        (X, Y, Z) our field, on the 0-255 scale.
    brain
        (X, Y, Z) our normalised image without skull, on the 0-255 scale.
    mask
        (X, Y, Z) our brain mask.

    Returns
    -------
    dict
        ``gain_error``, ``field_ssim`` and ``field_psnr`` within both masks after one global factor; ``ssim`` and
        ``psnr`` of the image over the whole volume, as NPP reports them, and ``ssim_brain``; ``whole_field_ssim`` and
        ``whole_field_psnr`` of the field over the whole volume without any factor, zero outside each one's own mask:
        NPP's protocol, which mostly sees the edges of the masks.
    """
    peak = float(np.percentile(case.multiplier[case.icv], 99))
    truth = np.where(case.icv, case.multiplier, 0)
    found = np.where(mask, multiplier / UNIT, 0)
    clean = np.where(case.icv, case.clean, 0).clip(0, 1)
    image = (brain / UNIT).clip(0, 1)
    likeness = ssim_map(image, clean)
    common = mask & case.icv & (found > 0)
    inside = field_scores(found, truth, common) if common.any() else None
    nothing = float("nan")
    return {
        "gain_error": inside.gain_error if inside else nothing,
        "field_ssim": inside.ssim if inside else nothing,
        "field_psnr": inside.psnr if inside else nothing,
        "ssim": float(likeness.mean()),
        "psnr": psnr(image, clean),
        "ssim_brain": float(likeness[case.icv].mean()),
        "whole_field_ssim": ssim(found, truth, peak),
        "whole_field_psnr": psnr(found, truth, peak),
    }


def score_constant(case: Case) -> dict[str, float]:
    """What the best single factor would score, with the true mask: the floor for a bias correction."""
    factor = float(np.median(case.multiplier[case.icv])) * UNIT
    constant = np.full(case.multiplier.shape, factor, np.float32)
    return score_images(case, constant, np.where(case.icv, case.scan.data, 0) * constant, case.icv)


def score_result(case: Case, result: Result) -> dict[str, float]:
    """`score_images` of a result with the outputs multiplier, preproc_brain and brain_mask."""
    mask = _array(result, "brain_mask") > 0
    return score_images(case, _array(result, "multiplier"), _array(result, "preproc_brain"), mask)


def _array(result: Result, name: str) -> NDArray[Any]:
    output = result.outputs[name]
    assert isinstance(output, Volume)
    return output.data
