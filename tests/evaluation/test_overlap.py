"""Overlap scores against counting voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.evaluation.overlap import dice, dice_by_label, label_sizes, overlap, sensitivity, specificity


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0, 1), other=st.floats(0, 1))
def test_counts_and_ratios(seed: int, density: float, other: float) -> None:
    generator = np.random.default_rng(seed)
    mask, reference = generator.random((4, 5, 3)) < density, generator.random((4, 5, 3)) < other
    counts = {(a, b): 0 for a in (False, True) for b in (False, True)}
    for index in np.ndindex(mask.shape):
        counts[bool(mask[index]), bool(reference[index])] += 1
    tp, fp, fn, tn = (counts[key] for key in ((True, True), (True, False), (False, True), (False, False)))
    got = overlap(mask.astype(np.uint8), reference)
    assert (got.true_positive, got.false_positive, got.false_negative, got.true_negative) == (tp, fp, fn, tn)
    if tp:
        assert got.dice == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert got.jaccard == pytest.approx(got.dice / (2 - got.dice))
        assert sensitivity(mask, reference) == pytest.approx(tp / (tp + fn))
        assert got.precision == pytest.approx(tp / (tp + fp))
    if tn:
        assert specificity(mask, reference) == pytest.approx(tn / (tn + fp))
    assert dice(mask, reference) == dice(reference, mask)


def test_empty_masks() -> None:
    empty, full = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    assert dice(empty, empty) == sensitivity(empty, empty) == specificity(full, full) == 1
    assert dice(empty, full) == sensitivity(empty, full) == 0


def test_labels_one_by_one() -> None:
    generator = np.random.default_rng(1)
    labels, reference = generator.integers(0, 5, (6, 6, 6)), generator.integers(0, 4, (6, 6, 6))
    got = dice_by_label(labels, reference)
    assert list(got) == [1, 2, 3, 4]
    for label, value in got.items():
        assert value == pytest.approx(dice(labels == label, reference == label))


def test_label_sizes_of_any_kind_of_numbers() -> None:
    labels = np.random.default_rng(2).integers(-3, 4, (5, 6, 7))
    expected = {k: int((labels == k).sum()) for k in range(-3, 4) if k}
    assert label_sizes(labels) == label_sizes(labels.astype(np.float32)) == expected
    far = labels.astype(np.int64) * 10**9  # too wide a range to count in a table
    assert label_sizes(far) == {k * 10**9: n for k, n in expected.items()}
    assert label_sizes(np.zeros((2, 2), np.uint8)) == {}
    with pytest.raises(ValueError, match="whole numbers"):
        label_sizes(np.full((2, 2), 0.5))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="differ"):
        dice(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="NaN"):
        dice(np.full((2, 2, 2), np.nan), np.zeros((2, 2, 2)))
