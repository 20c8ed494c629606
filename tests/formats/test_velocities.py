"""Velocities on disk: the chain comes back, another program can follow the documented files, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.integrate import solve_ivp

from neuralprep import Volume, load
from neuralprep.cli import main
from neuralprep.errors import GeometryError, InputError
from neuralprep.formats import itk, read_transform
from neuralprep.formats.velocities import read_velocity, write_velocity
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain, Transform
from neuralprep.velocity import Velocity
from samples import affine_matrix, fixed_grid, moving_grid, points, pull_back, smooth_field, smooth_volume

# oblique, anisotropic, left-handed
GRID = Grid((22, 24, 19), affine_matrix((0.15, 0.1, -0.2), (-3.4, 3.1, 3.7), (34, -34, -30)))
BEFORE = Affine(affine_matrix((-0.1, 0.05, 0.1), (0.97, 1.03, 1.01), (1, 2, -3)))
NAME = "from-a_to-b_mode-image_desc-velocity_xfm.nii.gz"


def chain(squarings: int = 7) -> Chain:
    rng = np.random.default_rng(4)
    vectors = np.stack([ndimage.gaussian_filter(rng.normal(size=GRID.shape), 2.5) for _ in range(3)], -1)
    return Chain([BEFORE, Velocity((6 * vectors / np.abs(vectors).max()).astype(np.float32), GRID, squarings),
                  pull_back()])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_velocity(tmp_path / NAME, chain())
    return tmp_path / NAME


@pytest.mark.parametrize("name", [NAME, "plain.nii"])
def test_the_chain_comes_back_and_its_inverse_undoes_it(tmp_path: Path, name: str) -> None:
    written = chain(6)
    assert [path.name for path in write_velocity(tmp_path / name, written)] == [name, name.split(".")[0] + ".json"]
    read = read_transform(tmp_path / name)
    assert isinstance(read, Chain)
    at = points()
    assert np.linalg.norm(written.apply(at) - at, axis=1).mean() > 3  # it does something
    assert np.abs(read.apply(at) - written.apply(at)).max() < 1e-3
    assert np.abs(read.inverse().apply(at) - written.inverse().apply(at)).max() < 1e-3
    back = np.linalg.norm(read.inverse().apply(read.apply(at)) - at, axis=1)
    assert np.percentile(back, 99) < 0.1
    assert [part.squarings for part in read.transforms if isinstance(part, Velocity)] == [6]


def test_affines_may_be_missing(tmp_path: Path) -> None:
    velocity = chain().transforms[1]
    alone: Transform
    for alone in (velocity, Chain([velocity, pull_back()]), Chain([BEFORE, velocity])):
        write_velocity(tmp_path / NAME, alone)
        assert np.abs(read_velocity(tmp_path / NAME).apply(points()) - alone.apply(points())).max() < 1e-3


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PIR"])
def test_how_the_velocity_is_stored_plays_no_part(tmp_path: Path, codes: str) -> None:
    before, velocity, after = chain().transforms
    assert isinstance(velocity, Velocity)
    parts = [Volume(velocity.vectors[..., c], GRID).oriented(codes) for c in range(3)]
    turned = Velocity(np.stack([part.data for part in parts], -1), parts[0].grid)
    write_velocity(tmp_path / NAME, Chain([before, turned, after]))
    assert np.abs(read_velocity(tmp_path / NAME).apply(points()) - chain().apply(points())).max() < 1e-3


def test_a_stranger_can_follow_the_files(stored: Path) -> None:
    """nibabel, json and a solver of differential equations, by what the JSON says alone."""
    image = nib.load(stored)
    assert image.header.get_intent() == ("vector", (), "velocity RAS mm")
    told = json.loads(stored.with_name(NAME.replace(".nii.gz", ".json")).read_text())
    field = np.asarray(image.dataobj)[:, :, :, 0]
    spline = [ndimage.spline_filter(field[..., c].astype(float), 3, mode="mirror") for c in range(3)]
    to_voxels = np.linalg.inv(image.affine)

    def speed(_: float, flat: np.ndarray) -> np.ndarray:
        voxels = flat.reshape(-1, 3) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        return np.stack([ndimage.map_coordinates(s, voxels.T, order=3, prefilter=False, mode="mirror")
                         for s in spline], -1).ravel()

    before, after = np.array(told["AffineBefore"]), np.array(told["AffineAfter"])
    at = points(60, extent=15.0)
    start = at @ before[:3, :3].T + before[:3, 3]
    flow = solve_ivp(speed, (0, 1), start.ravel(), rtol=1e-7, atol=1e-7).y[:, -1].reshape(-1, 3)
    wanted = flow @ after[:3, :3].T + after[:3, 3]
    assert np.linalg.norm(read_velocity(stored).apply(at) - wanted, axis=1).max() < 0.05


def test_it_is_small_and_no_displacement_field(stored: Path, tmp_path: Path) -> None:
    grid = Grid.centered((48, 57, 48), 4.0)
    rng = np.random.default_rng(0)
    write_velocity(tmp_path / "large.nii.gz", Velocity(rng.normal(size=(*grid.shape, 3)).astype(np.float32), grid))
    assert (tmp_path / "large.nii.gz").stat().st_size < 2e6
    with pytest.raises(InputError, match="velocity"):
        itk.read_field(stored)
    itk.write_field(tmp_path / "field.nii.gz", smooth_field())
    with pytest.raises(InputError, match="does not say that it holds a velocity"):
        read_velocity(tmp_path / "field.nii.gz")


def test_other_transforms_are_refused(tmp_path: Path) -> None:
    velocity = chain().transforms[1]
    for other in (pull_back(), smooth_field(), Chain([velocity, BEFORE, velocity])):
        with pytest.raises(InputError, match="displacement field"):
            write_velocity(tmp_path / NAME, other)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nii"):
        write_velocity(tmp_path / "a.h5", velocity)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AffineBefore": None}, "AffineBefore"),
        ({"AffineAfter": [[1, 0], [0, 1]]}, "AffineAfter"),
        ({"AffineAfter": [["1", 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "AffineAfter"),
        ({"AffineBefore": np.diag([1, 1, 0, 1]).tolist()}, "singular"),
        ({"Squarings": 99}, "squarings"),
        ({"Squarings": "7"}, "Squarings"),
        ({"Units": "voxels"}, "mm per unit"),
    ],
)
def test_a_wrong_sidecar_is_named(stored: Path, change: dict, message: str) -> None:
    sidecar = stored.with_name(NAME.replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **change}))
    with pytest.raises((InputError, GeometryError), match=message) as caught:
        read_transform(stored)
    assert sidecar.name in str(caught.value)


def test_damage_is_named(stored: Path) -> None:
    sidecar = stored.with_name(NAME.replace(".nii.gz", ".json"))
    whole = sidecar.read_bytes()
    for damaged in (b"{", b"[1, 2]", b"\xff\xfe\x00"):
        sidecar.write_bytes(damaged)
        with pytest.raises(InputError, match="desc-velocity"):
            read_transform(stored)
    sidecar.unlink()
    with pytest.raises(InputError, match="copy both"):
        read_transform(stored)
    sidecar.write_bytes(whole)
    content = stored.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], b""):
        stored.write_bytes(damaged)
        with pytest.raises(InputError, match=r"desc-velocity_xfm\.nii\.gz"):
            read_transform(stored)


def test_apply_goes_the_whole_way_back_and_half(stored: Path, tmp_path: Path) -> None:
    smooth_volume(moving_grid()).save(tmp_path / "moving.nii.gz")
    smooth_volume(fixed_grid(), 1).save(tmp_path / "fixed.nii.gz")
    moving, fixed = (load(tmp_path / f"{name}.nii.gz", checks=False) for name in ("moving", "fixed"))
    before, velocity, after = chain().transforms
    assert isinstance(velocity, Velocity)
    half = Chain([velocity.scaled(0.5), after])
    half_back = Chain([velocity.scaled(-0.5), before.inverse()])
    asked: list[tuple[Volume, list[str], Transform]] = [
        (moving, ["-t"], chain()), (fixed, ["-i"], chain().inverse()),
        (moving, ["--half-way", "-t"], half), (fixed, ["--half-way", "-i"], half_back),
    ]  # fmt: skip
    for image, flags, wanted in asked:
        name = "moving" if image is moving else "fixed"
        assert main(["apply", str(tmp_path / f"{name}.nii.gz"), str(tmp_path / "out.nii.gz"), *flags, str(stored),
                     "-r", str(tmp_path / "fixed.nii.gz"), "--threads", "1"]) == 0  # fmt: skip
        made = load(tmp_path / "out.nii.gz", checks=False).data
        assert np.abs(made - resample(image, fixed.grid, wanted).data).max() < 1e-2  # of a range of 100
    # in the middle the moving image's points and the fixed image's points meet
    at = points(80, extent=12.0)
    middle = half_back.inverse().apply(at)
    assert np.abs(half.apply(middle) - chain().apply(at)).max() < 0.1


def test_points_travel_half_way(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    assert main(["apply", str(tmp_path / "p.csv"), str(tmp_path / "q.csv"), "-t", str(stored), "--half-way"]) == 0
    _, velocity, after = chain().transforms
    assert isinstance(velocity, Velocity)
    wanted = Chain([velocity.scaled(0.5), after]).inverse().apply([[1.0, 2, 3]])[0]
    found = [float(word) for word in (tmp_path / "q.csv").read_text().splitlines()[1].split(",")]
    assert found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("more", [[], ["-t", "again.mat", "-t", "other.mat"], ["-t", "affine.mat"]])
def test_half_way_needs_one_velocity(
    tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    itk.write_affine("affine.mat", pull_back())
    smooth_volume(moving_grid()).save("moving.nii.gz")
    try:
        code = main(["apply", "moving.nii.gz", "out.nii.gz", "--half-way", "-r", "moving.nii.gz", *more])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert "velocity" in capsys.readouterr().err
