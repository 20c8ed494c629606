"""Which voxels of an image count, and how a result is put back into the image.

Every method works on the voxels inside a mask. A voxel with the value zero inside the mask is data like any other:
background is what the mask leaves out, never what happens to be zero. Only where no mask is given does a value
tell background from brain, and then the images must be stripped already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.volume import Volume

ImageT = TypeVar("ImageT", Volume, NDArray[Any])
Mask = Volume | NDArray[Any]
Background = float | Literal["min"]

LARGEST_BRAIN_ML = 2500.0
"""Inner skulls of adults hold 1000 to 2000 ml; more than this is a head, not a brain."""
_LEAST_BACKGROUND = 0.01
_MASK_TOLERANCE_MM = 0.1


@dataclass(frozen=True, eq=False)
class Normalized(Generic[ImageT]):
    """A normalised image and what was found on the way.

    Attributes
    ----------
    image
        (X, Y, Z) float32, of the type that was given; a Volume keeps its grid and source.
    measures
        Numbers that the method estimated, by name.
    """

    image: ImageT
    measures: dict[str, float]


@dataclass(frozen=True, eq=False)
class Region(Generic[ImageT]):
    """An image and the voxels of it that count.

    Attributes
    ----------
    image
        What was given.
    data
        (X, Y, Z) its values.
    inside
        (X, Y, Z) bool.
    values
        (n,) float64, the values inside: finite and not all the same.
    name
        What to call the image in messages.
    """

    image: ImageT
    data: NDArray[Any]
    inside: NDArray[np.bool_]
    values: NDArray[np.float64]
    name: str

    def mapped(self, work: Callable[[NDArray[Any]], NDArray[Any]], fill: float | None) -> ImageT:
        """Image whose voxels inside went through ``work``; outside is ``fill``, or goes through it too (None)."""
        if fill is None:
            out = np.asarray(work(self.data), np.float32)
        else:
            out = np.full(self.data.shape, fill, np.float32)
            out[self.inside] = work(self.values)
        if isinstance(self.image, Volume):
            return self.image.with_data(out)
        return out


def select(image: ImageT, mask: Mask | None = None, background: Background = 0.0, *,
           checks: bool = True) -> Region[ImageT]:
    """Find the voxels that count.

    Parameters
    ----------
    image
        (X, Y, Z) array of real numbers, or a Volume.
    mask
        On the image's grid; voxels above zero are inside. None: inside is what differs from ``background``.
    background
        Value of the background where there is no mask; "min" is the minimum of the image.
    checks
        Refuse an image without a mask that cannot have been stripped: hardly any voxel has the background value, or
        (Volumes) the rest is larger than any brain.

    Raises
    ------
    InputError
        A mask of another grid, empty or with negative values; inside values that are not finite or all the same;
        an image that does not look stripped.
    """
    data, name = _array(image, "image")
    if mask is not None:
        inside = _checked_mask(mask, image, data, name)
    else:
        inside = _foreground(image, data, background, name, checks)
    values = data[inside].astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise InputError(f"{name}: {bad} of {values.size} voxels inside the mask are NaN or infinite; repair them or "
                         "leave them out of the mask")
    if values.min() == values.max():
        raise InputError(f"{name}: all {values.size} voxels inside the mask have the value {values[0]:g}; there is "
                         "nothing to normalise. Is it the right image, and the right mask?")
    return Region(image, data, inside, values, name)


def _array(image: Volume | NDArray[Any], what: str) -> tuple[NDArray[Any], str]:
    """Values of an image and its name."""
    if isinstance(image, Volume):
        return image.data, str(image.source or f"the {what}")
    data = np.asarray(image)
    if data.dtype.kind not in "buif" or data.size == 0:
        raise InputError(f"the {what} is an array of type {data.dtype} and shape {data.shape}; real numbers are needed")
    return data, f"the {what}"


def _checked_mask(mask: Mask, image: Volume | NDArray[Any], data: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Mask as bool on the image's grid."""
    values, mask_name = _array(mask, "mask")
    if values.shape != data.shape:
        raise InputError(f"{mask_name}: its shape {values.shape} is not that of {name}, {data.shape}; resample the "
                         "mask to the image")
    if isinstance(mask, Volume) and isinstance(image, Volume) and not mask.grid.same_as(
        image.grid, _MASK_TOLERANCE_MM
    ):
        raise InputError(f"{mask_name}: lies elsewhere than {name} (same shape, another affine); resample the mask to "
                         "the image, or correct the header that is wrong")
    if (values < 0).any():
        raise InputError(f"{mask_name}: holds negative values, so it is no mask (a distance map?); voxels inside must "
                         "be above zero and all others zero")
    inside = values > 0
    if not inside.any():
        raise InputError(f"{mask_name}: is empty (no voxel is above zero); give another mask")
    return np.asarray(inside)


def _foreground(image: Volume | NDArray[Any], data: NDArray[Any], background: Background, name: str,
                checks: bool) -> NDArray[np.bool_]:
    """Everything that differs from the background value, for images that are stripped already."""
    value = float(np.nanmin(data)) if background == "min" else float(background)
    inside = np.asarray(data != value)
    share = 1 - np.count_nonzero(inside) / inside.size
    if share == 1:
        raise InputError(f"{name}: every voxel has the background value {value:g}; give a mask or another background")
    if not checks:
        return inside
    if share < _LEAST_BACKGROUND:
        raise InputError(f"{name}: only {share:.2%} of the voxels have the background value {value:g}, so nothing "
                         "tells brain from background; give a mask, or the value that stands for background")
    if isinstance(image, Volume):
        size_ml = np.count_nonzero(inside) * image.grid.voxel_volume / 1000
        if size_ml > LARGEST_BRAIN_ML:
            raise InputError(f"{name}: {size_ml:.0f} ml differ from the background value {value:g}, more than any "
                             "brain; the image is not stripped. Give a mask, or the value that stands for background")
    return inside
