"""Groups with known places: pairs and mean images find them; nothing biases the common space; order changes no bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from groupwise.heads import CONTRASTS, member, truth, worst_relation_mm
from neuralprep.errors import InputError
from neuralprep.groupwise.align import GroupSettings, Member, align_group
from neuralprep.groupwise.images import common_grid
from neuralprep.transform import Affine

VISITS = [truth(seed) for seed in range(3)]
PERSONS = [truth(seed, stretch=0.08) for seed in range(4)]
RIGID = GroupSettings("rigid", "native")


@pytest.fixture(scope="module")
def visits() -> list[Member]:
    return [member(k, where, contrast) for k, (where, contrast) in
            enumerate(zip(VISITS, ("T1w", "FLAIR", "T1w"), strict=True))]


@pytest.fixture(scope="module")
def persons() -> list[Member]:
    return [member(k, where) for k, where in enumerate(PERSONS)]


def test_visits_meet_in_the_middle_whatever_their_contrast(visits: list[Member]) -> None:
    fit = align_group(visits, RIGID)
    by_keypoints = align_group(visits, replace(RIGID, refine=False))
    assert worst_relation_mm(fit.transforms, VISITS) < 0.3 < worst_relation_mm(by_keypoints.transforms, VISITS)
    assert fit.bias < 1e-12
    assert by_keypoints.bias < 1e-12
    for one in fit.transforms:
        np.testing.assert_allclose(one.matrix[:3, :3] @ one.matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert all(fit.good(k) for k in range(3))
    assert max(fit.misses_mm) < 0.3


def test_order_changes_no_bit_and_no_image_is_the_reference(visits: list[Member]) -> None:
    first, second = (replace(one, digest=digest) for one, digest in zip(visits, "ab", strict=False))
    one = align_group([first, second], RIGID)
    given = align_group([second, first], RIGID)
    assert all(np.array_equal(a.matrix, b.matrix) for a, b in zip(one.transforms, given.transforms[::-1], strict=True))
    # worked on in the other order too, they still meet in the same place
    other = align_group([replace(first, digest="b"), replace(second, digest="a")], RIGID)
    for a, b in zip(one.transforms, other.transforms, strict=True):
        assert a.distance(b, one.points) < 1e-6
    # the mid-space lies half way: the two transforms are each other's inverse
    np.testing.assert_allclose(one.transforms[0].matrix @ one.transforms[1].matrix, np.eye(4), atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "tolerance_mm"),
    [
        pytest.param(RIGID, 1e-4, id="pairs", marks=pytest.mark.slow),
        pytest.param(GroupSettings("rigid", "native", rounds=1, pairs_up_to=1), 1e-3, id="means"),
    ],
)
def test_heads_in_poses_of_their_own_have_one_mid_space(settings: GroupSettings, tolerance_mm: float) -> None:
    """Turned by 25 to 100 degrees, of three contrasts: it does not matter which head is worked on first."""
    places = [truth(20, 25.0), truth(21, 60.0), truth(22, 100.0)]
    heads = [member(k, place, contrast) for k, place, contrast in zip(range(3), places, CONTRASTS, strict=True)]
    one, other = (
        align_group([replace(head, digest=digest) for head, digest in zip(heads, order, strict=True)], settings)
        for order in ("abc", "cba")
    )
    assert worst_relation_mm(one.transforms, places) < 0.6
    for a, b in zip(one.transforms, other.transforms, strict=True):
        assert a.distance(b, one.points) < tolerance_mm
    grids = [common_grid(heads, fit.transforms, 1.0) for fit in (one, other)]
    assert grids[0].same_as(grids[1], 1e-3)


def test_the_mean_image_finds_shapes_and_keeps_the_groups_size(persons: list[Member]) -> None:
    settings = GroupSettings("affine", "standard", rounds=4, pairs_up_to=3)
    fit = align_group(persons, settings)
    by_keypoints = align_group(persons, replace(settings, refine=False))
    assert worst_relation_mm(fit.transforms, PERSONS) < 0.6 * worst_relation_mm(by_keypoints.transforms, PERSONS)
    assert worst_relation_mm(fit.transforms, PERSONS) < 0.6
    assert fit.bias < 1e-12
    sizes = [np.linalg.det(one.matrix[:3, :3]) for one in fit.transforms]
    assert np.exp(np.mean(np.log(sizes))) == pytest.approx(1, abs=1e-9)
    assert fit.last_move_mm < settings.tolerance_mm or fit.rounds == settings.rounds


def test_order_changes_no_bit_with_mean_images(persons: list[Member]) -> None:
    settings = GroupSettings("affine", "standard", rounds=1, pairs_up_to=1)
    one, other = align_group(persons[:3], settings), align_group(persons[2::-1], settings)
    assert all(np.array_equal(a.matrix, b.matrix) for a, b in zip(one.transforms, other.transforms[::-1], strict=True))


def test_standard_poses_stand_any_header(persons: list[Member]) -> None:
    """Heads upside down and sideways in their headers: the common space is upright all the same."""
    turns = [Affine(np.diag([-1.0, -1, 1, 1])), Affine(np.diag([1.0, -1, -1, 1])), Affine.identity()]
    places = [Affine(turn.matrix @ where.matrix) for turn, where in zip(turns, PERSONS[:3], strict=True)]
    turned = [member(k, where) for k, where in enumerate(places)]
    fit = align_group(turned, GroupSettings("affine", "standard", refine=False))
    upright = align_group(persons[:3], GroupSettings("affine", "standard", refine=False))
    assert worst_relation_mm(fit.transforms, places) < 2.0
    assert np.linalg.norm(fit.points - upright.points, axis=1).mean() < 3.0
    assert fit.bias < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "tps"}, "tps"), ({"pose": "up"}, "up"), ({"rounds": 0}, "round"), ({"tolerance_mm": 0}, "tolerance")],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GroupSettings(**change)


def test_one_image_is_no_group(visits: list[Member]) -> None:
    with pytest.raises(InputError, match="two images"):
        align_group(visits[:1])
