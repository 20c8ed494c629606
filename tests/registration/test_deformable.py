"""Deformable registration: known velocities on the template's brain, symmetry, lesions, contrasts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.registration.deformable import DeformableFit, DeformableSettings, deform, halves
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


@pytest.mark.parametrize("degrees", [0.0, 10.0, 120.0, 179.0])
def test_halves_make_the_whole_and_are_inverse_when_exchanged(degrees: float) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix() @ np.diag(
        [1.1, 0.9, 1.05])
    matrix[:3, 3] = (20, -30, 5)
    first, second = halves(Affine(matrix))
    np.testing.assert_allclose(second.matrix @ first.matrix, matrix, atol=1e-6)
    other = halves(Affine(np.linalg.inv(matrix)))[0]
    np.testing.assert_allclose(other.matrix @ first.matrix, np.eye(4), atol=1e-6)


def test_half_of_half_a_turn_is_left_to_one_side() -> None:
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
    first, second = halves(Affine(matrix))
    np.testing.assert_allclose(second.matrix @ first.matrix, matrix, atol=1e-9)


def test_bad_input_is_refused() -> None:
    image, mask = brain()
    empty = mask.with_data(np.zeros_like(mask.data))
    with pytest.raises(InputError, match="moving"):
        deform(image, image, (mask, empty), Affine.identity(), QUICK)
    with pytest.raises(InputError, match="stiffness"):
        DeformableSettings(float("nan"))
    with pytest.raises(InputError, match="steps"):
        DeformableSettings(steps=(0, 0))
