"""``neuralprep apply``: SimpleITK's answers, every format, labels that stay labels, points that travel along."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from neuralprep import Grid, Volume, load
from neuralprep.cli import main
from neuralprep.formats import fsl, itk, itk_hdf5, lta, text
from neuralprep.formats.sets import write_warp_set
from neuralprep.resample import resample, resample_labels
from neuralprep.transform import Affine, Chain, to_displacement
from samples import fixed_grid, moving_grid, points, pull_back, sitk_resample, smooth_field, smooth_volume

sitk = pytest.importorskip("SimpleITK")

MOVING = moving_grid()


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    smooth_volume(MOVING).save(tmp_path / "scan.nii.gz")
    Volume(np.zeros(fixed_grid().shape, np.float32), fixed_grid()).save(tmp_path / "reference.nii.gz")
    return tmp_path / "scan.nii.gz", tmp_path / "reference.nii.gz"


def interior(wanted: np.ndarray) -> np.ndarray:
    """Voxels away from the moving image's edge, where the two programs treat the last half voxel differently."""
    return np.asarray(ndimage.binary_erosion(wanted != 0, iterations=2))


def test_composite_file_as_simpleitk(scene: tuple[Path, Path], tmp_path: Path) -> None:
    scan, reference = scene
    itk_hdf5.write_composite(tmp_path / "both.h5", Chain([smooth_field(), pull_back()]))
    assert main(["apply", str(scan), str(tmp_path / "out.nii.gz"), "-t", str(tmp_path / "both.h5"),
                 "-r", str(reference)]) == 0
    wanted = sitk_resample(load(scan, checks=False), fixed_grid(), sitk.ReadTransform(str(tmp_path / "both.h5")))
    inside = interior(wanted)
    assert inside.sum() > 500
    assert np.abs(load(tmp_path / "out.nii.gz", checks=False).data - wanted)[inside].max() < 1e-3 * np.ptp(wanted)


def test_files_are_listed_in_the_order_in_which_the_image_travels(scene: tuple[Path, Path], tmp_path: Path) -> None:
    scan, reference = scene
    first, second = pull_back(), smooth_field()  # scan -> middle -> reference
    itk.write_affine(tmp_path / "first.mat", first)
    itk.write_field(tmp_path / "second.nii.gz", second)
    assert main(["apply", str(scan), str(tmp_path / "out.nii.gz"), "-t", str(tmp_path / "first.mat"),
                 "-t", str(tmp_path / "second.nii.gz"), "-r", str(reference)]) == 0
    wanted = resample(load(scan, checks=False), fixed_grid(), Chain([second, first])).data
    assert np.abs(load(tmp_path / "out.nii.gz", checks=False).data - wanted).max() < 1e-3


@pytest.mark.parametrize("ending", ["mat", "txt", "tfm", "lta", "fsl.mat", "xfm.txt"])
@pytest.mark.parametrize("inverted", [False, True])
def test_every_format_and_its_inverse_give_one_image(
    scene: tuple[Path, Path], tmp_path: Path, ending: str, inverted: bool
) -> None:
    scan, reference = scene
    path = tmp_path / f"t.{ending}"
    stored = pull_back().inverse() if inverted else pull_back()
    sides = (MOVING, fixed_grid()) if inverted else (fixed_grid(), MOVING)
    if ending == "fsl.mat":
        fsl.write_mat(path, stored, *sides)
    elif ending == "lta":
        lta.write_lta(path, stored, *sides)
    elif ending == "xfm.txt":
        text.write_matrix(path, stored)
    else:
        itk.write_affine(path, stored)
    assert main(["apply", str(scan), str(tmp_path / "out.nii.gz"), "-i" if inverted else "-t", str(path),
                 "-r", str(reference)]) == 0
    wanted = resample(load(scan, checks=False), fixed_grid(), pull_back()).data
    assert np.abs(load(tmp_path / "out.nii.gz", checks=False).data - wanted).max() < 2e-3 * np.ptp(wanted)


def test_points_travel_with_the_image(scene: tuple[Path, Path], tmp_path: Path) -> None:
    itk.write_affine(tmp_path / "first.mat", pull_back())
    itk.write_field(tmp_path / "second.nii.gz", smooth_field())
    goal = points()[:20]
    start = pull_back().apply(smooth_field().apply(goal))
    named = zip("abcdefghijklmnopqrst", start.tolist(), strict=True)
    rows = [f"{name},{x!r},{y!r},{z!r},keep" for name, (x, y, z) in named]
    (tmp_path / "p.csv").write_text("\n".join(["name,X,y,z,note", *rows]) + "\n")
    assert main(["apply", str(tmp_path / "p.csv"), str(tmp_path / "q.csv"), "-t", str(tmp_path / "first.mat"),
                 "-t", str(tmp_path / "second.nii.gz")]) == 0
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert lines[0] == "name,X,y,z,note"
    assert [(line[0], line[-4:]) for line in lines[1:3]] == [("a", "keep"), ("b", "keep")]
    made = np.array([line.split(",")[1:4] for line in lines[1:]], float)
    # 1e-6 mm in the file; the inverse of a field is itself a field, interpolated between its voxels
    assert np.abs(made - goal).max() < 0.03
    # the same points in ITK's axes
    flipped = start * [-1, -1, 1]
    np.savetxt(tmp_path / "l.csv", flipped, delimiter=",", fmt="%.9f")
    assert main(["apply", str(tmp_path / "l.csv"), str(tmp_path / "m.csv"), "--lps", "-t", str(tmp_path / "first.mat"),
                 "-t", str(tmp_path / "second.nii.gz")]) == 0
    assert np.abs(np.loadtxt(tmp_path / "m.csv", delimiter=",") * [-1, -1, 1] - made).max() < 1e-4


@pytest.mark.parametrize("ending", ["nii.gz", "h5"])
def test_a_field_with_an_affine_in_it_goes_both_ways(scene: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    """As `register --type svf` and `tps` write them: the image lies far outside the field's own grid."""
    scan, _ = scene
    away = np.eye(4)
    away[:3, :3] = Rotation.from_euler("xyz", (50, -40, 80), degrees=True).as_matrix()
    away[:3, 3] = (60, -45, 30)
    chain = Chain([smooth_field(size_mm=2.0), Affine(away)])
    grid = Grid.centered((60, 60, 60), 1.5, codes="LAS")
    write_warp_set(tmp_path, "w", to_displacement(chain, grid))
    path = str(tmp_path / f"w.{ending}")
    far = Grid(fixed_grid().shape, away @ fixed_grid().affine)  # where the pull-back leads
    smooth_volume(far, seed=3).save(tmp_path / "far.nii.gz")
    assert main(["apply", str(scan), str(tmp_path / "out.nii.gz"), "-i", path, "-r", str(tmp_path / "far.nii.gz")]) == 0
    wanted = resample(load(scan, checks=False), far, chain.inverse()).data
    inside = interior(wanted)
    assert inside.sum() > 500
    made = load(tmp_path / "out.nii.gz", checks=False).data
    assert np.percentile(np.abs(made - wanted)[inside], 99) < 1e-2 * np.ptp(wanted)
    start, goal = chain.apply(points()[:20]), points()[:20]  # points go against the pull-back
    for flag, first, last in (("-t", start, goal), ("-i", goal, start)):
        np.savetxt(tmp_path / "p.csv", first, delimiter=",", fmt="%.9f")
        assert main(["apply", str(tmp_path / "p.csv"), str(tmp_path / "q.csv"), flag, path]) == 0
        apart = np.abs(np.loadtxt(tmp_path / "q.csv", delimiter=",") - last).max()
        assert apart < 0.05, flag


def test_an_inverted_chain_is_the_inverse_of_the_chain(scene: tuple[Path, Path], tmp_path: Path) -> None:
    scan, reference = scene
    itk.write_affine(tmp_path / "a.mat", pull_back())
    itk.write_field(tmp_path / "w.nii.gz", smooth_field())
    # an image that went by -t a -t w comes back by -i w -i a
    assert main(["apply", str(scan), str(tmp_path / "out.nii.gz"), "-i", str(tmp_path / "w.nii.gz"),
                 "-i", str(tmp_path / "a.mat"), "-r", str(reference)]) == 0
    wanted = resample(load(scan, checks=False), fixed_grid(), Chain([smooth_field(), pull_back()]).inverse()).data
    assert np.abs(load(tmp_path / "out.nii.gz", checks=False).data - wanted).max() < 1e-3 * np.ptp(wanted)


def ball_labels(grid: Grid) -> np.ndarray:
    where = grid.voxel_to_world(np.argwhere(np.ones(grid.shape, bool))).reshape(*grid.shape, 3)
    radius = np.linalg.norm(where - grid.center, axis=-1)
    return np.where(radius < 9, 4, np.where(radius < 17, 700, 0)).astype(np.int16)


def test_labels_stay_labels_and_are_smoother_than_nearest(tmp_path: Path) -> None:
    coarse = Grid((20, 20, 20), np.diag([3.0, 3, 3, 1]) + np.pad([[-28.5]] * 3, ((0, 1), (3, 0))))
    fine = Grid((57, 57, 57), np.diag([1.0, 1, 1, 1]) + np.pad([[-28.0]] * 3, ((0, 1), (3, 0))))
    Volume(ball_labels(coarse), coarse).save(tmp_path / "labels.nii.gz")
    Volume(np.zeros(fine.shape, np.float32), fine).save(tmp_path / "fine.nii.gz")
    made = {}
    for how in ("label", "nearest"):
        assert main(["apply", str(tmp_path / "labels.nii.gz"), str(tmp_path / f"{how}.nii.gz"), "-r",
                     str(tmp_path / "fine.nii.gz"), "--interpolation", how]) == 0
        image = nib.load(tmp_path / f"{how}.nii.gz")
        assert image.get_data_dtype().kind in "iu"
        made[how] = np.asarray(image.dataobj)
        assert set(np.unique(made[how])) == {0, 4, 700}
    truth = ball_labels(fine)
    wrong = {how: int((values != truth).sum()) for how, values in made.items()}
    assert wrong["label"] < 0.75 * wrong["nearest"]


def test_label_resampling_copies_where_it_can() -> None:
    labels = Volume(ball_labels(MOVING), MOVING)
    turned = resample_labels(labels, MOVING.oriented("LPI"))
    assert np.array_equal(turned.data, labels.oriented("LPI").data)
    matrix = np.eye(4)
    matrix[:3, 3] = MOVING.affine[:3, :3] @ [2.0, 0, 0]
    shift = Affine(matrix)
    assert np.array_equal(resample_labels(labels, MOVING, shift).data[:-2], labels.data[2:])


def test_standard_space_as_reference(scene: tuple[Path, Path], tmp_path: Path) -> None:
    itk.write_affine(tmp_path / "t.mat", Affine.identity())
    assert main(["apply", str(scene[0]), str(tmp_path / "o.nii.gz"), "-t", str(tmp_path / "t.mat"),
                 "-r", "MNI152NLin2009aSym", "--res", "4"]) == 0
    image = nib.load(tmp_path / "o.nii.gz")
    assert image.header["sform_code"] == 4
    assert np.allclose(image.header.get_zooms(), 4)


@pytest.mark.parametrize("link", [None, "symbolic", "hard", "behind"])
@pytest.mark.parametrize("taken", ["scan.nii.gz", "w.nii.gz", "reference.nii.gz", "p.csv"])
@pytest.mark.usefixtures("scene")
def test_what_is_read_is_never_written_over(
    tmp_path: Path, taken: str, link: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by a relative path, by a link to it, or read through a link; the inputs are not opened before."""
    monkeypatch.chdir(tmp_path)
    table = taken.endswith(".csv")
    itk.write_field("w.nii.gz", smooth_field())
    Path("p.csv").write_text("1,2,3\n")
    others = {"scan.nii.gz", "w.nii.gz", "reference.nii.gz", "p.csv"} - {taken}
    for name in others:  # damaged: a program that begins with its work says something else
        Path(name).write_bytes(b"no image")
    before = Path(taken).read_bytes()
    (tmp_path / "below").mkdir()
    output = Path("below") / ".." / taken
    if link == "behind":
        Path(taken).rename(tmp_path / f"below/{taken}")
        Path(taken).symlink_to(tmp_path / f"below/{taken}")
        output = Path("below") / taken
    elif link is not None:
        output = Path(f"link.{'csv' if table else 'nii.gz'}")
        (output.hardlink_to if link == "hard" else output.symlink_to)(taken)
    names = ["p.csv", str(output), "-t", "absent.mat", "-i", "w.nii.gz"]
    if not table:
        names = ["scan.nii.gz", *names[1:], "-r", "reference.nii.gz"]
    assert main(["apply", *names]) == 2
    assert f"{output}: is the input itself ({taken})" in capsys.readouterr().err
    assert Path(taken).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{scan}", "o.nii.gz"], "nothing to do"),
        (["{scan}", "o.nii.gz", "-t", "{mat}", "--lps"], "--lps has no effect"),
        (["{scan}", "o.nii.gz", "-t", "{mat}", "--res", "2"], "--res needs a standard space"),
        (["{points}", "o.csv", "-t", "{mat}", "--fill", "3"], "--fill has no effect"),
        (["{points}", "o.csv", "-r", "{scan}"], "points need a transform"),
        (["{points}", "o.csv", "-t", "{mat}", "-r", "{scan}"], "--reference has no effect on points"),
        (["{points}", "o.nii.gz", "-t", "{mat}"], "o.nii.gz must end in .csv or .tsv"),
        (["{scan}", "o.nii.gz", "-t", "{mat}", "-r", "MNI152NLin2009aSym", "--res", "0"], "resolution of 0.0 mm"),
        (["{scan}", "o.nii.gz", "-t", "{mat}", "-r", "MNI152"], "there are MNI152NLin2009aSym"),
        (["{points}", "o.csv", "-t", "{fsl}"], "FSL matrix needs"),
        (["{scan}", "o.nii.gz", "-t", "{fsl}", "-t", "{mat}"], "apply it alone"),
        (["{scan}", "o.nii.gz", "-t", "absent.mat"], "absent.mat"),
        (["{bad}", "o.csv", "-t", "{mat}"], "point 2"),
        (["{headed}", "o.csv", "-t", "{mat}"], "must name x, y and z"),
        (["{scan}", "o.nii.gz", "-t", "{mat}", "--interpolation", "label"], "no label map"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    scene: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"scan": str(scene[0]), "mat": "t.mat", "points": "p.csv", "fsl": "t.fsl.mat", "bad": "bad.csv",
             "headed": "headed.csv"}
    itk.write_affine("t.mat", pull_back())
    fsl.write_mat("t.fsl.mat", pull_back(), fixed_grid(), MOVING)
    Path("p.csv").write_text("1,2,3\n")
    Path("bad.csv").write_text("1,2,3\n4,nan?,6\n")
    Path("headed.csv").write_text("a,b,c\n1,2,3\n")
    try:
        code = main(["apply", *(a.format(**files) for a in arguments)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("o.*"))
