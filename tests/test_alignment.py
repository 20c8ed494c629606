"""Alignment of real heads: known motions, loops, exchanged images, lesions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from groupwise.heads import rendered, truth
from neuralprep import Grid, InputError, Volume, load
from neuralprep.alignment import AlignSettings, View, align_views, intensity_bins, regional_bins, view
from neuralprep.cli import main
from neuralprep.evaluation.affine import points_in_mask
from neuralprep.evaluation.labels import read_labels
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.formats import read_transform
from neuralprep.inference.pair_session import open_pair_session
from neuralprep.inference.session import Session, open_session
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain
from pair_weights import random_pair

HEADS = Path(__file__).parent.parent.parent / "shared" / "data" / "heads"
needs_heads = pytest.mark.skipif(not HEADS.is_dir(), reason=f"the public heads are not at {HEADS}")


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session("npp", "cpu", 1)


def head(name: str) -> Volume:
    path = HEADS / f"{name}.nii.gz"
    if not path.is_file():
        pytest.skip(f"the public head {path} is not there")
    return load(path)


def motion(rotation_deg: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return Affine(matrix)


def moved(volume: Volume, by: Affine) -> Volume:
    """The same voxels elsewhere in the world: only the header changes, so the answer is known exactly."""
    return Volume(volume.data, Grid(volume.grid.shape, by.matrix @ volume.grid.affine))


def brain_points(seen: View) -> np.ndarray:
    return points_in_mask(seen.judged.data, seen.judged.grid, 2000)


@needs_heads
@pytest.mark.parametrize(
    ("rotation", "shift"), [((8, -5, 12), (10, -4, 6)), ((90, 20, -30), (40, 0, -25)), ((0, 180, 0), (0, 0, 0))]
)
def test_a_known_motion_is_found_in_any_pose(session: Session, rotation: tuple, shift: tuple) -> None:
    scan, by = head("bisweb_sag_T1w_2mm"), motion(rotation, shift)
    still, turned = view(session, scan), view(session, moved(scan, by))
    points = brain_points(still)
    for kind, limit in (("rigid", 0.5), ("affine", 0.5)):
        found = align_views(turned, still, AlignSettings(kind))
        assert np.linalg.norm(found.fixed_from_moving.apply(points) - by.apply(points), axis=1).mean() < limit
        assert found.good
    coarse = align_views(turned, still, AlignSettings("rigid", refine=False)).fixed_from_moving
    assert np.linalg.norm(coarse.apply(points) - by.apply(points), axis=1).mean() < 5
    spline = align_views(turned, still, AlignSettings("tps", stiffness=0.1)).fixed_from_moving
    assert np.linalg.norm(spline.apply(points) - by.apply(points), axis=1).mean() < 5


@needs_heads
def test_contrasts_and_visits_of_one_person_agree(session: Session) -> None:
    """T1w of two visits and FLAIR: three registrations in a ring must end where they began."""
    seen = [view(session, head(f"openms_p01_{name}")) for name in ("s1_T1W", "s1_FLAIR", "s2_T1W")]
    ring = [align_views(seen[(k + 1) % 3], seen[k], AlignSettings("rigid")) for k in range(3)]
    points = brain_points(seen[0])
    back = Chain([found.fixed_from_moving for found in ring]).apply(points)
    assert np.linalg.norm(back - points, axis=1).mean() < 0.5
    linear = ring[0].fixed_from_moving.matrix[:3, :3]
    assert np.allclose(linear @ linear.T, np.eye(3), atol=1e-9)
    exchanged = align_views(seen[0], seen[1], AlignSettings("rigid")).fixed_from_moving
    there_and_back = exchanged.apply(ring[0].fixed_from_moving.apply(points))
    assert np.linalg.norm(there_and_back - points, axis=1).max() < 0.05


def test_an_affine_between_contrasts_is_found_to_half_a_millimetre(session: Session, shared_data: Path) -> None:
    """A held-out head drawn as T1w and as T2w; fluid and bone are one grey in the first and two in the second."""
    labels = load(shared_data / "labels" / "synthseg_training" / "training_seg_19.nii.gz", checks=False)
    by = truth(23, 15.0, 0.08)
    fixed = view(session, rendered(labels, 1, "T1w"))
    moving = view(session, moved(rendered(labels, 2, "T2w"), by))
    points = brain_points(fixed)
    found = align_views(moving, fixed, AlignSettings("affine"))
    assert np.linalg.norm(found.fixed_from_moving.apply(points) - by.apply(points), axis=1).mean() < 0.5
    exchanged = align_views(fixed, moving, AlignSettings("affine")).fixed_from_moving
    there_and_back = exchanged.apply(found.fixed_from_moving.apply(points))
    assert np.linalg.norm(there_and_back - points, axis=1).max() < 0.05


def test_regional_bins_are_fractions_that_tell_inside_from_outside() -> None:
    grid = Grid((12, 12, 12), np.eye(4))
    image = Volume(np.random.default_rng(0).uniform(10, 20, grid.shape).astype(np.float32), grid)
    share = np.indices(grid.shape)[0] / 11
    bins = np.stack([b.data for b in regional_bins(image, image.with_data(np.ones(grid.shape, np.uint8)), share)])
    assert np.allclose(bins.sum(0), 1, atol=1e-6)
    assert np.allclose(bins[: len(bins) // 2].sum(0), share, atol=1e-6)


@needs_heads
def test_a_lesion_mask_is_left_out(session: Session) -> None:
    scan = head("bisweb_sag_T1w_2mm")
    seen = view(session, scan)
    lesion = np.zeros(scan.grid.shape, np.uint8)
    middle = np.rint(scan.grid.world_to_voxel([seen.keypoints.scan.mean(0)])[0]).astype(int)
    lesion[tuple(slice(m - 8, m + 8) for m in middle)] = 1
    spared = seen.without(scan.with_data(lesion))
    lost = int(seen.judged.data.sum()) - int(spared.judged.data.sum())
    volume = lesion.sum() * np.prod(scan.grid.spacing) / np.prod(seen.judged.grid.spacing)
    assert 0.8 * volume < lost < 1.6 * volume
    found = align_views(spared, seen, AlignSettings("rigid"))
    assert np.allclose(found.fixed_from_moving.matrix, np.eye(4), atol=0.02)


def test_bins_are_fractions_and_reproduce_a_linear_function() -> None:
    grid = Grid((12, 12, 12), np.eye(4))
    image = Volume(np.random.default_rng(0).uniform(10, 20, grid.shape).astype(np.float32), grid)
    bins = np.stack([b.data for b in intensity_bins(image, image.with_data(np.ones(grid.shape, np.uint8)))])
    assert np.allclose(bins.sum(0), 1, atol=1e-6)
    inner = (image.data > 10.3) & (image.data < 19.7)
    fitted, *_ = np.linalg.lstsq(bins[:, inner].T, image.data[inner], rcond=None)
    assert np.abs(bins[:, inner].T @ fitted - image.data[inner]).max() < 1e-3


def test_an_image_without_a_brain_is_refused(session: Session) -> None:
    noise = np.random.default_rng(1).uniform(0, 100, (60, 60, 60)).astype(np.float32)
    empty = Volume(np.where(np.indices(noise.shape).sum(0) < 20, noise, 0), Grid((60, 60, 60), np.diag([2.0, 2, 2, 1])))
    with pytest.raises(InputError, match="no brain"):
        view(session, empty)


@pytest.mark.parametrize(("settings", "message"), [({"kind": "elastic"}, "elastic"), ({"stiffness": -1}, "stiffness")])
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlignSettings(**settings)


@needs_heads
def test_the_verb_writes_files_that_apply_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = head("bisweb_sag_T1w_2mm")
    by = motion((10, 5, -20), (15, 0, 5))
    scan.save(tmp_path / "still.nii.gz")
    moved(scan, by).save(tmp_path / "turned.nii.gz")
    out = tmp_path / "out"
    assert main(["register", str(tmp_path / "turned.nii.gz"), str(tmp_path / "still.nii.gz"), str(out),
                 "--type", "rigid", "--threads", "1"]) == 0
    made = load(out / "turned_space-still.nii.gz", checks=False)
    assert made.grid.same_as(scan.grid, tol_mm=1e-3)
    assert np.corrcoef(made.data.ravel(), scan.data.ravel())[0, 1] > 0.995
    forward = read_transform(out / "from-turned_to-still_mode-image_xfm.mat")
    backward = read_transform(out / "from-still_to-turned_mode-image_xfm.lta")
    points = np.random.default_rng(0).uniform(-60, 60, (50, 3))
    assert np.abs(backward.apply(forward.apply(points)) - points).max() < 1e-3
    for ending in ("txt", "mat", "lta", "fsl.mat"):
        again = tmp_path / f"again_{ending}.nii.gz"
        assert main(["apply", str(tmp_path / "turned.nii.gz"), str(again), "-r", str(tmp_path / "still.nii.gz"),
                     "-t", str(out / f"from-turned_to-still_mode-image_xfm.{ending}")]) == 0
        assert np.abs(load(again, checks=False).data - made.data).max() < 5e-3 * np.ptp(made.data)
    assert (out / "from-turned_to-still_overlay.png").read_bytes().startswith(b"\x89PNG")


@needs_heads
def test_a_network_that_says_anything_is_exactly_invertible(session: Session, tmp_path: Path) -> None:
    first, second = view(session, head("bisweb_sag_T1w_2mm")), view(session, head("xa30_prisma_T1w_2mm"))
    pair = open_pair_session(str(random_pair(tmp_path, 0.2)), "cpu", 1)
    alone = AlignSettings("svf", steps=0)
    there, back = align_views(first, second, alone, pair), align_views(second, first, alone, pair)
    points = brain_points(second)
    missed = np.linalg.norm(Chain([there.fixed_from_moving, back.fixed_from_moving]).apply(points) - points, axis=1)
    assert np.percentile(missed, 99) < 0.3
    affine = align_views(first, second)
    bent = np.linalg.norm(there.fixed_from_moving.apply(points) - affine.fixed_from_moving.apply(points), axis=1)
    assert bent.mean() > 0.1
    assert "begun by the network" in there.method
    with pytest.raises(InputError, match="no step and no network"):
        align_views(first, second, alone)


def test_tissue_maps_of_two_people_bend_onto_one_another_like_their_images(session: Session, shared_data: Path) -> None:
    folder = shared_data / "labels" / "malf_oasis"
    if not folder.is_dir():
        pytest.skip("no OASIS brains here")
    pair, drawn, grey = open_pair_session("pair", "cpu", 1), [], []
    for name in ("1006", "1000"):
        drawn.append(read_labels(folder / f"{name}_glm.nii.gz"))
        tissues = load(folder / f"{name}_tissues.nii.gz")
        share = ndimage.gaussian_filter((tissues.data == 2).astype(np.float32), 0.5)
        grey.append(view(session, tissues.with_data(share)))
    fixed, moving = grey
    scores = {}
    for kind in ("affine", "svf"):
        found = align_views(moving, fixed, AlignSettings(kind), pair)
        carried = resample(drawn[1], drawn[0].grid, found.fixed_from_moving, order=0).data
        by_label = dice_by_label(carried, drawn[0].data)
        scores[kind] = np.mean([one for label, one in by_label.items() if label])
    assert scores["affine"] > 0.36  # of the brains themselves: 0.40 and 0.56
    assert scores["svf"] > scores["affine"] + 0.1


@needs_heads
def test_a_dense_warp_fits_better_and_is_written_as_fields_and_as_its_velocity(
    session: Session, tmp_path: Path
) -> None:
    for name, source in (("one", "bisweb_sag_T1w_2mm"), ("two", "xa30_prisma_T1w_2mm")):
        head(source).save(tmp_path / f"{name}.nii.gz")
    moving, fixed, out = tmp_path / "one.nii.gz", tmp_path / "two.nii.gz", tmp_path / "out"
    assert main(["register", str(moving), str(fixed), str(out), "--type", "svf", "--refine", "5",
                 "--threads", "1"]) == 0  # fmt: skip
    record = json.loads((out / "from-one_to-two_registration.json").read_text())
    assert record["FoldedVoxels"] == 0
    made = load(out / "one_space-two.nii.gz", checks=False)
    assert made.grid.same_as(load(fixed).grid, tol_mm=1e-3)
    for transform, limit in (("desc-velocity_xfm.nii.gz", 0.01), ("xfm.h5", 0.02)):
        again = tmp_path / "again.nii.gz"
        assert main(["apply", str(moving), str(again), "-r", str(fixed), "-t",
                     str(out / f"from-one_to-two_mode-image_{transform}")]) == 0  # fmt: skip
        apart = np.abs(load(again, checks=False).data - made.data)
        assert np.percentile(apart, 99.9) < limit * np.ptp(made.data), transform
    dense = read_transform(out / "from-one_to-two_mode-image_desc-velocity_xfm.nii.gz")
    seen, still = view(session, load(moving)), view(session, load(fixed))
    points = brain_points(still)
    for ending in ("nii.gz", "h5"):  # the flow, sampled every 2 mm
        field = read_transform(out / f"from-one_to-two_mode-image_xfm.{ending}")
        assert np.percentile(np.linalg.norm(field.apply(points) - dense.apply(points), axis=1), 99) < 0.1
    inside = still.judged.data > 0
    alike = [np.corrcoef(resample(seen.head, still.head.grid, one).data[inside], still.head.data[inside])[0, 1]
             for one in (align_views(seen, still).fixed_from_moving, dense)]
    assert alike[1] > alike[0] + 0.05, alike


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.nii.gz", "b.nii.gz", "out", "--type", "tps", "--no-refine"], "--no-refine has no effect"),
        (["a.nii.gz", "b.nii.gz", "out", "--stiffness", "1"], "--stiffness has no effect"),
        (["a.nii.gz", "b.nii.gz", "out", "--type", "svf", "--also", "afni"], "--also has no effect with --type svf"),
        (["a.nii.gz", "b.nii.gz", "out", "--longitudinal", "--type", "svf"], "--type svf has no effect with --longit"),
        (["a.nii.gz", "b.nii.gz", "out", "--group", "--type", "svf", "--also", "x5"], "--also has no effect"),
        (["a.nii.gz", "b.nii.gz", "out", "--no-refine", "--fixed-lesion", "l.nii.gz"], "lesion mask has no effect"),
        (["a.nii.gz", "b.nii.gz", "out", "--type", "affine", "--refine", "3"], "--refine has no effect without"),
        (["a.nii.gz", "b.nii.gz", "out", "--group", "--type", "svf", "--refine", "3"], "--refine has no effect with"),
        (["a.nii.gz", "b.nii.gz", "out", "--type", "svf", "--refine", "0", "--network", "none"], "nothing would bend"),
        (["a.nii.gz", "b.nii.gz", "out", "--network", "n.safetensors"], "--network has no effect without --type svf"),
        (["a.nii.gz", "b.nii.gz", "out", "--type", "svf", "--refine", "-1"], "'-1' is not a number of zero or more"),
        (["x/a.nii.gz", "y/a.nii", "out"], "both images are called a"),
        (["absent.nii.gz", "b.nii.gz", "out"], "absent.nii.gz"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["register", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
