"""Samples of the head model: replay, and the truths against each other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuralprep.grid import Grid
from neuralprep.inference.session import Prediction
from neuralprep.stages.conform import WorkingImage
from neuralprep.stages.look import Look, brain_ceiling
from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.contrast import LOOKS, SOFT_BINS, draw_means
from neuralprep.synthesis.effects import plain_record
from neuralprep.synthesis.sample import NORMAL_LEVEL, DeviceHead, Record, Sample, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.synthesis.spatial import Pose
from neuralprep.transform import Affine

SETTINGS = SamplerSettings(shape=(48, 48, 48), spacing_mm=4.0, subsamples=4)


def plain(**changes: Any) -> Record:
    """A T1w sample without any fault."""
    return plain_record("phantom", **{"shape": (64, 64, 64), "spacing_mm": 4.0, **changes})


def draw(head: DeviceHead, seed: int, **changes: Any) -> Sample:
    record = draw_record("phantom", np.random.default_rng(seed), replace(SETTINGS, **changes))
    return render(record, head, want_fractions=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_record_replays_bit_for_bit_through_json(head: DeviceHead, seed: int) -> None:
    sample = draw(head, seed)
    again = render(Record.from_dict(json.loads(json.dumps(sample.record.as_dict()))), head, want_fractions=True)
    assert again.record == sample.record
    for name in ("image", "clean", "log_gain", "distances", "coordinates", "fractions", "classes"):
        assert torch.equal(getattr(sample, name), getattr(again, name)), name


@pytest.mark.parametrize("seed", range(8))
def test_image_and_truths_are_finite_and_in_range(head: DeviceHead, seed: int) -> None:
    sample = draw(head, seed)
    assert sample.image.min() >= 0
    assert sample.image.max() <= 1
    for name in ("clean", "log_gain", "distances", "coordinates"):
        assert torch.isfinite(getattr(sample, name)).all(), name
    assert sample.fractions.sum(0).numpy() == pytest.approx(1.0, abs=1e-6)
    assert not sample.image[~sample.field_of_view].any()


def test_gain_times_image_is_the_clean_image(head: DeviceHead) -> None:
    # Without noise and resolution loss the multiplier's truth must be exact wherever the image is not clipped.
    sample = render(plain(bias_strength=0.4, bias_seed=3), head)
    unclipped = (sample.image < 1) & (sample.image > 0)
    made = torch.exp(sample.log_gain) * sample.image
    assert made[unclipped].numpy() == pytest.approx(sample.clean[unclipped].numpy(), rel=2e-3, abs=1e-4)
    tissue = sample.distances[0] < 0
    assert sample.clean[tissue].mean().item() == pytest.approx(NORMAL_LEVEL, rel=1e-5)


def test_a_scale_that_ends_at_the_brain_is_the_closer_looks(head: DeviceHead) -> None:
    """Of a head whose fat is three times as bright as its brain."""
    means = np.array(plain().means)
    means[INDEX["skin"]] = 3.0
    full, ceiled = (render(plain(means=tuple(means.tolist()), bias_strength=0.3, bias_seed=3, ceiling=ceiling), head)
                    for ceiling in (False, True))
    grid = Grid(full.record.shape, full.frame.affine)
    image, brain = full.image.numpy(), full.distances[1].numpy() < 0
    seen = WorkingImage(image, grid, 0.0, 1.0, full.field_of_view.numpy())
    nowhere = np.zeros((0, 0, 0), np.float32)
    answer = Prediction(full.distances.numpy(), nowhere, nowhere, nowhere)
    reach = brain_ceiling(Look(seen, answer, Affine.identity(), 0.0, 1500.0))
    assert reach < 0.5
    assert ceiled.image.numpy() == pytest.approx(np.minimum(image / reach, 1), abs=2e-3)
    assert (ceiled.image.numpy()[brain] < 1).mean() == pytest.approx(0.98, abs=0.002)
    made = torch.exp(ceiled.log_gain) * ceiled.image
    unclipped = (ceiled.image < 1) & (ceiled.image > 0)
    assert made[unclipped].numpy() == pytest.approx(ceiled.clean[unclipped].numpy(), rel=2e-3, abs=1e-4)
    assert torch.equal(ceiled.clean, full.clean)


def test_bright_fat_is_drawn_for_looks_that_have_it_and_leaves_the_brain_alone() -> None:
    brightened = 0
    for seed in range(40):
        rng = np.random.default_rng
        without = draw_record("phantom", rng(seed), SETTINGS)
        fatty = draw_record("phantom", rng(seed), replace(SETTINGS, bright_fat=1.0))
        assert replace(fatty, means=without.means) == without
        ratio = np.array(fatty.means) / np.maximum(without.means, 1e-9)
        if fatty.look in ("CT", "EPI", "PET", "MP2RAGE"):
            assert fatty == without
            continue
        brightened += 1
        soft = [INDEX["soft_tissue"], *range(len(ratio) - SOFT_BINS, len(ratio))]
        fat = [INDEX["skin"], INDEX["fat"], INDEX["cancellous_bone"], *soft]
        assert np.delete(ratio, fat)[np.delete(without.means, fat) > 0] == pytest.approx(1)
        assert 1.3 <= ratio[INDEX["skin"]] <= 4
        assert (ratio[fat][np.array(without.means)[fat] > 0] >= 1 - 1e-9).all()
    assert brightened > 20


def test_distances_measure_mm_of_the_sample(head: DeviceHead) -> None:
    for scale in (0.6, 1.0, 1.3):
        sample = render(plain(pose=Pose(scale=(scale,) * 3)), head)
        slope = torch.stack(torch.gradient(sample.distances[1], spacing=4.0)).norm(dim=0)
        near = sample.distances[1].abs() < 6
        assert slope[near].median().item() == pytest.approx(1.0, abs=0.06)
        volume = (sample.distances[1] < 0).sum().item() * 64
        assert volume == pytest.approx(scale**3 * 1.9e6, rel=0.12)


def test_deformed_distance_keeps_the_zero_level_on_the_label_boundary(head: DeviceHead) -> None:
    sample = render(plain(pose=Pose(warp_mm=6.0, warp_seed=2, rotation_deg=(10, 20, 30))), head, want_fractions=True)
    brain = sample.fractions[:3].sum(0)  # grey, white and fluid: everything inside the phantom's skull
    inside = sample.distances[1] < 0
    assert 2 * (inside & (brain > 0.5)).sum() / (inside.sum() + (brain > 0.5).sum()) > 0.985


def test_coordinates_and_affine_agree_and_follow_the_pose(head: DeviceHead) -> None:
    pose = Pose(rotation_deg=(25, -10, 40), scale=(0.9, 1.1, 1.0), shift_mm=(6, -9, 12))
    sample = render(plain(pose=pose), head)
    expected = pose.head_from_sample(head.center)  # the phantom's world is the template
    assert sample.template_from_sample == pytest.approx(expected, abs=1e-3)


def test_mirrored_head_keeps_left_on_the_left(head: DeviceHead) -> None:
    # A mirrored head looks like a head: its coordinates must increase to the right all the same.
    sample = render(plain(pose=Pose(mirror=True)), head)
    assert np.linalg.det(sample.template_from_sample[:3, :3]) > 0
    assert sample.coordinates[0, -1].mean() > 0 > sample.coordinates[0, 0].mean()


def test_partial_volume_conserves_the_mean_of_a_coarser_grid(head: DeviceHead) -> None:
    fine = render(plain(shape=(64, 64, 64), spacing_mm=4.0), head, want_fractions=True)
    coarse = render(plain(shape=(32, 32, 32), spacing_mm=8.0), head, want_fractions=True)
    pooled = F.avg_pool3d(fine.fractions[None], 2)[0]
    assert (pooled - coarse.fractions).abs().mean() < 0.03
    assert pooled.mean((1, 2, 3)).numpy() == pytest.approx(coarse.fractions.mean((1, 2, 3)).numpy(), abs=0.004)


def test_stripped_and_defaced_samples_lose_only_what_they_should(head: DeviceHead) -> None:
    whole = render(plain(), head)
    stripped = render(plain(stripped_mm=0.0), head)
    assert not stripped.clean[stripped.distances[1] > 0.5].any()
    defaced = render(plain(deface_deg=40.0, deface_mm=6.0), head)
    lost = (whole.clean > 0) & (defaced.clean == 0)
    assert lost.any()
    assert whole.distances[1][lost].min() > 0  # no brain


def test_thick_slices_blur_one_axis_only(head: DeviceHead) -> None:
    whole = render(plain(), head).clean
    thick = render(plain(resolution=(None, None, (12.0, 12.0, 0.5))), head).clean
    along = [(thick.diff(dim=axis).abs().mean() / whole.diff(dim=axis).abs().mean()).item() for axis in range(3)]
    assert along[2] < 0.9 * min(along[0], along[1])  # slices that average tilted surfaces blur in plane, too


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_looks_order_tissues_as_physics_does(look: str) -> None:
    rng = np.random.default_rng(0)
    means = np.mean([draw_means(look, rng) for _ in range(60)], axis=0)
    white, grey, fluid, bone = (means[INDEX[n]] for n in ("cerebral_wm", "cerebral_gm", "ventricle", "cortical_bone"))
    order = {"T1w": white > grey > fluid, "T2w": fluid > grey > white, "FLAIR": grey > white > fluid,
             "PDw": fluid > bone and grey > white, "CT": bone > grey > white > fluid,
             "EPI": fluid > grey > white > bone, "PET": grey > white > fluid, "MP2RAGE": white > grey > fluid > bone}
    assert order[look]
