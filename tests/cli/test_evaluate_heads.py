"""``neuralprep evaluate heads``: other tools on PATH and masks made elsewhere, scored side by side."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.grid import Grid
from neuralprep.volume import Volume, load, save

GRID = Grid((24, 24, 24), np.diag([4.0, 4, 4, 1]))


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four scans with truths, a ``bet`` on PATH that fails on one of them, and masks of another method."""
    position = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"), -1)
    for folder in ("scans", "truth", "mine", "bin"):
        (tmp_path / folder).mkdir()
    for k in range(4):
        image = 200 * np.exp(-((np.linalg.norm(position, axis=-1) / (0.6 + 0.05 * k)) ** 2))
        name = f"sub-{k}_{'T1w' if k % 2 else 'T2w'}.nii.gz"
        save(Volume(image.astype(np.float32), GRID), tmp_path / "scans" / name)
        save(Volume(image > 100, GRID), tmp_path / "truth" / name)
        save(Volume(image > 90, GRID), tmp_path / "mine" / name)
    script = tmp_path / "bin" / "bet"
    script.write_text(f"""#!{sys.executable}
import sys
import nibabel as nib
if 'sub-3' in sys.argv[1]:
    sys.exit('I do not like this head')
image = nib.load(sys.argv[1])
nib.save(nib.Nifti1Image((image.get_fdata() > 60).astype('u1'), image.affine), sys.argv[2] + '_mask.nii.gz')
""")
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tables_and_plots(heads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "heads", "scans", "truth", "--out", "out", "--methods", "bet", "--masks", "mine=mine"]
    assert main(arguments) == 1  # one scan failed
    captured = capsys.readouterr()
    assert "failed: bet sub-3_T1w: bet: ended with exit code 1" in captured.err
    assert "I do not like this head" in captured.err
    assert "Brain extraction (NPP, Figure 3)" in captured.out
    assert "Time per volume" in captured.out
    content = json.loads((heads / "out" / "extraction.json").read_text())
    assert len(content["cases"]) == 7
    scores = {(row["method"], row["case"]): row["dice"] for row in content["cases"]}
    truth = load(heads / "truth" / "sub-0_T2w.nii.gz", checks=False).data > 0
    loose = load(heads / "mine" / "sub-0_T2w.nii.gz", checks=False).data > 0
    assert scores["mine", "sub-0_T2w"] == pytest.approx(2 * truth.sum() / (truth.sum() + loose.sum()))
    assert {row["contrast"] for row in content["by_contrast"]} == {"T1w", "T2w"}
    assert (heads / "out" / "extraction.csv").read_text().count("\n") == 8
    assert (heads / "out" / "extraction.md").read_text() in captured.out
    assert (heads / "out" / "extraction.png").stat().st_size > 10_000
    # the same command goes on: what is there is not made again
    (heads / "bin" / "bet").unlink()
    (heads / "bin" / "bet").symlink_to("/bin/false")
    assert main(arguments) == 1
    assert json.loads((heads / "out" / "extraction.json").read_text())["cases"] == content["cases"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scans", "truth", "--methods", "nobody"], "no peer is called nobody"),
        (["scans", "truth", "--methods", "robex"], "PATH"),
        (["scans", "truth", "--masks", "mine"], "NAME=FOLDER"),
        (["scans", "truth", "--methods", "bet", "--mindgrab", "model.pth"], "--mindgrab has no effect"),
        (["scans/sub-0_T2w.nii.gz", "truth", "--methods", "bet"], "is no folder"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, heads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["evaluate", "heads", "--out", "out", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_our_own_method_on_a_real_head(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, truth = shared_data / "heads" / "seg3d_patient_T1w.nii.gz", shared_data / "labels"
    truth = truth / "seg3d_patient_brainmask.nii.gz"
    if not (scan.is_file() and truth.is_file()):
        pytest.skip("the head with a reference mask is not here")
    for folder, file in (("scans", scan), ("truth", truth)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "seg3d_T1w.nii.gz").symlink_to(file)
    arguments = [str(tmp_path / "scans"), str(tmp_path / "truth"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "heads", *arguments, "--methods", "neuralprep"]) == 0
    row = json.loads((tmp_path / "out" / "extraction.json").read_text())["cases"][0]
    assert row["method"] == "neuralprep"
    assert row["dice"] > 0.9
    assert row["seconds"] > 0
