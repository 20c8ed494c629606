"""Several methods on the same scans: resumed, failures noted, tables and times put together."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.extraction import extraction_report, make_masks, mask_path, read_times, score_methods
from neuralprep.evaluation.peer import Peer, PeerError
from neuralprep.grid import Grid
from neuralprep.volume import Volume, load, save

GRID = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]))


class Above(Peer):
    """A stripper that anyone can check: what is brighter than a level."""

    task = "strip"

    def __init__(self, name: str, level: float, broken: str = "") -> None:
        super().__init__()
        self.name, self.level, self.broken, self.runs = name, level, broken, 0

    def missing(self) -> str | None:
        return None

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        self.runs += 1
        if self.broken and self.broken in scan.name:
            raise PeerError(f"{self.name}: does not like {scan.name}")
        image = load(scan)
        save(image.with_data(image.data > self.level), folder / "out.nii.gz")
        return folder / "out.nii.gz"


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Bright balls whose truth is what is above 100."""
    position = np.stack(np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij"), -1)
    scans, truths = {}, {}
    for k, name in enumerate(("a_T1w", "b_T1w", "c_FLAIR")):
        image = 200 * np.exp(-((np.linalg.norm(position, axis=-1) / (0.7 + 0.1 * k)) ** 2))
        scans[name], truths[name] = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_truth.nii.gz"
        save(Volume(image.astype(np.float32), GRID), scans[name])
        save(Volume(image > 100, GRID), truths[name])
    return scans, truths


def test_masks_are_made_once_and_failures_do_not_stop_the_rest(
    cohort: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path
) -> None:
    scans, truths = cohort
    right, broken = Above("right", 100), Above("broken", 100, broken="b_T1w")
    lines: list[str] = []
    failed = make_masks([broken, right], scans, tmp_path / "masks", lines.append)
    assert failed == {"broken b_T1w": "broken: does not like b_T1w.nii.gz"}
    assert len(lines) == 6
    assert not mask_path(tmp_path / "masks", "broken", "b_T1w").exists()
    assert sorted(read_times(tmp_path / "masks" / "right" / "times.tsv")) == sorted(scans)
    make_masks([right], scans, tmp_path / "masks", lines.append)
    assert right.runs == 3
    folders = {name: tmp_path / "masks" / name for name in ("right", "broken")}
    rows, faults = score_methods(folders, truths)
    assert list(faults) == ["broken b_T1w"]
    assert len(rows) == 5
    assert all(row["dice"] == 1 and row["seconds"] is not None for row in rows)


def test_the_report_has_the_tables_of_the_paper(
    cohort: tuple[dict[str, Path], dict[str, Path]], tmp_path: Path
) -> None:
    scans, truths = cohort
    peers = [Above("ours", 101), Above("loose", 60), Above("lost", 199.9)]
    make_masks(peers, scans, tmp_path / "masks", print)
    shutil.rmtree(tmp_path / "masks" / "lost")
    (tmp_path / "masks" / "lost").mkdir()
    for name in scans:  # nothing found at all
        save(Volume(np.zeros(GRID.shape, bool), GRID), tmp_path / "masks" / "lost" / f"{name}.nii.gz")
    rows, faults = score_methods({peer.name: tmp_path / "masks" / peer.name for peer in peers}, truths)
    assert not faults
    assert {row["contrast"] for row in rows} == {"T1w", "FLAIR"}
    assert all(math.isinf(row["hd"]) for row in rows if row["method"] == "lost")
    report = extraction_report(rows, "ours")
    for words in ("Brain extraction", "Time per volume", "Holm", "| FLAIR | ours |", "(3 infinite)"):
        assert words in report


def test_times_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    assert read_times(tmp_path / "none.tsv") == {}
    (tmp_path / "times.tsv").write_text("a\t1.5\t2.0\nb\tfast\n")
    with pytest.raises(InputError, match="'b\tfast'"):
        read_times(tmp_path / "times.tsv")
