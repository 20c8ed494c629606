"""Records survive JSON, replay exactly and stay readable."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
import torch

from neuralprep.errors import InputError
from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.contrast import SOFT_BINS
from neuralprep.synthesis.effects import EFFECTS, Effect, effect_record, plain_record
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import Record
from neuralprep.synthesis.sample import Sample, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record

IMAGE_ONLY = {"coils", "raw data", "resolution", "intensity", "background"}
MOVES_TRUTH = {"distortion"}  # the anatomy itself lies elsewhere in a distorted image


def small(effect: Effect, strength: float, head: DeviceHead) -> Sample:
    return render(effect_record(effect, "phantom", strength, 40, 6.0), head, want_fractions=True)


@pytest.fixture(scope="module")
def untouched(head: DeviceHead) -> dict[str, Sample]:
    return {e.look: small(e, 0.0, head) for e in EFFECTS}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda e: e.name)
def test_every_effect_works_replays_and_leaves_the_truths_it_must(
    effect: Effect, head: DeviceHead, untouched: dict[str, Sample]
) -> None:
    before, after = untouched[effect.look], small(effect, 1.0, head)
    whole = effect.name in ("extended neck", "cropped neck", "bright vessels")  # the phantom has a neck, no vessels
    assert whole or not torch.equal(after.image, before.image), "the effect does nothing"
    assert torch.isfinite(after.image).all()
    assert after.fractions.sum(0).numpy() == pytest.approx(1, abs=1e-5)
    if effect.group in IMAGE_ONLY and effect.name not in MOVES_TRUTH:
        for name in ("distances", "fractions", "coordinates", "classes"):
            assert torch.equal(getattr(after, name), getattr(before, name)), name
    record = Record.from_dict(json.loads(json.dumps(after.record.as_dict())))
    assert record == after.record
    again = render(record, head, want_fractions=True)
    for name in ("image", "clean", "log_gain", "distances", "fractions", "classes"):
        assert torch.equal(getattr(again, name), getattr(after, name)), name


def test_raw_data_faults_leave_the_clean_image(head: DeviceHead, untouched: dict[str, Sample]) -> None:
    for effect in EFFECTS:
        if effect.name in ("motion", "ghosts", "spikes", "truncation", "interleaved slices", "corrupted slices",
                           "receive coils", "smooth bias", "noise", "Rician noise"):
            after = small(effect, 1.0, head)
            assert after.clean.numpy() == pytest.approx(untouched[effect.look].clean.numpy(), abs=1e-5), effect.name


def test_records_of_the_first_version_load(head: DeviceHead) -> None:
    old = {"head": "phantom", "look": "T1w", "shape": [24, 24, 24], "spacing_mm": 10.0, "subsamples": 2,
           "pose": {"rotation_deg": [3, 0, 0]}, "means": [0.1 * (k % 7) for k in range(25 + SOFT_BINS)],
           "spreads": [0.01] * (25 + SOFT_BINS), "resolution": [None, None, [12.0, 9.0, 0.2]],
           "blobs": [{"center_mm": [20, -10, 20], "radius_mm": 15.0, "intensity": 1.0, "seed": 4}]}
    record = Record.from_dict(old)
    assert record.masses[0].radius_mm == 15
    assert record.means[INDEX["internal_air"]] == old["means"][INDEX["air"]]  # type: ignore[index]
    assert record.means[-SOFT_BINS:] == tuple(old["means"][-SOFT_BINS:])  # type: ignore[index]
    assert torch.isfinite(render(record, head).image).all()


def test_damaged_records_are_refused() -> None:
    good = plain_record("phantom").as_dict()
    with pytest.raises(InputError, match="unknown key colour"):
        Record.from_dict({**good, "colour": 1})
    with pytest.raises(InputError, match=r"unknown key tilt \(Pose\)"):
        Record.from_dict({**good, "pose": {"tilt": 3}})
    with pytest.raises(InputError, match="means have 3 entries"):
        Record.from_dict({**good, "means": [1, 2, 3]})
    without = {key: value for key, value in good.items() if key != "head"}
    with pytest.raises(InputError, match=r"not complete.*head"):
        Record.from_dict(without)


def test_the_sampler_draws_every_effect_and_mostly_ordinary_scans() -> None:
    records = [draw_record("phantom", np.random.default_rng((3, k)), SamplerSettings(ceiling=0.5)) for k in range(1500)]
    seen = {f.name: {str(getattr(r, f.name)) for r in records} for f in fields(Record)}
    constant = {name for name, values in seen.items() if len(values) == 1}
    assert constant == {"head", "shape", "spacing_mm", "subsamples"}
    share = {
        "pathology": np.mean([bool(r.masses) or r.anatomy.lesions > 0 for r in records]),
        "atrophy": np.mean([r.anatomy.atrophy != 0 for r in records]),
        "raw data": np.mean([r.kspace != type(r.kspace)() for r in records]),
    }
    assert 0.2 < share["pathology"] < 0.32
    assert 0.1 < share["atrophy"] < 0.25
    assert share["raw data"] < 0.25
    ordinary = np.mean([not r.masses and r.kspace == type(r.kspace)() and r.slices is None and r.look != "random"
                        for r in records])
    assert ordinary > 0.25
