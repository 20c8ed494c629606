"""What a search and the masks say of right and of wrong alignments of real heads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuralprep.alignment import Alignment, View, align_views, view
from neuralprep.inference.session import open_session
from neuralprep.second_opinion import APART_MM, LEAST_OVERLAP, second_opinion
from neuralprep.transform import Affine
from neuralprep.volume import load

HEADS = Path(__file__).parent.parent.parent / "shared" / "data" / "heads"
pytestmark = pytest.mark.skipif(not HEADS.is_dir(), reason=f"the public heads are not at {HEADS}")
Pair = tuple[View, View, Alignment]


@pytest.fixture(scope="module", params=[("bisweb_sag_T1w_2mm", "IXI012-HH-1211_T1w_2mm"),
                                        ("openms_p01_s1_T2W", "openms_p01_s1_FLAIR")], ids=["persons", "contrasts"])
def pair(request: pytest.FixtureRequest) -> Pair:
    session = open_session("npp", "cpu", 2)
    moving, fixed = (view(session, load(HEADS / f"{name}.nii.gz")) for name in request.param)
    return moving, fixed, align_views(moving, fixed)


def turned(pair: Pair, axis: str, degrees: float) -> Alignment:
    """The alignment, after the fixed brain was turned about its own middle."""
    _, fixed, found = pair
    center, turn = fixed.keypoints.scan.mean(0), np.eye(4)
    turn[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    turn[:3, 3] = center - turn[:3, :3] @ center
    assert isinstance(found.fixed_from_moving, Affine)
    return replace(found, fixed_from_moving=Affine(found.fixed_from_moving.matrix @ turn))


def test_a_right_alignment_is_confirmed(pair: Pair) -> None:
    opinion = second_opinion(*pair)
    assert opinion.search_mm < APART_MM
    assert not opinion.search_explains_more
    assert opinion.centroids_mm < 3
    assert opinion.overlap > 0.94
    assert opinion.doubt("affine") == ""


@pytest.mark.parametrize(("axis", "degrees"), [("x", 180), ("y", 60), ("z", 180)])
def test_a_turned_brain_is_doubted(pair: Pair, axis: str, degrees: float) -> None:
    opinion = second_opinion(*pair[:2], turned(pair, axis, degrees))
    assert opinion.search_mm > 3 * APART_MM
    assert opinion.search_explains_more
    assert "a better fit" in opinion.doubt("rigid")


def test_masks_tell_of_a_shift(pair: Pair) -> None:
    moving, fixed, found = pair
    shift = np.eye(4)
    shift[0, 3] = 12.0
    assert isinstance(found.fixed_from_moving, Affine)
    right = second_opinion(moving, fixed, found)
    shifted = Affine(found.fixed_from_moving.matrix @ shift)
    off = second_opinion(moving, fixed, replace(found, fixed_from_moving=shifted))
    assert off.overlap < LEAST_OVERLAP < right.overlap
    assert off.centroids_mm == pytest.approx(12, abs=3)
    assert "overlap" in replace(off, search_explains_more=False).doubt("affine")
    assert replace(off, search_explains_more=False).doubt("rigid") == ""
