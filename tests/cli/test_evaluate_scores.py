"""``neuralprep evaluate masks|labels|images|fields|transforms``: tables, files, comparisons, refusals, exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.formats.text import write_matrix
from neuralprep.grid import Grid
from neuralprep.transform import Affine
from neuralprep.volume import Volume, save

GRID = Grid((16, 18, 14), np.diag([2.0, 2, 3, 1]))


def write(folder: Path, name: str, data: np.ndarray, grid: Grid = GRID) -> None:
    folder.mkdir(exist_ok=True)
    save(Volume(data, grid), folder / f"{name}.nii.gz")


def ball(radius: float, shift: int = 0) -> np.ndarray:
    position = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in GRID.shape], indexing="ij"), -1)
    return np.roll(np.linalg.norm(position, axis=-1) < radius, shift, 0)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Truth, a method that is nearly right, and one that is worse in every case."""
    for k in range(10):
        radius = 0.5 + 0.03 * k
        write(tmp_path / "truth", f"s{k}", ball(radius))
        write(tmp_path / "good", f"s{k}", ball(radius + 0.06))
        write(tmp_path / "bad", f"s{k}", ball(radius + 0.06, 2))
    return tmp_path


def test_masks_of_a_cohort(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["evaluate", "masks", str(masks / "good"), str(masks / "truth"), "--versus", str(masks / "bad"),
                 "--csv", str(masks / "o.csv"), "--json", str(masks / "o.json"), "--tolerance", "2"])
    shown = capsys.readouterr().out
    assert code == 0
    assert "| s3 | good |" in shown
    assert "Holm" in shown
    with (masks / "o.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 20
    content = json.loads((masks / "o.json").read_text())
    dice = next(test for test in content["comparison"] if test["measure"] == "dice")
    assert (dice["effect"], dice["better"]) == (1, "good")
    assert dice["p"] == pytest.approx(2 / 2**10)
    summary = {(line["method"], line["measure"]): line for line in content["summary"]}
    scores = [float(row["dice"]) for row in table if row["method"] == "good"]
    assert summary["good", "dice"]["median"] == pytest.approx(np.median(scores))
    assert summary["bad", "surface_dice"]["median"] < summary["good", "surface_dice"]["median"]


def test_two_mask_files(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(masks / "good" / "s0.nii.gz"), str(masks / "truth" / "s0.nii.gz")]
    assert main(["evaluate", "masks", *pair]) == 0
    shown = capsys.readouterr().out
    assert "median" not in shown
    assert "| s0 |" in shown


@pytest.mark.parametrize("measure", ["masks", "labels", "images", "fields", "edge"])
@pytest.mark.parametrize("flag", ["--csv", "--json"])
def test_scores_do_not_replace_what_is_scored(
    masks: Path, measure: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result, truth = masks / "good" / "s0.nii.gz", masks / "truth" / "s0.nii.gz"
    link = masks / "scores"
    link.symlink_to(truth)
    given = [str(result), *(["--mask"] if measure == "edge" else []), str(truth)]
    before = truth.read_bytes()
    assert main(["evaluate", measure, *given, flag, str(link)]) == 2
    said = capsys.readouterr()
    assert "is the input itself" in said.err
    assert said.out == ""  # nothing was scored
    assert truth.read_bytes() == before


def test_points_are_not_replaced_by_distances(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("1 2 3\n")
    write_matrix(tmp_path / "a.txt", Affine.identity())
    files = [str(tmp_path / name) for name in ("a.txt", "a.txt", "p.txt")]
    command = ["evaluate", "transforms", *files[:2], "--points", files[2], "--csv"]
    assert main([*command, files[2]]) == 2
    assert (tmp_path / "p.txt").read_text() == "1 2 3\n"
    assert main([*command, str(tmp_path / "scores.csv")]) == 0


def test_a_bad_case_is_named_and_the_rest_scored(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(masks / "good", "s2", np.ones((5, 5, 5)), Grid((5, 5, 5), np.eye(4)))
    (masks / "good" / "s4.nii.gz").write_bytes(b"nothing")
    write(masks / "truth", "s5", np.zeros(GRID.shape))
    code = main(["evaluate", "masks", str(masks / "good"), str(masks / "truth"), "--json", str(masks / "o.json"),
                 "--jobs", "2"])
    shown = capsys.readouterr().out
    assert code == 1
    failed = json.loads((masks / "o.json").read_text())["failed"]
    assert sorted(failed) == ["s2", "s4", "s5"]
    assert "their grids differ" in failed["s2"]
    assert "the mask is empty" in failed["s5"]
    assert "failed: s4" in shown
    assert "| s7 |" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["good/s0.nii.gz", "truth/s0.nii.gz", "--jobs", "2"], "--jobs: for folders only"),
        (["good/s0.nii.gz", "truth/s0.nii.gz", "--versus", "bad"], "--versus: for folders only"),
        (["good", "truth", "--jobs", "0"], "at least 1"),
        (["good", "truth", "--versus", "good"], "same folder"),
        (["good", "truth/s0.nii.gz"], "one is a folder"),
        (["good", "nowhere"], "no such file"),
        (["good", "truth", "--tolerance", "1", "--surface", "voxels"], "--tolerance"),
    ],
)
def test_wrong_usage(
    arguments: list[str], words: str, masks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(masks)
    try:
        code = main(["evaluate", "masks", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_single_bad_pair_is_a_usage_error(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(masks / "x", "s0", np.ones((5, 5, 5)), Grid((5, 5, 5), np.eye(4)))
    pair = [str(masks / "x" / "s0.nii.gz"), str(masks / "truth" / "s0.nii.gz")]
    assert main(["evaluate", "masks", *pair]) == 2
    assert "--resample" in capsys.readouterr().err
    assert main(["evaluate", "masks", *pair, "--resample"]) == 0


def test_images_within_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    truth = (100 + 50 * rng.random(GRID.shape)).astype(np.float32)
    for k in range(3):
        found = truth / 2
        found[~ball(0.6)] = 7
        write(tmp_path / "found", f"s{k}", found)
        write(tmp_path / "truth", f"s{k}", truth)
        write(tmp_path / "mask", f"s{k}", ball(0.4))
    folders = [str(tmp_path / "found"), str(tmp_path / "truth")]
    options = ["--mask", str(tmp_path / "mask"), "--match-scale", "--range", "150", "--json", str(tmp_path / "o.json")]
    assert main(["evaluate", "images", *folders, *options]) == 0
    row = json.loads((tmp_path / "o.json").read_text())["cases"][0]
    assert row["factor"] == pytest.approx(2)
    assert row["mae"] == pytest.approx(0, abs=1e-3)
    assert row["correlation"] == pytest.approx(1)
    assert "global factor" in capsys.readouterr().out
    (tmp_path / "mask" / "s1.nii.gz").unlink()
    assert main(["evaluate", "images", *folders, "--mask", str(tmp_path / "mask")]) == 1
    assert "failed: s1: " in capsys.readouterr().out


def test_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp = np.linspace(0.8, 1.3, GRID.shape[0])[:, None, None] * np.ones(GRID.shape)
    inside = ball(0.8)
    write(tmp_path / "truth", "s", (ramp * inside).astype(np.float32))
    write(tmp_path / "found", "s", (4 * np.sqrt(ramp) * inside).astype(np.float32))
    pair = [str(tmp_path / name / "s.nii.gz") for name in ("found", "truth")]
    assert main(["evaluate", "fields", *pair, "--json", str(tmp_path / "o.json")]) == 0
    row = json.loads((tmp_path / "o.json").read_text())["cases"][0]
    assert row["gain_error"] == pytest.approx(np.log(ramp[inside]).std() / 2, rel=1e-4)
    write(tmp_path / "found", "s", (-ramp).astype(np.float32))
    assert main(["evaluate", "fields", *pair]) == 2
    assert "logarithms" in capsys.readouterr().err


def test_labels_with_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.zeros(GRID.shape, np.int16)
    truth[2:8], truth[8:12] = 17, 53
    found = truth.copy()
    found[2:5] = 53
    write(tmp_path / "truth", "s", truth)
    write(tmp_path / "found", "s", found)
    (tmp_path / "names.txt").write_text("#No. Label Name: R G B A\n17 Left-Hippocampus 220 21 20 0\n53 Right 1 2\n")
    (tmp_path / "names.csv").write_text('Label Number,Label Name\n17,"left hippocampus"\n53,right hippocampus\n')
    pair = [str(tmp_path / name / "s.nii.gz") for name in ("found", "truth")]
    for names, word in (("names.txt", "Left-Hippocampus"), ("names.csv", "left hippocampus")):
        assert main(["evaluate", "labels", *pair, "--names", str(tmp_path / names), "--csv",
                     str(tmp_path / "o.csv")]) == 0
        assert f"| 17 | {word} | 1 | 0.667 |" in capsys.readouterr().out
    with (tmp_path / "o.csv").open() as stream:
        row = next(csv.DictReader(stream))
    assert float(row["label_53"]) == pytest.approx(2 * 4 / (4 + 7))
    assert float(row["mean_dice"]) == pytest.approx((2 / 3 + 8 / 11) / 2)
    assert main(["evaluate", "labels", *pair, "--labels", "99"]) == 2
    (tmp_path / "names.txt").write_text("nothing here\n")
    assert main(["evaluate", "labels", *pair, "--names", str(tmp_path / "names.txt")]) == 2


def test_transforms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shift = np.eye(4)
    shift[:3, 3] = 0, 3, 4
    write_matrix(tmp_path / "a.txt", Affine(shift))
    write_matrix(tmp_path / "b.txt", Affine.identity())
    write_matrix(tmp_path / "c.txt", Affine(shift).inverse())
    write(tmp_path / "mask", "m", ball(0.5))
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    for where in (["--mask", "mask/m.nii.gz"], ["--points", "points.csv"], ["--image", "mask/m.nii.gz"]):
        flag, path = where
        out = tmp_path / "o.json"
        arguments = ["evaluate", "transforms", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), flag,
                     str(tmp_path / path), "--json", str(out)]
        assert main(arguments) == 0
        assert json.loads(out.read_text())["cases"][0]["mean_mm"] == pytest.approx(5)
    arguments[2:4] = [str(tmp_path / "c.txt"), str(tmp_path / "a.txt")]
    assert main([*arguments, "--invert-result"]) == 0
    assert json.loads(out.read_text())["cases"][0]["max_mm"] == pytest.approx(0, abs=1e-9)
    (tmp_path / "points.csv").write_text("1 2 3\n4 five 6\n")
    assert main(["evaluate", "transforms", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--points",
                 str(tmp_path / "points.csv")]) == 2
    assert "4 five 6" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "transforms", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
