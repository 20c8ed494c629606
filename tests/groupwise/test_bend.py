"""Dense warps of a group: known shapes are found, the mean warp is nothing, order changes no bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from groupwise.heads import member, truth
from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.groupwise.align import GroupFit, GroupSettings, Member, align_group
from neuralprep.groupwise.bend import BendSettings, GroupBend, bend_group
from neuralprep.resample import resample
from neuralprep.templates import load_template
from neuralprep.transform import Affine, Chain, Transform, compose
from neuralprep.velocity import Velocity

QUICK = BendSettings(steps=((8, 0), (6, 0)))
SMALL = Affine(np.diag([0.7, 0.7, 0.7, 1]))  # a third of the voxels, so a third of the time
CONTRASTS = ("T1w", "T1w", "T2w")


def shape(seed: int, largest_mm: float = 8.0) -> Velocity:
    rng = np.random.default_rng(seed)
    grid = Grid((24, 29, 24), np.array([[8.0, 0, 0, -92], [0, 8, 0, -130], [0, 0, 8, -74], [0, 0, 0, 1]]))
    vectors = np.stack([ndimage.gaussian_filter(rng.standard_normal(grid.shape), 2.0) for _ in range(3)], -1)
    return Velocity((largest_mm * vectors / np.abs(vectors).max()).astype(np.float32), grid)


SHAPES = [shape(seed) for seed in range(3)]
PLACES = [Affine(truth(seed, 8.0).matrix @ SMALL.matrix) for seed in range(3)]


@pytest.fixture(scope="module")
def members() -> list[Member]:
    return [member(k, PLACES[k], CONTRASTS[k], shape=SHAPES[k]) for k in range(3)]


@pytest.fixture(scope="module")
def fit(members: list[Member]) -> GroupFit:
    return align_group(members, GroupSettings("affine", refine=False))


@pytest.fixture(scope="module")
def bent(members: list[Member], fit: GroupFit) -> GroupBend:
    return bend_group(members, fit, QUICK)


def relation_errors(found: tuple[Transform, ...]) -> list[float]:
    """Mean distance in the cortex between where image 0's points are found in the others and where they are."""
    template = load_template()
    points = template.gm.grid.voxel_to_world(np.argwhere(template.gm.data > 0.7)[::40])
    lie = [compose(one.inverse(), place).apply(points) for one, place in zip(SHAPES, PLACES, strict=True)]
    common = found[0].inverse().apply(lie[0])
    return [float(np.linalg.norm(found[k].apply(common) - lie[k], axis=1).mean()) for k in (1, 2)]


def velocity(chain: Chain) -> Velocity:
    part = chain.transforms[0]
    assert isinstance(part, Velocity)
    return part


def test_shapes_are_found_whatever_the_contrast(bent: GroupBend, fit: GroupFit) -> None:
    before, after = relation_errors(fit.transforms), relation_errors(bent.transforms)
    gains = np.subtract(bent.correlations, bent.before)
    assert min(before) > 1.2
    assert np.max(np.divide(after, before)) < 0.8
    assert gains.min() > 0.05


def test_the_mean_velocity_is_zero_and_nothing_folds(bent: GroupBend) -> None:
    assert bent.bias_mm < 1e-5
    mean = np.mean([velocity(one).vectors for one in bent.transforms], axis=0, dtype=np.float64)
    assert np.abs(mean).max() < 1e-5
    assert max(float(np.abs(velocity(one).vectors).max()) for one in bent.transforms) > 1.5
    for least, most, folded in bent.volume_changes:
        assert 0.1 < least < 1 < most
        assert folded == 0


def test_the_mean_image_is_sharper_than_the_affine_one(
    members: list[Member], fit: GroupFit, bent: GroupBend
) -> None:
    grid = Grid.centered((64, 76, 64), 2.0, fit.points.mean(0))
    alike, edges = [], []
    for transforms in (fit.transforms, bent.transforms):
        images = [resample(one.view.head, grid, at).data for one, at in zip(members[:2], transforms, strict=False)]
        inside = resample(members[0].view.judged, grid, transforms[0], order=0).data > 0
        alike.append(np.corrcoef(images[0][inside], images[1][inside])[0, 1])
        slopes = np.gradient(np.mean(images, axis=0))
        edges.append(float(np.mean([slope[inside] ** 2 for slope in slopes])))
    assert alike[1] > alike[0] + 0.03
    assert edges[1] > 1.02 * edges[0]  # noise has edges too, and is the same in both


def test_order_changes_no_bit(members: list[Member], fit: GroupFit) -> None:
    settings = BendSettings(steps=((1, 0),))
    turned = replace(fit, transforms=fit.transforms[::-1])
    one, other = bend_group(members, fit, settings), bend_group(members[::-1], turned, settings)
    for a, b in zip(one.transforms, other.transforms[::-1], strict=True):
        assert np.array_equal(velocity(a).vectors, velocity(b).vectors)
    assert one.correlations == other.correlations[::-1]


def test_the_only_image_of_its_contrast_meets_the_other_half_way(members: list[Member], fit: GroupFit) -> None:
    """Nothing is left to average without it: the other comes to it, and the mean shape is taken off both."""
    pair = replace(fit, transforms=fit.transforms[1:])
    bent = bend_group(members[1:], pair, BendSettings(steps=((4, 0),)))
    first, second = (velocity(one).vectors for one in bent.transforms)
    np.testing.assert_allclose(first, -second, atol=1e-6)
    assert np.abs(first).max() > 0.5
    assert np.isnan(bent.correlations).tolist() == [True, False]


def test_the_same_head_twice_is_left_alone() -> None:
    one = member(0, SMALL)
    twins = [one, replace(one, digest="0", name="again")]
    fit = align_group(twins, GroupSettings("rigid", "native", refine=False))
    bent = bend_group(twins, fit, BendSettings(steps=((3, 0),)))
    assert max(float(np.abs(velocity(one).vectors).max()) for one in bent.transforms) < 1e-3


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="round"):
        BendSettings(steps=())
    with pytest.raises(InputError, match="stiffness"):
        BendSettings(stiffness=-1)
    with pytest.raises(InputError, match="steps"):
        BendSettings(steps=((20, 0), (0, 0)))
