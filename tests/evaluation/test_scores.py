"""Scores of one case against MONAI and against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.scores import (
    MEASURES,
    score_fields,
    score_images,
    score_labels,
    score_masks,
    score_transforms,
)
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume

SPACING = (1.0, 1.5, 3.0)


def volume(data: np.ndarray) -> Volume:
    return Volume(data, Grid(data.shape, np.diag([*SPACING, 1.0])))


def blob(seed: int) -> np.ndarray:
    from scipy import ndimage

    noise = np.random.default_rng(seed).standard_normal((18, 16, 12))
    shared = np.random.default_rng(99).standard_normal(noise.shape)
    return ndimage.gaussian_filter(shared + 0.5 * noise, 2.0) > 0.05


@pytest.mark.filterwarnings("ignore")
def test_masks_equal_monai() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    mask, reference = blob(1), blob(2)
    got = score_masks(volume(mask), volume(reference), "voxels")
    pair = [torch.from_numpy(a)[None, None].float() for a in (mask, reference)]
    assert got["dice"] == pytest.approx(metrics.compute_dice(*pair).item(), abs=1e-6)
    options = {"include_background": True, "spacing": SPACING}
    largest = metrics.compute_hausdorff_distance(*pair, **options).item()
    assert got["hd"] == pytest.approx(largest, rel=1e-5)
    ninety_five = metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item()
    assert got["hd95"] == pytest.approx(ninety_five, rel=1e-5)
    mean = metrics.compute_average_surface_distance(*pair, symmetric=True, **options).item()
    assert got["msd"] == pytest.approx(mean, rel=1e-5)
    names = ("sensitivity", "specificity")
    counts = metrics.get_confusion_matrix(*pair, include_background=True)
    for name in names:
        assert got[name] == pytest.approx(metrics.compute_confusion_matrix_metric(name, counts).item())


@pytest.mark.filterwarnings("ignore")
def test_masks_equal_surface_distance() -> None:
    package = pytest.importorskip("surface_distance")
    mask, reference = blob(1), blob(2)
    got = score_masks(volume(mask), volume(reference), tolerance_mm=1.5)
    expected = package.compute_surface_distances(reference, mask, SPACING)
    assert got["hd"] == pytest.approx(package.compute_robust_hausdorff(expected, 100))
    assert got["hd95"] == pytest.approx(package.compute_robust_hausdorff(expected, 95))
    assert got["surface_dice"] == pytest.approx(package.compute_surface_dice_at_tolerance(expected, 1.5))
    sides = [("distances_gt_to_pred", "surfel_areas_gt"), ("distances_pred_to_gt", "surfel_areas_pred")]
    distances, areas = (np.concatenate([expected[side[k]] for side in sides]) for k in (0, 1))
    assert got["msd"] == pytest.approx(np.average(distances, weights=areas))
    assert got["rmsd"] == pytest.approx(np.sqrt(np.average(distances**2, weights=areas)))


def test_root_mean_square_and_volumes() -> None:
    reference = np.zeros((30, 30, 30), bool)
    reference[10:20, 10:20, 10:20] = True
    got = score_masks(volume(np.roll(reference, 2, 0)), volume(reference))
    assert got["msd"] < got["rmsd"] < got["hd"] == pytest.approx(2.0)
    assert got["volume"] == got["truth_volume"] == pytest.approx(1000 * 4.5 / 1000)
    assert got["volume_error"] == 0
    assert got["jaccard"] == pytest.approx(got["dice"] / (2 - got["dice"]))


def test_empty_masks() -> None:
    reference = blob(2)
    got = score_masks(volume(np.zeros_like(reference)), volume(reference))
    assert got["dice"] == got["sensitivity"] == 0
    assert got["msd"] == got["rmsd"] == got["hd"] == got["hd95"] == math.inf
    assert got["volume_error"] == -100
    with pytest.raises(InputError, match="the mask is empty"):
        score_masks(volume(reference), volume(np.zeros_like(reference)))


def test_images() -> None:
    generator = np.random.default_rng(3)
    truth = generator.random((12, 11, 10)).astype(np.float32) * 200
    image = truth + generator.normal(0, 5, truth.shape).astype(np.float32)
    mask = blob(1)[:12, :11, :10]
    got = score_images(volume(image), volume(truth), mask)
    error = (image.astype(float) - truth)[mask]
    span = np.ptp(truth.astype(float))
    assert got["psnr"] == pytest.approx(10 * np.log10(span**2 / np.mean(error**2)))
    assert got["mae"] == pytest.approx(np.abs(error).mean())
    assert got["correlation"] > 0.99
    scaled = score_images(volume(image / 7), volume(truth), mask, match_scale=True)
    assert scaled["factor"] == pytest.approx(7, rel=0.01)
    assert scaled["psnr"] >= got["psnr"]
    assert score_images(volume(image / 7), volume(truth), mask)["psnr"] < got["psnr"] - 10
    assert score_images(volume(image), volume(truth), mask, data_range=2 * span)["psnr"] == pytest.approx(
        got["psnr"] + 20 * np.log10(2)
    )


def test_what_images_are_refused() -> None:
    image = volume(np.ones((4, 4, 4)))
    with pytest.raises(InputError, match="no range"):
        score_images(image, image)
    with pytest.raises(InputError, match="mask is empty"):
        score_images(image, image, np.zeros((4, 4, 4)), 1.0)
    with pytest.raises(InputError, match="mask has shape"):
        score_images(image, image, np.zeros((4, 4, 5)), 1.0)
    with pytest.raises(InputError, match="zero everywhere"):
        score_images(volume(np.zeros((4, 4, 4))), image, None, 1.0, match_scale=True)


def test_fields_are_compared_up_to_a_factor() -> None:
    truth = 1 + 0.3 * np.random.default_rng(4).random((10, 10, 10))
    got = score_fields(volume(5 * truth), volume(truth))
    assert got["gain_error"] == pytest.approx(0, abs=1e-9)
    assert got["factor"] == pytest.approx(0.2)
    outside = truth.copy()
    outside[:5] = 0  # a multiplier field is zero outside the brain
    assert score_fields(volume(truth), volume(outside))["gain_error"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="not their logarithms"):
        score_fields(volume(np.log(truth) - 5), volume(truth))


def test_labels() -> None:
    truth = np.zeros((6, 6, 6), int)
    truth[:3], truth[3:5] = 2, 7
    found = truth.copy()
    found[0] = 9
    scores, by_label = score_labels(volume(found), volume(truth))
    assert by_label == {2: pytest.approx(2 * 72 / (72 + 108)), 7: 1.0}
    assert scores["mean_dice"] == pytest.approx((by_label[2] + 1) / 2)
    assert scores["worst_dice"] == by_label[2]
    assert score_labels(volume(found), volume(truth), [7, 55])[1] == {7: 1.0}
    assert score_labels(volume(found), volume(truth), [7, 9])[1] == {7: 1.0, 9: 0.0}
    with pytest.raises(InputError, match="none of the labels"):
        score_labels(volume(found), volume(truth), [55])
    with pytest.raises(InputError, match="none of the labels"):
        score_labels(volume(found), volume(np.zeros_like(truth)))


def test_transforms() -> None:
    shift = np.eye(4)
    shift[:3, 3] = 2, 3, 6
    got = score_transforms(Affine(shift), Affine.identity(), np.random.default_rng(5).normal(0, 40, (20, 3)))
    assert all(got[name] == pytest.approx(7) for name in ("mean_mm", "median_mm", "p95_mm", "max_mm"))


def test_every_score_is_in_the_table_of_measures() -> None:
    mask, image = volume(blob(1)), volume(np.random.default_rng(6).random((8, 8, 8)) + 1)
    names = {*score_masks(mask, mask), *score_images(image, image), *score_fields(image, image)}
    names |= {*score_labels(mask, mask)[0], *score_transforms(Affine.identity(), Affine.identity(), np.zeros((1, 3)))}
    assert names <= set(MEASURES)
