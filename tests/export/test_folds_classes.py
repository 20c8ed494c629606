"""Folds keep subjects together and do not depend on order; classes are what nnU-Net can train."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.errors import InputError
from neuralprep.export.cases import ExportCase, subject_of
from neuralprep.export.classes import Classes, make_classes, parse_map
from neuralprep.export.folds import assign_folds, splits


def cases_of(sessions: list[int]) -> list[ExportCase]:
    """Subject number i with sessions[i] cases."""
    names = [f"sub-{i:02d}_ses-{s}" for i, count in enumerate(sessions) for s in range(count)]
    return [ExportCase(name, {}, subject=subject_of(name)) for name in names]


@settings(max_examples=60, deadline=None)
@given(sessions=st.lists(st.integers(1, 4), min_size=5, max_size=30), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_folds_are_fair_and_never_split_a_subject(sessions: list[int], folds: int, seed: int) -> None:
    cases = cases_of(sessions)
    fold_of = assign_folds(cases, folds, seed)
    shuffled = [cases[i] for i in np.random.default_rng(seed).permutation(len(cases))]
    assert assign_folds(shuffled, folds, seed) == fold_of
    by_subject: dict[str, set[int]] = {}
    for case in cases:
        by_subject.setdefault(case.subject, set()).add(fold_of[case.name])
    assert all(len(found) == 1 for found in by_subject.values())
    sizes = Counter(fold_of.values())
    assert set(sizes) == set(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= max(sessions)
    for number, part in enumerate(splits(fold_of)):
        assert sorted(part["train"] + part["val"]) == sorted(fold_of)
        assert {fold_of[name] for name in part["val"]} == {number}


def test_seed_changes_folds() -> None:
    cases = cases_of([1] * 20)
    assert len({tuple(assign_folds(cases, 5, seed).items()) for seed in range(5)}) == 5
    assert assign_folds(cases, 0) == {}


def test_named_folds_are_checked() -> None:
    def named(*folds: int | None) -> list[ExportCase]:
        return [ExportCase(f"sub-{i // 2}_ses-{i}", {}, subject=f"sub-{i // 2}", fold=f) for i, f in enumerate(folds)]

    assert list(assign_folds(named(1, 1, 0, 0)).values()) == [1, 1, 0, 0]
    for folds, fault in (((0, 1, 1, 1), "subject sub-0 is in the folds 0 and 1"), ((0, None), "has no fold"),
                         ((0, 0, 2, 2), "without a gap"), ((0, 0), "two or more")):
        with pytest.raises(InputError, match=fault):
            assign_folds(named(*folds))
    with pytest.raises(InputError, match="2 subjects cannot make 5 folds"):
        assign_folds(cases_of([3, 1]))


def test_gap_is_refused_and_the_offered_map_closes_it() -> None:
    with pytest.raises(InputError, match='give --label-map "1=1;2=2;4=3"') as error:
        make_classes([0, 1, 2, 4])
    offer = str(error.value).split('"')[1]
    classes = make_classes([0, 1, 2, 4], None, parse_map(offer))
    assert classes.json() == {"labels": {"background": 0, "label1": 1, "label2": 2, "label3": 3}}
    labels = np.array([0, 1, 2, 4, 4, 0])
    assert classes.mapped(labels).tolist() == [0, 1, 2, 3, 3, 0]
    assert classes.unmapped(classes.mapped(labels)).tolist() == labels.tolist()


def test_merged_and_dropped_labels_come_back_as_the_lowest() -> None:
    classes = make_classes([1, 2, 4, 9], {"tumour": (1,)}, {4: 1, 2: 1, 1: 1, 9: 0})
    assert classes.mapped(np.array([0, 1, 2, 4, 9])).tolist() == [0, 1, 1, 1, 0]
    assert classes.unmapped(np.array([0, 1])).tolist() == [0, 1]


def test_region_order_turns_regions_back_into_labels() -> None:
    # as nnU-Net does: write each region's number over the regions before it
    members = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    classes = make_classes([1, 2, 3], members)
    assert classes.json()["regions_class_order"] == [2, 1, 3]
    labels = np.array([0, 1, 2, 3])
    back = np.zeros_like(labels)
    for number, numbers in zip(classes.order, members.values(), strict=True):
        back[np.isin(labels, numbers)] = number
    assert back.tolist() == labels.tolist()
    wrong = [order for order in permutations(members) if order != ("WT", "TC", "ET")]
    for order in wrong:
        with pytest.raises(InputError, match="from the largest to the smallest"):
            make_classes([1, 2, 3], {name: members[name] for name in order})
    with pytest.raises(InputError, match="cannot be told"):
        make_classes([1, 2, 3], {"A": (1, 2), "B": (2, 3)})


@pytest.mark.parametrize(
    ("found", "named", "mapping", "fault"),
    [
        ([1, 2], {"core": (1,)}, None, "label 2 has no name"),
        ([1, 7], None, {1: 1}, "says nothing of label 7"),
        ([0], None, None, "every voxel is 0"),
        ([1], {"core": (1,), "rest": (3,)}, None, "not 1, 2, 3"),
        ([1, 2], {"background": (1,), "core": (2,)}, None, "background is always 0"),
        ([1, 2], {"ignore": (1,), "core": (2,)}, None, "single highest label, 2"),
    ],
)
def test_unusable_classes(found: list[int], named: dict | None, mapping: dict | None, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        make_classes(found, named, mapping)


def test_ignore_label_is_no_region() -> None:
    classes = make_classes([1, 2, 3], {"WT": (1, 2), "TC": (2,), "ignore": (3,)})
    assert isinstance(classes, Classes)
    assert classes.json()["regions_class_order"] == [1, 2]


def test_label_map_from_text() -> None:
    assert parse_map("4=3; 1=1") == {4: 3, 1: 1}
    for wrong in ("", "4", "4=x", "0=1", "1=2;1=3", "-1=2"):
        with pytest.raises(InputError, match=r"label map|mapped twice"):
            parse_map(wrong)
