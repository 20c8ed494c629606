"""Deformable registration: known velocities on the template's brain, symmetry, lesions, contrasts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.registration.deformable import DeformableFit, DeformableSettings, deform
from neuralprep.resample import resample
from neuralprep.templates import load_template
from neuralprep.transform import Affine, Chain, jacobian_determinant
from neuralprep.velocity import Velocity
from neuralprep.volume import Volume

TEMPLATE = load_template()
GRID = Grid((60, 72, 60), np.array([[3.0, 0, 0, -88], [0, 3, 0, -124], [0, 0, 3, -70], [0, 0, 0, 1]]))
QUICK = DeformableSettings(steps=(12, 4))  # enough for what is asked here


def brain(transform: Affine | Velocity | Chain | None = None, *, inverted: bool = False) -> tuple[Volume, Volume]:
    """The template's brain seen through a transform, and its mask."""
    mask = resample(TEMPLATE.brain_mask, GRID, transform, order=0)
    image = resample(TEMPLATE.t1, GRID, transform)
    if inverted:
        image = image.with_data((1.2 - image.data).astype(np.float32))
    return image.with_data(image.data * (mask.data > 0)), mask


def known_velocity(strength_mm: float = 6.0) -> Velocity:
    rng = np.random.default_rng(3)
    grid = Grid((23, 28, 23), np.array([[8.0, 0, 0, -90], [0, 8, 0, -125], [0, 0, 8, -70], [0, 0, 0, 1]]))
    vectors = np.stack([ndimage.gaussian_filter(rng.standard_normal(grid.shape), 2.5) for _ in range(3)], -1)
    return Velocity((strength_mm * vectors / np.abs(vectors).max()).astype(np.float32), grid)


def brain_points() -> np.ndarray:
    return TEMPLATE.gm.grid.voxel_to_world(np.argwhere(TEMPLATE.gm.data > 0.7)[::40])


def error(fit: DeformableFit, truth: Velocity) -> float:
    """Mean distance (mm) in the cortex between the found pull-back and the true one."""
    points = brain_points()
    return float(np.linalg.norm(fit.fixed_from_moving.apply(points) - truth.apply(points), axis=1).mean())


@pytest.mark.parametrize("inverted", [False, True])
def test_a_known_deformation_is_found_whatever_the_contrast(inverted: bool) -> None:
    truth = known_velocity()
    still, moving = brain(truth), brain(inverted=inverted)
    fit = deform(still[0], moving[0], (still[1], moving[1]), Affine.identity(), QUICK)
    points = brain_points()
    at_start = float(np.linalg.norm(truth.apply(points) - points, axis=1).mean())
    assert error(fit, truth) < 0.45 * at_start
    assert fit.correlation > fit.before + 0.1


def test_exchanging_the_images_inverts_the_map_and_nothing_folds() -> None:
    still, moving = brain(known_velocity()), brain()
    affine = Affine(np.array([[1.02, 0.05, 0, 3], [-0.05, 0.98, 0.02, -2], [0, 0, 1.03, 4], [0, 0, 0, 1.0]]))
    there = deform(still[0], moving[0], (still[1], moving[1]), affine, QUICK).fixed_from_moving
    back = deform(moving[0], still[0], (moving[1], still[1]), affine.inverse(), QUICK).fixed_from_moving
    points = brain_points()
    assert np.percentile(np.linalg.norm(back.apply(there.apply(points)) - points, axis=1), 99) < 0.3
    assert np.percentile(np.linalg.norm(there.inverse().apply(there.apply(points)) - points, axis=1), 99) < 0.3
    assert jacobian_determinant(there, GRID)[still[1].data > 0].min() > 0.1


def test_the_same_image_stays_where_it_is() -> None:
    image, mask = brain()
    fit = deform(image, image, (mask, mask), Affine.identity(), QUICK)
    points = brain_points()
    assert np.abs(fit.fixed_from_moving.apply(points) - points).max() < 1e-3


def test_a_stiffer_map_bends_less() -> None:
    still, moving = brain(known_velocity()), brain()
    longest = [
        float(np.abs(deform(still[0], moving[0], (still[1], moving[1]), Affine.identity(),
                            DeformableSettings(stiffness, (12, 0))).velocity.vectors).max())
        for stiffness in (0.0, 0.1, 10.0)
    ]
    assert longest[0] > longest[1] > longest[2]
    assert longest[2] < 0.35 * longest[1]


def test_what_is_cut_out_of_a_mask_has_no_say() -> None:
    """A lesion that only one brain has: with it cut out, the map hardly depends on what it looks like."""
    still, moving = brain(known_velocity()), brain()
    hole = np.zeros(GRID.shape, bool)
    hole[24:34, 40:50, 36:46] = True
    masks = still[1].with_data(np.where(hole, 0, still[1].data).astype(np.uint8)), moving[1]
    black, white = (still[0].with_data(np.where(hole, np.float32(value), still[0].data)) for value in (0.05, 0.9))
    points = brain_points()

    def apart(first: tuple[Volume, Volume], second: tuple[Volume, Volume]) -> float:
        found = [deform(image, moving[0], (mask, moving[1]), Affine.identity(), DeformableSettings(steps=(12, 0)))
                 .fixed_from_moving.apply(points) for image, mask in (first, second)]
        return float(np.linalg.norm(found[0] - found[1], axis=1).mean())

    seen = apart((black, still[1]), (white, still[1]))
    unseen = apart((black, masks[0]), (white, masks[0]))
    assert unseen < 0.5 * seen


def ramp(fixed: np.ndarray, moving: np.ndarray, stiffness: float) -> np.ndarray:
    """A network that says, in each of its voxels, how far that voxel's centre is from the middle of its box."""
    halves = [np.arange(n // 2) - (n // 2 - 1) / 2 for n in fixed.shape]
    return (0.01 * np.stack(np.meshgrid(*halves, indexing="ij"))).astype(np.float32)


def test_what_a_network_says_is_taken_where_it_says_it() -> None:
    image, mask = brain()
    fit = deform(image, image, (mask, mask), Affine.identity(), DeformableSettings(steps=(0, 0)), predict=ramp)
    grid = fit.velocity.grid
    nodes = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))
    apart = fit.velocity.vectors - 0.01 * (nodes - grid.center)
    # the box is whole voxels, so its middle may lie half a fine voxel (1 mm) beside the grid's
    assert np.abs(apart).max() <= 0.01 * 1.01
    assert np.ptp(apart.reshape(-1, 3), axis=0).max() < 1e-5


def test_a_network_sees_upright_brains_in_a_box_it_can_take() -> None:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 35, degrees=True).as_matrix()
    image, mask = (Volume(one.data, Grid(one.grid.shape, turn @ one.grid.affine)) for one in brain())
    shown: list[np.ndarray] = []

    def remember(fixed: np.ndarray, moving: np.ndarray, stiffness: float) -> np.ndarray:
        shown.extend((fixed, moving))
        return np.zeros((3, *(n // 2 for n in fixed.shape)), np.float32)

    settings = DeformableSettings(steps=(0, 0))
    fit = deform(image, image, (mask, mask), Affine.identity(), settings, predict=remember,
                 upright=Affine(turn).inverse())
    points = Affine(turn).apply(brain_points())
    np.testing.assert_allclose(fit.fixed_from_moving.apply(points), points, atol=1e-6)
    np.testing.assert_array_equal(shown[0], shown[1])
    assert all(n % 16 == 0 and n >= 96 for n in shown[0].shape)
    assert shown[0].min() >= 0
    assert shown[0].max() <= 1
    inside = shown[0] > 0
    mirrored = 2 * np.count_nonzero(inside & inside[::-1]) / (2 * np.count_nonzero(inside))
    assert mirrored > 0.9  # a brain that stands askew is not its own mirror image


def test_bad_input_is_refused() -> None:
    image, mask = brain()
    empty = mask.with_data(np.zeros_like(mask.data))
    with pytest.raises(InputError, match="moving"):
        deform(image, image, (mask, empty), Affine.identity(), QUICK)
    with pytest.raises(InputError, match="stiffness"):
        DeformableSettings(float("nan"))
    with pytest.raises(InputError, match="steps"):
        DeformableSettings(steps=(-1, 0))
    with pytest.raises(InputError, match="nothing would bend"):
        deform(image, image, (mask, mask), Affine.identity(), DeformableSettings(steps=(0, 0)))
