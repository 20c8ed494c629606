"""``neuralprep evaluate edge`` from the outside, on files with exact answers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.report.edge_figure import COLOURS

AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Folders ``labels``, ``masks`` and ``images`` of three cases; only case ``in`` is off the edge."""
    mask = np.zeros((40, 44, 30), np.uint8)
    mask[6:34, 6:38, 5:25] = 1
    for folder in ("labels", "masks", "images"):
        (tmp_path / folder).mkdir()
    for name, start in (("in", 15), ("on", 31), ("out", 32)):
        labels = np.zeros(mask.shape, np.uint8)
        labels[start : start + 3, 15:25, 10:15] = 1
        labels[start + 1 : start + 3, 16:20, 11:14] = 4
        for folder, data in (("labels", labels), ("masks", mask), ("images", mask * np.float32(110) - 1000)):
            nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / folder / f"{name}.nii.gz")
    return tmp_path


def run(*arguments: object) -> int:
    return main(["evaluate", "edge", *map(str, arguments)])


def test_cohort_table_and_share(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, record = cohort / "edge.csv", cohort / "edge.json"
    code = run(cohort / "labels", "--mask", cohort / "masks", "--regions", "whole=1,4;core=4", "--jobs", 2,
               "--csv", table, "--json", record)
    assert code == 0
    rows = {(row["case"], row["compartment"]): row for row in csv.DictReader(table.read_text().splitlines())}
    assert len(rows) == 6
    on = rows["on", "whole"]
    assert (on["at_edge"], int(on["contact_voxels"]), float(on["contact_area_mm2"])) == ("True", 50, 100)
    assert float(rows["out", "whole"]["outside_mm3"]) == 1 * 10 * 5 * 2
    assert rows["in", "whole"]["at_edge"] == "False"
    shares = json.loads(record.read_text())["shares"]
    assert [(s["compartment"], s["cases"], s["at_edge"]) for s in shares] == [("whole", 3, 2), ("core", 3, 2)]
    assert "whole: 2 of 3 = 66.7 % [9.4, 99.2]" in capsys.readouterr().out


def test_image_and_mask_agree(cohort: Path) -> None:
    first, second = cohort / "mask.csv", cohort / "image.csv"
    assert run(cohort / "labels", "--mask", cohort / "masks", "--csv", first) == 0
    assert run(cohort / "labels", "--image", cohort / "images", "--fill", "-1000", "--csv", second) == 0
    assert first.read_text() == second.read_text()
    assert run(cohort / "labels", "--image", cohort / "images", "--fill", "min", "--csv", second) == 0
    assert first.read_text() == second.read_text()


def test_bad_case_fails_alone(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nib.save(nib.Nifti1Image(np.zeros((40, 44, 30), np.uint8), AFFINE), cohort / "labels" / "on.nii.gz")
    assert run(cohort / "labels", "--mask", cohort / "masks") == 1
    printed = capsys.readouterr().out
    assert "all: 1 of 2 = 50.0 %" in printed
    assert re.search(r"failed: on: .*holds no label", printed)


def test_picture_shows_every_layer(cohort: Path) -> None:
    picture = cohort / "edge.png"
    case = cohort / "labels" / "out.nii.gz"
    assert run(case, "--image", cohort / "images" / "out.nii.gz", "--fill", "min", "--picture", picture) == 0
    colours = pixels(picture)
    for name, wanted in COLOURS.items():
        assert has_hue(colours, wanted), name
    folder = cohort / "pictures"
    assert run(cohort / "labels", "--mask", cohort / "masks", "--picture", folder, "--background",
               cohort / "images") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["in.png", "on.png", "out.png"]
    for name, beyond in (("in", False), ("on", False), ("out", True)):
        colours = pixels(folder / f"{name}.png")
        assert has_hue(colours, COLOURS["contact"]) == (name != "in")
        assert has_hue(colours, COLOURS["lost"]) == beyond


def pixels(path: Path) -> np.ndarray:
    """(N, 3) colours of a PNG."""
    from matplotlib.image import imread

    return np.rint(imread(path)[..., :3].reshape(-1, 3) * 255).astype(np.uint8)


def has_hue(colours: np.ndarray, wanted: tuple[int, int, int]) -> bool:
    """Whether some pixels have a hue: blending with grey shifts and scales the channels but keeps their proportions."""
    values = np.vstack([wanted, colours]).astype(float)
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    hue = (values - low) / np.maximum(high - low, 1)
    return bool(((np.abs(hue[1:] - hue[0]).max(1) < 0.05) & ((high - low)[1:, 0] > 50)).sum() > 20)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--mask", "masks", "--fill", "0"], "--mask is used as it is"),
        (["--image", "images", "--threshold", "0.5"], "--threshold is for a --mask"),
        (["--mask", "masks", "--background", "images"], "without --picture"),
        (["--mask", "masks", "--bins", "3,2"], "must rise"),
        (["--mask", "masks", "--jobs", "0"], "at least 1"),
        ([], "one of the arguments --mask --image is required"),
    ],
)
def test_flags_without_effect_are_errors(
    cohort: Path, flags: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(cohort / flag) if (cohort / flag).exists() else flag for flag in flags]
    with pytest.raises(SystemExit) as stop:
        run(cohort / "labels", *paths)
    assert stop.value.code == 2
    assert fault in capsys.readouterr().err


def test_usage_faults_name_the_file(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cohort / "labels", "--mask", cohort / "masks", "--regions", "x=9") == 2
    assert "the labels are 1, 4" in capsys.readouterr().err
    (cohort / "file").touch()
    assert run(cohort / "labels", "--mask", cohort / "masks", "--picture", cohort / "file") == 2
    assert "a cohort needs one" in capsys.readouterr().err
    (cohort / "masks" / "in.nii.gz").unlink()
    assert run(cohort / "labels", "--mask", cohort / "masks") == 2
    assert "in.nii.gz" in capsys.readouterr().err
    assert run(cohort / "labels", "--mask", cohort / "masks", "--skip-missing") == 0
