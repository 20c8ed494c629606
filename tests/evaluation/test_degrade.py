"""Every fault does what it says, and carries the reference mask with it."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.evaluation import degrade
from neuralprep.evaluation.overlap import dice
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.volume import Volume

SHAPE = (48, 56, 40)
AFFINE = np.array([[0, 0, 2.2, -40], [-2.0, 0, 0, 50], [0, 1.8, 0, -45], [0, 0, 0, 1]])


def head() -> tuple[Volume, Volume]:
    position = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"), -1)
    radius = np.linalg.norm(position, axis=-1)
    rng = np.random.default_rng(0)
    image = np.where(radius < 0.9, 300 + rng.normal(0, 5, SHAPE), 0) + np.where(radius < 0.6, 200, 0)
    grid = Grid(SHAPE, AFFINE)
    return Volume(image.astype(np.float32), grid), Volume(radius < 0.6, grid)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices(axis: int) -> None:
    scan, mask = head()
    made, carried = degrade.thick_slices(scan, mask, axis)
    assert made.grid.spacing[axis] == pytest.approx(5)
    assert made.grid.same_as(carried.grid)
    assert np.linalg.norm(made.grid.center - scan.grid.center) < 5
    back = resample(carried, scan.grid, order=0)
    assert dice(back.data, mask.data) > 0.9
    # averaged, not picked: the noise within the brain falls with the number of slices in each new one
    inner = np.linalg.norm(carried.grid.voxel_to_world(np.argwhere(carried.data)) - scan.grid.center, axis=1) < 15
    noise = made.data[carried.data][inner].std()
    assert 0.3 < noise / 5 < 0.9


def test_noise_bias_and_gamma() -> None:
    scan, mask = head()
    level = np.percentile(scan.data[mask.data], 90)
    noisy, same = degrade.noisy(scan, mask, 8.0)
    assert same is mask
    assert (noisy.data - scan.data)[mask.data].std() == pytest.approx(0.08 * level, rel=0.03)
    assert noisy.data[scan.data == 0].mean() == pytest.approx(0.08 * level * np.sqrt(np.pi / 2), rel=0.03)
    field = degrade.biased(scan, mask, 60.0)[0].data[mask.data] / scan.data[mask.data]
    assert (field.min(), field.max()) == (pytest.approx(0.7, abs=1e-3), pytest.approx(1.3, abs=1e-3))
    low, high = (degrade.with_gamma(scan, mask, gamma)[0].data for gamma in (0.5, 2.0))
    np.testing.assert_allclose(low**4, high, atol=1e-4)
    assert high.max() == 1


def test_inversion_keeps_air_dark() -> None:
    scan, mask = head()
    made, _ = degrade.inverted(scan, mask)
    air, brain = scan.data == 0, mask.data
    shell = ~air & ~brain
    assert made.data[air].max() == 0
    assert np.median(made.data[brain]) < np.median(made.data[shell])


def test_poses_turn_the_world_and_not_the_voxels() -> None:
    scan, mask = head()
    turned = [fault for fault in degrade.faults() if fault.group == "turned 90 degrees"]
    assert len(turned) == 6
    seen = set()
    for fault in turned:
        made, carried = fault.apply(scan, mask)
        assert np.shares_memory(made.data, scan.data)
        assert np.linalg.norm(made.grid.center - scan.grid.center) < 1e-9
        np.testing.assert_allclose(made.grid.spacing, scan.grid.spacing)
        assert made.grid.same_as(carried.grid)
        seen.add(made.grid.axis_codes)
    assert len(seen) == 6
    assert scan.grid.axis_codes not in seen


def test_all_48_orientations_show_the_same_world() -> None:
    scan, mask = head()
    codes = degrade.orientations()
    assert len(set(codes)) == 48
    for code in codes[::7]:
        made, carried = degrade.reoriented(scan, mask, code)
        assert made.grid.axis_codes == code
        np.testing.assert_array_equal(resample(made, scan.grid).data, scan.data)
        np.testing.assert_array_equal(carried.data, made.data > 400)


def test_stripping() -> None:
    scan, mask = head()
    made, _ = degrade.stripped(scan, mask)
    np.testing.assert_array_equal(made.data != 0, mask.data)


def test_faults_have_their_own_names_and_repeat() -> None:
    scan, mask = head()
    faults = degrade.faults()
    assert len({fault.name for fault in faults}) == len(faults) == 14
    for fault in faults[3:5]:
        np.testing.assert_array_equal(fault.apply(scan, mask)[0].data, fault.apply(scan, mask)[0].data)
