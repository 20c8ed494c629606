"""Labels on any grid reach the scan's grid whole, and masks united with them stay consistent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.stages.brain import DISTANCE_LIMIT_MM, Brain, brain_from_mask, with_kept
from neuralprep.stages.keep import label_on_grid
from neuralprep.volume import Volume, load
from samples import affine_matrix

SCAN = Grid.centered((60, 64, 56), 2.0, (3, -4, 2))


def points(grid: Grid) -> np.ndarray:
    return grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))


def ball(grid: Grid, center: tuple[float, ...], radius: float) -> Volume:
    inside = np.linalg.norm(points(grid) - center, axis=-1) < radius
    return Volume(inside.astype(np.uint8), grid)


@settings(max_examples=30, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.6, 6.0)] * 3),
    turn=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    seed=st.integers(0, 99),
)
def test_no_point_of_a_label_is_lost_on_any_grid(
    spacing: tuple[float, ...], turn: tuple[float, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = affine_matrix(turn, spacing, (0, 0, 0))
    matrix[:3, 3] = -matrix[:3, :3] @ [4, 4, 4] + rng.uniform(-15, 15, 3)
    grid = Grid((9, 9, 9), matrix)
    marked = rng.random(grid.shape) < 0.03
    marked[4, 4, 4] = True
    kept, outside = label_on_grid(Volume(marked.astype(np.float32), grid), SCAN)
    assert outside == 0
    centers = np.argwhere(marked)
    anywhere = centers[rng.integers(len(centers), size=500)] + rng.uniform(-0.4, 0.4, (500, 3))
    for voxels in (centers, anywhere):  # the very definition: the voxel that holds a point of the label is kept
        x, y, z = np.rint(SCAN.world_to_voxel(grid.voxel_to_world(voxels))).astype(int).T
        assert kept[x, y, z].all()
    # and little else: every voxel kept lies within half of three fine steps (0.45 voxels) of a voxel of the label
    back = grid.world_to_voxel(SCAN.voxel_to_world(np.argwhere(kept)))
    step = np.abs(np.linalg.inv(matrix)[:3, :3] @ SCAN.affine[:3, :3])
    reach = 0.5 + (0.5 + 0.45) * step.sum(1)
    near = (np.abs(back[:, None] - centers[None]) <= reach + 0.01).all(2).any(1)
    assert near.all()


def test_on_the_same_grid_the_label_stays_as_it_is() -> None:
    label = ball(SCAN, (10, 0, 0), 7)
    assert np.array_equal(label_on_grid(label, SCAN).voxels, label.data > 0)
    affine = SCAN.affine.copy()
    affine[:3, 3] += (2, 0, -2)
    shifted = Volume(label.data, Grid(SCAN.shape, affine))
    moved = label_on_grid(shifted, SCAN).voxels  # by one voxel: copied, not smeared
    assert moved.sum() == label.data.sum()


def test_labels_outside_are_counted_or_refused() -> None:
    grid = Grid.centered((40, 40, 40), 2.0, (60, 0, 0))
    half = label_on_grid(ball(grid, (62, 0, 0), 8), SCAN)  # the scan ends at x = 62
    assert 0 < half.outside < ball(grid, (62, 0, 0), 8).data.sum()
    assert half.voxels.any()
    far = Grid.centered((20, 20, 20), 2.0, (300, 0, 0))
    with pytest.raises(InputError, match="lies outside the scan"):
        label_on_grid(ball(far, (300, 0, 0), 5), SCAN)
    empty = label_on_grid(Volume(np.zeros((9, 9, 9), np.uint8), Grid.centered((9, 9, 9), 3.0)), SCAN)
    assert not empty.voxels.any()


def a_brain(radius: float = 40.0, border: float = 0.0) -> Brain:
    """A ball whose mask and distance agree at a border."""
    distance = (np.linalg.norm(points(SCAN), axis=-1) - radius).astype(np.float32)
    limited = np.clip(distance, -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)

    def volume(values: np.ndarray) -> Volume:
        return Volume(values, SCAN)

    tissue = np.clip(distance + 5, -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM)
    return Brain(volume((limited <= border).astype(np.uint8)), volume(limited),
                 volume((tissue <= 0).astype(np.uint8)), volume(tissue), 0.0)


@pytest.mark.parametrize("border", [0.0, 3.0, -4.0])
@pytest.mark.parametrize("center", [(40, 0, 0), (0, 41, 10), (0, 0, 0), (0, 0, -52)])
def test_a_sphere_across_the_surface_is_kept_and_the_distance_follows(border: float, center: tuple[float, ...]) -> None:
    brain = a_brain(border=border)
    lesion = ball(SCAN, center, 8).data > 0
    made = with_kept(brain, lesion, border)
    assert np.array_equal(made.mask.data > 0, (brain.mask.data > 0) | lesion)
    assert np.array_equal(made.distance.data <= border, made.mask.data > 0)
    assert np.array_equal(made.nocsf_distance.data <= 0, made.nocsf_mask.data > 0)
    assert not (lesion & (made.nocsf_mask.data == 0)).any()
    assert (made.distance.data <= brain.distance.data + 1e-6).all()
    assert np.abs(made.distance.data).max() <= DISTANCE_LIMIT_MM
    if border == 0 and center == (40, 0, 0):
        # distances to a union of two balls are known outside of it
        r = points(SCAN)
        truth = np.minimum(np.linalg.norm(r, axis=-1) - 40, np.linalg.norm(r - center, axis=-1) - 8)
        outside = (truth > 2) & (truth < 12)
        assert np.abs(made.distance.data - truth)[outside].max() < 1.6  # a voxel is 2 mm


def test_nothing_to_keep_changes_nothing() -> None:
    brain = a_brain()
    assert with_kept(brain, np.zeros(SCAN.shape, bool)) is brain
    inside = with_kept(brain, ball(SCAN, (0, 0, 0), 6).data > 0)
    assert np.array_equal(inside.mask.data, brain.mask.data)


def test_a_real_lesion_is_kept_whole_at_any_resolution(shared_data: Path) -> None:
    scan = load(shared_data / "heads" / "clinicaltbx_stroke_T2w_1mm.nii.gz")
    lesion = load(shared_data / "heads" / "clinicaltbx_stroke_lesion.nii.gz", checks=False)
    marked = lesion.data > 0
    assert np.array_equal(label_on_grid(lesion, scan.grid).voxels, marked)
    coarse = scan.grid.with_spacing((2.0, 3.0, 5.0))
    kept = label_on_grid(lesion, coarse).voxels
    x, y, z = np.rint(coarse.world_to_voxel(scan.grid.voxel_to_world(np.argwhere(marked)))).astype(int).T
    assert kept[x, y, z].all()
    half_a_brain = scan.with_data((np.indices(scan.grid.shape)[0] < scan.grid.shape[0] // 2).astype(np.uint8))
    made = with_kept(brain_from_mask(half_a_brain, None), marked)
    assert made.mask.data[marked].all()
    assert np.array_equal(made.distance.data <= 0, made.mask.data > 0)
