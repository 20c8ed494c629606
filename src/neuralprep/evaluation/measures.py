"""Scores of files: one case at a time, or all cases of a cohort side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import Pair, on_one_grid, partner, read_mask
from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.parallel import each
from neuralprep.evaluation.scores import SurfaceKind, score_fields, score_images, score_labels, score_masks
from neuralprep.files import read_text
from neuralprep.volume import Volume, load


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case by one method.

    Attributes
    ----------
    case, method
        Names.
    scores
        Name of a score (see `neuralprep.evaluation.scores.MEASURES`) to its value.
    by_label
        Dice of every label, for label maps.
    fault
        Why the case could not be scored; "" if it was.
    """

    case: str
    method: str
    scores: dict[str, float] = field(default_factory=dict)
    by_label: dict[int, float] = field(default_factory=dict)
    fault: str = ""

    def row(self) -> dict[str, Any]:
        """One flat row for a table."""
        return {"case": self.case, "method": self.method, **self.scores}


@dataclass(frozen=True)
class MaskSettings:
    """How masks are read and scored; see `neuralprep.evaluation.cases` and `neuralprep.evaluation.scores`."""

    threshold: float | None = None
    carry: bool = False
    surface: SurfaceKind = "elements"
    tolerance_mm: float | None = None


@dataclass(frozen=True)
class ImageSettings:
    """How images and fields are compared; see `neuralprep.evaluation.scores.score_images`.

    ``mask`` is a file or a folder in which a case is found by its name.
    """

    mask: Path | None = None
    key: str | None = None
    data_range: float | None = None
    match_scale: bool = False
    carry: bool = False


@dataclass(frozen=True)
class LabelSettings:
    """Which labels are scored; None takes all that a truth has."""

    labels: tuple[int, ...] | None = None
    carry: bool = False


def measure_masks(settings: MaskSettings, method: str, pair: Pair) -> CaseScores:
    """Score a mask file against the true one."""
    truth = read_mask(pair.truth, settings.threshold)
    mask = on_one_grid(read_mask(pair.prediction, settings.threshold), truth, carry=settings.carry)
    return CaseScores(pair.name, method, score_masks(mask, truth, settings.surface, settings.tolerance_mm))


def measure_images(settings: ImageSettings, method: str, pair: Pair) -> CaseScores:
    """Score an image file against the true one."""
    image, truth, inside = _images(settings, pair)
    scores = score_images(image, truth, inside, settings.data_range, settings.match_scale)
    return CaseScores(pair.name, method, scores)


def measure_fields(settings: ImageSettings, method: str, pair: Pair) -> CaseScores:
    """Score a multiplicative field against the true one up to a global factor."""
    image, truth, inside = _images(settings, pair)
    return CaseScores(pair.name, method, score_fields(image, truth, inside))


def measure_labels(settings: LabelSettings, method: str, pair: Pair) -> CaseScores:
    """Score a label map against the true one."""
    truth = read_labels(pair.truth)
    found = on_one_grid(read_labels(pair.prediction), truth, carry=settings.carry)
    scores, by_label = score_labels(found, truth, settings.labels)
    return CaseScores(pair.name, method, scores, by_label)


def read_label_names(path: Path) -> dict[int, str]:
    """Names of labels from text: a number and a name on each line, separated by space, tab or comma.

    The layout of FreeSurfer's colour tables, and of CSV files whose first two columns are number and name. Lines
    that do not start with a number are headings or comments.

    Raises
    ------
    InputError
        Unreadable, or no line with a number and a name.
    """
    names: dict[int, str] = {}
    for line in read_text(path).splitlines():
        words = line.replace('"', "").split("," if "," in line else None)
        if len(words) >= 2 and words[0].strip().lstrip("-").isdecimal():
            names[int(words[0])] = words[1].strip()
    if not names:
        raise InputError(f"{path}: no line holds a number and a name; is it a table of labels?")
    return names


def measure_all(
    measure: Callable[[str, Pair], CaseScores], method: str, pairs: Sequence[Pair], jobs: int = 1
) -> Iterator[CaseScores]:
    """Score every case; one that cannot be scored is noted and does not stop the others.

    Parameters
    ----------
    measure
        A function of this module with its settings filled in (``functools.partial``).
    method
        Name of the method that made the predictions.
    pairs
        Cases.
    jobs
        Cases side by side.

    Yields
    ------
    CaseScores
        In the order of the cases.
    """
    work = partial(_guarded, partial(measure, method))
    for pair, done in zip(pairs, each(work, pairs, jobs), strict=True):
        yield CaseScores(pair.name, method, fault=done) if isinstance(done, str) else done


def _guarded(measure: Callable[[Pair], CaseScores], pair: Pair) -> CaseScores | str:
    try:
        return measure(pair)
    except NeuralprepError as error:
        return str(error)


def _images(settings: ImageSettings, pair: Pair) -> tuple[Volume, Volume, np.ndarray | None]:
    truth = load(pair.truth, checks=False)
    image = on_one_grid(load(pair.prediction, checks=False), truth, carry=settings.carry, order=1)
    if settings.mask is None:
        return image, truth, None
    path = partner(pair.name, settings.mask, settings.key)
    mask = on_one_grid(read_mask(path), truth, carry=settings.carry)
    if not mask.data.any():
        raise InputError(f"{path}: the mask is empty; there is nothing to average over")
    return image, truth, mask.data
