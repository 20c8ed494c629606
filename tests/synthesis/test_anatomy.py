"""What changes inside the head: atrophy, masses, ventricles, lesions, label edits, the neck."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuralprep.synthesis.classes import FRACTIONS, INDEX
from neuralprep.synthesis.effects import plain_record
from neuralprep.synthesis.heads import DeviceHead
from neuralprep.synthesis.record import Anatomy, Background, Mass, Record
from neuralprep.synthesis.sample import Sample, render
from neuralprep.synthesis.spatial import Pose

MENINGIOMA = Mass("extra-axial", direction=(0.3, 0.2, 1.0), depth_mm=6.0, radius_mm=22.0, roughness=0.1, push=0.8,
                  intensity=1.0, texture=0.0)


def plain(look: str = "T1w", **changes: object) -> Record:
    return plain_record("phantom", look, **{"shape": (64, 64, 64), "spacing_mm": 4.0, **changes})


def volume_ml(mask: torch.Tensor) -> float:
    return mask.sum().item() * 0.064


@pytest.fixture(scope="module")
def before(head: DeviceHead) -> Sample:
    return render(plain(), head, want_fractions=True)


@pytest.mark.parametrize("change", [-0.3, -0.12, 0.06])
def test_atrophy_changes_the_brain_by_what_was_asked_and_not_the_skull(
    head: DeviceHead, before: Sample, change: float
) -> None:
    after = render(plain(anatomy=Anatomy(atrophy=change)), head, want_fractions=True)
    assert torch.equal(after.distances[1], before.distances[1])
    measured = volume_ml(after.distances[0] < 0) / volume_ml(before.distances[0] < 0) - 1
    assert measured == pytest.approx(change, abs=0.02)
    assert not ((after.distances[0] < 0) & (after.distances[1] >= 0)).any()
    # The labels follow: grey and white matter shrink alike, fluid fills in, nothing outside the skull changes.
    tissue = (after.fractions[:2].sum() / before.fractions[:2].sum()).item() - 1
    assert tissue == pytest.approx(change, abs=0.03)
    assert torch.equal(after.fractions[3], before.fractions[3])


def test_growth_stops_at_the_skull(head: DeviceHead) -> None:
    after = render(plain(anatomy=Anatomy(atrophy=0.3)), head, want_fractions=True)
    inside = (after.distances[0] < 0).sum() / (after.distances[1] < 0).sum()
    assert 0.93 < inside <= 1
    assert not ((after.distances[0] < 0) & (after.distances[1] >= 0)).any()


def test_atrophied_distance_is_zero_where_the_labels_change(head: DeviceHead) -> None:
    sample = render(plain(anatomy=Anatomy(atrophy=-0.2), pose=Pose(warp_mm=4.0, warp_seed=1)), head,
                    want_fractions=True)
    # The phantom's tissue truth is grey, white and the ventricles; only the outer fluid is not in it.
    ventricles = sample.classes == INDEX["ventricle"]
    brain = (sample.fractions[:2].sum(0) > 0.5) | ventricles
    found = sample.distances[0] < 0
    assert 2 * (brain & found).sum() / (brain.sum() + found.sum()) > 0.98
    slope = torch.stack(torch.gradient(sample.distances[0], spacing=4.0)).norm(dim=0)
    assert slope[sample.distances[0].abs() < 6].median().item() == pytest.approx(1, abs=0.06)


def test_extra_axial_mass_keeps_the_skull_and_counts_as_brain(head: DeviceHead, before: Sample) -> None:
    after = render(plain(masses=(MENINGIOMA,)), head, want_fractions=True)
    assert torch.equal(after.distances[1], before.distances[1])
    lesion = after.fractions[FRACTIONS.index("lesion")]
    assert volume_ml(lesion) > 8
    assert (after.distances[1][lesion > 0.5] < 2).all()
    assert (after.distances[0][lesion > 0.75] < 2.5).all()
    assert volume_ml(after.distances[0] < 0) > volume_ml(before.distances[0] < 0)
    assert torch.equal(after.fractions[3], before.fractions[3])  # bone and flesh are as they were
    # It pushes: more tissue is left than when it only replaces what was in its place.
    replacing = render(plain(masses=(replace(MENINGIOMA, push=0.0),)), head, want_fractions=True)
    lost, replaced = (volume_ml((before.fractions[:2] - s.fractions[:2]).sum(0)) for s in (after, replacing))
    assert 0 < lost < 0.75 * replaced


def test_intra_axial_mass_leaves_the_brain_surface(head: DeviceHead, before: Sample) -> None:
    inner = Mass(direction=(1.0, 0.0, 0.3), depth_mm=40.0, radius_mm=12.0, push=0.0, roughness=0.2)
    after = render(plain(masses=(inner,)), head)
    assert after.distances[0].numpy() == pytest.approx(before.distances[0].numpy(), abs=0.05)


def test_cavity_is_fluid_and_never_extends_the_brain(head: DeviceHead, before: Sample) -> None:
    cavity = Mass("cavity", direction=(0.2, 1.0, 0.4), depth_mm=8.0, radius_mm=18.0, fluid=True, intensity=0.2)
    after = render(plain(masses=(cavity,)), head, want_fractions=True)
    assert volume_ml(after.fractions[2] - before.fractions[2]) > 3
    assert not after.fractions[4].any()
    assert torch.equal(after.distances, before.distances)


def test_layers_of_a_tumour_lie_within_each_other(head: DeviceHead) -> None:
    tumour = Mass("tumour", center_mm=(28.0, -16.0, 22.0), radius_mm=20.0, roughness=0.0, intensity=0.4, core=0.5,
                  core_intensity=0.0, rim_mm=4.0, rim_intensity=1.0, oedema_mm=12.0, oedema_intensity=0.3, texture=0.0)
    sample = render(plain(masses=(tumour,)), head)
    center = np.linalg.inv(sample.template_from_sample) @ [28, -16, 22, 1]
    index = np.rint((center[:3] - sample.frame.affine[:3, 3]) / 4).astype(int)
    values = sample.clean[index[0], index[1], index[2] :].numpy()[:10] / sample.clean.max().item()
    core, body, rim, oedema, far = values[0], values[3], values[4:6].max(), values[6], values[9]
    assert core < 0.05 < body < rim
    assert oedema < 0.75 * far


def test_ventricles_grow_inside_an_unchanged_brain(head: DeviceHead, before: Sample) -> None:
    after = render(plain(anatomy=Anatomy(ventricles_mm=6.0)), head, want_fractions=True)
    grown = volume_ml(after.classes == INDEX["ventricle"]) / volume_ml(before.classes == INDEX["ventricle"])
    assert 1.5 < grown < 6
    assert after.distances[0].numpy() == pytest.approx(before.distances[0].numpy(), abs=0.6)


def test_white_matter_lesions_stay_white_matter(head: DeviceHead) -> None:
    fine = {"shape": (96, 96, 96), "spacing_mm": 2.5}
    volumes = []
    none = render(plain("FLAIR", **fine), head, want_fractions=True)
    for load in (0.2, 1.0):
        anatomy = Anatomy(lesions=load, lesion_intensity=1.0, neck="extend")
        some = render(plain("FLAIR", anatomy=anatomy, **fine), head, want_fractions=True)
        changed = (some.clean - none.clean).abs() > 0.02
        volumes.append(changed.sum().item())
        assert (none.fractions[1][changed] > 0).all()
        assert torch.equal(some.fractions, none.fractions)
        assert torch.equal(some.distances, none.distances)
        assert (some.classes == INDEX["wm_lesion"]).any()
    assert 0 < 2 * volumes[0] < volumes[1]


def test_inner_air_dura_and_fat_have_intensities_of_their_own(head: DeviceHead) -> None:
    for name, changes in (("internal_air", {}), ("dura", {"dura": 1}), ("fat", {"fat": True})):
        record = plain(anatomy=replace(plain().anatomy, **changes))
        means = np.array(record.means)
        means[INDEX[name]] = 5.0
        bright = render(replace(record, means=tuple(means)), head, want_fractions=True)
        usual = render(record, head, want_fractions=True)
        ratio = bright.clean / usual.clean.clamp(min=1e-3)
        changed = ratio > 1.5
        assert changed.any()
        assert (bright.fractions[3][changed] > 0).all(), name  # never inside the skull
        assert torch.equal(bright.distances, usual.distances)


def test_air_is_inner_air_only_inside(head: DeviceHead) -> None:
    index = np.argwhere(head.labels.numpy() == INDEX["internal_air"])
    world = index @ head.source.affine[:3, :3].T + head.source.affine[:3, 3]
    assert world.mean(0) == pytest.approx([0, 66, -56], abs=4)
    assert (np.abs(world - [0, 66, -56]) < 20).all()


def test_merged_classes_look_the_same(head: DeviceHead) -> None:
    record = plain(anatomy=Anatomy(merged=(("csf", "cortical_bone"),)), subsamples=1)
    sample = render(record, head, want_fractions=True)
    raw = sample.clean / sample.clean.max()
    fluid, bone = (raw[sample.classes == INDEX[name]].mean() for name in ("csf", "cortical_bone"))
    assert fluid.item() == pytest.approx(bone.item(), rel=1e-4)


def test_necks_end_where_the_scan_ends(head: DeviceHead) -> None:
    source = head.source
    index = round((-105 - source.affine[2, 3]) / source.affine[2, 2])
    labels = source.labels[:, :, index:].copy()
    labels[:, :, 0] = 0
    affine = source.affine.copy()
    affine[2, 3] += index * affine[2, 2]
    distances = source.distances[:, :, :, index:].copy()
    short = DeviceHead.load(replace(source, labels=labels, affine=affine, distances=distances, distance_affine=affine),
                            torch.device("cpu"))
    assert short.cut_face == (2, 0)
    seen = {}
    for neck in ("cut", "crop", "extend"):
        sample = render(plain(anatomy=Anatomy(neck=neck, shoulders=1.0 if neck == "extend" else 0.0)), short)
        below = sample.frame.affine[2, 3] + 4 * np.arange(64) + short.center[2] < -115
        seen[neck] = (sample.clean[:, :, below] > 0.2).sum().item(), sample.field_of_view[:, :, below].any().item()
        assert (sample.distances[1][:, :, below] > 5).all()
    assert seen["cut"] == (0, True)
    assert seen["crop"][1] is False
    assert seen["extend"][0] > 500


def test_muzzle_changes_the_face_only(head: DeviceHead, before: Sample) -> None:
    after = render(plain(pose=Pose(muzzle=2.0)), head)
    assert torch.equal(after.distances, before.distances)
    assert torch.equal(after.coordinates, before.coordinates)
    changed = F.avg_pool3d(((after.clean - before.clean).abs() > 0.1).float()[None], 2)[0] > 0.4
    assert changed.any()
    assert (F.avg_pool3d(after.distances[1:], 2)[0][changed] > 0).all()


def test_head_rest_fills_air_only(head: DeviceHead) -> None:
    usual = render(plain("CT"), head)
    held = render(plain("CT", background=Background(holder=1.0, table=True)), head, want_fractions=True)
    changed = (held.clean - usual.clean).abs() > 0.05
    assert changed.any()
    assert (held.fractions[3][changed] > 0).all()
    assert torch.equal(held.distances, usual.distances)
