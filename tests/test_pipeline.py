"""The whole path of a scan with the shipped network."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.pipeline import OUTPUTS, STEPS, Preprocessor, Result, Settings, plan, possible_outputs
from neuralprep.resample import resample
from neuralprep.stages.intensity import NORMAL_LEVEL
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load

HEADS = ("heads/bisweb_sag_T1w_2mm.nii.gz", "heads/torchio_fernando_T2w.nii.gz")


def dice(a: Volume, b: Volume) -> float:
    first, second = a.data > 0, b.data > 0
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


@pytest.fixture(scope="module")
def everything() -> Preprocessor:
    return Preprocessor(Settings(threads=2, device="cpu", resolution=2.0))


@pytest.fixture(scope="module", params=HEADS)
def result(request: pytest.FixtureRequest, everything: Preprocessor, shared_data: Path) -> Result:
    return everything.run(load(shared_data / request.param))


def test_every_step_is_reachable_and_ordered() -> None:
    """The table can be read top to bottom: nothing is needed before it is given, nothing is given twice."""
    known: set[str] = set()
    for step in STEPS:
        assert set(step.needs) <= known, step.name
        assert not set(step.gives) & known, step.name
        known |= set(step.gives)
    assert set(OUTPUTS) <= known


def test_plan_does_only_what_is_asked() -> None:
    names = [step.name for step in plan(("brain_mask",), Settings())]
    assert names == ["window", "look", "register", "strip"]
    raw = Settings(normalize=False)
    names = [step.name for step in plan(("preproc_brain", "space_preproc"), raw)]
    assert "normalize" not in names
    assert {"strip", "register", "space", "mask"} <= set(names)


def test_requests_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(InputError, match="no output is called hat"):
        plan(("hat",), Settings())
    with pytest.raises(InputError, match="space_preproc cannot be made"):
        plan(("space_preproc",), Settings(register=False))
    for wrong in ({"lam": 0.0}, {"border_mm": 40.0}, {"fill": "grey"}, {"strip": False, "no_csf": True},
                  {"strip": False, "normalize": False, "register": False}):
        with pytest.raises(InputError):
            Settings(**wrong)  # type: ignore[arg-type]


def test_outputs_are_complete_and_consistent(result: Result) -> None:
    out, scan = result.outputs, result.scan
    assert tuple(out) == possible_outputs(result.settings)
    mask, nocsf = out["brain_mask"], out["nocsf_mask"]
    distance, brain, preproc = out["brain_distance"], out["preproc_brain"], out["preproc"]
    assert isinstance(mask, Volume)
    for volume in (mask, nocsf, distance, brain, preproc, out["multiplier"]):
        assert volume.grid.same_as(scan.grid)
    assert np.array_equal(distance.data < 0, mask.data > 0)
    assert not (nocsf.data > mask.data).any()
    assert np.array_equal(brain.data, np.where(mask.data > 0, preproc.data, 0))
    product = out["multiplier"].data * (scan.data - result.provenance["intensity_offset"])
    assert brain.data == pytest.approx(np.maximum(product, 0), rel=1e-4, abs=1e-3)  # strip + normalise = chi * x
    assert preproc.data[nocsf.data > 0].mean() == pytest.approx(NORMAL_LEVEL, rel=1e-3)
    assert result.quality.measures["icv_ml"] == pytest.approx(mask.data.sum() * scan.grid.voxel_volume / 1000, rel=1e-3)


def test_template_images_are_one_interpolation_of_the_native_ones(result: Result) -> None:
    out = result.outputs
    pull_back = out["template_from_scan"]
    assert isinstance(pull_back, Affine)
    again = resample(out["preproc"], out["space_preproc"].grid, pull_back, antialias=True)
    assert np.array_equal(again.data, out["space_preproc"].data)
    assert out["space_preproc"].grid.spacing == (2.0, 2.0, 2.0)
    assert dice(out["space_brain_mask"], load_template().brain_mask) > 0.92


def test_the_same_input_gives_the_same_bytes(result: Result, everything: Preprocessor) -> None:
    again = everything.run(result.scan)
    for name, value in result.outputs.items():
        other = again.outputs[name]
        if isinstance(value, Volume):
            assert value.data.tobytes() == other.data.tobytes(), name
        else:
            assert np.array_equal(value.matrix, other.matrix)


def test_all_48_orientations_of_the_array_give_one_answer(shared_data: Path) -> None:
    scan = load(shared_data / HEADS[0])
    stripper = Preprocessor(Settings(threads=2, device="cpu", outputs=("brain_mask", "template_from_scan")))
    reference = stripper.run(scan)
    mask = reference.outputs["brain_mask"].oriented("RAS")
    codes = ["".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
             for order in permutations(("RL", "AP", "SI")) for flips in product((0, 1), repeat=3)]
    assert len(codes) == 48
    points = np.random.default_rng(0).uniform(-60, 60, (20, 3))
    for code in codes[::5]:
        other = stripper.run(scan.oriented(code))
        assert dice(other.outputs["brain_mask"].oriented("RAS"), mask) > 0.999, code
        moved = other.outputs["template_from_scan"]
        assert moved.distance(reference.outputs["template_from_scan"], points) < 0.1, code


@pytest.mark.parametrize("degrees", [(180, 0, 0), (0, 90, 30), (100, -60, 140)])
def test_a_head_in_any_pose_is_found(result: Result, everything: Preprocessor, degrees: tuple[int, ...]) -> None:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    center = result.scan.grid.center
    turn[:3, 3] = center - turn[:3, :3] @ center
    scan = Volume(result.scan.data, Grid(result.scan.grid.shape, turn @ result.scan.grid.affine))
    found = everything.run(scan).outputs["template_from_scan"]
    expected = Affine(turn @ result.outputs["template_from_scan"].matrix)
    assert found.distance(expected, np.random.default_rng(0).uniform(-60, 60, (30, 3))) < 3.0


def test_lambda_changes_the_field_but_not_the_mask(result: Result) -> None:
    other = Preprocessor(replace(result.settings, lam=10.0, outputs=("brain_mask", "multiplier"))).run(result.scan)
    assert np.array_equal(other.outputs["brain_mask"].data, result.outputs["brain_mask"].data)
    inside = result.outputs["nocsf_mask"].data > 0
    ratio = other.outputs["multiplier"].data[inside] / result.outputs["multiplier"].data[inside]
    assert ratio.std() > 1e-3


def test_border_grows_and_shrinks_the_mask_by_mm(result: Result) -> None:
    def volume(border: float) -> float:
        settings = replace(result.settings, border_mm=border, outputs=("brain_mask",))
        return float(Preprocessor(settings).run(result.scan).outputs["brain_mask"].data.sum())

    base = float(result.outputs["brain_mask"].data.sum())
    assert volume(-3) < 0.97 * base < base * 1.03 < volume(3)


def test_own_mask_is_used_to_the_voxel(result: Result) -> None:
    mask = result.outputs["brain_mask"]
    mine = mask.with_data((mask.data > 0) & (np.indices(mask.data.shape)[2] % 2 == 0))
    settings = replace(result.settings, mask=mine, outputs=("brain_mask", "preproc_brain"))
    made = Preprocessor(settings).run(result.scan)
    assert np.array_equal(made.outputs["brain_mask"].data > 0, mine.data > 0)
    assert not made.outputs["preproc_brain"].data[mine.data == 0].any()
    elsewhere = Volume(np.ones((10, 10, 10), np.uint8), Grid.centered((10, 10, 10), 4.0))
    with pytest.raises(InputError, match="resample the mask to the scan"):
        Preprocessor(replace(settings, mask=elsewhere)).run(result.scan)


def test_without_normalisation_intensities_are_the_scans(result: Result) -> None:
    settings = replace(result.settings, normalize=False, outputs=("brain_mask", "preproc_brain"))
    made = Preprocessor(settings).run(result.scan)
    inside = made.outputs["brain_mask"].data > 0
    assert np.array_equal(made.outputs["preproc_brain"].data[inside], result.scan.data[inside])


def test_noise_is_refused_or_flagged(everything: Preprocessor) -> None:
    rng = np.random.default_rng(0)
    noise = Volume(rng.uniform(0, 100, (60, 60, 60)).astype(np.float32), Grid.centered((60, 60, 60), 3.0))
    with suppress(InputError):  # "no brain was found" is as good an answer as a flag
        judged = everything.run(noise).quality
        assert judged.decision == "check"
        assert judged.reasons
