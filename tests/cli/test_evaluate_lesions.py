"""``neuralprep evaluate lesions`` from the outside, on files with exact answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.cli.evaluate.lesions import _PRESETS
from neuralprep.evaluation.lesions import PRESETS

AFFINE = np.array([[-1.0, 0, 0, 20], [0, 1, 0, -10], [0, 0, 2, 5], [0, 0, 0, 1]])
SHAPE = (40, 30, 20)


def run(*arguments: object) -> int:
    return main(["evaluate", "lesions", *map(str, arguments)])


def save(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), path)
    return path


def lesion(*corners: tuple[int, int, int], edge: int = 4) -> np.ndarray:
    """Cubes of label 3 inside cubes of label 2."""
    labels = np.zeros(SHAPE, np.uint8)
    for x, y, z in corners:
        labels[x : x + edge, y : y + edge, z : z + edge] = 2
        labels[x + 1 : x + edge - 1, y + 1 : y + edge - 1, z + 1 : z + edge - 1] = 3
    return labels


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Folders ``p`` and ``t``: ``all`` is perfect, ``half`` misses one of two lesions, ``none`` has nothing."""
    two = lesion((4, 5, 5), (25, 5, 5))
    for name, found, truth in (("all", two, two), ("half", lesion((4, 5, 5)), two), ("none", two * 0, two * 0)):
        save(tmp_path / "p" / f"{name}.nii.gz", found)
        save(tmp_path / "t" / f"{name}.nii.gz", truth)
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_presets_are_all_offered() -> None:
    assert tuple(PRESETS) == _PRESETS


def test_cohort(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases, lesions, record = cohort / "cases.csv", cohort / "lesions.csv", cohort / "record.json"
    code = run(cohort / "p", cohort / "t", "--preset", "brats-men", "--jobs", 2, "--csv", cases,
               "--lesion-csv", lesions, "--json", record)
    assert code == 0
    rows = {(row["case"], row["region"]): row for row in table(cases)}
    assert list(rows) == [(case, region) for case in ("all", "half", "none") for region in ("WT", "TC", "ET")]
    assert [float(rows[case, "WT"]["lesion_dice"]) for case in ("all", "half", "none")] == [1, 0.5, 1]
    assert [float(rows[case, "WT"]["lesion_hd95"]) for case in ("all", "half", "none")] == [0, 187, 0]
    # cores are 2 x 2 x 2 voxels of 2 mm3: below the preset's 50 mm3
    assert (rows["half", "ET"]["left_out"], rows["half", "ET"]["lesion_dice"]) == ("2", "1.0")
    assert float(rows["half", "WT"]["volume_mm3"]) == 2 * 64 * 2
    missed = [row for row in table(lesions) if row["case"] == "half" and row["kind"] == "missed"]
    # centre of the cube at (25, 5, 5): voxel (26.5, 6.5, 6.5) in the world of the header
    assert [missed[0][axis] for axis in ("x_mm", "y_mm", "z_mm")] == ["-6.5", "-3.5", "18.0"]
    content = json.loads(record.read_text())
    assert content["settings"]["rules"]["min_volume"] == 50
    assert len(content["cases"]) == 9
    summary = {(line["region"], line["measure"]): line for line in content["summary"]}
    line: dict[str, Any] = summary["WT", "lesion_dice"]
    assert (line["cases"], line["median"], line["mean"], line["worst"]) == (3, 1, pytest.approx(2.5 / 3), 0.5)
    assert line["mean_low"] == 0.5
    assert line["mean_high"] == 1
    printed = capsys.readouterr().out
    assert "WT: 3 of 4 lesions found, 0 false positives, 0 lesions too small to count" in printed
    assert "note: region TC: no label map" not in printed


def test_jobs_and_lists_do_not_change_the_result(cohort: Path) -> None:
    first, second, third = (cohort / f"{n}.csv" for n in range(3))
    options = ("--regions", "WT=2,3;ET=3", "--dilation", "2", "--penalty", "100", "--csv")
    assert run(cohort / "p", cohort / "t", *options, first) == 0
    assert run(cohort / "p", cohort / "t", *options, second, "--jobs", "2") == 0
    listed = cohort / "list.tsv"
    lines = [f"p/{name}.nii.gz\t{cohort}/t/{name}.nii.gz\t{name}" for name in ("all", "half", "none")]
    listed.write_text("\ufeffPrediction\ttruth\tcase\n" + "\n".join(lines) + "\n\n")
    assert run(listed, *options, third) == 0
    assert first.read_text() == second.read_text() == third.read_text()
    assert float(table(first)[2]["lesion_hd95"]) == 50
    before = listed.read_bytes()
    assert run(listed, *options, listed) == 2  # its rows are not replaced by the scores
    assert listed.read_bytes() == before


def test_faulty_cases_are_named_and_the_others_finish(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort / "p" / "none.nii.gz").rename(cohort / "p" / "extra.nii.gz")
    (cohort / "t" / "half.nii.gz").write_bytes(b"no image")
    assert run(cohort / "p", cohort / "t", "--preset", "brats-men", "--json", cohort / "r.json") == 1
    failed = json.loads((cohort / "r.json").read_text())["failed"]
    assert failed.keys() == {"half", "extra", "none"}
    assert "has no truth" in failed["extra"]
    assert "none.nii.gz: has no result" in failed["none"]
    printed = capsys.readouterr().out
    assert "| all | WT | 1.00 |" in printed
    assert "failed: half:" in printed


def test_unknown_labels_and_how_to_map_them(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = nib.load(cohort / "t" / "half.nii.gz").get_fdata()
    old = save(cohort / "old.nii.gz", np.where(truth == 3, 4, truth))
    pair = (old, cohort / "t" / "half.nii.gz", "--preset", "brats-met")
    assert run(*pair) == 2
    fault = capsys.readouterr().err
    assert "old.nii.gz: holds label 4, which brats-met does not know (it knows 1, 2, 3); rename with --map 4=3" in fault
    assert run(*pair, "--map", "4=3", "--csv", cohort / "one.csv") == 0
    assert {row["lesion_dice"] for row in table(cohort / "one.csv")} == {"1.0"}
    assert run(*pair, "--map", "4=0", "--csv", cohort / "two.csv") == 0
    assert [float(row["legacy_dice"]) for row in table(cohort / "two.csv")] == pytest.approx([2 * 112 / 240, 0, 0])
    # without a preset the other labels are background, and a region that occurs nowhere is pointed out
    assert run(*pair[:2], "--regions", "edema=2;typo=7", "--csv", cohort / "three.csv") == 0
    assert "note: region typo: no label map holds label 7" in capsys.readouterr().out
    assert float(table(cohort / "three.csv")[0]["lesion_dice"]) == 1


def test_renaming_is_simultaneous(cohort: Path) -> None:
    truth = nib.load(cohort / "t" / "all.nii.gz").get_fdata()
    swapped = save(cohort / "swapped.nii.gz", np.where(truth > 0, 5 - truth, 0))
    out = cohort / "s.csv"
    assert run(swapped, swapped, "--regions", "two=2;three=3", "--map", "2=3", "--map", "3=2", "--csv", out) == 0
    assert [float(row["volume_mm3"]) for row in table(out)] == [2 * 56 * 2, 2 * 8 * 2]


def test_axes_in_another_order_are_the_same_grid(cohort: Path) -> None:
    image = nib.load(cohort / "p" / "half.nii.gz")
    turned = image.as_reoriented(nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SPR")))
    nib.save(turned, cohort / "turned.nii.gz")
    first, second = cohort / "1.csv", cohort / "2.csv"
    assert run(cohort / "p" / "half.nii.gz", cohort / "t" / "half.nii.gz", "--preset", "brats-met", "--csv", first) == 0
    assert run(cohort / "turned.nii.gz", cohort / "t" / "half.nii.gz", "--preset", "brats-met", "--csv", second) == 0
    numbers = [[line.split(",")[1:] for line in path.read_text().splitlines()] for path in (first, second)]
    assert numbers[0] == numbers[1]


def test_other_grids_are_refused_or_resampled(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = nib.load(cohort / "t" / "half.nii.gz")
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ (2, 0, 0)
    cropped = save(cohort / "cropped.nii.gz", np.asarray(truth.dataobj)[2:], affine)
    pair = (cropped, cohort / "t" / "half.nii.gz", "--preset", "brats-met")
    assert run(*pair) == 2
    fault = capsys.readouterr().err
    assert "cropped.nii.gz" in fault
    assert "grids differ" in fault
    assert run(*pair, "--resample", "--csv", cohort / "r.csv") == 0
    assert {row["lesion_dice"] for row in table(cohort / "r.csv")} == {"1.0"}


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("four.nii.gz", np.zeros((8, 8, 8, 2)), "has 2 frames (shape 8 x 8 x 8 x 2); a label map is 3-D"),
        ("soft.nii.gz", np.full((8, 8, 8), 0.5), "no whole numbers (0.5)"),
        ("gone.nii.gz", None, "no such file"),
    ],
)
def test_what_is_no_label_map(
    cohort: Path, name: str, data: np.ndarray | None, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), cohort / name)
    assert run(cohort / name, cohort / "t" / "all.nii.gz", "--preset", "brats-gli") == 2
    printed = capsys.readouterr().err
    assert name in printed
    assert fault in printed


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("case,file\na,b\n", "columns prediction and truth"),
        ("prediction,truth\n", "no row"),
        ("prediction,truth\na.nii,\n", "row 2 lacks"),
        ("prediction,truth\na/seg.nii,t.nii\nb/seg.nii,t.nii\n", "names the case seg again"),
    ],
)
def test_faulty_lists(cohort: Path, text: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort / "list.csv").write_text(text)
    assert run(cohort / "list.csv", "--preset", "brats-gli") == 2
    printed = capsys.readouterr().err
    assert "list.csv" in printed
    assert fault in printed


def test_a_listed_file_that_is_missing_is_a_failed_case(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort / "list.csv").write_text("truth;prediction\nt/all.nii.gz;p/all.nii.gz\nt/half.nii.gz;p/gone.nii.gz\n")
    assert run(cohort / "list.csv", "--preset", "brats-gli") == 1
    printed = capsys.readouterr().out
    assert "failed: gone:" in printed
    assert "no such file" in printed


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["p/all.nii.gz", "t/all.nii.gz"], "one of the arguments --preset --regions is required"),
        (["p/all.nii.gz", "--preset", "brats-gli"], "give RESULT and TRUTH"),
        (["list.tsv", "t", "--preset", "brats-gli"], "table of pairs"),
        (["p", "t", "--preset", "brats-gli", "--dilation", "2"], "preset brats-gli fixes it"),
        (["p", "t", "--preset", "brats-gli", "--jobs", "0"], "at least 1"),
        (["p", "t", "--preset", "brats-gli", "--map", "4"], "OLD=NEW"),
        (["p", "t", "--preset", "brats-gli", "--map", "4=3", "--map", "4=2"], "label 4 twice"),
        (["p/all.nii.gz", "t/all.nii.gz", "--preset", "brats-gli", "--jobs", "2"], "for folders and tables"),
        (["p/all.nii.gz", "t/all.nii.gz", "--regions", "a=1", "--dilation", "-1"], "must not be negative"),
    ],
)
def test_flags_without_effect_are_errors(
    cohort: Path, arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(cohort / text) if (cohort / text).exists() or "list" in text else text for text in arguments]
    with pytest.raises(SystemExit) as stop:
        run(*paths)
    assert stop.value.code == 2
    assert fault in capsys.readouterr().err
