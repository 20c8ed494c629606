"""Whether a CT is in Hounsfield units, told from what can be seen: air, brain, and the range of values.

Head CTs often reach a user without their units: the intercept of the DICOM header lost (air at 0 or 24 instead of
-1000), saved with 8 bits, clipped at zero, or in the Cormack units of the Clinical Toolbox for SPM, which stretch the
range of soft tissue (Rorden et al., NeuroImage 61:957, 2012). A window of Hounsfield units makes a plausible but wrong
picture of any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.normalization.region import LARGEST_BRAIN_ML, ImageT, Region
from neuralprep.volume import Volume

AIR_HU = (-1100.0, -850.0)
BRAIN_MEDIAN_HU = (12.0, 75.0)
"""Medians of a brain with its fluid: about 30 without contrast agent, up to 60 with it."""
HEAD_MEDIAN_HU = (-110.0, 300.0)
"""Scalp fat and bone take part."""
_AIR_LIKE_HU = -300.0
_LEAST_AIR = 0.01
_MOST_AIR_IN_BRAIN = 0.02
_CONSTANT_SHARE = 0.1
_OUTSIDE_CONSTANT = 0.98


def check_hounsfield(region: Region[ImageT], *, masked: bool) -> None:
    """Refuse an image that does not look like Hounsfield units.

    Parameters
    ----------
    region
        The CT and its voxels inside.
    masked
        Whether a mask was given.

    Raises
    ------
    InputError
        What was seen, what it most likely is, and what to do.
    """
    fault = _fault(region, masked)
    if not fault:
        return
    data = region.data
    kind = "whole numbers" if _is_whole(data) else "fractions"
    raise InputError(
        f"{region.name}: does not look like Hounsfield units: {fault} Seen: {kind} from {np.nanmin(data):g} to "
        f"{np.nanmax(data):g}, median inside {np.median(region.values):.4g}. To window it all the same, give --force "
        "(in Python: checks=False)"
    )


def check_stripped(region: Region[ImageT]) -> None:
    """Refuse a CT without mask of which a part is air: its histogram is not that of a brain.

    Raises
    ------
    InputError
        With the share of air.
    """
    air = float(np.mean(region.values < AIR_HU[1]))
    if air > _MOST_AIR_IN_BRAIN:
        raise InputError(f"{region.name}: {air:.0%} of the voxels that are not background are air, so the image is not "
                         "stripped and its histogram is not that of a brain; give a mask")


def _fault(region: Region[ImageT], masked: bool) -> str:
    """What is wrong, and what to do; "" for an image that looks right."""
    seen = region.data[np.isfinite(region.data)]
    low, high = float(seen.min()), float(seen.max())
    if high - low <= 10:
        return "it is scaled to a small range already. Window the CT that it was made from."
    if low >= 0 and 150 < high <= 255 and _is_whole(seen):
        return "it has 8-bit values (a CT saved as a picture, or an MR image). Convert the DICOM series again."
    tissue = _tissue(seen)
    if tissue.size == 0:
        return "there is nothing but air in it. Check its rescale slope and intercept."
    head = _shows_head(region, masked, tissue)
    median = float(np.median(region.values if masked else tissue))
    shifted = _shift_fault(region.values if masked else tissue, low)
    return shifted or _tissue_fault(median, whole_head=head and not masked) or (_air_fault(seen, low) if head else "")


def _tissue(seen: NDArray[Any]) -> NDArray[Any]:
    """What is neither air nor the constant that stands for background."""
    tissue = seen > AIR_HU[1]
    for value in (0.0, float(seen.min())):
        constant = seen == value
        if np.mean(constant) > _CONSTANT_SHARE:
            tissue &= ~constant
    return seen[tissue]


def _shows_head(region: Region[ImageT], masked: bool, tissue: NDArray[Any]) -> bool:
    """Whether more than the brain is there, so that there must be air around it too.

    With a mask: what lies outside of it is not one constant. Without one: there is more than any brain has; an array
    says nothing about its voxel size and counts as a brain.
    """
    if masked:
        outside = region.data[~region.inside]
        outside = outside[np.isfinite(outside)]
        return outside.size > 0 and float(np.mean(outside == np.median(outside))) < _OUTSIDE_CONSTANT
    if not isinstance(region.image, Volume):
        return False
    return tissue.size * region.image.grid.voxel_volume / 1000 > LARGEST_BRAIN_ML


def _shift_fault(values: NDArray[Any], low: float) -> str:
    """Two scales without negative values, told from where they have soft tissue."""
    bright = values[values > 700]
    if low < 0 or bright.size < 0.1 * values.size:
        return ""
    median = float(np.median(bright))
    if 950 < median < 1200:
        return ("if it is a CT, it lies about 1024 too high: the rescale intercept (-1024) of the DICOM header was "
                "lost. Convert the series again with dcm2niix, or subtract 1024.")
    if 1900 < median < 3100 and values.max() < 6000:
        return ("the brain lies where the Cormack units of SPM's Clinical Toolbox have it. Convert back with its "
                "clinical_c2h, or take the CT before clinical_h2c.")
    return ""


def _tissue_fault(median: float, *, whole_head: bool) -> str:
    low, high = HEAD_MEDIAN_HU if whole_head else BRAIN_MEDIAN_HU
    if low <= median <= high:
        return ""
    part = "head" if whole_head else "brain"
    return (f"the median of the {part} is {median:.4g}, where {low:g} to {high:g} HU are expected. Is it a CT, with "
            "the right rescale slope and intercept?")


def _air_fault(seen: NDArray[Any], low: float) -> str:
    """For an image with more than the brain: the air around the head must be there, at about -1000."""
    if low >= 0:
        return "it is clipped at 0, so air and fat are gone (or it is no CT). Take the CT before clipping."
    dark = seen[seen < _AIR_LIKE_HU]
    if low < AIR_HU[0]:
        dark = dark[dark != low]  # what scanners put where they measured nothing
    if dark.size < _LEAST_AIR * seen.size:
        return (f"there is no air at about -1000; its darkest voxels lie at about {np.percentile(seen, 1):.0f}. Is it "
                "a CT, with the right rescale slope and intercept?")
    air = float(np.median(dark))
    if AIR_HU[0] <= air <= AIR_HU[1]:
        return ""
    return f"air lies at about {air:.0f} instead of -1000. Check the rescale slope and intercept."


def _is_whole(values: NDArray[Any]) -> bool:
    sample = values.ravel()[:: max(1, values.size // 100_000)]
    return bool((sample == np.rint(sample)).all())
