"""Stripping on a fixed cube: the published conform, its scales, and the way back to the scan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.special import logit

from neuralprep import preprocess
from neuralprep.evaluation import mindgrab
from neuralprep.evaluation.overlap import dice
from neuralprep.grid import Grid
from neuralprep.inference.mask_session import MaskSession, open_mask_session
from neuralprep.networks.meshnet import MeshNet, convert_mindgrab
from neuralprep.stages.conform import is_ct
from neuralprep.stages.cube import conformed, cube_grid, mask_from_cube, scaled, to_cormack
from neuralprep.volume import Volume, load
from neuralprep.weights.registry import find_model
from samples import smooth_volume


def test_the_cube_is_the_published_one(shared_data: Path) -> None:
    scan = load(shared_data / "heads" / "rorden_PDw.nii.gz")
    grid = cube_grid(scan.grid)
    expected, affine = mindgrab.conform(scan.data, scan.grid.affine)
    assert np.abs(grid.affine - affine).max() < 1e-9
    assert grid.axis_codes == "LIA"
    made = conformed(scan, grid)
    assert (np.abs(made.astype(int) - expected) > 1).mean() < 5e-3  # they differ at the faces of the scan only
    assert scaled(expected) == pytest.approx(mindgrab.quantile_normalize(expected), abs=1e-6)


def test_quantiles_of_whole_numbers_are_numpys() -> None:
    rng = np.random.default_rng(0)
    for high in (1, 3, 40, 256):
        image = rng.integers(0, high, (11, 13, 7)).astype(np.uint8)
        assert scaled(image) == pytest.approx(mindgrab.quantile_normalize(image), abs=1e-6)
    assert not scaled(np.full((8, 8, 8), 7, np.uint8)).any()


def test_cormack_units_keep_the_order_and_stretch_the_brain() -> None:
    grid = Grid.centered((50, 60, 1), 1.0)
    hounsfield = np.linspace(-1000, 1999, 3000).reshape(grid.shape)
    made = to_cormack(Volume(hounsfield.astype(np.float32), grid)).data.ravel()
    assert (np.diff(made) > 0).all()
    assert made[[0, 900, 1100, 1200]] == pytest.approx([0, 900, 2900, 3000], abs=3)
    # the published inverse: 900, then tenfold up to 2900, then slope 1
    back = np.piecewise(made, [made <= 900, (made > 900) & (made <= 2900), made > 2900],
                        [lambda c: c, lambda c: 900 + (c - 900) / 10, lambda c: c - 1800]) - 1000
    assert back == pytest.approx(hounsfield.ravel(), abs=0.01)
    unseen = to_cormack(Volume(np.full((2, 2, 2), -3024, np.float32), Grid.centered((2, 2, 2), 1.0)))
    assert not unseen.data.any()


@pytest.fixture(scope="module")
def bright_session(tmp_path_factory: pytest.TempPathFactory) -> MaskSession:
    """A MeshNet of one channel whose brain is what is brighter than average: its weights are set by hand."""
    network = MeshNet(1, (1,))
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    state["model.0.0.weight"][0, 0, 1, 1, 1] = 1.0
    state["model.1.weight"][1] = 1.0
    state["model.1.bias"] = torch.tensor([2.0, 0.0])
    path = tmp_path_factory.mktemp("weights") / "bright.safetensors"
    save_file(state, path, metadata={"layout": "meshnet-1", "config": json.dumps({"channels": 1, "dilations": [1]})})
    path.with_suffix(".json").write_text(json.dumps({"size": 64, "spacing_mm": 4.0}))
    return open_mask_session(str(path), "cpu", 1)


@pytest.mark.parametrize("codes", ["RAS", "PSR", "LIP"])
def test_the_mask_comes_back_in_place(bright_session: MaskSession, codes: str) -> None:
    grid = Grid.centered((70, 90, 60), (2.0, 2.2, 2.4), (20, -15, 30)).oriented(codes)
    where = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))
    truth = np.linalg.norm((where - (25, -20, 28)) / (45, 60, 40), axis=-1) < 1
    speck = np.linalg.norm(where - (75, 60, 80), axis=-1) < 8
    scan = Volume((100 * (truth | speck) + 5).astype(np.float32), grid)
    found = mask_from_cube(bright_session, scan).data
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.96
    assert not (found & speck & ~truth).any()  # only the largest component is brain


def test_coarse_borders_lie_between_voxels() -> None:
    """A network that tells how much of each voxel of 4 mm is brain is worth more than a mask of such voxels."""
    grid = Grid.centered((96, 96, 96), 1.5, (3, 1, -2))
    where = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))
    scan = Volume((np.linalg.norm(where / (50, 60, 45), axis=-1) < 1).astype(np.float32), grid)

    def shares(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(logit(image.clip(1e-4, 1 - 1e-4)), np.float32)

    def decided(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(image > 0.5, 20, -20).astype(np.float32)

    scores = []
    for answers in (decided, shares):
        session = MaskSession(find_model("npp"), "by hand", 48, 4.0, answers)
        found = mask_from_cube(session, scan).data
        scores.append(2 * (found & (scan.data > 0)).sum() / (found.sum() + scan.data.sum()))
    assert scores[1] > 0.99 > scores[0] + 0.003


def test_published_tensors_strip_at_two_millimetres(
    shared_data: Path, published_mindgrab: Path, tmp_path: Path
) -> None:
    """With dilations as many mm apart as at 1 mm: the default network's mask is near."""
    convert_mindgrab(published_mindgrab, tmp_path / "coarse.safetensors", 2.0)
    session = open_mask_session(str(tmp_path / "coarse.safetensors"), "cpu")
    scan = load(shared_data / "heads" / "xa30_prisma_T1w_2mm.nii.gz")
    ours = preprocess(scan, normalize=False, register=False, outputs=("brain_mask",)).outputs["brain_mask"]
    assert isinstance(ours, Volume)
    assert dice(mask_from_cube(session, scan).data, ours.data > 0) > 0.96


def test_size_and_spacing_come_from_the_card(bright_session: MaskSession) -> None:
    assert (bright_session.side, bright_session.spacing_mm) == (64, 4.0)
    assert cube_grid(smooth_volume().grid, 64, 4.0).extent == (256.0, 256.0, 256.0)


def test_ct_is_recognised_and_its_cube_shows_the_brain(shared_data: Path) -> None:
    scan = load(shared_data / "ct" / "ge_hispeed_head_CT.nii.gz")
    assert is_ct(scan)
    grid = Grid(tuple(n // 4 for n in (256, 256, 256)), cube_grid(scan.grid).affine @ np.diag([4, 4, 4, 1]))
    soft = (conformed(scan, grid) > 0) & (conformed(to_cormack(scan), grid) > 0)
    plain, cormack = (scaled(conformed(image, grid))[soft] for image in (scan, to_cormack(scan)))
    hounsfield = np.histogram(plain, 20, (0, 1))[0] / soft.sum()
    assert np.percentile(cormack, 75) - np.percentile(cormack, 25) > 0
    brain = (scan.data > 20) & (scan.data < 45)
    stretched = to_cormack(scan).data[brain]
    assert stretched.std() == pytest.approx(10 * scan.data[brain].std(), rel=1e-3)
    assert hounsfield.max() < 1.0
