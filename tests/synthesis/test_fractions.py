"""Tissue fractions against brute-force super-sampling written independently of the painter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from neuralprep.synthesis.classes import CONTENTS, FLUID, FRACTIONS, GREY_MATTER, INDEX, WHITE_MATTER, indices
from neuralprep.synthesis.effects import plain_record
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import Anatomy, Mass, Record
from neuralprep.synthesis.sample import render
from neuralprep.synthesis.spatial import Pose

BALL = Mass("tumour", center_mm=(30.0, -20.0, 40.0), radius_mm=24.0, roughness=0.0, push=0.0)
RECORD = plain_record("phantom", shape=(44, 48, 44), spacing_mm=5.0, masses=(BALL,), subsamples=4,
                      pose=Pose(rotation_deg=(8, -5, 12), scale=(0.9, 1.0, 1.05), warp_mm=3.0, warp_seed=1))
FOUR = ((-1, -1, -1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))


def brute_force(record: Record, head: DeviceHead, offsets: np.ndarray) -> np.ndarray:
    """Fractions (5, X, Y, Z) by counting at positions given in voxels from each voxel centre."""
    frame = render(record, head).frame
    source = head.source
    groups = np.full(256, FRACTIONS.index("other"))
    for k, names in enumerate((GREY_MATTER, WHITE_MATTER, FLUID)):
        groups[list(indices(names))] = k
    warped = frame.warped.numpy().astype(float)
    out = np.zeros((5, *record.shape))
    for offset in offsets:
        # The deformation varies over centimetres: within a voxel it is that of the centre.
        position = np.einsum("ij,jxyz->ixyz", frame.head_from_sample[:3, :3],
                             warped + frame.spacing_mm * offset[:, None, None, None])
        position += frame.head_from_sample[:3, 3][:, None, None, None]
        index = np.rint((position - source.affine[:3, 3][:, None, None, None]) / source.affine[0, 0]).astype(int)
        i, j, k = (np.clip(a, 0, n - 1) for a, n in zip(index, source.labels.shape, strict=True))
        classes = source.labels[i, j, k]
        group = groups[classes]
        center = np.reshape(record.masses[0].center_mm, (3, 1, 1, 1))  # the phantom's world is the template
        ball = np.linalg.norm(position - center, axis=0) < record.masses[0].radius_mm
        group[ball & np.isin(classes, indices(CONTENTS))] = FRACTIONS.index("lesion")
        for number in range(5):
            out[number] += group == number
    return out / len(offsets)


def test_fractions_are_exact_for_the_sub_voxel_positions(head: DeviceHead) -> None:
    sample = render(RECORD, head, want_fractions=True)
    expected = brute_force(RECORD, head, 0.25 * np.array(FOUR))
    wrong = np.abs(sample.fractions.numpy() - expected).max(0) > 1e-6
    assert wrong.mean() < 1e-3  # rounding where a position lies exactly between two voxels


def test_fractions_agree_with_64_fold_super_sampling(head: DeviceHead) -> None:
    sample = render(RECORD, head, want_fractions=True)
    steps = (np.arange(4) - 1.5) / 4
    expected = brute_force(RECORD, head, np.array(list(itertools.product(steps, repeat=3))))
    made = sample.fractions.numpy()
    for number, name in enumerate(FRACTIONS):
        assert made[number].sum() == pytest.approx(expected[number].sum(), rel=0.006), name
    edge = (expected.max(0) < 0.999) & (expected.max(0) > 0)
    error = np.abs(made - expected).mean(0)[edge]
    # Four points know a fraction to within a quarter: an RMS error of a few per cent over the five tissues.
    assert error.mean() < 0.06


def test_fractions_of_a_changed_head_sum_to_one_and_keep_its_volume(head: DeviceHead) -> None:
    cavity = Mass("cavity", direction=(0.0, 1.0, 0.5), depth_mm=10.0, radius_mm=20.0, fluid=True)
    anatomy = Anatomy(atrophy=-0.2, ventricles_mm=5.0, lesions=0.5)
    usual = render(plain_record("phantom", shape=(44, 48, 44), spacing_mm=5.0), head, want_fractions=True)
    changed = render(plain_record("phantom", shape=(44, 48, 44), spacing_mm=5.0, anatomy=anatomy,
                                  masses=(cavity, BALL)), head, want_fractions=True)
    assert changed.fractions.sum(0).numpy() == pytest.approx(1, abs=1e-6)
    other = FRACTIONS.index("other")
    assert torch.equal(changed.fractions[other], usual.fractions[other])
    assert (changed.classes == INDEX["lesion"]).sum() > 100
