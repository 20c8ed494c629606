"""Fits of the template to itself, drawn in several contrasts on awkward grids with known affines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuralprep.errors import GeometryError, InputError
from neuralprep.grid import Grid
from neuralprep.registration.affine import (
    LOWEST_GOOD_SCORE,
    Target,
    align,
    prepare_target,
    refine,
    search,
)
from neuralprep.resample import resample
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume
from samples import affine_matrix

CONTRASTS = {"T1w": (0.6, 1.0, 0.2), "T2w": (0.6, 0.4, 1.0), "FLAIR": (0.9, 0.7, 0.1), "flat": (0.5, 0.5, 0.4)}


@pytest.fixture(scope="module")
def tissue_target() -> Target:
    template = load_template()
    return prepare_target([template.gm, template.wm, template.csf], template.brain_mask)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    mask = load_template().brain_mask
    return mask.grid.voxel_to_world(np.argwhere(mask.data)[::2000])


def head(contrast: str, truth: Affine, seed: int = 0, spacing: tuple[float, ...] = (-1.9, 2.1, 3.0)) -> Volume:
    """The template brain in a contrast, seen by a scanner for which `truth` maps template mm to scan mm."""
    template = load_template()
    parts = zip(CONTRASTS[contrast], (template.gm, template.wm, template.csf), strict=True)
    drawn = Volume(np.sum([weight * part.data for weight, part in parts], axis=0, dtype=np.float32), template.t1.grid)
    center = truth.apply(template.t1.grid.center)
    affine = affine_matrix((0.1, -0.2, 0.15), spacing, (0, 0, 0))
    shape = tuple(round(230 / abs(size)) for size in spacing)
    affine[:3, 3] = center - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    seen = resample(drawn, Grid((shape[0], shape[1], shape[2]), affine), truth.inverse())
    noise = np.random.default_rng(seed).normal(0, 0.03, seen.data.shape).astype(np.float32)
    return seen.with_data(np.where(seen.data > 0.05, seen.data + noise, 0).astype(np.float32))


def pose(seed: int, degrees: float, stretch: bool = True) -> Affine:
    """Rotation about a random axis, per-axis scales 0.85 to 1.2, shears, translation: template mm -> scan mm."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    linear = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    if stretch:
        shape = np.diag(rng.uniform(0.85, 1.2, 3))
        shape[np.triu_indices(3, 1)] = rng.uniform(-0.08, 0.08, 3)
        linear = linear @ shape
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = rng.uniform(-40, 40, 3)
    return Affine(matrix)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("contrast", list(CONTRASTS))
def test_known_affines_are_recovered(contrast: str, seed: int, tissue_target: Target, points: np.ndarray) -> None:
    truth = pose(seed, degrees=30)
    fit = align(tissue_target, head(contrast, truth, seed), criterion="tissue")
    assert fit.transform.distance(truth, points) < 0.7
    # Where grey and white matter look alike there is less to correlate inside the brain.
    assert fit.score > (LOWEST_GOOD_SCORE if contrast != "flat" else 0.2)
    assert fit.objective > 0.8


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [45, 90, 135, 180])
def test_any_orientation_is_found(axis: int, degrees: int, tissue_target: Target, points: np.ndarray) -> None:
    turn = Rotation.from_rotvec(np.radians(degrees) * np.eye(3)[axis]).as_matrix()
    truth = Affine(np.block([[0.9 * turn, np.full((3, 1), 12.0)], [np.zeros((1, 3)), np.ones((1, 1))]]))
    fit = align(tissue_target, head("T2w", truth), criterion="tissue")
    assert fit.transform.distance(truth, points) < 0.7


def test_t1_to_the_t1_template(points: np.ndarray) -> None:
    template, truth = load_template(), pose(5, degrees=20)
    fit = refine(template.t1, head("T1w", truth), Affine.identity(), fixed_mask=template.brain_mask)
    aligned = align(template.t1, head("T1w", truth), fixed_mask=template.brain_mask, n=0)
    assert fit.transform.distance(truth, points) < 1.0
    assert aligned.transform.distance(truth, points) < 1.0
    assert aligned.method.startswith("header orientation, then affine fit (ncc)")


def test_fractions_to_fractions(points: np.ndarray) -> None:
    template, truth = load_template(), pose(6, degrees=25)
    fixed = [template.gm, template.wm]
    grid = Grid.centered((90, 90, 70), (2.2, 2.4, 3.0), truth.apply(template.t1.grid.center), codes="LIA")
    moving = [resample(volume, grid, truth.inverse()) for volume in fixed]
    fit = align(fixed, moving, fixed_mask=template.brain_mask, n=0)
    assert fit.transform.distance(truth, points) < 0.5
    assert fit.score > 0.9


def test_masks_alone_give_the_outline(points: np.ndarray) -> None:
    mask, truth = load_template().brain_mask, pose(7, degrees=20)
    grid = Grid.centered((90, 90, 90), 2.5, truth.apply(mask.grid.center))
    fit = align(mask, resample(mask, grid, truth.inverse(), order=0), n=0)
    assert fit.transform.distance(truth, points) < 2.0
    assert fit.score == 0.0


def test_registering_an_image_to_itself_is_the_identity(points: np.ndarray) -> None:
    template = load_template()
    fit = align(template.t1, template.t1)
    assert fit.transform.distance(Affine.identity(), points) < 0.1


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_restricted_kinds(kind: str, tissue_target: Target, points: np.ndarray) -> None:
    truth = pose(8, degrees=15, stretch=False)
    fit = refine(tissue_target, head("T1w", truth), Affine.identity(), kind=kind, criterion="tissue")  # type: ignore[arg-type]
    assert fit.transform.distance(truth, points) < 0.7
    linear = fit.transform.matrix[:3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    np.testing.assert_allclose(linear.T @ linear, np.eye(3) * scale**2, atol=1e-9)
    assert scale == pytest.approx(1.0, abs=1e-9 if kind == "rigid" else 0.01)


def test_search_returns_distinct_answers_best_first(tissue_target: Target, points: np.ndarray) -> None:
    truth = pose(9, degrees=120, stretch=False)
    found = search(tissue_target, head("FLAIR", truth), criterion="tissue")
    assert found[0].transform.distance(truth, points) < 3.0
    assert all(other.transform.distance(truth, points) > 10.0 for other in found[1:])
    assert all(other.score < found[0].score for other in found[1:])


def test_given_starts_and_centres_are_used(tissue_target: Target, points: np.ndarray) -> None:
    truth = pose(10, degrees=100)
    moving = head("T1w", truth)
    near = Affine(truth.matrix @ affine_matrix((0.1, 0, 0.1), (1, 1, 1), (5.0, 0, 0)))
    fit = align(tissue_target, moving, starts=[near], criterion="tissue", n=0)
    assert fit.transform.distance(truth, points) < 0.7
    assert fit.method.startswith("given start")
    wrong = search(tissue_target, moving, moving_center=truth.apply([[0, -18, 20]])[0] + 300, criterion="tissue")
    assert wrong[0].transform.distance(truth, points) > 50


@pytest.mark.parametrize("side", [slice(0, 56), slice(20, None)])
def test_a_brain_cut_by_the_field_of_view(side: slice, tissue_target: Target, points: np.ndarray) -> None:
    truth = pose(11, degrees=15)
    whole = head("T1w", truth)
    start, stop, _ = side.indices(whole.grid.shape[2])
    shape = (*whole.grid.shape[:2], stop)
    part = whole.cropped((0, 0, start), shape)
    fit = align(tissue_target, part, criterion="tissue")
    assert fit.transform.distance(truth, points) < 1.5


def test_same_input_same_bytes(tissue_target: Target) -> None:
    moving = head("T2w", pose(12, degrees=60))
    first, second = (align(tissue_target, moving, criterion="tissue") for _ in range(2))
    np.testing.assert_array_equal(first.transform.matrix, second.transform.matrix)
    assert first.score == second.score


def test_what_cannot_be_registered_is_said(tissue_target: Target) -> None:
    template = load_template()
    with pytest.raises(InputError, match="zero everywhere"):
        align(tissue_target, template.t1.with_data(np.zeros_like(template.t1.data)), criterion="tissue")
    with pytest.raises(InputError, match="one moving image"):
        align(tissue_target, [template.gm, template.wm], criterion="tissue")
    with pytest.raises(InputError, match="3 fixed and 1 moving"):
        align(tissue_target, template.t1)
    with pytest.raises(InputError, match="no such kind"):
        refine(tissue_target, template.t1, Affine.identity(), kind="projective", criterion="tissue")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no such criterion"):
        refine(tissue_target, template.t1, Affine.identity(), criterion="nmi")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="already has its mask"):
        align(tissue_target, template.t1, fixed_mask=template.brain_mask, criterion="tissue")
    with pytest.raises(InputError, match="levels at 6 mm"):
        refine(tissue_target, template.t1, Affine.identity(), spacings=(6,), criterion="tissue")
    with pytest.raises(InputError, match="no image"):
        align([], template.t1)
    other = template.brain_mask.cropped((0, 0, 0), (90, 117, 95))
    with pytest.raises(GeometryError, match="different grids"):
        align(template.t1, template.t1, fixed_mask=other)
