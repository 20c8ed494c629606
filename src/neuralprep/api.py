"""The one-call interface."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuralprep.errors import InputError

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from nibabel.spatialimages import SpatialImage

    from neuralprep.pipeline import Result
    from neuralprep.volume import Volume

    Image: TypeAlias = str | PathLike[str] | SpatialImage | tuple[np.ndarray, np.ndarray] | Volume


def preprocess(image: Image, *, frame: int | Literal["mean"] | None = None, **settings: Any) -> Result:
    """Strip the skull, correct and normalise the intensities, and register to standard space.

    For many scans make one `neuralprep.Preprocessor` and call its ``run``: it keeps the network in memory.

    Parameters
    ----------
    image : path, nibabel image, (array, affine) or Volume
        The scan. The affine maps voxel indices to RAS+ mm.
    frame : int or "mean", optional
        Which frame of a 4-D image.
    **settings
        Fields of `neuralprep.Settings`, for example ``lam=1.0``. A `mask`, and a label to `keep`, may be given like an
        image.

    Returns
    -------
    Result
        ``outputs`` holds Volumes and the affine, ``quality`` measures and a decision.

    Raises
    ------
    InputError
        The image cannot be used, or a setting does not exist.

    Examples
    --------
    >>> result = preprocess("scan.nii.gz", lam=1.0, register=False)  # doctest: +SKIP
    >>> result.outputs["preproc_brain"].data.shape                   # doctest: +SKIP
    (176, 240, 256)
    """
    from dataclasses import fields

    from neuralprep.pipeline import Preprocessor, Settings

    known = {item.name for item in fields(Settings)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(f"no such setting: {', '.join(unknown)}. There are {', '.join(sorted(known))}.")
    for role in ("mask", "keep"):
        if settings.get(role) is not None:
            settings[role] = as_volume(settings[role], checks=False)
    return Preprocessor(Settings(**settings)).run(as_volume(image, frame))


def as_volume(image: Image, frame: int | Literal["mean"] | None = None, *, checks: bool = True) -> Volume:
    """Turn whatever describes an image into a Volume.

    Parameters
    ----------
    image : path, nibabel image, (array, affine) or Volume
        The image.
    frame : int or "mean", optional
        Which frame of a 4-D image.
    checks : bool
        Refuse images that cannot be a head scan; False for masks.

    Raises
    ------
    InputError
        It is none of these.
    """
    from neuralprep.volume import Volume, from_array, from_nibabel, load

    if isinstance(image, Volume):
        return image
    if isinstance(image, str | PathLike):
        return load(Path(fspath(image)), frame, checks)
    if isinstance(image, tuple):
        if len(image) != 2:
            raise InputError(f"a tuple of {len(image)} is no image: give (array, affine)")
        return from_array(*image)
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        return from_nibabel(image, frame, checks)
    raise InputError(f"{type(image).__name__} is no image: give a path, a nibabel image, (array, affine) or a Volume")
