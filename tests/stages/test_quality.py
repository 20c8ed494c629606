"""Quality on heads made of ellipsoids, where every answer is known: each fault must be named, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neuralprep.grid import Grid
from neuralprep.stages.quality import Quality, assess, judge
from neuralprep.stages.quality_limits import LIMITS, MEASURES, QualityLimits, Range
from neuralprep.transform import Affine
from neuralprep.volume import Volume

SPACING = 3.5
SEMI_AXES = np.array([66.0, 82.0, 62.0])  # of the inner skull, mm: 1405 ml
CENTRE = np.array([4.0, -12.0, 20.0])  # of the head in scanner space
GROWTH = 1.06  # the template's brain is larger by this
SCAN_FROM_TEMPLATE_MM = np.array([[1 / GROWTH, 0, 0, CENTRE[0]], [0, 1 / GROWTH, 0, CENTRE[1]],
                                  [0, 0, 1 / GROWTH, CENTRE[2]], [0, 0, 0, 1]])  # fmt: skip


def _distance(points: np.ndarray, semi_axes: np.ndarray) -> np.ndarray:
    """First-order signed distance to an ellipsoid about the origin, mm."""
    inner = np.linalg.norm(points / semi_axes, axis=-1)
    slope = np.linalg.norm(points / semi_axes**2, axis=-1)
    return inner * (inner - 1) / np.maximum(slope, 1e-6)


def _points(grid: Grid) -> np.ndarray:
    return grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


@dataclass(frozen=True)
class Head:
    """All that `assess` wants to know about one scan."""

    scan: Volume
    brain_mask: Volume
    nocsf_mask: Volume
    distance: Volume
    gain: Volume
    template_from_scan: Affine
    template: Any
    registration_score: float = 0.8
    agreement: float = 0.98

    def assess(self, **changes: Any) -> Quality:
        return assess(**{item.name: getattr(self, item.name) for item in fields(self)} | changes)

    def with_volumes(self, change: Any) -> Head:
        """Apply a change of geometry to every native volume."""
        names = ("scan", "brain_mask", "nocsf_mask", "distance", "gain")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


def _template() -> SimpleNamespace:
    grid = Grid.centered((60, 70, 60), 3.0, (0.5, -1.0, 2.0))
    inside = _distance(_points(grid), SEMI_AXES * GROWTH) < 0
    return SimpleNamespace(brain_mask=Volume(inside.astype(np.uint8), grid))


@pytest.fixture(scope="module")
def head() -> Head:
    rng = np.random.default_rng(3)
    grid = Grid.centered((64, 68, 64), SPACING, CENTRE)
    points = _points(grid) - CENTRE
    distance = _distance(points, SEMI_AXES)
    inside, tissue = distance < 0, distance < -3.0
    scan = np.select([tissue, inside, distance < 6, distance < 14], [100.0, 30.0, 15.0, 140.0], 0.0)
    scan = np.abs(scan * (1 + 0.1 * np.sin(points[..., 0] / 9)) + rng.normal(0, 4, scan.shape)).astype(np.float32)
    gain = np.exp(0.004 * points[..., 1]).astype(np.float32)
    volumes = [Volume(array, grid) for array in
               (scan, inside.astype(np.uint8), tissue.astype(np.uint8), distance.astype(np.float32), gain)]
    return Head(*volumes, Affine(SCAN_FROM_TEMPLATE_MM), _template())


def _failing(quality: Quality) -> set[str]:
    """Names of the measures outside their accepted range."""
    return {name for name, value in quality.measures.items()
            if not getattr(LIMITS, name).low <= value <= getattr(LIMITS, name).high}


def test_a_good_scan_is_ok(head: Head) -> None:
    quality = head.assess()
    assert (quality.decision, quality.reasons, quality.notes) == ("ok", (), ())
    volume = 4 / 3 * np.pi * np.prod(SEMI_AXES) / 1000
    assert quality.measures["icv_ml"] == pytest.approx(volume, rel=0.01)
    assert quality.measures["template_dice"] > 0.98
    assert quality.measures["left_right_dice"] > 0.97
    assert quality.measures["scale_max"] == pytest.approx(1 / GROWTH)
    assert quality.measures["gain_range"] == pytest.approx(np.exp(0.004 * 2 * 0.86 * SEMI_AXES[1]), rel=0.1)
    given = {"mirror_agreement": 0.97, "residual_mm": 2.0, "kept_voxels": 0, "predict": lambda known: 0.98}
    everything = head.assess(**given).measures
    assert set(everything) == {item.name for item in fields(QualityLimits)}
    assert set(everything) - set(quality.measures) == {
        "mirror_agreement", "residual_mm", "kept_voxels", "predicted_dice"
    }  # fmt: skip


@pytest.mark.parametrize("codes", ["LPI", "ASR", "SLA", "PIR"])
def test_axis_order_changes_nothing(head: Head, codes: str) -> None:
    expected = head.assess().measures
    turned = head.with_volumes(lambda volume: volume.oriented(codes)).assess()
    assert turned.decision == "ok"
    # the thinned sample may start at another voxel
    assert turned.measures == pytest.approx(expected, rel=0.03, abs=0.01)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("padded", [False, True])
def test_a_brain_cut_by_the_image_is_flagged(head: Head, axis: int, padded: bool) -> None:
    stop = list(head.scan.data.shape)
    stop[axis] = 36

    def cut(volume: Volume) -> Volume:
        short = volume.cropped((0, 0, 0), tuple(stop))
        missing = [whole - part for whole, part in zip(volume.data.shape, stop, strict=True)]
        return short.padded((0, 0, 0), tuple(missing)) if padded else short

    quality = head.with_volumes(cut).assess()
    assert {"fov_contact_cm2", "uncovered_share"} <= _failing(quality)
    assert any("edge of the image" in reason for reason in quality.reasons)


def test_one_missing_outer_plane_of_the_mask_does_not_hide_the_cut(head: Head) -> None:
    cut = head.with_volumes(lambda volume: volume.cropped((0, 0, 0), (36, 68, 64)))
    shy = cut.brain_mask.data.copy()
    shy[-1] = 0
    assert "fov_contact_cm2" in _failing(cut.assess(brain_mask=cut.brain_mask.with_data(shy)))


def test_a_brain_that_ends_inside_the_last_plane_is_not_cut(head: Head) -> None:
    rows = np.flatnonzero(head.brain_mask.data.any(axis=(0, 1)))
    whole = head.with_volumes(lambda volume: volume.cropped((0, 0, 0), (64, 68, int(rows[-1]) + 2)))
    assert whole.assess().decision == "ok"


@pytest.mark.parametrize("codes", ["RAS", "LIP"])
def test_the_lower_face_is_told_apart(head: Head, codes: str) -> None:
    low = head.with_volumes(lambda volume: volume.cropped((0, 0, 22), (64, 68, 64)).oriented(codes))
    assert "fov_contact_inferior_cm2" in _failing(low.assess())
    assert "fov_contact_cm2" not in _failing(low.assess())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m @ _shift(16, 0, 0), "left_right_dice"),
        (lambda m: m @ _shift(0, 30, 0), "template_dice"),
        (lambda m: m @ np.diag([0.6, 1.0, 1.0, 1.0]), "scale_min"),
        (lambda m: m @ np.diag([1.0, 1.0, 1.5, 1.0]), "scale_max"),
        (lambda m: m @ np.diag([-1.0, 1.0, 1.0, 1.0]), "affine_determinant"),
        (lambda m: m @ (np.eye(4) + 0.4 * np.eye(4, k=1) * np.array([[1], [0], [0], [0]])), "shear"),
    ],
    ids=["shifted sideways", "shifted forwards", "squeezed", "stretched", "mirrored", "sheared"],
)
def test_a_wrong_alignment_is_flagged(head: Head, change: Any, name: str) -> None:
    quality = head.assess(template_from_scan=Affine(change(SCAN_FROM_TEMPLATE_MM)))
    assert name in _failing(quality)
    assert quality.decision == "check"


def test_half_a_brain_is_flagged_as_lopsided(head: Head) -> None:
    half = head.brain_mask.data.copy()
    half[: half.shape[0] // 2] = 0
    quality = head.assess(brain_mask=head.brain_mask.with_data(half))
    assert {"icv_ml", "left_right_difference", "left_right_dice", "template_dice"} <= _failing(quality)
    assert any("lopsided" in reason for reason in quality.reasons)


def test_the_written_mask_is_the_one_compared_with_the_template(head: Head) -> None:
    wrong = head.template.brain_mask.with_data(np.roll(head.template.brain_mask.data, 10, axis=2))
    assert "template_dice" in _failing(head.assess(space_brain_mask=wrong))
    assert head.assess(space_brain_mask=head.template.brain_mask).measures["template_dice"] == 1.0


def test_a_second_piece_and_a_hole_are_flagged(head: Head) -> None:
    distance, mask = head.distance.data.copy(), head.brain_mask.data.copy()
    distance[28:36, 2:10, 2:8] = -4  # somewhere in the neck
    mask[28:34, 30:36, 30:34] = 0
    outside = head.assess(distance=head.distance.with_data(distance), brain_mask=head.brain_mask.with_data(mask))
    assert {"hole_ml"} <= _failing(outside)
    near = head.distance.data.copy()
    near[(near > -16) & (near < -8)] = 4  # a shell torn out of the brain leaves a core
    assert "second_component_share" in _failing(head.assess(distance=head.distance.with_data(near)))


def test_a_bite_out_of_the_surface_is_flagged(head: Head) -> None:
    grooves = (head.distance.data > -9) & (np.mod(_points(head.scan.grid)[..., 1], 24) < 10)
    bitten = head.brain_mask.with_data(np.where(grooves, 0, head.brain_mask.data).astype(np.uint8))
    assert head.assess().measures["dent_share"] < 0.005
    assert "dent_share" in _failing(head.assess(brain_mask=bitten))


def test_a_distance_in_doubt_is_flagged(head: Head) -> None:
    flat = head.distance.with_data(head.distance.data * np.float32(0.3))
    assert "odd_gradient_share" in _failing(head.assess(distance=flat))
    assert "odd_gradient_share" not in head.assess(distance=None).measures


def test_a_given_mask_needs_no_distance_and_no_registration(head: Head) -> None:
    quality = assess(scan=head.scan, brain_mask=head.brain_mask)
    assert quality.decision == "ok"
    assert not {"template_dice", "scale_min", "gain_range", "tissue_ml"} & set(quality.measures)


def test_images_that_are_no_scan_are_flagged(head: Head) -> None:
    blank = head.scan.with_data(np.full_like(head.scan.data, 7))
    labels = head.scan.with_data(np.round(head.scan.data / 20) * 20)
    assert {"brain_variation", "distinct_values"} <= _failing(head.assess(scan=blank))
    assert "distinct_values" in _failing(head.assess(scan=labels))


def test_a_stripped_scan_is_noted_and_not_called_cut(head: Head) -> None:
    stripped = head.scan.with_data(np.where(head.brain_mask.data > 0, head.scan.data, 0))
    quality = head.assess(scan=stripped)
    assert quality.decision == "ok"
    assert any("stripped already" in note for note in quality.notes)


def test_thick_slices_are_noted(head: Head) -> None:
    grid = Grid((64, 68, 32), head.scan.grid.affine @ np.diag([1, 1, 2, 1]))
    quality = head.with_volumes(lambda volume: Volume(volume.data[:, :, ::2], grid)).assess()
    assert quality.decision == "ok"
    assert any("thick slices" in note for note in quality.notes)


@pytest.mark.parametrize(("factor", "offset"), [(4.0, 0.0), (0.2, -1.0)], ids=["steep", "negative"])
def test_a_wild_multiplier_is_flagged(head: Head, factor: float, offset: float) -> None:
    gain = head.gain.with_data(head.gain.data ** np.float32(factor) + np.float32(offset))
    assert "gain_range" in _failing(head.assess(gain=gain))


@pytest.mark.parametrize(("name", "value"), [("agreement", 0.7), ("registration_score", 0.1)])
def test_given_scores_are_judged(head: Head, name: str, value: float) -> None:
    quality = head.assess(**{name: value})
    assert _failing(quality) == {name}
    assert f"{value:.3f}" in quality.reasons[0]


def test_no_brain_at_all(head: Head) -> None:
    quality = head.assess(brain_mask=head.brain_mask.with_data(np.zeros_like(head.brain_mask.data)))
    assert quality.decision == "check"
    assert "No brain was found" in quality.reasons[0]


def test_a_value_that_is_not_a_number_asks_for_a_check() -> None:
    quality = judge({"icv_ml": float("nan")})
    assert quality.decision == "check"
    assert "could not be computed" in quality.reasons[0]


def test_limits_can_be_given_for_other_heads() -> None:
    child = QualityLimits(icv_ml=Range(400, 1500))
    assert judge({"icv_ml": 800.0}).decision == "check"
    assert judge({"icv_ml": 800.0}, child).decision == "ok"


def test_every_limit_has_words_for_each_side_it_guards() -> None:
    assert [measure.name for measure in MEASURES] == [item.name for item in fields(QualityLimits)]
    for measure in MEASURES:
        bounds = getattr(LIMITS, measure.name)
        assert measure.low or not np.isfinite([bounds.low, bounds.usual_low]).any(), measure.name
        assert measure.high or not np.isfinite([bounds.high, bounds.usual_high]).any(), measure.name


def _shift(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = (x, y, z)
    return matrix


def test_a_prediction_sees_the_other_measures_and_asks_for_a_check(head: Head) -> None:
    seen: list[Any] = []

    def predict(measures: Any) -> float:
        seen.append(dict(measures))
        return 0.7

    quality = head.assess(predict=predict)
    assert quality.decision == "check"
    assert quality.measures["predicted_dice"] == 0.7
    assert any("Predicted overlap" in reason for reason in quality.reasons)
    assert {"agreement", "registration_score", "dent_share"} <= set(seen[0])
    assert "predicted_dice" not in head.assess(predict=lambda known: None).measures
