"""Real images mixed into training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neuralprep.errors import InputError
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.training.data import Pool
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.real import RealImage, load_real_images
from neuralprep.training.smoke import QUIET_SAMPLER, SMOKE_RECIPE

CPU = torch.device("cpu")
STILL = replace(QUIET_SAMPLER, shape=(48, 48, 48), spacing_mm=4.0, tilt_deg=0.0, shift_mm=0.0, scale=(1.0, 1.0),
                warp_mm=0.0, noise=0.0, bias=0.0, blur=0.0, gamma=0.0)
RADIUS = 62.0
CENTER = np.array([10.0, -15.0, 20.0])


def write_pair(folder: Path, *, tissue: bool = False) -> Path:
    """A ball of 62 mm in a brighter ball, on an oblique thick-slice grid, and its table."""
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    shape = np.array([100, 104, 64])
    affine[:3, 3] = CENTER - affine[:3, :3] @ ((shape - 1) / 2)
    index = np.moveaxis(np.indices(tuple(shape)), 0, -1)
    radius = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - CENTER, axis=-1)
    image = 300 * (radius < 85) + 500 * (radius < RADIUS) + np.linspace(0, 40, shape[2])
    for name, data in (("image", image.astype(np.float32)), ("mask", (radius < RADIUS).astype(np.uint8)),
                       ("tissue", (radius < 50).astype(np.uint8))):
        nib.save(nib.Nifti1Image(data, affine), folder / f"{name}.nii.gz")
    table = folder / "real.tsv"
    columns = "image\tmask\ttissue\nimage.nii.gz\tmask.nii.gz\ttissue.nii.gz\n"
    table.write_text(columns if tissue else "image\tmask\nimage.nii.gz\tmask.nii.gz\n")
    return table


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealImage:
    (image,) = load_real_images(write_pair(tmp_path_factory.mktemp("real"), tissue=True), CPU)
    return image


def test_image_and_distance_stay_together_in_every_pose(real: RealImage) -> None:
    settings = replace(STILL, tilt_deg=30.0, shift_mm=15.0, warp_mm=4.0)
    for seed in range(4):
        example = real.draw(np.random.default_rng(seed), settings)
        assert example.has_distance == (True, True)
        assert not example.has_pose
        assert not example.has_field
        bright = example.image > 0.8
        inside = example.distances[1] < 0
        seen = example.inside
        assert 2 * (bright & inside & seen).sum() / ((bright & seen).sum() + (inside & seen).sum()) > 0.95


def test_distances_are_mm_from_the_masks(real: RealImage) -> None:
    example = real.draw(np.random.default_rng(0), STILL)
    scale = (example.distances[1] < 0).sum().item() * 64 / (4 / 3 * np.pi * RADIUS**3)  # axes are still scaled a little
    axis = 4.0 * (torch.arange(48) - 23.5)
    radius = torch.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2)
    expected = radius - RADIUS * scale ** (1 / 3)
    near = expected.abs() < 12
    assert (example.distances[1] - expected)[near].abs().median() < 2.0
    gap = (example.distances[0] - example.distances[1])[near].median().item()
    assert gap == pytest.approx(12 * scale ** (1 / 3), abs=1.5)


def test_without_tissue_only_one_distance_is_known(tmp_path: Path) -> None:
    (image,) = load_real_images(write_pair(tmp_path), CPU)
    assert image.draw(np.random.default_rng(1), STILL).has_distance == (False, True)


def test_augmentation_changes_the_image_and_not_its_mask(real: RealImage) -> None:
    plain = real.draw(np.random.default_rng(3), STILL)
    spoilt = real.draw(np.random.default_rng(3), replace(STILL, noise=0.3, bias=0.9))
    assert torch.equal(plain.distances, spoilt.distances)
    assert (plain.image - spoilt.image).abs().mean() > 0.02


def test_training_mixes_real_images_in(tmp_path: Path, real: RealImage) -> None:
    pool = Pool(CPU, (), (real,), shapes=0.5, real=0.5)
    tiny = replace(STILL, shape=(16, 16, 16), spacing_mm=12.0)
    fields = [pool.draw(np.random.default_rng(k), tiny).has_field for k in range(6)]
    assert 1 <= sum(fields) <= 5
    recipe = replace(SMOKE_RECIPE, real=1.0, train_heads=(), stages=(replace(SMOKE_RECIPE.stages[0], steps=1, size=16,
                                                                             spacing_mm=12.0),))
    run = Trainer(recipe, [], [], TrainOptions(tmp_path, "cpu"), lambda device: [real])
    terms = run.train_step()
    assert terms["distance"] > 0
    assert terms["coordinates"] == terms["gain"] == terms["ssim"] == 0
    with pytest.raises(InputError, match="give --real TABLE"):
        Trainer(recipe, [], [], TrainOptions(tmp_path, "cpu"))


def test_tables_and_masks_that_cannot_be_used(tmp_path: Path) -> None:
    table = write_pair(tmp_path)
    with pytest.raises(InputError, match="no such table"):
        load_real_images(tmp_path / "none.tsv", CPU)
    for text, message in (
        ("image\timage2\na\tb\n", "columns image and mask are needed"),
        ("image\tmask\n", "lists no images"),
        ("image\tmask\nimage.nii.gz\t\n", "line 2: image and mask must both be given"),
        ("image\tmask\nimage.nii.gz\tgone.nii.gz\n", "no such file"),
        ("image\tmask\nimage.nii.gz\tspeck.nii.gz\n", "holds 12 ml, too little"),
        ("image\tmask\nimage.nii.gz\tmoved.nii.gz\n", "does not lie on the grid of its image"),
    ):
        mask = nib.load(tmp_path / "mask.nii.gz")
        moved = mask.affine.copy()
        moved[0, 3] += 5
        nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), moved), tmp_path / "moved.nii.gz")
        speck = np.zeros(mask.shape, np.uint8)
        speck[:10, :10, :10] = 1
        nib.save(nib.Nifti1Image(speck, mask.affine), tmp_path / "speck.nii.gz")
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            load_real_images(table, CPU)


def test_settings_default_is_used_for_real_images_too(real: RealImage) -> None:
    for seed in range(3):
        example = real.draw(np.random.default_rng(seed), SamplerSettings(shape=(32, 32, 32), spacing_mm=6.0))
        assert 0 <= example.image.min() <= example.image.max() <= 1
        assert torch.isfinite(example.distances).all()
        assert not example.image[~example.inside].any()
