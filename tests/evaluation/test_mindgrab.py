"""MindGrab's conforming: FreeSurfer's cube, its 8-bit scale, and the way back to a scan's grid."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.evaluation.mindgrab import conform, conform_affine, quantile_normalize, scale_to_uint8
from neuralprep.grid import Grid


def test_cube_lies_as_freesurfer_puts_it() -> None:
    affine = np.array([[0, 0, 3.0, -80], [-1.5, 0, 0, 120], [0, -0.8, 0, 90], [0, 0, 0, 1]])
    shape = (150, 240, 51)
    cube = Grid((256, 256, 256), conform_affine(shape, affine))
    assert cube.axis_codes == "LIA"
    assert cube.spacing == pytest.approx((1, 1, 1))
    middle = Grid(shape, affine).voxel_to_world(np.asarray(shape) / 2)
    np.testing.assert_allclose(cube.voxel_to_world([128, 128, 128]), middle)


def test_conformed_voxels_show_the_same_place() -> None:
    affine = np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = 30, -20, 5
    ramp = np.fromfunction(lambda i, j, k: 5 * i + 3 * j + k, (40, 44, 36))
    made, cube = conform(ramp, affine)
    chosen = np.array([[20, 21, 18], [10, 30, 8], [5, 8, 30], [30, 5, 20]])
    at = Grid((256, 256, 256), cube).world_to_voxel(Grid(ramp.shape, affine).voxel_to_world(chosen))
    values = made[tuple(np.rint(at).astype(int).T)].astype(float)
    expected = chosen @ [5, 3, 1]
    factor = values / expected  # one scale for all, a little above 255 / max because the top saturates
    np.testing.assert_allclose(factor, factor.mean(), rtol=0.01)
    assert 1 <= factor.mean() / (255 / ramp.max()) < 1.1


def test_scaling() -> None:
    values = np.random.default_rng(0).gamma(2, 50, (30, 30, 30))
    scaled = scale_to_uint8(values)
    assert scaled.max() == 255
    assert 1e-4 < np.mean(values >= values[scaled == 255].min()) < 4e-3
    assert not scale_to_uint8(np.full((3, 3, 3), 7.0)).any()
    normal = quantile_normalize(scaled)
    assert (normal.min(), normal.max()) == (0, pytest.approx(1, abs=1e-3))

