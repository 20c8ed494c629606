"""``neuralprep bids --reports-only``: pages of scans drawn again from what is stored are those that were there."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.fake_processor import SHAPE, make_fake, write_scan_file
from neuralprep.cli import bids, main
from neuralprep.grid import Grid
from neuralprep.volume import Volume, save

#: wall time, which goes on while the page is drawn
SECONDS = re.compile(r"\d+\.\d+ s\b")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    for seed, name in enumerate(("sub-01_T1w", "sub-01_T2w", "sub-02_T1w")):
        write_scan_file(root / name[:6] / "anat" / f"{name}.nii.gz", seed)
    (root / "dataset_description.json").write_text('{"Name": "r", "BIDSVersion": "1.9.0"}')
    return root


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that costs nothing, and real pages."""
    from neuralprep.cli.run import job_from as real

    monkeypatch.setattr(bids, "job_from", lambda args: replace(real(args), make_processor=make_fake))


def pages(out: Path) -> dict[str, bytes]:
    """Pages (without wall times) and pictures of all scans."""
    found = {path.name: path.read_bytes() for path in [*out.glob("sub-*/anat/*.html"), *out.glob("sub-*/anat/*.png")]}
    return {name: SECONDS.sub("", text.decode()).encode() if name.endswith("html") else text
            for name, text in found.items()}


def again(raw: Path, out: Path, *flags: str) -> int:
    for path in [*out.glob("sub-*/anat/*.html"), *out.glob("sub-*/anat/*.png")]:
        path.unlink()
    return main(["bids", str(raw), str(out), "participant", "--reports-only", *flags])


def user_mask(path: Path) -> Path:
    save(Volume(np.ones(SHAPE, np.uint8), Grid(SHAPE, np.diag([5.0, 5.0, 5.0, 1.0]))), path, dtype="uint8")
    return path


@pytest.mark.parametrize("flags", [[], ["--border", "2", "--lambda", "1", "--threads", "1"], ["--res", "native"],
                                   ["--outputs", "brain_mask,preproc"], ["--no-normalize", "--no-register"],
                                   ["--mask", "MASK"], ["--keep-label", "MASK"]], ids=" ".join)  # fmt: skip
def test_the_pages_are_those_that_were_there(raw: Path, tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("sub-01_T1w", "sub-01_T2w", "sub-02_T1w"):
        user_mask(tmp_path / "masks" / f"{name}.nii.gz")
    flags = [str(tmp_path / "masks") if flag == "MASK" else flag for flag in flags]
    out = tmp_path / "out"
    assert main(["bids", str(raw), str(out), "participant", "-q", *flags]) == 0
    before = pages(out)
    assert len(before) == 6
    others = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/anat/*") if path.name not in before}
    assert again(raw, out, "-q") == 0
    assert pages(out) == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert "sub-02_T1w_report.html" in (out / "index.html").read_text()


def _change_scan(raw: Path, out: Path) -> str:
    os.utime(raw / "sub-01/anat/sub-01_T1w.nii.gz", (1, 1))
    return "has changed since it was processed"


def _link_scan_nowhere(raw: Path, out: Path) -> str:
    path = raw / "sub-01/anat/sub-01_T1w.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x")
    return "fetch the data"


def _remove_mask(raw: Path, out: Path) -> str:
    (out / "sub-01/anat/sub-01_desc-brain_mask.nii.gz").unlink()
    return "sub-01_desc-brain_mask.nii.gz: no such file"


def _break_image(raw: Path, out: Path) -> str:
    path = out / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:400])
    return "truncated"


def _edit_record(key: str, value: Any) -> Any:
    def edit(raw: Path, out: Path) -> str:
        path = out / "sub-01/anat/sub-01_T1w_quality.json"
        content = json.loads(path.read_text())
        if value is None:
            del content[key]
        else:
            content[key] = value
        path.write_text(json.dumps(content))
        return "no page can be made of this record"

    return edit


@pytest.mark.parametrize("spoil", [
    _change_scan, _link_scan_nowhere, _remove_mask, _break_image, _edit_record("timings", None),
    _edit_record("settings", {"lam": "much", "frame": None, "native_resolution": False}), _edit_record("settings", {}),
    _edit_record("outputs", ["brain", "skull"]),
], ids=["changed", "annex", "mask", "image", "no timings", "settings", "no settings", "outputs"])  # fmt: skip
def test_a_page_that_cannot_be_drawn_is_told_and_left(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any
) -> None:
    out = tmp_path / "out"
    main(["bids", str(raw), str(out), "participant", "-q"])
    before = pages(out)
    words = spoil(raw, out)
    page = out / "sub-01/anat/sub-01_T1w_report.html"
    kept = page.read_bytes()
    assert main(["bids", str(raw), str(out), "participant", "--reports-only"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "sub-01_T1w: page left as it is:" in said
    assert words in said
    assert "2 of 3 pages of scans drawn again" in said
    assert words in (out / "neuralprep.log").read_text()
    assert page.read_bytes() == kept
    assert pages(out) == before
    assert (out / "status.tsv").read_text().count("\n") == 4


def test_only_the_chosen_scans_are_drawn_again(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main(["bids", str(raw), str(out), "participant", "-q"])
    (raw / "sub-01/anat/sub-01_T2w.nii.gz").unlink()
    assert again(raw, out, "--participant-label", "01") == 0
    said = capsys.readouterr().err
    assert "1 of 3 pages" in said
    assert "page left" not in said
    assert sorted(pages(out)) == ["sub-01_T1w_overview.png", "sub-01_T1w_report.html"]
    assert again(raw, out) == 0
    assert "sub-01_T2w: page left as it is: its scan is not among the images" in capsys.readouterr().err
