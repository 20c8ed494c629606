from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import GeometryError, InputError
from neuralprep.formats import read_transform
from neuralprep.formats.fsl import read_mat, write_mat
from neuralprep.formats.itk import write_affine, write_field
from neuralprep.formats.lta import read_lta, write_lta
from neuralprep.formats.text import read_matrix, write_matrix
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume
from samples import fixed_grid, moving_grid, points, pull_back, smooth_field

GRIDS = {
    "left-right": (moving_grid(), fixed_grid()), "right-left": (fixed_grid(), moving_grid()),
    "left-left": (moving_grid(), moving_grid()), "right-right": (fixed_grid(), fixed_grid()),
}


def saved(grid: Grid, path: Path) -> Path:
    Volume(np.zeros(grid.shape, np.float32), grid).save(path)
    return path


@pytest.mark.parametrize("name", GRIDS)
def test_fsl_round_trip_and_nitransforms(tmp_path: Path, name: str) -> None:
    nitransforms = pytest.importorskip("nitransforms")
    moving, fixed = GRIDS[name]
    path = tmp_path / "a.fsl.mat"
    write_mat(path, pull_back(), fixed, moving)
    np.testing.assert_allclose(read_mat(path, fixed, moving).matrix, pull_back().matrix, atol=1e-10)
    reference, image = saved(fixed, tmp_path / "fixed.nii.gz"), saved(moving, tmp_path / "moving.nii.gz")
    theirs = nitransforms.linear.load(path, fmt="fsl", reference=reference, moving=image)
    assert np.abs(theirs.map(points()) - pull_back().apply(points())).max() < 1e-3
    theirs.to_filename(tmp_path / "t.mat", fmt="fsl", moving=nib.load(image))
    back = read_mat(tmp_path / "t.mat", fixed, moving)
    assert np.abs(back.apply(points()) - pull_back().apply(points())).max() < 1e-3


def test_fsl_matrix_of_the_identity_between_flipped_grids(tmp_path: Path) -> None:
    """By hand: the same box stored left- and right-handed has the same FSL coordinates, so FLIRT's matrix is I."""
    right = Grid.centered((10, 11, 12), (1, 2, 3), codes="RAS")
    left = right.oriented("LAS")
    path = tmp_path / "a.fsl.mat"
    write_mat(path, Affine.identity(), fixed=left, moving=right)
    np.testing.assert_allclose(np.loadtxt(path), np.eye(4), atol=1e-12)


@pytest.mark.parametrize("name", GRIDS)
def test_lta_round_trip_and_nitransforms_reads_it(tmp_path: Path, name: str) -> None:
    nitransforms = pytest.importorskip("nitransforms")
    moving, fixed = GRIDS[name]
    path = tmp_path / "a.lta"
    write_lta(path, pull_back(), fixed, moving)
    np.testing.assert_allclose(read_lta(path).matrix, pull_back().matrix, atol=1e-10)
    np.testing.assert_allclose(read_transform(path).apply(points()), pull_back().apply(points()), atol=1e-9)
    theirs = nitransforms.linear.load(path, fmt="fs")
    assert np.abs(theirs.map(points()) - pull_back().apply(points())).max() < 1e-3
    blocks = nitransforms.io.lta.FSLinearTransform.from_string(path.read_text())
    np.testing.assert_allclose(blocks["src"].as_affine(), moving.affine, atol=1e-4)
    np.testing.assert_allclose(blocks["dst"].as_affine(), fixed.affine, atol=1e-4)


def test_lta_matrix_takes_src_to_dst(tmp_path: Path) -> None:
    """FreeSurfer's definition: stored matrix = src RAS -> dst RAS, the inverse of the pull-back."""
    write_lta(tmp_path / "a.lta", pull_back(), fixed_grid(), moving_grid())
    lines = (tmp_path / "a.lta").read_text().splitlines()
    start = lines.index("1 4 4") + 1
    stored = np.array([[float(word) for word in line.split()] for line in lines[start:start + 4]])
    np.testing.assert_allclose(stored @ pull_back().matrix, np.eye(4), atol=1e-12)


def test_voxel_lta_is_read(tmp_path: Path) -> None:
    nitransforms = pytest.importorskip("nitransforms")
    moving, fixed = moving_grid(), fixed_grid()
    write_lta(tmp_path / "a.lta", pull_back(), fixed, moving)
    voxel = np.linalg.inv(fixed.affine) @ pull_back().inverse().matrix @ moving.affine
    lines = (tmp_path / "a.lta").read_text().replace("type      = 1", "type      = 0").splitlines()
    start = lines.index("1 4 4") + 1
    lines[start:start + 4] = [" ".join(f"{value:.15e}" for value in row) for row in voxel]
    (tmp_path / "v.lta").write_text("\n".join(lines) + "\n")
    np.testing.assert_allclose(read_lta(tmp_path / "v.lta").matrix, pull_back().matrix, atol=1e-9)
    theirs = nitransforms.linear.load(tmp_path / "v.lta", fmt="fs")
    assert np.abs(theirs.map(points()) - pull_back().apply(points())).max() < 1e-3


def test_lta_written_by_nitransforms_is_read(tmp_path: Path) -> None:
    nitransforms = pytest.importorskip("nitransforms")
    theirs = nitransforms.linear.Affine(pull_back().matrix)
    theirs.reference = nib.load(saved(fixed_grid(), tmp_path / "f.nii.gz"))
    theirs.to_filename(tmp_path / "t.lta", fmt="fs", moving=nib.load(saved(moving_grid(), tmp_path / "m.nii.gz")))
    assert np.abs(read_lta(tmp_path / "t.lta").apply(points()) - pull_back().apply(points())).max() < 1e-4


def test_plain_matrix_round_trip_is_exact(tmp_path: Path) -> None:
    write_matrix(tmp_path / "a.txt", pull_back())
    np.testing.assert_array_equal(read_matrix(tmp_path / "a.txt").matrix, pull_back().matrix)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "a.txt"), pull_back().matrix)
    matrix = read_transform(tmp_path / "a.txt")
    assert isinstance(matrix, Affine)
    (tmp_path / "c.csv").write_text("# comment\n1,0,0,5\n0,1,0,0\n0,0,1,0\n0,0,0,1\n")
    assert read_matrix(tmp_path / "c.csv").matrix[0, 3] == 5


EYE = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


@pytest.mark.parametrize("text", ["", "hello", EYE[:-8], EYE + "1", EYE.replace("1", "nan"), EYE.replace("1", "0"),
                                  EYE[:-2] + "2\n", "\0\1\2\3" * 100])
def test_malformed_matrices_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises((InputError, GeometryError), match=r"bad\.txt"):
        read_matrix(path)
    with pytest.raises((InputError, GeometryError), match=r"bad\.txt"):
        read_mat(path, fixed_grid(), moving_grid())


EDITS = {
    "no type": ("type      = 1 # LINEAR_RAS_TO_RAS\n", ""), "type": ("type      = 1", "type      = 14"),
    "word": ("type      = 1", "type      = ras"), "many": ("nxforms   = 1", "nxforms   = 2"),
    "no matrix": ("1 4 4\n", ""), "not a number": ("1 4 4\n", "1 4 4\nx "), "cut": ("src volume info", "4 volume info"),
    "invalid": ("valid = 1", "valid = 0"), "cras": ("cras   =", "cross  ="), "size": ("volume = ", "volume = 3 "),
}


@pytest.mark.parametrize("name", EDITS)
def test_malformed_ltas_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_lta(tmp_path / "good.lta", pull_back(), fixed_grid(), moving_grid())
    text = (tmp_path / "good.lta").read_text()
    if name in ("cut", "invalid", "cras", "size"):  # geometry counts for voxel transforms only
        text = text.replace("type      = 1", "type      = 0")
    old, new = EDITS[name]
    assert old in text
    bad = tmp_path / "bad.lta"
    bad.write_text(text.replace(old, new))
    with pytest.raises((InputError, GeometryError), match=r"bad\.lta"):
        read_lta(bad)


@pytest.mark.parametrize("name", ["a.mat", "a.tfm", "a.lta", "a.txt", "a.nii"])
def test_random_damage_never_escapes_as_another_error(tmp_path: Path, name: str) -> None:
    good, hurt = tmp_path / name, tmp_path / f"hurt{name}"
    if name.endswith(".lta"):
        write_lta(good, pull_back(), fixed_grid(), moving_grid())
    elif name.endswith(".txt"):
        write_matrix(good, pull_back())
    elif name.endswith(".nii"):
        write_field(good, smooth_field())
    else:
        write_affine(good, pull_back())
    content = good.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(200):
        damaged = bytearray(content)
        for position in rng.integers(0, min(len(content), 700), rng.integers(1, 6)):
            damaged[position] = rng.integers(0, 256)
        hurt.write_bytes(damaged)
        try:
            transform = read_transform(hurt)
        except (InputError, GeometryError) as error:
            assert str(hurt) in str(error)  # noqa: PT017
        else:
            assert np.isfinite(transform.apply(points(5))).all()


def test_an_fsl_matrix_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    write_mat(tmp_path / "a.fsl.mat", pull_back(), fixed_grid(), moving_grid())
    with pytest.raises(InputError, match="FSL"):
        read_transform(tmp_path / "a.fsl.mat")
