"""Affine: from the network's pose to a fit against the template, and a search where that fit is poor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from neuralprep.registration.affine import LOWEST_GOOD_SCORE, Target, prepare_target, refine, search
from neuralprep.stages.look import Look, main_component
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume


@dataclass(frozen=True, eq=False)
class TemplateFit:
    """``template_from_scan`` (pull-back, template mm -> scan mm), its score in 0-1 and how it was found."""

    template_from_scan: Affine
    score: float
    method: str

    @property
    def good(self) -> bool:
        """Whether the score is one that wrong poses do not reach."""
        return self.score >= LOWEST_GOOD_SCORE


def brain_for_registration(found: Look) -> Volume:
    """The normalised brain on the working grid: chi times the image, zero outside the inner skull."""
    head = normalised_head(found)
    return head.with_data(np.where(inside_skull(found), head.data, np.float32(0)))


def normalised_head(found: Look) -> Volume:
    """The working image times the network's gain, with everything around the brain."""
    gain = np.exp(found.prediction.log_gain)
    for axis in range(3):
        gain = np.repeat(gain, 2, axis=axis)
    return Volume((gain * found.working.image).astype(np.float32), found.working.grid)


def inside_skull(found: Look) -> NDArray[np.bool_]:
    """Where the brain is, of what the scan shows."""
    return main_component(found.prediction.distances[1] < 0) & found.working.visible


def fit_template(found: Look, space: str) -> TemplateFit:
    """Refine the network's pose against the template's tissue fractions; search all rotations if the score is poor."""
    brain = brain_for_registration(found)
    target = _target(space)
    best = refine(target, brain, found.world_from_template, criterion="tissue")
    method = "network"
    if best.score < LOWEST_GOOD_SCORE:
        for start in search(target, brain, criterion="tissue", candidates=2):
            fit = refine(target, brain, start.transform, criterion="tissue")
            if fit.score > best.score + 0.01:
                best, method = fit, "search"
    return TemplateFit(best.transform, best.score, method)


@lru_cache(maxsize=2)
def _target(space: str) -> Target:
    """The template prepared for fitting; kept, because every scan of a batch needs it."""
    template = load_template(space)
    return prepare_target([template.gm, template.wm, template.csf], template.brain_mask)
