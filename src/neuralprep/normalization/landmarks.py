"""Histogram landmarks of a cohort: the standard scale of Nyul and Udupa.

Training averages, over images, where their percentiles fall once the lowest and the highest are pulled to the ends
of the scale; applying maps the percentiles of an image onto these averages, with straight pieces between. Source:
Nyul and Udupa, Magn. Reson. Med. 42:1072 (1999), with the percentiles of Nyul, Udupa and Zhang, IEEE Trans. Med.
Imaging 19:143 (2000).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.files import read_text, write_atomic
from neuralprep.normalization.mapping import Mapping
from neuralprep.normalization.region import ImageT, Mask, select

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
SCALE = (0.0, 100.0)
_FORMAT = "neuralprep histogram landmarks"


@dataclass(frozen=True)
class Landmarks:
    """The standard scale.

    Attributes
    ----------
    percentiles
        Ascending, in percent.
    standard
        Where they fall on the standard scale, ascending.
    images
        How many images it was made of.
    """

    percentiles: tuple[float, ...]
    standard: tuple[float, ...]
    images: int

    def __post_init__(self) -> None:
        """Refuse what cannot be a scale."""
        p, s = np.asarray(self.percentiles), np.asarray(self.standard)
        ascending = p.ndim == 1 and p.shape == s.shape and p.size >= 2 and np.isfinite([p, s]).all()
        if not (ascending and (np.diff(p) > 0).all() and (np.diff(s) >= 0).all() and s[0] < s[-1]
                and p[0] >= 0 and p[-1] <= 100):
            raise InputError(f"landmarks at the percentiles {self.percentiles} with the values {self.standard} are no "
                             "scale: there must be as many of the ones as of the others, both ascending")

    def mapping(self, values: NDArray[np.float64], name: str) -> Mapping:
        """Mapping of one image (its (n,) values inside) onto the standard scale."""
        found = np.asarray(np.percentile(values, self.percentiles), dtype=np.float64)
        source, target = _without_ties(found, np.asarray(self.standard), name)
        return Mapping(source, target, {"lowest_landmark": float(found[0]), "highest_landmark": float(found[-1])})

    def save(self, path: Path) -> None:
        """Write as JSON, all or nothing."""
        content = {
            "Format": _FORMAT, "Method": "nyul", "Percentiles": list(self.percentiles),
            "StandardScale": list(self.standard), "Images": self.images,
        }  # fmt: skip
        write_atomic(path, [lambda: (json.dumps(content, indent=2) + "\n").encode()])

    @staticmethod
    def load(path: Path) -> Landmarks:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            Missing, damaged, or something else.
        """
        try:
            content: Any = json.loads(read_text(path))
        except ValueError as error:
            raise InputError(f"{path}: is not JSON ({error}); give the file that fitting landmarks wrote") from None
        if not isinstance(content, dict) or content.get("Format") != _FORMAT:
            raise InputError(f"{path}: holds no histogram landmarks; give the file that fitting landmarks wrote")
        try:
            percentiles = tuple(float(v) for v in content["Percentiles"])
            standard = tuple(float(v) for v in content["StandardScale"])
            return Landmarks(percentiles, standard, int(content["Images"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: its landmarks are damaged ({error!r}); fit them again") from None


def fit_landmarks(images: Iterable[tuple[ImageT, Mask | None]], *, background: float = 0.0,
                  checks: bool = True) -> Landmarks:
    """Learn the standard scale of a cohort.

    Parameters
    ----------
    images
        Pairs of an image and its brain mask (or None), taken one at a time. One contrast, at least two images.
    background, checks
        As for :func:`~neuralprep.normalization.region.select`.

    Raises
    ------
    InputError
        Fewer than two images, or an image that cannot be used.
    """
    return average_landmarks(image_landmarks(image, mask, background, checks) for image, mask in images)


def image_landmarks(image: ImageT, mask: Mask | None, background: float = 0.0,
                    checks: bool = True) -> NDArray[np.float64]:
    """Percentiles (11,) of one image with the lowest and the highest pulled to the ends of the scale."""
    region = select(image, mask, background, checks=checks)
    found = np.percentile(region.values, PERCENTILES)
    if found[0] == found[-1]:
        raise InputError(f"{region.name}: its 1st and 99th percentile are both {found[0]:g}, so there is no scale in "
                         "it; is it the right image, and the right mask?")
    return SCALE[0] + (found - found[0]) * ((SCALE[1] - SCALE[0]) / (found[-1] - found[0]))


def average_landmarks(pulled: Iterable[NDArray[np.float64]]) -> Landmarks:
    """Standard scale from the results of :func:`image_landmarks`."""
    rows = list(pulled)
    if len(rows) < 2:
        raise InputError(f"landmarks of {len(rows)} image(s) are no standard; give at least two images of one contrast")
    standard = np.mean(rows, axis=0)
    return Landmarks(PERCENTILES, tuple(float(v) for v in standard), len(rows))


def _without_ties(found: NDArray[np.float64], standard: NDArray[np.float64],
                  name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One target per source value: percentiles that coincide (few grey levels) share the mean of their targets."""
    source, group = np.unique(found, return_inverse=True)
    if source.size < 2:
        raise InputError(f"{name}: its landmarks all lie at {found[0]:g}, so it cannot be mapped; is it the right "
                         "image, and the right mask?")
    return source, np.bincount(group, standard) / np.bincount(group)
