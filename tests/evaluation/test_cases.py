"""Which files are paired, what is refused and in which words, and when grids count as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.cases import case_name, contrast, on_one_grid, pair_files, partner, read_mask
from neuralprep.grid import Grid
from neuralprep.volume import Volume, save

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2, 0, -8], [0, 0, 3, -7], [0, 0, 0, 1]])


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_folders_are_paired_by_name(tmp_path: Path) -> None:
    found = touch(tmp_path / "found", "b.nii.gz", "a.nii", ".hidden.nii.gz", "notes.txt")
    truth = touch(tmp_path / "truth", "a.nii.gz", "b.mgz")
    pairs = pair_files(found, truth)
    assert [(p.name, p.prediction.name, p.truth.name) for p in pairs] == [
        ("a", "a.nii", "a.nii.gz"), ("b", "b.nii.gz", "b.mgz"),
    ]


def test_an_expression_finds_the_case(tmp_path: Path) -> None:
    found = touch(tmp_path / "found", "sub-01_desc-brain_mask.nii.gz", "sub-02_desc-brain_mask.nii.gz")
    truth = touch(tmp_path / "truth", "manual_sub-02.nii.gz", "manual_sub-01.nii.gz")
    assert [p.name for p in pair_files(found, truth, key=r"sub-\d+")] == ["sub-01", "sub-02"]
    assert [p.name for p in pair_files(found, truth, key=r"sub-(\d+)")] == ["01", "02"]
    with pytest.raises(InputError, match="--key"):
        pair_files(found, truth)
    with pytest.raises(InputError, match="finds no case"):
        pair_files(found, truth, key="patient")
    with pytest.raises(InputError, match="no regular expression"):
        pair_files(found, truth, key="(")
    with pytest.raises(InputError, match="both belong to the case sub"):
        pair_files(found, truth, key="sub")


def test_names_without_partner(tmp_path: Path) -> None:
    found = touch(tmp_path / "found", "a.nii.gz", "b.nii.gz")
    truth = touch(tmp_path / "truth", "a.nii.gz", "c.nii.gz")
    with pytest.raises(InputError, match=r"b\.nii\.gz \(no truth\), c\.nii\.gz \(no result\).*--skip-missing"):
        pair_files(found, truth)
    assert [p.name for p in pair_files(found, truth, skip_missing=True)] == ["a"]


def test_what_is_refused(tmp_path: Path) -> None:
    folder = touch(tmp_path / "folder", "a.nii.gz")
    empty = touch(tmp_path / "empty")
    for pair, words in (
        ((folder, tmp_path / "none"), "no such file"),
        ((folder, folder / "a.nii.gz"), "one is a folder"),
        ((empty, folder), "holds no file that ends in"),
    ):
        with pytest.raises(InputError, match=words):
            pair_files(*pair)
    assert partner("a", folder) == folder / "a.nii.gz"
    assert partner("whatever", folder / "a.nii.gz") == folder / "a.nii.gz"
    with pytest.raises(InputError, match="holds no file for b"):
        partner("b", folder)


def test_case_names() -> None:
    assert case_name(Path("x/scan.v2.NII.GZ")) == "scan.v2"
    assert case_name(Path("fit.mat"), endings=(".mat",)) == "fit"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sub-01_T1w", "T1w"), ("xa30_prisma_T1w_2mm", "T1w"), ("p01_s1_FLAIR", "FLAIR"), ("tcga_T1c", "T1c"),
     ("sub-1_ce-gd_T2w", "T2w"), ("ge_head_CT", "CT"), ("T12_scan", "?")],
)
def test_contrast_from_the_name(name: str, kind: str) -> None:
    assert contrast(name) == kind


def test_one_grid() -> None:
    data = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    truth = Volume(data, Grid(data.shape, AFFINE))
    assert on_one_grid(truth, truth) is truth
    turned = truth.oriented("PSL")
    np.testing.assert_array_equal(on_one_grid(turned, truth).data, data)
    shifted = Volume(data, Grid(data.shape, np.diag([1.0, 1, 1, 1]) @ AFFINE + 5 * np.eye(4, k=3)))
    with pytest.raises(InputError, match=r"their grids differ.*4 x 5 x 6 voxels.*--resample"):
        on_one_grid(shifted, truth)
    moved = np.eye(4)
    moved[0, 3] = 2.0  # one voxel along x
    carried = on_one_grid(Volume(data, Grid(data.shape, moved @ AFFINE)), truth, carry=True)
    np.testing.assert_array_equal(carried.data[1:], data[:-1])


def test_masks_are_not_guessed_from_fractions(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 8), np.float32)
    values[2:5] = 0.4
    values[3] = 0.9
    save(Volume(values, Grid(values.shape, AFFINE)), tmp_path / "p.nii.gz")
    with pytest.raises(InputError, match="--threshold"):
        read_mask(tmp_path / "p.nii.gz")
    assert read_mask(tmp_path / "p.nii.gz", 0.5).data.sum() == 64
    save(Volume((values > 0).astype(np.int16) * 3, Grid(values.shape, AFFINE)), tmp_path / "m.nii.gz")
    assert read_mask(tmp_path / "m.nii.gz").data.sum() == 3 * 64
