"""The whole chain with the shipped network, on the demonstration head."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import neuralprep
from neuralprep.bids.derivatives import BY_OUTPUT, TABLE, ScanName, expected_files
from neuralprep.cli import main
from neuralprep.demo import FILE_NAME, random_pose
from neuralprep.engine.record import read_status
from neuralprep.formats import fsl, itk, lta, text
from neuralprep.transform import Affine

SPACE = "MNI152NLin2009aSym"
NAME = "demo_T1w"
SCAN = ScanName.of(NAME)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(out: Path) -> Path:
    return out / NAME


def image(folder: Path, output: str) -> nib.Nifti1Image:
    return nib.load(folder / f"{SCAN.stem(BY_OUTPUT[output], SPACE)}.nii.gz")


def test_everything_is_written_and_nothing_else(out: Path, folder: Path) -> None:
    expected = Path(__file__).parent.parent / "expected" / "run_demo.txt"
    listing = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert listing == expected.read_text().splitlines()
    assert sorted(p.name for p in folder.iterdir()) == expected_files(NAME, [row.output for row in TABLE], SPACE)


def test_the_answer_is_right(out: Path, folder: Path) -> None:
    truth = random_pose(np.random.default_rng(0))
    found = text.read_matrix(folder / f"{SCAN.stem(BY_OUTPUT['template_from_scan'], SPACE)}.txt")
    corners = np.array([[x, y, z] for x in (-60, 60) for y in (-90, 60) for z in (-40, 70)], dtype=float)
    assert found.distance(truth, corners) < 8.0
    mask = image(folder, "brain_mask").get_fdata() > 0
    nocsf = image(folder, "nocsf_mask").get_fdata() > 0
    assert 1100 < mask.sum() / 1000 < 2100
    assert (nocsf & ~mask).sum() < 0.01 * nocsf.sum()
    rows = read_status(out)
    assert [row["scan"] for row in rows] == [NAME]
    assert rows[0]["status"] in ("ok", "check")


def test_native_images_lie_on_the_grid_of_the_scan(out: Path, folder: Path) -> None:
    scan = nib.load(out / FILE_NAME)
    for row in TABLE:
        if row.kind == "xfm":
            continue
        made = image(folder, row.output)
        header = made.header
        code = 4 if row.in_template else 1
        assert (int(header["qform_code"]), int(header["sform_code"])) == (code, code)
        assert made.get_data_dtype() == np.dtype(row.dtype)
        assert header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(made.get_qform(), made.get_sform(), atol=1e-4)
        assert np.isfinite(made.get_fdata()).all()
        if not row.in_template:
            assert made.shape == scan.shape
            np.testing.assert_array_equal(made.affine, scan.affine)
        assert json.loads((folder / f"{SCAN.stem(row, SPACE)}.json").read_text())["Sources"] == [FILE_NAME]


def test_the_multiplier_explains_the_image(out: Path, folder: Path) -> None:
    scan = nib.load(out / FILE_NAME).get_fdata()
    deep = image(folder, "brain_distance").get_fdata() < -10  # where the soft mask in the field is 1
    multiplied = (scan * image(folder, "multiplier").get_fdata())[deep]
    preproc = image(folder, "preproc").get_fdata()
    assert np.corrcoef(multiplied, preproc[deep])[0, 1] > 0.98
    tissue = image(folder, "nocsf_mask").get_fdata() > 0
    assert preproc[tissue].mean() == pytest.approx(110, rel=0.05)


def test_distance_and_mask_agree(folder: Path) -> None:
    distance = image(folder, "brain_distance").get_fdata()
    mask = image(folder, "brain_mask").get_fdata() > 0
    assert ((distance < 0) == mask).mean() > 0.99


def test_four_formats_and_two_directions_say_the_same(folder: Path) -> None:
    scan, template = (neuralprep.load(folder / f"{SCAN.stem(BY_OUTPUT[o], SPACE)}.nii.gz", checks=False).grid
                      for o in ("preproc", "space_preproc"))  # fmt: skip
    row = BY_OUTPUT["template_from_scan"]
    points = np.array([[0.0, 0, 0], [60, -40, 30], [-50, 50, -20]])
    matrices: dict[bool, Affine] = {}
    for inverse in (False, True):
        stem = folder / SCAN.stem(row, SPACE, inverse=inverse)
        fixed, moving = (scan, template) if inverse else (template, scan)
        plain = text.read_matrix(f"{stem}.txt")
        for other in (
            itk.read_affine(f"{stem}.mat"),
            fsl.read_mat(f"{stem}.fsl.mat", fixed, moving),
            lta.read_lta(f"{stem}.lta"),
        ):
            assert plain.distance(other, points) < 1e-3
        matrices[inverse] = plain
    assert matrices[True].distance(matrices[False].inverse(), points) < 1e-3


def test_pages_exist_and_need_nothing_from_outside(out: Path, folder: Path) -> None:
    page = (folder / SCAN.file("report.html")).read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert NAME in (out / "index.html").read_text(encoding="utf-8")


def test_the_second_run_has_nothing_to_do(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(out / FILE_NAME), str(out)]) == 0
    assert "(1 finished before)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "listing"),
    [
        (["--no-register"], "run_no-register.txt"),
        (["--no-strip"], "run_no-strip.txt"),
        (["--no-normalize", "--res", "2"], "run_no-normalize.txt"),
    ],
)
def test_switches(out: Path, tmp_path: Path, flags: list[str], listing: str) -> None:
    (tmp_path / "scan.nii.gz").symlink_to(out / FILE_NAME)
    assert main(["run", "-q", str(tmp_path / "scan.nii.gz"), str(tmp_path / "out"), *flags]) == 0
    expected = (Path(__file__).parent.parent / "expected" / listing).read_text().splitlines()
    assert sorted(path.name for path in (tmp_path / "out" / "scan").iterdir()) == expected


def test_python_and_command_give_the_same(out: Path, folder: Path) -> None:
    scan = nib.load(out / FILE_NAME)
    by_image = neuralprep.preprocess(scan, outputs=("brain_mask",), register=False)
    by_array = neuralprep.preprocess((np.asarray(scan.dataobj), scan.affine), outputs=("brain_mask",), register=False)
    wanted = image(folder, "brain_mask").get_fdata() > 0
    for result in (by_image, by_array):
        np.testing.assert_array_equal(result.outputs["brain_mask"].data > 0, wanted)
    assert set(by_image.outputs) == {"brain_mask"}
    assert by_image.quality.decision in ("ok", "check")


def test_a_mask_of_ones_own_is_used_as_it_is(out: Path, folder: Path) -> None:
    mask = folder / f"{SCAN.stem(BY_OUTPUT['nocsf_mask'], SPACE)}.nii.gz"
    result = neuralprep.preprocess(out / FILE_NAME, mask=mask, outputs=("brain_mask",), register=False)
    np.testing.assert_array_equal(result.outputs["brain_mask"].data > 0, nib.load(mask).get_fdata() > 0)
