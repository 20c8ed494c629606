from __future__ import annotations

import runpy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.templates import SPACES, load_structures, load_template, space_grid
from neuralprep.volume import Volume

FOLDER = resources.files("neuralprep.templates")
TOOL = Path(__file__).parents[2] / "tools" / "make_templates.py"


def test_grid_of_the_space_is_the_published_one() -> None:
    grid = space_grid("MNI152NLin2009aSym")
    assert grid.shape == (197, 233, 189)
    expected = np.eye(4)
    expected[:3, 3] = (-98, -134, -72)
    np.testing.assert_array_equal(grid.affine, expected)


@pytest.mark.parametrize(("resolution", "shape"), [(2.0, (99, 117, 95)), (1.5, (132, 156, 127)), (4.0, (50, 59, 48))])
def test_coarser_grids_cover_the_space(resolution: float, shape: tuple[int, int, int]) -> None:
    fine, grid = space_grid("MNI152NLin2009aSym"), space_grid("MNI152NLin2009aSym", resolution)
    assert grid.shape == shape
    assert grid.spacing == pytest.approx([resolution] * 3)
    last = grid.voxel_to_world(np.array(grid.shape) - 1)
    assert (last >= fine.voxel_to_world(np.array(fine.shape) - 1) - 1e-9).all()
    np.testing.assert_allclose(grid.voxel_to_world((0, 0, 0)), fine.voxel_to_world((0, 0, 0)))


@pytest.mark.parametrize("resolution", [0.0, -1.0, 100.0, float("nan")])
def test_senseless_resolution_is_refused(resolution: float) -> None:
    with pytest.raises(InputError, match="resolution"):
        space_grid("MNI152NLin2009aSym", resolution)


def test_unknown_space_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="MNI152NLin2009aSym"):
        load_template("Talairach")


@pytest.mark.parametrize("name", list(SPACES))
def test_packed_files_are_small_and_licensed(name: str) -> None:
    packed = FOLDER.joinpath(SPACES[name].file).read_bytes()
    assert len(packed) < 1_000_000
    licence = FOLDER.joinpath(SPACES[name].licence).read_text(encoding="utf-8")
    assert "Permission to use, copy, modify, and distribute" in " ".join(licence.split())


def test_images_are_one_consistent_brain() -> None:
    template = load_template("MNI152NLin2009aSym")
    mask = template.brain_mask.data
    assert mask.dtype == np.uint8
    assert mask.sum() * template.brain_mask.grid.voxel_volume / 1000 == pytest.approx(1964, abs=5)
    total = template.gm.data + template.wm.data + template.csf.data
    np.testing.assert_allclose(total, mask, atol=1e-6)
    for volume in (template.t1, template.gm, template.wm, template.csf):
        assert volume.data.dtype == np.float32
        assert volume.data.min() >= 0
        assert volume.data.max() <= 1
        assert not volume.data[mask == 0].any()
        assert volume.grid.same_as(space_grid("MNI152NLin2009aSym", 2.0))
    bright = template.t1.data[template.wm.data > 0.9].mean()
    middle = template.t1.data[template.gm.data > 0.9].mean()
    dark = template.t1.data[template.csf.data > 0.9].mean()
    assert bright > middle + 0.1 > dark + 0.2


def test_left_and_right_are_symmetric() -> None:
    template = load_template("MNI152NLin2009aSym")
    for volume in (template.t1, template.gm, template.brain_mask):
        difference = np.abs(volume.data.astype(float) - volume.data[::-1])
        assert difference.mean() < 0.005


def test_a_template_is_read_once() -> None:
    assert load_template("MNI152NLin2009aSym") is load_template("MNI152NLin2009aSym")


@pytest.mark.slow
def test_the_tool_makes_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nilearn")
    output = tmp_path / "template.npz"
    monkeypatch.setattr("sys.argv", [str(TOOL), str(output)])
    runpy.run_path(str(TOOL), run_name="__main__")
    with (
        np.load(output) as made,
        FOLDER.joinpath("MNI152NLin2009aSym.npz").open("rb") as stream,
        np.load(stream) as shipped,
    ):
        assert set(made) == set(shipped)
        for key in shipped:
            np.testing.assert_array_equal(made[key], shipped[key])


def test_structures_lie_where_the_template_has_their_tissue() -> None:
    """White matter of the label maps on white matter of the template, and so on; left and right alike."""
    structures, template = load_structures(), load_template()
    tissue = {"gm": template.gm, "wm": template.wm, "csf": template.csf}
    kinds = {"cerebral_gm": "gm", "cerebellar_gm": "gm", "striatum": "gm", "cerebral_wm": "wm", "cerebellar_wm": "wm",
             "ventricle": "csf"}
    for name, shares in zip(structures.names, structures.shares, strict=True):
        assert 0.5 < shares.max() <= 1, name
        if name in kinds:
            core = structures.grid.voxel_to_world(np.argwhere(shares > 0.6 * shares.max()))
            inside = {kind: lookup(image, core).mean() for kind, image in tissue.items()}
            assert max(inside, key=inside.__getitem__) == kinds[name], (name, inside)
        points = structures.grid.voxel_to_world(np.argwhere(shares > 0.5))
        assert abs(points[:, 0].mean()) < 3, name
    assert (structures.shares.sum(0) < 1.02).all()


def lookup(image: Volume, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(image.data, image.grid.world_to_voxel(points).T, order=1)

