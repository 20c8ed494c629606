"""Which images make a visit, which of them is the reference, what is said of the rest, what outputs are called."""

from __future__ import annotations

import pytest

from neuralprep.bids.derivatives import VISIT_TABLE, VISITS, Derivative, ScanName
from neuralprep.bids.layout import bids_folder
from neuralprep.bids.visits import find_visits, methods, reference_order

NAMES = ("sub-1_ses-1_T2w", "sub-1_ses-1_T1w", "sub-1_ses-2_FLAIR", "sub-1_ses-2_run-10_T1w", "sub-1_ses-2_run-2_T1w",
         "sub-1_ses-2_ce-gd_T1w", "sub-2_T2w", "sub-2_PDw", "sub-3_ses-1_T1w")  # fmt: skip
SESSION_2 = ("sub-1_ses-2_run-2_T1w", "sub-1_ses-2_run-10_T1w", "sub-1_ses-2_ce-gd_T1w", "sub-1_ses-2_FLAIR")


def test_every_image_of_a_session_takes_part_and_the_reference_comes_first() -> None:
    visits, messages = find_visits(NAMES, (), ["contrasts"])
    assert {visit.name: visit.members for visit in visits} == {
        "sub-1_ses-1_contrasts": ("sub-1_ses-1_T1w", "sub-1_ses-1_T2w"),
        "sub-1_ses-2_contrasts": SESSION_2,
        "sub-2_contrasts": ("sub-2_T2w", "sub-2_PDw"),
    }
    assert [visit.folder for visit in visits] == ["sub-1/ses-1/anat", "sub-1/ses-2/anat", "sub-2/anat"]
    assert not any(visit.doubts for visit in visits)
    assert len(messages) == 1
    assert messages[0].startswith("sub-3_ses-1: at most one")
    assert find_visits(NAMES[::-1], (), ["contrasts"]) == (visits, messages)


def test_the_order_of_contrasts_is_that_of_the_manual() -> None:
    shuffled = ("inplaneT2", "T2starw", "PDw", "FLAIR", "T2w", "UNIT1", "T1w")
    assert [name[6:] for name in sorted((f"sub-1_{s}" for s in shuffled), key=reference_order)] == [
        "T1w", "UNIT1", "T2w", "FLAIR", "PDw", "T2starw", "inplaneT2"]  # fmt: skip


def test_sessions_meet_by_their_references() -> None:
    visits, messages = find_visits(NAMES, (), ["longitudinal"])
    assert [(visit.name, visit.members, visit.folder) for visit in visits] == [
        ("sub-1_longitudinal", ("sub-1_ses-1_T1w", "sub-1_ses-2_run-2_T1w"), "sub-1")]  # fmt: skip
    assert messages == ["sub-2, sub-3: at most one session has an image that can be used, "
                        "so there is no middle of sessions"]  # fmt: skip


def test_what_failed_is_left_out_and_named() -> None:
    failed = {"sub-1_ses-1_T1w", "sub-1_ses-2_run-2_T1w"}
    visits, messages = find_visits(NAMES[:6], failed, VISITS)
    contrasts, longitudinal = visits
    assert contrasts.members == SESSION_2[1:]
    assert contrasts.doubts == ("left out sub-1_ses-2_run-2_T1w, which failed",)
    assert longitudinal.members == ("sub-1_ses-1_T2w", "sub-1_ses-2_run-10_T1w")
    assert longitudinal.doubts == (
        "left out sub-1_ses-1_T1w, which failed", "left out sub-1_ses-2_run-2_T1w, which failed",
        "the sessions' reference images have different contrasts: T2w, T1w")  # fmt: skip
    assert messages[0].startswith("sub-1_ses-1: at most one of their images can be used")


@pytest.mark.parametrize("kinds", [["contrasts"], ["longitudinal"]])
def test_long_lists_are_cut(kinds: list[str]) -> None:
    _, (message,) = find_visits([f"sub-{k}_ses-1_T1w" for k in range(10, 18)], (), kinds)
    assert "sub-14" in message
    assert "sub-15" not in message
    assert "and 3 more" in message


def stems(name: str, row: Derivative, space: str) -> list[str]:
    scan = ScanName.of(name, shared=True)
    return [scan.stem(row, space, inverse=inverse) for inverse in (False, True)[: 1 + (row.kind == "xfm")]]


def test_no_two_outputs_of_a_session_have_one_name() -> None:
    images = (*SESSION_2, "sub-1_ses-2_T2w")
    own = [row for key, row in VISIT_TABLE.items() if key not in ("coreg_mask", "mean", "mean_brain")]
    made = [stem for name in images for row in own for space in ("T1w", "MNI152NLin2009aSym")
            for stem in stems(name, row, space)]  # fmt: skip
    natives = len(images)  # a file without a space in its name, counted for both
    assert len(set(made)) == len(made) - natives
    assert "sub-1_ses-2_run-10_from-orig_to-T1w_mode-image_desc-coreg_xfm" in made
    assert "sub-1_ses-2_from-T1w_to-T2w_mode-image_desc-coreg_xfm" in made


def test_a_visit_has_a_place_like_a_scan() -> None:
    name = "sub-1_ses-2_contrasts"
    assert ScanName.of(name, shared=True).file("quality.json") == f"{name}_quality.json"
    assert ScanName.of("my_contrasts").prefix == "my_contrasts"  # a plain file may be called anything
    assert bids_folder(name) == "sub-1/ses-2/anat"


def test_the_methods_name_what_ran() -> None:
    used = {"space": "MNI152NLin2009aSym", "strip": True, "register": True}
    both = methods([{"visit": "contrasts", "settings": used}] * 2 + [{"visit": "longitudinal", "settings": used}])
    assert "All images of 2 sessions" in both
    assert "to MNI152NLin2009aSym by an affine" in both
    assert "One brain mask" in both
    assert "sessions of 1 participant were" in both
    bare = methods([{"visit": "contrasts", "settings": {**used, "strip": False, "register": False}}])
    assert "MNI152" not in bare
    assert "mask" not in bare
    assert methods([]) == ""
