"""Reading the pose off predicted coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.inference.session import Prediction
from neuralprep.stages import look
from neuralprep.stages.conform import WorkingImage
from neuralprep.stages.look import fit_pose, main_component
from neuralprep.transform import Affine


def oracle(grid: Grid, world_from_template: Affine, noise: float = 0.0) -> tuple[Prediction, WorkingImage, np.ndarray]:
    """The prediction of a perfect network for a ball-shaped brain, with noise in its coordinates (mm)."""
    rng = np.random.default_rng(0)
    coarse = tuple(n // 4 for n in grid.shape)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in coarse], indexing="ij"), -1) * 4 + 1.5
    template = world_from_template.inverse().apply(grid.voxel_to_world(index))
    coordinates = np.moveaxis(template, -1, 0) + rng.normal(0, noise, (3, *coarse))
    full = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    radius = np.linalg.norm(grid.voxel_to_world(full) - world_from_template.apply([[0, -18, 4]]), axis=-1)
    distance = (radius - 70).astype(np.float32)
    half = tuple(n // 2 for n in grid.shape)
    flat = np.zeros(half, np.float32)
    prediction = Prediction(np.stack([distance, distance]), coordinates.astype(np.float32), flat, flat)
    image = np.zeros(grid.shape, np.float32)
    return prediction, WorkingImage(image, grid, 0.0, 1.0, np.ones(grid.shape, bool)), distance < 0


def rotated(degrees: float, shift: tuple[float, float, float]) -> Affine:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([0.9, 1.05, 1.0])
    matrix[:3, 3] = shift
    return Affine(matrix)


@pytest.mark.parametrize("degrees", [0, 40, 170])
def test_pose_is_recovered_on_an_oblique_grid(degrees: float) -> None:
    truth = rotated(degrees, (12, -7, 20))
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, :3] = affine[:3, :3] @ rotated(25, (0, 0, 0)).matrix[:3, :3] @ np.diag([1 / 0.9, 1 / 1.05, 1])
    affine[:3, 3] = truth.apply([[0, -18, 4]])[0] - affine[:3, :3] @ np.full(3, 23.5)
    prediction, working, mask = oracle(Grid((48, 48, 48), affine), truth)
    fitted, residual = fit_pose(prediction, working, mask)
    points = np.random.default_rng(1).uniform(-70, 70, (50, 3))
    assert fitted.distance(truth, points) < 0.01
    assert residual < 0.01


def test_outliers_hardly_move_the_pose() -> None:
    truth = rotated(10, (0, 0, 0))
    prediction, working, mask = oracle(Grid.centered((48, 48, 48), 4.0), truth, noise=1.0)
    coordinates = prediction.coordinates.copy()
    coordinates[:, 11:] += 40  # a lesion, or a part of the head read wrongly
    fitted, _ = fit_pose(prediction._replace(coordinates=coordinates), working, mask)
    points = np.random.default_rng(1).uniform(-60, 60, (50, 3))
    assert fitted.distance(truth, points) < 2.5


def test_a_mirrored_answer_becomes_the_proper_pose() -> None:
    truth = rotated(150, (5, 8, -3))
    prediction, working, mask = oracle(Grid.centered((48, 48, 48), 4.0), truth)
    coordinates = prediction.coordinates * np.array([-1, 1, 1], np.float32)[:, None, None, None]
    fitted, _ = fit_pose(prediction._replace(coordinates=coordinates), working, mask)
    points = np.random.default_rng(1).uniform(-60, 60, (50, 3))
    assert fitted.distance(truth, points) < 0.01
    assert np.linalg.det(fitted.matrix[:3, :3]) > 0


def test_noise_and_absence_give_no_pose_instead_of_a_wild_one() -> None:
    prediction, working, mask = oracle(Grid.centered((48, 48, 48), 4.0), Affine.identity())
    nothing = fit_pose(prediction, working, np.zeros_like(mask))
    assert nothing[1] == np.inf
    noise = np.random.default_rng(0).normal(0, 3, prediction.coordinates.shape).astype(np.float32)
    assert fit_pose(prediction._replace(coordinates=noise), working, mask)[1] == np.inf


def test_turned_grids_lie_over_the_same_box_in_every_orientation() -> None:
    grid = Grid.centered((80, 128, 96), 2.0, (4.0, -7.0, 11.0))
    turned = look._turned(grid)
    assert len({tuple(np.rint(one.affine[:3, :3]).ravel()) for one in (grid, *turned)}) == 24
    for one in turned:
        for bound in (np.min, np.max):
            assert bound(one.corners(), axis=0) == pytest.approx(bound(grid.corners(), axis=0))


def test_main_component_keeps_the_largest() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[2:10, 2:10, 2:10] = True
    mask[15:18, 15:18, 15:18] = True
    kept = main_component(mask)
    assert kept.sum() == 512
    assert not kept[16, 16, 16]
    assert not main_component(np.zeros((5, 5, 5), bool)).any()
