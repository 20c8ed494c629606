"""Cormack units there and back, the classical stripper on a made-up head and on the public CT template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuralprep.evaluation.ct import hounsfield_from_cormack, threshold_strip
from neuralprep.evaluation.overlap import dice
from neuralprep.grid import Grid
from neuralprep.volume import Volume, load


def cormack(hounsfield: np.ndarray) -> np.ndarray:
    """The forward rule in other words: count from -1000; each unit between -100 and 100 counts eleven times."""
    above = np.maximum(hounsfield + 1000, 0)
    return above + 10 * np.clip(above - 900, 0, 200)


def test_units_go_back() -> None:
    hounsfield = np.array([-1000, -500, -100, -99, 0, 30, 60, 100, 101, 800, 2000], float)
    np.testing.assert_allclose(hounsfield_from_cormack(cormack(hounsfield)), hounsfield, atol=1e-3)
    assert hounsfield_from_cormack([-50.0]) == -1000


def test_a_made_up_head() -> None:
    position = np.stack(np.meshgrid(*[np.linspace(-100, 100, 67)] * 3, indexing="ij"), -1)
    radius = np.linalg.norm(position / [1, 1.1, 0.9], axis=-1)
    image = np.full(radius.shape, -1000.0)
    for outer, value in ((85, 40), (78, -90), (74, 900), (68, 8), (66, 35)):  # skin, fat, bone, fluid, brain
        image[radius < outer] = value
    hole = (np.abs(position[..., :2]) < 2).all(-1) & (position[..., 2] < -40) & (radius < 85)
    image[hole] = 35  # a vessel that joins brain and skin
    image += np.random.default_rng(0).normal(0, 5, image.shape)
    grid = Grid(radius.shape, np.diag([200 / 66] * 3 + [1.0]))
    found = threshold_strip(Volume(image.astype(np.float32), grid))
    assert dice(found.data, radius < 68) > 0.93
    air = Volume(np.full((20, 20, 20), -1000, np.float32), Grid((20, 20, 20), np.eye(4)))
    assert not threshold_strip(air).data.any()


def test_the_public_template(shared_data: Path) -> None:
    head, brain = (shared_data / "templates" / name for name in ("scct_2mm.nii.gz", "scct_stripped_2mm.nii.gz"))
    if not (head.is_file() and brain.is_file()):
        pytest.skip("the CT template is not here")
    scan = load(head)
    scan = scan.with_data(hounsfield_from_cormack(scan.data))
    truth = load(brain, checks=False).data > 1000  # its edge is blurred: half of the brain's value, not zero
    assert scan.data.min() == -1000
    assert 20 < np.median(scan.data[truth]) < 60
    score = dice(threshold_strip(scan).data, truth)
    assert 0.8 < score < 0.93
    assert dice(threshold_strip(scan, opening_mm=9.0).data, truth) > score  # the bridges are wide
