"""X5 and AFNI through nitransforms: against its own maps, on oblique, anisotropic, left-handed images; bad files."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuralprep.errors import GeometryError, InputError
from neuralprep.formats import needs_grids, read_transform
from neuralprep.formats.afni import read_aff12, write_aff12
from neuralprep.formats.chain import Leg, read_chain
from neuralprep.formats.sets import check_also, write_affine_set
from neuralprep.formats.x5 import read_x5, write_x5
from neuralprep.grid import Grid
from neuralprep.transform import Affine, Displacement
from neuralprep.volume import Volume
from samples import fixed_grid, moving_grid, points, pull_back, smooth_field

nitransforms = pytest.importorskip("nitransforms")
STRAIGHT = Grid((20, 22, 18), np.diag([-2.0, 2.0, 2.5, 1.0]))


def saved(grid: Grid, path: Path) -> Path:
    Volume(np.zeros(grid.shape, np.float32), grid).save(path)
    return path


def test_nitransforms_reads_our_x5_and_we_read_its(tmp_path: Path) -> None:
    write_x5(tmp_path / "ours.x5", pull_back(), fixed_grid())
    theirs = nitransforms.linear.load(tmp_path / "ours.x5", fmt="X5")
    np.testing.assert_allclose(theirs.map(points()), pull_back().apply(points()), atol=1e-5)  # they use float32
    image = saved(fixed_grid(), tmp_path / "f.nii.gz")
    nitransforms.linear.Affine(pull_back().matrix, reference=image).to_filename(tmp_path / "theirs.x5", fmt="X5")
    for name in ("ours.x5", "theirs.x5"):
        np.testing.assert_array_equal(read_transform(tmp_path / name).matrix, pull_back().matrix)  # type: ignore[attr-defined]


def test_x5_displacements_are_read(tmp_path: Path) -> None:
    field = smooth_field()
    io = nitransforms.io.x5
    domain = io.X5Domain(grid=True, size=field.grid.shape, mapping=field.grid.affine, coordinates="cartesian")
    node = io.X5Transform(type="nonlinear", representation="displacements", transform=field.vectors, domain=domain,
                          dimension_kinds=("space", "space", "space", "vector"))  # fmt: skip
    io.to_filename(tmp_path / "w.x5", [node])
    back = read_x5(tmp_path / "w.x5")
    assert isinstance(back, Displacement)
    np.testing.assert_allclose(back.apply(points()), field.apply(points()), atol=1e-6)


def test_what_an_x5_file_may_not_hold(tmp_path: Path) -> None:
    io = nitransforms.io.x5
    kinds = ("space", "space", "space", "vector")

    def file(name: str, *nodes: Any) -> Path:
        io.to_filename(tmp_path / name, list(nodes))
        return tmp_path / name

    affine = io.X5Transform(type="linear", transform=np.eye(4), dimension_kinds=kinds)
    wrong = {
        "two": (affine, affine),
        "composite": (io.X5Transform(type="composite", transform=np.eye(4), dimension_kinds=kinds),),
        "short": (io.X5Transform(type="linear", transform=np.eye(3), dimension_kinds=kinds),),
        "flat": (io.X5Transform(type="linear", transform=np.zeros((4, 4)), dimension_kinds=kinds),),
        "none": (),
    }
    for name, nodes in wrong.items():
        with pytest.raises((InputError, GeometryError), match=rf"{name}\.x5"):
            read_x5(file(f"{name}.x5", *nodes))
    content = file("good.x5", affine).read_bytes()
    for length in (0, 5, 300, len(content) - 20):
        (tmp_path / "bad.x5").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"bad\.x5"):
            read_x5(tmp_path / "bad.x5")
    with pytest.raises(InputError, match=r"absent\.x5: no such file"):
        read_x5(tmp_path / "absent.x5")


GRIDS = {"oblique": (fixed_grid(), moving_grid()), "straight": (STRAIGHT, STRAIGHT), "mixed": (STRAIGHT, moving_grid())}


@pytest.mark.parametrize("kind", GRIDS)
def test_afni_files_agree_with_nitransforms_both_ways(tmp_path: Path, kind: str) -> None:
    fixed, moving = GRIDS[kind]
    images = {"reference": saved(fixed, tmp_path / "f.nii.gz"), "moving": saved(moving, tmp_path / "m.nii.gz")}
    write_aff12(tmp_path / "ours.aff12.1D", pull_back(), fixed, moving)
    theirs = nitransforms.io.afni.AFNILinearTransform.from_string((tmp_path / "ours.aff12.1D").read_text())
    np.testing.assert_allclose(theirs.to_ras(**images), pull_back().matrix, atol=1e-5)
    back = read_aff12(tmp_path / "ours.aff12.1D", fixed, moving)
    np.testing.assert_allclose(back.matrix, pull_back().matrix, atol=1e-12)
    made = nitransforms.io.afni.AFNILinearTransform.from_ras(pull_back().matrix, **images)
    (tmp_path / "theirs.aff12.1D").write_text(made.to_string())
    back = read_aff12(tmp_path / "theirs.aff12.1D", fixed, moving)
    assert np.abs(back.apply(points()) - pull_back().apply(points())).max() < 1e-3  # they write six digits


def test_an_afni_shift_to_the_right_has_afnis_sign(tmp_path: Path) -> None:
    """Straight images: twelve numbers in LPS, so 10 mm to the right is -10."""
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    write_aff12(tmp_path / "s.aff12.1D", Affine(shift), STRAIGHT, STRAIGHT)
    numbers = np.loadtxt(tmp_path / "s.aff12.1D")
    np.testing.assert_allclose(numbers.reshape(3, 4)[:, 3], (-10, -20, 30))


def test_afni_files_need_both_images(tmp_path: Path) -> None:
    fixed, moving = GRIDS["oblique"]
    path = tmp_path / "a.aff12.1D"
    write_aff12(path, pull_back(), fixed, moving)
    assert needs_grids(path)
    with pytest.raises(InputError, match="both images"):
        read_transform(path)
    np.testing.assert_allclose(read_chain([Leg(path)], fixed, moving).apply(points()), pull_back().apply(points()))
    back = read_chain([Leg(path, inverted=True)], moving, fixed)
    np.testing.assert_allclose(back.apply(pull_back().apply(points())), points(), atol=1e-9)
    with pytest.raises(InputError, match="alone"):
        read_chain([Leg(path), Leg(path)], fixed, moving)


@pytest.mark.parametrize("text", ["", "1 2 3\n", "one " * 12, ("1 " * 12 + "\n") * 2, "0 " * 12])
def test_malformed_afni_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.aff12.1D").write_text(text)
    with pytest.raises((InputError, GeometryError), match=r"bad\.aff12"):
        read_aff12(tmp_path / "bad.aff12.1D", STRAIGHT, STRAIGHT)


def test_the_set_has_them_on_request(tmp_path: Path) -> None:
    paths = write_affine_set(tmp_path, "a", pull_back(), fixed_grid(), moving_grid(), ("x5", "afni"))
    assert [path.name for path in paths[-2:]] == ["a.x5", "a.aff12.1D"]
    for path in paths:
        found = read_chain([Leg(path)], fixed_grid(), moving_grid())
        np.testing.assert_allclose(found.apply(points()), pull_back().apply(points()), atol=1e-6)


def test_without_nitransforms_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_x5(tmp_path / "a.x5", pull_back(), fixed_grid())
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "nitransforms":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "nitransforms"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    for call in (lambda: read_x5(tmp_path / "a.x5"), lambda: check_also(["afni"])):
        with pytest.raises(InputError, match=r"neuralprep\[formats\]"):
            call()
    check_also([])
