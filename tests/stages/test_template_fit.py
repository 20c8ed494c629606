"""The fit of a look's brain to the template: outer fluid, which the template's brain lacks, must not draw it in."""

from __future__ import annotations

import numpy as np

from neuralprep.distance import signed_distance
from neuralprep.inference.session import Prediction
from neuralprep.resample import resample
from neuralprep.stages.affine import brain_for_registration, fit_template
from neuralprep.stages.conform import CLOSE_SHAPE, WorkingImage, close_grid
from neuralprep.stages.look import Look
from neuralprep.templates import load_template
from neuralprep.transform import Affine

RIM_MM = 6.0
"""Fluid between the brain and the skull."""


def look_at_template(fluid: float, tissue_known: bool = True) -> Look:
    """The template's brain in fluid of a brightness, where it lies; without tissue known all of it is called brain."""
    template, grid = load_template(), close_grid(Affine.identity())
    parts = (template.gm, template.wm, template.csf, template.brain_mask)
    gm, wm, csf, mask = (resample(part, grid).data for part in parts)
    distance = signed_distance(mask > 0.5, grid.spacing)
    skull = distance - RIM_MM
    image = 0.6 * gm + 0.4 * wm + fluid * csf
    image = np.where((distance > 0) & (skull < 0), fluid, image).astype(np.float32)
    half, quarter = (tuple(n // k for n in CLOSE_SHAPE) for k in (2, 4))
    nothing = np.zeros(half, np.float32)
    distances = np.stack([distance if tissue_known else skull, skull])
    prediction = Prediction(distances, np.zeros((3, *quarter), np.float32), nothing, nothing)
    working = WorkingImage(image, grid, 0.0, 1.0, np.ones(grid.shape, bool))
    return Look(working, prediction, Affine.identity(), 1.0, 1500.0)


def error_mm(look: Look) -> float:
    mask = load_template().brain_mask
    points = mask.grid.voxel_to_world(np.argwhere(mask.data)[::2000])
    fit = fit_template(look, "MNI152NLin2009aSym")
    assert fit.good
    return fit.template_from_scan.distance(Affine.identity(), points)


def test_dark_fluid_does_no_harm() -> None:
    assert error_mm(look_at_template(0.0)) < 0.5


def test_bright_outer_fluid_draws_the_fit_in_no_more_than_its_rim_does() -> None:
    assert error_mm(look_at_template(1.0)) < 0.5 * error_mm(look_at_template(1.0, tissue_known=False))


def test_what_is_fitted_ends_two_millimetres_beyond_the_brain() -> None:
    look = look_at_template(1.0)
    kept = brain_for_registration(look).data != 0
    distance = look.prediction.distances[0]
    assert kept[(distance > -2) & (distance < 2)].all()
    assert not kept[distance >= 2].any()
