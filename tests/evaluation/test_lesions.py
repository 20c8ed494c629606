"""Lesion-wise scores against a plain implementation of the definition, and on cases with known answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest

from neuralprep.evaluation.lesions import PENALTY_MM, PRESETS, LesionRules, RegionScore, score_lesions
from surface_oracle import oracle

Voxel = tuple[int, ...]
STEPS_26 = [step for step in product((-1, 0, 1), repeat=3) if any(step)]
STEPS_18 = [step for step in STEPS_26 if sum(map(abs, step)) <= 2]
SPACINGS = [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.9, 0.45, 2.2)]


# ---- the definition, voxel by voxel -------------------------------------------------------------------------------


@dataclass
class Plain:
    """What the plain implementation finds in a region."""

    rows: list[tuple[str, bool, float, float]] = field(default_factory=list)
    dice: float = 1.0
    hd95: float = 0.0
    merged: bool = False
    shared_component: bool = False


def around(voxel: Voxel, steps: list[Voxel], shape: Voxel) -> list[Voxel]:
    (x, y, z), (nx, ny, nz) = voxel, shape
    near = [(x + i, y + j, z + k) for i, j, k in steps]
    return [(a, b, c) for a, b, c in near if 0 <= a < nx and 0 <= b < ny and 0 <= c < nz]


def grown(voxels: set[Voxel], times: int, shape: Voxel) -> set[Voxel]:
    whole, rim = set(voxels), set(voxels)
    for _ in range(times):
        rim = {near for voxel in rim for near in around(voxel, STEPS_18, shape)} - whole
        whole |= rim
    return whole


def parts(voxels: set[Voxel], shape: Voxel) -> list[set[Voxel]]:
    left, found = set(voxels), []
    while left:
        queue = [left.pop()]
        part = set(queue)
        while queue:
            for near in around(queue.pop(), STEPS_26, shape):
                if near in left:
                    left.remove(near)
                    part.add(near)
                    queue.append(near)
        found.append(part)
    return found


def as_array(voxels: set[Voxel], shape: Voxel) -> np.ndarray:
    array = np.zeros(shape, bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def plain_region(
    prediction: np.ndarray, truth: np.ndarray, dilation: int, limit: float, spacing: tuple[float, float, float]
) -> Plain:
    shape = truth.shape
    found, expected = ({tuple(map(int, v)) for v in np.argwhere(mask)} for mask in (prediction, truth))
    components = parts(found, shape)
    lesions = [part & expected for part in parts(grown(expected, dilation, shape), shape)]
    result = Plain(merged=len(lesions) < len(parts(expected, shape)))
    matches = Counter()
    for lesion in lesions:
        reach = grown(lesion, dilation, shape)
        mine = [number for number, component in enumerate(components) if component & reach]
        matches.update(mine)
        union = set().union(*(components[number] for number in mine))
        dice = 2 * len(union & lesion) / (len(union) + len(lesion))
        hd95 = oracle(as_array(union, shape), as_array(lesion, shape), spacing).hausdorff(95) if mine else 374.0
        counted = len(lesion) * np.prod(spacing) > limit * (1 + 1e-9)
        result.rows.append(("found" if mine else "missed", bool(counted), dice, float(hd95)))
    result.shared_component = any(times > 1 for times in matches.values())
    result.rows += [("false positive", True, 0.0, 374.0) for number in range(len(components)) if not matches[number]]
    scored = [row for row in result.rows if row[1]]
    if scored:
        result.dice = sum(row[2] for row in scored) / len(scored)
        result.hd95 = sum(row[3] for row in scored) / len(scored)
    return result


# ---- random cases --------------------------------------------------------------------------------------------------


def blob(labels: np.ndarray, generator: np.random.Generator, largest: float = 3.2) -> None:
    """Put an ellipsoid of nested labels anywhere, also across the array's faces."""
    center, radii = generator.uniform(0, labels.shape), generator.uniform(0.6, largest, 3)
    position = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), -1)
    distance = np.linalg.norm((position - center) / radii, axis=-1)
    for edge, label in ((1.0, 2), (0.8, int(generator.integers(1, 4))), (0.5, int(generator.integers(1, 4)))):
        labels[distance <= edge] = label


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth with a few lesions, and a prediction made from it: shifted, split, bridged, lesions lost and invented."""
    generator = np.random.default_rng(seed)
    truth = np.zeros(generator.integers((16, 12, 8), (24, 16, 12)), np.int16)
    kind = seed % 8
    for _ in range(generator.integers(0, 6)):
        blob(truth, generator)
    if kind == 4:  # lesions at both ends only, too far from each other to be merged
        truth[3:-3] = 0
        truth[:2, 5:8, 3:7] = truth[-2:, 4:8, 2:6] = 3
    prediction = np.roll(truth, generator.integers(-1, 2, 3), (0, 1, 2))
    if kind == 0:
        prediction[:] = 0
    if kind == 1:
        truth[:] = 0
    if kind in (2, 3):  # split
        prediction[:, prediction.shape[1] // 2] = 0
        prediction[prediction.shape[0] // 2] = 0
    if kind in (4, 5):  # a bridge from face to face along each axis
        x, y, z = (n // 2 for n in prediction.shape)
        prediction[:, y, z] = prediction[x, :, z] = prediction[x, y, :] = 3
    if kind in (3, 5, 6):  # lost
        prediction[: prediction.shape[0] // 2] = 0
    if kind in (1, 6, 7):  # invented, and scattered voxels
        blob(prediction, generator, 2.0)
        prediction[generator.random(prediction.shape) > 0.998] = 3
    return prediction, truth


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_definition(preset: str) -> None:
    rules, seen = PRESETS[preset], Counter[str]()
    for number in range(42):
        seed = 1000 * list(PRESETS).index(preset) + number
        prediction, truth = random_case(seed)
        spacing = SPACINGS[number % 3]
        scores = score_lesions(prediction, truth, rules, spacing)
        assert list(scores) == ["WT", "TC", "ET"]
        for region, labels in (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))):
            got, masks = scores[region], (np.isin(prediction, labels), np.isin(truth, labels))
            expected = plain_region(*masks, rules.dilation, rules.min_volume, spacing)
            assert got.dice == pytest.approx(expected.dice, abs=1e-6), seed
            assert got.hd95 == pytest.approx(expected.hd95, abs=1e-3), seed
            rows = [(lesion.kind, lesion.counted, lesion.dice, lesion.hd95) for lesion in got.lesions]
            for row, plain in zip(sorted(rows), sorted(expected.rows), strict=True):
                assert row[:2] == plain[:2], seed
                assert row[2:] == pytest.approx(plain[2:], abs=1e-6), seed
            check_whole(got, *masks, spacing)
            seen.update(row[0] for row in rows)
            seen["left out"] += got.left_out
            seen["merged"] += expected.merged
            seen["shared"] += expected.shared_component
            seen["several"] += any(lesion.components > 1 for lesion in got.lesions)
            seen["nothing"] += not rows
    # the cases are worth something only if all of this happens in them
    needed = ("found", "missed", "false positive", "left out", "merged", "shared", "several", "nothing")
    assert min(seen[name] for name in needed) >= 2, seen


def check_whole(got: RegionScore, found: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """The scores that do not tell lesions apart, by the challenge's formulas."""
    both, volume = int((found & truth).sum()), np.prod(spacing)
    assert got.volume == pytest.approx(truth.sum() * volume)
    assert got.predicted_volume == pytest.approx(found.sum() * volume)
    if not found.any() and not truth.any():
        assert (got.legacy_dice, got.legacy_hd95, got.sensitivity, got.specificity) == (1, 0, 1, 1)
        return
    assert got.legacy_dice == pytest.approx(2 * both / (found.sum() + truth.sum()))
    hd95 = oracle(found, truth, spacing).hausdorff(95)
    assert got.legacy_hd95 == pytest.approx(hd95 if np.isfinite(hd95) else 374, abs=1e-6)
    tiny = np.finfo(float).eps
    assert got.sensitivity == pytest.approx(both / (truth.sum() + tiny))
    assert got.specificity == pytest.approx((~found & ~truth).sum() / ((~truth).sum() + tiny))


@pytest.mark.parametrize("seed", [2, 5, 7])
def test_orientation_does_not_matter(seed: int) -> None:
    prediction, truth = random_case(seed)
    rules, spacing = LesionRules({"all": (1, 2, 3)}, dilation=2), (0.9, 0.45, 2.2)
    one = score_lesions(prediction, truth, rules, spacing)["all"]
    turned = [np.flip(labels.transpose(2, 0, 1), (0, 2)) for labels in (prediction, truth)]
    other = score_lesions(*turned, rules, (2.2, 0.9, 0.45))["all"]
    assert (other.dice, other.legacy_dice) == pytest.approx((one.dice, one.legacy_dice))
    assert (other.hd95, other.legacy_hd95) == pytest.approx((one.hd95, one.legacy_hd95))
    assert Counter(lesion.kind for lesion in one.lesions) == Counter(lesion.kind for lesion in other.lesions)


# ---- cases with known answers --------------------------------------------------------------------------------------

BOX = (30, 14, 14)
ONE = {"L": (1,)}


def cubes(*starts: int, size: int = 4, shape: Voxel = BOX) -> np.ndarray:
    """Cubes of label 1 that start at given positions along the first axis."""
    labels = np.zeros(shape, np.uint8)
    for start in starts:
        labels[start : start + size, 5 : 5 + size, 5 : 5 + size] = 1
    return labels


def scored(prediction: np.ndarray, truth: np.ndarray, dilation: int = 1, **rules: float) -> RegionScore:
    return score_lesions(prediction, truth, LesionRules(ONE, dilation, **rules))["L"]


def test_a_perfect_result() -> None:
    score = scored(cubes(2, 12, 22), cubes(2, 12, 22))
    assert (score.dice, score.hd95, score.legacy_dice, score.legacy_hd95) == (1, 0, 1, 0)
    assert (score.sensitivity, score.specificity) == (1, 1)
    assert [lesion.center for lesion in score.lesions] == [(3.5, 6.5, 6.5), (13.5, 6.5, 6.5), (23.5, 6.5, 6.5)]


@pytest.mark.parametrize(("dilation", "gap", "lesions"), [(0, 1, 2), (1, 2, 1), (1, 3, 2), (3, 6, 1), (3, 7, 2)])
def test_lesions_closer_than_twice_the_dilation_are_one(dilation: int, gap: int, lesions: int) -> None:
    truth = cubes(2, 6 + gap)
    score = scored(cubes(2), truth, dilation)
    assert len(score.lesions) == lesions
    # the one cube that was found is half of a merged lesion, or all of one of two
    assert score.dice == pytest.approx(2 * 64 / (64 + 128) if lesions == 1 else (1 + 0) / 2)
    assert score.count("missed") == lesions - 1


def test_parts_that_touch_by_a_corner_are_one_lesion() -> None:
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[1, 1, 1] = truth[2, 2, 2] = 1
    assert len(scored(truth, truth, dilation=0).lesions) == 1


def test_a_split_result_counts_together() -> None:
    truth, prediction = cubes(5), cubes(5)
    prediction[6:8] = 0
    score = scored(prediction, truth)
    (lesion,) = score.lesions
    assert (lesion.kind, lesion.components, lesion.predicted_volume) == ("found", 2, 32)
    assert score.dice == pytest.approx(2 * 32 / (64 + 32))
    assert score.count("false positive") == 0


def test_a_bridge_counts_in_full_against_both_lesions() -> None:
    truth, prediction = cubes(2, 20), cubes(2, 20)
    prediction[6:20, 6, 6] = 1
    score = scored(prediction, truth)
    assert score.count("found") == 2
    assert score.dice == pytest.approx(2 * 64 / (64 + 128 + 14))
    assert score.legacy_dice == pytest.approx(2 * 128 / (128 + 128 + 14))


def test_nothing_and_nothing() -> None:
    score = scored(cubes(), cubes())
    assert (score.dice, score.hd95, score.legacy_dice, score.legacy_hd95) == (1, 0, 1, 0)
    assert (score.sensitivity, score.specificity, score.lesions) == (1, 1, ())


def test_nothing_to_find() -> None:
    score = scored(cubes(2, 12), cubes())
    assert (score.dice, score.hd95, score.legacy_dice, score.legacy_hd95) == (0, PENALTY_MM, 0, PENALTY_MM)
    assert score.count("false positive") == 2
    assert score.sensitivity == 0


def test_nothing_found() -> None:
    score = scored(cubes(), cubes(2, 12, 22), penalty=50)
    assert (score.dice, score.hd95, score.legacy_dice, score.legacy_hd95) == (0, 50, 0, 50)
    assert score.count("missed") == 3
    assert (score.sensitivity, score.specificity) == (0, 1)


def test_a_missed_and_an_invented_lesion_dilute_the_mean() -> None:
    prediction = cubes(2)
    prediction[28, 13, 13] = 1  # one voxel far away, smaller than any limit
    score = scored(prediction, cubes(2, 12), min_volume=50)
    assert score.dice == pytest.approx((1 + 0 + 0) / 3)
    assert score.hd95 == pytest.approx((0 + 374 + 374) / 3)


def test_a_touched_lesion_is_found_though_nothing_overlaps() -> None:
    score = scored(cubes(6), cubes(2))
    (lesion,) = score.lesions
    assert (lesion.kind, lesion.dice) == ("found", 0)
    assert lesion.hd95 == pytest.approx(4)
    far = scored(cubes(7), cubes(2))
    assert [lesion.kind for lesion in far.lesions] == ["missed", "false positive"]


def test_lesions_of_the_limit_do_not_count_but_excuse_what_touches_them() -> None:
    truth = cubes(2)  # 64 voxels
    for limit, left_out in ((64, 1), (63.9, 0)):
        score = scored(cubes(2), truth, min_volume=limit)
        assert (score.left_out, score.count("false positive"), score.dice) == (left_out, 0, 1)
        assert len(score.lesions) == 1
        assert scored(cubes(), truth, min_volume=limit).dice == (1 if left_out else 0)


def test_the_limit_is_a_volume() -> None:
    rules = LesionRules(ONE, min_volume=64 * 8)
    big = cubes(2)
    big[6, 5, 5] = 1
    # float32 headers make 2 mm edges 2.0000002 mm: still exactly the limit
    for edge in (2.0, 2.0000002):
        assert score_lesions(cubes(), cubes(2), rules, (edge,) * 3)["L"].left_out == 1
        assert score_lesions(cubes(), big, rules, (edge,) * 3)["L"].left_out == 0


def test_distances_are_in_mm() -> None:
    score = score_lesions(cubes(4), cubes(2), LesionRules(ONE), (2.5, 1, 1))["L"]
    assert score.hd95 == pytest.approx(5.0)


def test_regions_are_unions_of_labels() -> None:
    truth = cubes(2).astype(np.int64)
    truth[2:4] *= 2
    prediction = (truth > 0) * 2
    scores = score_lesions(prediction, truth, LesionRules({"both": (1, 2), "two": (2,), "one": (1,)}))
    assert scores["both"].dice == 1
    assert scores["two"].dice == pytest.approx(2 * 32 / (64 + 32))
    assert scores["one"].dice == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lesions_at_the_faces_of_the_array(axis: int) -> None:
    truth = np.zeros((9, 9, 9), np.uint8)
    truth[tuple(slice(0, 3) if a == axis else slice(None) for a in range(3))] = 1
    truth = truth | np.flip(truth, axis)
    score = scored(truth, truth)
    assert (score.dice, score.hd95, len(score.lesions)) == (1, 0, 2)


def test_a_truth_that_fills_the_array() -> None:
    full = np.ones((3, 3, 3), np.uint8)
    score = scored(full, full)
    assert (score.dice, score.sensitivity, score.specificity) == (1, 1, 0)


def test_a_real_lesion(shared_data) -> None:
    from neuralprep.volume import load

    volume = load(shared_data / "heads" / "clinicaltbx_stroke_lesion.nii.gz", checks=False)
    truth = (volume.data > 0).astype(np.uint8)
    assert scored(truth, truth, min_volume=50).dice == 1
    moved = scored(np.roll(truth, 2, 0), truth, min_volume=50)
    assert 0.5 < moved.dice < 1
    assert 0 < moved.hd95 <= 2


def test_refusals() -> None:
    rules = LesionRules(ONE)
    with pytest.raises(ValueError, match="differ"):
        score_lesions(cubes(), cubes(shape=(31, 14, 14)), rules)
    with pytest.raises(ValueError, match="whole numbers"):
        score_lesions(cubes().astype(float), cubes().astype(float), rules)
    with pytest.raises(ValueError, match="3-D"):
        score_lesions(cubes()[0], cubes()[0], rules)
    with pytest.raises(ValueError, match="spacing"):
        score_lesions(cubes(2), cubes(2), rules, (1, 1, 0))
    for wrong in ({"dilation": -1}, {"min_volume": -1.0}, {"penalty": 0.0}, {"penalty": np.inf}):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            LesionRules(ONE, **wrong)
    for regions in ({}, {"a": ()}, {"a": (0, 1)}):
        with pytest.raises(ValueError, match="regions"):
            LesionRules(regions)
