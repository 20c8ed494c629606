"""Averages against numpy on whole stacks, and the grid that holds a group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from groupwise.heads import member, truth
from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.groupwise.align import Member
from neuralprep.groupwise.images import average, common_grid
from neuralprep.resample import resample
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load
from samples import fixed_grid, smooth_volume

PLACES = [truth(seed, 5.0) for seed in range(5)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """Five images on disk: one of another contrast, and one far brighter than all others."""
    folder = tmp_path_factory.mktemp("group")
    template = member(0, Affine.identity())
    made = []
    for k in range(6):
        image = smooth_volume(Grid((50, 50, 50), np.diag([2.0, 2, 2, 1])), seed=k)
        values = image.data + 20 + (500 if k == 4 else 0)
        path = folder / f"{k}.nii.gz"
        image.with_data(values.astype(np.float32)).save(path)
        contrast = "FLAIR" if k == 5 else "T1w"
        gain = template.gain.with_data(np.full((4, 4, 4), 2.0, np.float32))
        made.append(replace(template, path=path, name=str(k), contrast=contrast, digest=str(9 - k), grid=image.grid,
                            gain=gain, offset=5.0))  # fmt: skip
    return made


def stack(stored: list[Member], transforms: list[Affine], grid: Grid) -> np.ndarray:
    """Every T1w image on the grid by itself, NaN outside: what the averages must come from."""
    return np.stack([
        2.0 * (resample(load(one.path), grid, at, fill=np.nan, antialias=True).data - 5.0)
        for one, at in zip(stored[:5], transforms[:5], strict=True)
    ])  # fmt: skip


def test_averages_are_numpys(stored: list[Member], tmp_path: Path) -> None:
    transforms, grid = [*PLACES, Affine.identity()], Grid.centered((30, 30, 30), 4.0, (45, 45, 45))
    values = stack(stored, transforms, grid)
    seen = np.isfinite(values).sum(0)
    shown = 2 * seen >= 5
    assert 0.2 < shown.mean() < 1
    assert (seen < 5).any()
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        expected = {"mean": np.nanmean(values, 0), "median": np.nanmedian(values, 0)}
    for how, want in expected.items():
        made = average(stored, transforms, grid, how, scratch=tmp_path)  # type: ignore[arg-type]
        assert set(made) == {"T1w", "FLAIR"}
        np.testing.assert_allclose(made["T1w"].data[shown], want[shown], rtol=2e-5)
        assert not made["T1w"].data[~shown].any()
    assert list(tmp_path.iterdir()) == []


def test_order_changes_no_bit_of_an_average(stored: list[Member]) -> None:
    grid = Grid.centered((20, 20, 20), 3.0, (45, 45, 45))
    for how in ("mean", "robust", "median"):
        one = average(stored[:5], PLACES, grid, how)["T1w"]  # type: ignore[arg-type]
        other = average(stored[:5][::-1], PLACES[::-1], grid, how)["T1w"]  # type: ignore[arg-type]
        assert np.array_equal(one.data, other.data)


def test_the_robust_mean_leaves_an_outlier_out(stored: list[Member]) -> None:
    """With one wild value of eleven the plain mean is pulled, the robust one is that of the others."""
    grid = Grid.centered((10, 10, 10), 3.0, (45, 45, 45))
    group = [*[replace(stored[k % 4], digest=f"{k:02d}") for k in range(10)], stored[4]]
    still = [Affine.identity()] * 11
    robust, plain = (average(group, still, grid, how)["T1w"].data for how in ("robust", "mean"))  # type: ignore[arg-type]
    rest = average(group[:10], still[:10], grid)["T1w"].data
    assert np.abs(robust - rest).mean() < 0.05 * np.abs(plain - rest).mean()


def test_the_common_grid_holds_every_image(stored: list[Member]) -> None:
    oblique = [replace(one, grid=fixed_grid()) for one in stored[:3]]
    grid = common_grid(oblique, PLACES[:3], 1.5)
    assert grid.axis_codes == "RAS"
    assert grid.spacing == pytest.approx((1.5, 1.5, 1.5))
    for one, at in zip(oblique, PLACES, strict=False):
        voxels = grid.world_to_voxel(at.inverse().apply(one.grid.corners()))
        assert (voxels > -0.6).all()
        assert (voxels < np.array(grid.shape) - 0.4).all()
    far = np.eye(4)
    far[0, 3] = 900
    with pytest.raises(InputError, match="standard pose"):
        common_grid(oblique[:2], [Affine.identity(), Affine(far)])


def test_unknown_averages_are_refused(stored: list[Member]) -> None:
    with pytest.raises(InputError, match="mode"):
        average(stored, PLACES, Grid((2, 2, 2), np.eye(4)), "mode")  # type: ignore[arg-type]


def test_the_gain_reaches_every_voxel(stored: list[Member]) -> None:
    """Beyond the grid on which it is known the gain does not fall to zero."""
    one = replace(stored[0], gain=Volume(np.full((2, 2, 2), 2.0, np.float32), Grid.centered((2, 2, 2), 4.0)))
    grid = Grid.centered((10, 10, 10), 3.0, (45, 45, 45))
    made = average([one], [Affine.identity()], grid)["T1w"].data
    want = 2.0 * (resample(load(one.path), grid, antialias=True).data - 5.0)
    np.testing.assert_allclose(made, want, rtol=1e-4)
