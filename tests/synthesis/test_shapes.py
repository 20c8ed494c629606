"""Anatomy-free heads: what must hold for every one of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, Head
from neuralprep.synthesis.classes import BRAIN_TISSUE, CLASSES, INDEX, indices
from neuralprep.synthesis.sample import DeviceHead, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.synthesis.shapes import PREFIX, named_shape_head, shape_head
from neuralprep.synthesis.shapes_parts import Field, capsule, ellipsoid, random_walk, union

SEEDS = range(8)
SIZE = 56


@pytest.fixture(scope="module")
def heads() -> list[Head]:
    return [shape_head(seed, SIZE) for seed in SEEDS]


def spacing(head: Head) -> float:
    return float(head.affine[0, 0])


def test_a_seed_makes_one_head_and_another_seed_another(heads: list[Head]) -> None:
    again = shape_head(SEEDS[0], SIZE)
    for name in ("labels", "affine", "distances", "template_from_world"):
        assert np.array_equal(getattr(again, name), getattr(heads[0], name)), name
    overlaps = [(a.labels == b.labels).mean() for a, b in pairwise(heads)]
    assert max(overlaps) < 0.95


def test_heads_are_nested_and_surrounded_by_air(heads: list[Head]) -> None:
    for head in heads:
        outer = np.ones(head.labels.shape, bool)
        outer[1:-1, 1:-1, 1:-1] = False
        assert not head.labels[outer].any(), head.name
        tissue, cavity = (distance < 0 for distance in head.distances)
        assert not (tissue & ~cavity).any(), head.name
        # No air next to the brain: something always lies between.
        around = ndimage.binary_dilation(cavity) & ~outer
        neck = ndimage.binary_dilation(outer, iterations=2)  # a large head may touch the edge of its grid
        assert (head.labels[around & ~neck] == 0).mean() < 0.02, head.name
        assert set(np.unique(head.labels)) <= set(range(len(CLASSES)))


def test_tissue_classes_lie_where_the_distance_says(heads: list[Head]) -> None:
    inner = indices((*BRAIN_TISSUE, "ventricle"))
    for head in heads:
        labelled = np.isin(head.labels, inner)
        tissue = head.distances[0] < 0
        assert not (labelled & ~tissue).any(), head.name  # the closing only adds
        assert labelled.sum() > 0.7 * tissue.sum(), head.name


def test_distances_have_unit_slope_in_mm(heads: list[Head]) -> None:
    for head in heads:
        distance = head.distances[1] * DISTANCE_STEP_MM
        slope = np.sqrt(sum(g**2 for g in np.gradient(distance, spacing(head))))
        near = np.abs(distance) < 0.4 * 20 * spacing(head) / (243 / SIZE)
        assert np.median(slope[near]) == pytest.approx(1.0, abs=0.12), head.name


def test_sizes_span_infants_and_large_animals() -> None:
    litres = [(h.distances[1] < 0).sum() * spacing(h) ** 3 / 1e6 for h in (shape_head(s, 32) for s in range(60))]
    assert min(litres) < 0.35
    assert max(litres) > 1.8
    assert 0.7 < np.median(litres) < 1.8
    assert min(litres) > 0.02


def test_population_shows_every_feature_and_every_orientation() -> None:
    seen = np.zeros(len(CLASSES), int)
    directions = []
    for seed in range(40):
        head = shape_head(seed, 40)
        seen[np.unique(head.labels)] += 1
        stem = np.argwhere(head.labels == INDEX["brainstem"])
        brain = np.argwhere(head.distances[1] < 0)
        offset = stem.mean(0) - brain.mean(0)
        directions.append((int(np.abs(offset).argmax()), bool(offset[np.abs(offset).argmax()] > 0)))
    for name in ("cerebral_gm", "csf", "eye", "mucosa", "artery", "vein", "cord", "cortical_bone", "cancellous_bone",
                 "ventricle", "wm_lesion", "skin", "soft_tissue"):
        assert seen[INDEX[name]] >= 5, name
    assert len(set(directions)) >= 5  # the stem points along both ways of most axes


def test_render_takes_a_made_up_head_as_any_other() -> None:
    head = DeviceHead.load(shape_head(3, 64), torch.device("cpu"))
    settings = SamplerSettings(shape=(48, 48, 48), spacing_mm=4.0, cut=0.0, stripped=0.0, wrap=0.0)
    for seed in range(3):
        record = draw_record(head.source.name, np.random.default_rng(seed), settings)
        sample = render(record, head)
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        assert (sample.distances[1] < 0).any()
        for name in ("clean", "log_gain", "distances", "coordinates"):
            assert torch.isfinite(getattr(sample, name)).all(), name
        again = render(replace(record), DeviceHead.load(shape_head(3, 64), torch.device("cpu")))
        assert torch.equal(again.image, sample.image)


def test_a_record_finds_its_head_by_name() -> None:
    head = shape_head(5, 40)
    assert np.array_equal(named_shape_head(head.name).labels, head.labels)
    for name in ("someone", PREFIX, f"{PREFIX}5", f"{PREFIX}x-40", "5-40"):
        with pytest.raises(InputError, match="not a head of the shape engine"):
            named_shape_head(name)


def field(size: int = 40) -> Field:
    return Field(size, 2.0, np.random.default_rng(0), torch.device("cpu"))


def test_level_sets_measure_mm() -> None:
    points = field().points()
    ball = ellipsoid(points, (4, -6, 2), (15, 15, 15))
    exact = torch.sqrt((points[0] - 4) ** 2 + (points[1] + 6) ** 2 + (points[2] - 2) ** 2) - 15
    assert (ball - exact).abs().max() < 1e-3
    egg = ellipsoid(points, (0, 0, 0), (12, 24, 30))
    assert (egg < 0).float().sum().item() * 8 == pytest.approx(4 / 3 * np.pi * 12 * 24 * 30, rel=0.02)
    rod = capsule(points, (-10, 0, 0), (10, 0, 0), 6.0)
    beyond = (points[0].abs() - 10).clamp(min=0)
    assert torch.allclose(rod, torch.sqrt(beyond**2 + points[1] ** 2 + points[2] ** 2) - 6, atol=1e-4)
    joined = union(ball, egg, 6.0)
    assert (joined <= torch.minimum(ball, egg) + 1e-5).all()
    apart = (ball - egg).abs() > 6
    assert torch.equal(joined[apart], torch.minimum(ball, egg)[apart])


def test_noise_is_smooth_and_standardised() -> None:
    noise = field(64).noise(30.0)[0]
    assert abs(noise.mean().item()) < 0.3
    assert noise.std().item() == pytest.approx(1.0, abs=0.35)
    step = noise.diff(dim=0).abs().max().item()
    assert step < 0.6  # 2 mm of a 30 mm period


def test_box_holds_everything_within_its_margin() -> None:
    f = field()
    where = f.box((5, 5, 5), (9, 5, 5), 12.0)
    outside = torch.ones((40,) * 3, dtype=torch.bool)
    outside[where] = False
    assert capsule(f.points(), (5, 5, 5), (9, 5, 5), 0.0)[outside].min() >= 12.0


def test_tubes_stay_on_the_grid() -> None:
    f = field()
    voxels = random_walk(f, np.array([2.0, 20.0, 37.0]), 300, 2)
    index = np.stack(np.unravel_index(voxels.numpy(), (40,) * 3))
    assert index.min() >= 1
    assert index.max() <= 38
