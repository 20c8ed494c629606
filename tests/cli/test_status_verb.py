from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from engine.fake_processor import fake_job, write_scan_file
from engine.test_claims import foreign
from neuralprep.cli import main
from neuralprep.engine.claims import FOLDER, STALE_S, owner
from neuralprep.engine.record import ScanRecord, write_status
from neuralprep.engine.run import run_batch


def note(out: Path, age_s: float, **changes: object) -> None:
    """What a run on this process says of itself."""
    (out / FOLDER).mkdir(exist_ok=True)
    now = time.time()
    content = owner() | {"since": now - 4000, "total": 1000, "where": "slurm, 50 at a time", "done": 300, "reused": 100,
                         "failed": 1, "recent": 60, "recent_since": now - 600}  # fmt: skip
    path = out / FOLDER / "@run-0.json"
    path.write_text(json.dumps(content | changes))
    os.utime(path, (now - age_s,) * 2)


def test_a_finished_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = [write_scan_file(tmp_path / "in" / name) for name in ("a.nii.gz", "odd.nii.gz")]
    out = tmp_path / "out"
    run_batch(scans, fake_job(out, outputs=("brain_mask",)))
    assert main(["status", str(out)]) == 0
    assert capsys.readouterr().out.strip() == f"{out}: 2 scans: 1 ok, 1 check, 0 failed"
    run_batch([write_scan_file(tmp_path / "in" / "bad.nii.gz")], fake_job(out, outputs=("brain_mask",)))
    assert main(["status", str(out)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "failed (1):", "  bad  ValueError: the numbers do not add up",
    ]  # fmt: skip
    assert main(["status", str(out), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["scans"] == {"ok": 1, "check": 1, "failed": 1}
    assert (told["runs"], told["running"]) == ([], [])


def test_a_batch_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(_logged(tmp_path), [ScanRecord("a", "a.nii", "failed", ("old",)), ScanRecord("b", "b.nii", "failed")])
    note(tmp_path, 0)
    foreign(tmp_path, "a", 0)  # is tried again just now, so it does not count as failed
    foreign(tmp_path, "dead", STALE_S + 60)
    assert main(["status", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"running for 1 h 06 min on {owner()['host']} (process {os.getpid()}), slurm, 50 at a")
    assert lines[1].endswith("400 of 1,000 scans done, 6.00 scans/min, about 1 h 40 min left")
    assert lines[2] == "running (1):"
    assert lines[3].startswith("  a  ")
    assert lines[3].endswith("on node7 (process 77)")
    assert lines[4:] == ["failed (1):", "  b"] or lines[4:] == ["failed (1):", "  b  n/a"]


def test_a_batch_that_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(_logged(tmp_path), [])
    note(tmp_path, 0, started=1.0)  # a process of this number, but not this one
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "stopped: a run on" in printed
    assert "400 of 1,000 scans done" in printed
    assert "the same command again goes on" in printed


def test_ten_thousand_scans_take_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measures = {f"measure_{number}": 1.5 for number in range(24)}
    records = [ScanRecord(f"s{n:05}", f"/data/s{n:05}.nii.gz", "failed", ("x",), 1.0, measures) for n in range(10_000)]
    write_status(_logged(tmp_path), records)
    start = time.process_time()
    assert main(["status", str(tmp_path)]) == 1
    assert time.process_time() - start < 1.0
    printed = capsys.readouterr().out
    assert "10,000 scans: 0 ok, 0 check, 10,000 failed" in printed
    assert printed.endswith("and 9,980 more (--all)\n")


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "no output folder of neuralprep" in capsys.readouterr().err


def _logged(out: Path) -> Path:
    (out / "neuralprep.log").touch()
    return out
