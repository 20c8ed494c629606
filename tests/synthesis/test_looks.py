"""Looks of single modalities: CT numbers, echo-planar distortion, MP2RAGE noise, backgrounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.contrast import draw_means
from neuralprep.synthesis.effects import plain_record
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import Anatomy, Background, EchoPlanar, Record
from neuralprep.synthesis.sample import render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record


def plain(look: str, **changes: Any) -> Record:
    return plain_record("phantom", look, **{"shape": (64, 64, 64), "spacing_mm": 4.0, **changes})


def test_ct_numbers_are_those_of_the_tissues(head: DeviceHead) -> None:
    record = plain("CT", anatomy=Anatomy(fat=True))
    means = np.mean([draw_means("CT", np.random.default_rng(k)) for k in range(20)], axis=0)
    record = plain("CT", anatomy=Anatomy(fat=True), means=tuple(means), subsamples=1)
    sample = render(record, head, want_fractions=True)
    assert sample.hounsfield is not None
    plausible = {"air": (-1024, -950), "internal_air": (-1024, -900), "cerebral_wm": (20, 35),
                 "cerebral_gm": (30, 45), "csf": (0, 20), "ventricle": (0, 15), "cortical_bone": (700, 1800),
                 "cancellous_bone": (200, 800), "fat": (-130, -60), "soft_tissue": (20, 80), "eye": (0, 30)}
    for name, (low, high) in plausible.items():
        values = sample.hounsfield[sample.classes == INDEX[name]]
        assert low < values.median() < high, name


def test_ct_window_is_that_of_the_pipeline(head: DeviceHead) -> None:
    from neuralprep.stages.conform import CT_WINDOW_HU

    sample = render(plain("CT", noise=0.02, noise_seed=3), head)
    assert sample.hounsfield is not None
    low, high = CT_WINDOW_HU
    expected = ((sample.hounsfield - low) / (high - low)).clamp(0, 1)
    assert sample.image.numpy() == pytest.approx(expected.numpy(), abs=1e-3)


def test_early_and_late_windows_differ_at_edges_only(head: DeviceHead) -> None:
    late = render(plain("CT"), head, want_fractions=True)
    early = render(plain("CT", window="early"), head)
    different = (late.image - early.image).abs() > 0.02
    assert different.any()
    # Bone of 1200 HU that fills a third of a voxel saturates it when the window comes late.
    classes = late.classes.float()[None]
    highest, lowest = (sign * F.max_pool3d(sign * classes, 3, 1, 1)[0] for sign in (1, -1))
    assert (highest > lowest)[different].all()
    assert late.image.mean() != early.image.mean()


def test_distortion_moves_image_and_truth_together(head: DeviceHead) -> None:
    epi = EchoPlanar(axis=1, shift_mm=14.0, seed=2)
    still, moved = (render(plain("EPI", echo_planar=e), head, want_fractions=True) for e in (None, epi))
    assert (moved.distances[1] - still.distances[1]).abs().max() > 4
    brain = moved.fractions[:3].sum(0) > 0.5
    inside = moved.distances[1] < 0
    assert 2 * (brain & inside).sum() / (brain.sum() + inside.sum()) > 0.985
    shift = moved.frame.warped - still.frame.warped
    assert not shift[[0, 2]].any()
    # Signal is only moved about: what is compressed gets brighter, so the total stays.
    total = [torch.exp(-s.log_gain).mul(s.clean).sum(1)[20:44, 30:50] for s in (still, moved)]
    ratio = total[1] / total[0] * (total[0].mean() / total[1].mean())
    assert ratio.std() < 0.12


def test_dropout_spares_what_is_far_from_air(head: DeviceHead) -> None:
    usual, lost = (render(plain("EPI", echo_planar=EchoPlanar(dropout=d)), head, want_fractions=True) for d in (0, 1))
    share = lost.clean / lost.clean[30, 10, 40] / (usual.clean / usual.clean[30, 10, 40]).clamp(min=1e-3)
    air = (usual.classes == INDEX["internal_air"]).nonzero().float().mean(0)
    place = torch.stack(torch.meshgrid(*[torch.arange(64.0)] * 3, indexing="ij"))
    distance = 4 * (place - air.view(3, 1, 1, 1)).norm(dim=0)
    brain = usual.distances[1] < -4
    assert share[brain & (distance > 60)].min() > 0.95
    near = (usual.clean > 0.1) & (distance < 15)
    assert share[near].mean() < 0.4


def test_mp2rage_is_noise_where_there_is_no_signal(head: DeviceHead) -> None:
    sample = render(plain("MP2RAGE", background=Background("mp2rage", 0.03, 4)), head, want_fractions=True)
    air = (sample.classes == INDEX["air"]) & (sample.fractions[3] == 1)
    assert sample.image[air].std() > 0.25
    assert 0.35 < sample.image[air].mean() < 0.65
    white = sample.fractions[1] > 0.999
    assert sample.image[white].std() < 0.02


@pytest.mark.parametrize("kind", ["zero", "noise", "blobs"])
def test_backgrounds_leave_the_head_alone(head: DeviceHead, kind: str) -> None:
    usual = render(plain("T1w", noise=0.02, noise_seed=3), head, want_fractions=True)
    other = render(plain("T1w", noise=0.02, noise_seed=3, background=Background(kind, 0.4, 7)), head)
    inside = (usual.distances[1] < 3) & (usual.image < 0.95) & (other.image < 0.95)
    scale = torch.exp(other.log_gain.mean() - usual.log_gain.mean())
    assert (other.image * scale)[inside].numpy() == pytest.approx(usual.image[inside].numpy(), abs=0.02)
    far = usual.distances[1] > 25
    if kind == "zero":
        near_head = F.max_pool3d((usual.classes != INDEX["air"]).float()[None], 3, 1, 1)[0] > 0
        assert not other.image[~near_head].any()
        assert usual.image[~near_head].any()
    else:
        assert (other.image - usual.image)[far].abs().mean() > 0.02


def test_scanners_have_only_the_faults_they_can_have() -> None:
    rng = np.random.default_rng(5)
    for look in ("CT", "PET", "MP2RAGE", "EPI"):
        for _ in range(40):
            record = draw_record("phantom", rng, SamplerSettings(), look)
            assert (record.window != "none") == (look == "CT")
            assert (record.echo_planar is not None) == (look == "EPI")
            assert (record.background.kind == "mp2rage") == (look == "MP2RAGE")
            if look in ("CT", "PET"):
                assert record.coils is None
                assert record.kspace == type(record.kspace)()
            if look == "CT":
                assert record.bias_strength == 0
            else:
                assert record.background.holder is None
