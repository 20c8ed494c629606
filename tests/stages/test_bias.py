"""Refinement of the gain: known fields on a template-shaped brain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.distance import signed_distance
from neuralprep.inference.session import Prediction
from neuralprep.resample import resample
from neuralprep.stages.bias import refine_log_gain, smooth_log_gain
from neuralprep.stages.conform import CLOSE_SHAPE, WorkingImage, close_grid
from neuralprep.stages.look import Look
from neuralprep.templates import load_structures, load_template
from neuralprep.transform import Affine

TEMPLATE = load_template()
STRUCTURES = load_structures()
GRID = close_grid(Affine.identity())
HALF = tuple(n // 2 for n in CLOSE_SHAPE)
LEVELS = {"T1w": (0.55, 0.8, 0.2), "T2w": (0.45, 0.3, 0.9), "FLAIR": (0.62, 0.5, 0.12)}


def tissue_image(look: str) -> np.ndarray:
    """A head with the template's anatomy on the working grid; one tissue a voxel, as the average of many is blurred."""
    fractions = np.stack([resample(v, GRID).data for v in (TEMPLATE.gm, TEMPLATE.wm, TEMPLATE.csf)])
    return np.where(fractions.sum(0) > 0.5, np.asarray(LEVELS[look])[fractions.argmax(0)], 0.0)


def field(strength: float) -> np.ndarray:
    """A smooth log bias over the working grid."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in CLOSE_SHAPE], indexing="ij")
    return strength * (0.6 * x - 0.8 * y * z + 0.5 * z**2 + 0.4 * np.sin(2 * x + y))


def make_look(log_bias: np.ndarray, look: str = "T1w", noise: float = 0.02) -> Look:
    mask = resample(TEMPLATE.brain_mask, GRID, order=0).data > 0
    distance = signed_distance(mask, (2.0, 2.0, 2.0))
    rng = np.random.default_rng(0)
    image = tissue_image(look) * np.exp(log_bias) + noise * rng.standard_normal(CLOSE_SHAPE)
    image = np.clip(image / np.percentile(image, 99.5), 0, 1).astype(np.float32)
    prediction = Prediction(np.stack([distance, distance]), np.zeros((3, 24, 28, 24), np.float32),
                            np.zeros(HALF, np.float32), np.zeros(HALF, np.float32))
    working = WorkingImage(image, GRID, 0.0, 1.0, np.ones(CLOSE_SHAPE, bool))
    return Look(working, prediction, Affine.identity(), 1.0, 1500.0)


def residual(found: Look, log_bias: np.ndarray, lam: float = 0.1) -> float:
    """Spread, inside the brain, of the refined log gain plus the log bias that it should cancel."""
    refined, done = refine_log_gain(found, Affine.identity(), STRUCTURES, lam)
    assert done
    coarse = log_bias.reshape(HALF[0], 2, HALF[1], 2, HALF[2], 2).mean((1, 3, 5))
    inside = found.prediction.distances[1][::2, ::2, ::2] < -6
    return float((refined + coarse)[inside].std())


@pytest.mark.parametrize("look", sorted(LEVELS))
@pytest.mark.parametrize("strength", [0.1, 0.4])
def test_a_known_field_is_recovered_in_every_contrast(look: str, strength: float) -> None:
    log_bias = field(strength)
    left = residual(make_look(log_bias, look), log_bias)
    inside = make_look(log_bias).prediction.distances[1] < -6
    assert left < 0.12 * log_bias[inside].std() + 0.012


def test_an_unbiased_image_is_left_alone() -> None:
    nothing = np.zeros(CLOSE_SHAPE)
    assert residual(make_look(nothing), nothing) < 0.012


def test_larger_lambda_gives_a_stiffer_field() -> None:
    log_bias = field(0.4)
    found = make_look(log_bias)
    left = [residual(found, log_bias, lam) for lam in (0.1, 100.0, 100_000.0)]
    assert left[0] < left[1] < left[2]


def test_a_lesion_does_not_bend_the_field() -> None:
    log_bias = field(0.2)
    found = make_look(log_bias)
    image = found.working.image.copy()
    image[30:42, 50:62, 50:60] = 0.98  # 12 ml of something very bright
    damaged = Look(WorkingImage(image, GRID, 0.0, 1.0, found.working.visible), found.prediction, Affine.identity(), 1.0,
                   1500.0)
    assert residual(damaged, log_bias) < residual(found, log_bias) + 0.02


def test_without_tissue_the_smoothed_network_field_is_used() -> None:
    found = make_look(np.zeros(CLOSE_SHAPE))
    dark = Look(WorkingImage(np.zeros(CLOSE_SHAPE, np.float32), GRID, 0.0, 1.0, found.working.visible),
                found.prediction, Affine.identity(), 1.0, 1500.0)
    field, done = refine_log_gain(dark, Affine.identity(), STRUCTURES, 0.1)
    assert not done
    assert np.array_equal(field, smooth_log_gain(dark))


@pytest.mark.parametrize("look", sorted(LEVELS))
def test_structures_of_another_brightness_are_not_taken_for_a_field(look: str) -> None:
    """Cerebellum 15 % brighter, deep nuclei 12 % darker than what the rest of the brain has: anatomy, not bias."""
    found = make_look(np.zeros(CLOSE_SHAPE), look)
    index = STRUCTURES.grid.world_to_voxel(GRID.voxel_to_world(np.indices(CLOSE_SHAPE).reshape(3, -1).T)).T
    shares = {name: ndimage.map_coordinates(one, index, order=1, mode="nearest").reshape(CLOSE_SHAPE)
              for name, one in zip(STRUCTURES.names, STRUCTURES.shares, strict=True)}
    change = np.zeros(CLOSE_SHAPE)
    for name, by in {"cerebellar_gm": 0.15, "cerebellar_wm": 0.15, "thalamus": -0.12, "striatum": -0.12}.items():
        change[shares[name] > 0.5] = by
    image = np.clip(0.8 * found.working.image * np.exp(change), 0, 1).astype(np.float32)
    working = WorkingImage(image, GRID, 0.0, 1.0, found.working.visible)
    other = Look(working, found.prediction, Affine.identity(), 1.0, 1500.0)
    assert residual(other, np.zeros(CLOSE_SHAPE)) < 0.02

