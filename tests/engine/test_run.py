from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.fake_processor import SHAPE, FakeProcessor, fake_job, write_scan_file
from neuralprep.bids.derivatives import available_outputs, expected_files
from neuralprep.engine import staging
from neuralprep.engine.record import finished_scans, read_status
from neuralprep.engine.run import run_batch
from neuralprep.engine.worker import explain
from neuralprep.errors import InputError

ALL = available_outputs(strip=True, normalize=True, register=True)
SPACE = "MNI152NLin2009aSym"
TESTS = Path(__file__).parent.parent


class Watch:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.records: list = []
        self.total = -1

    def begin(self, total: int) -> None:
        self.total = total

    def message(self, text: str) -> None:
        self.messages.append(text)

    def done(self, record) -> None:
        self.records.append(record)


def statuses(records) -> dict[str, str]:
    return {record.scan: record.status for record in records}


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def without_report(files: list[str]) -> list[str]:
    """Files of a scan when the job draws no report."""
    return [file for file in files if not file.endswith(("report.html", "overview.png"))]


def bad_inputs(folder: Path) -> list[Path]:
    """Five inputs that cannot be processed, each in its own way."""
    truncated = write_scan_file(folder / "truncated.nii.gz")
    truncated.write_bytes(truncated.read_bytes()[:60])
    empty = folder / "empty.nii.gz"
    empty.write_bytes(b"")
    text = folder / "text.nii"
    text.write_text("this is no image")
    return [truncated, empty, text, folder / "missing.nii.gz", write_scan_file(folder / "bad_numbers.nii.gz")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_batch_of_twenty_with_five_bad_ones_finishes(tmp_path: Path, jobs: int) -> None:
    good = [write_scan_file(tmp_path / "in" / f"s{i:02}.nii.gz", i) for i in range(14)]
    odd = write_scan_file(tmp_path / "in" / "odd.nii.gz")
    bad = bad_inputs(tmp_path / "in")
    inputs = [bad[0], *good[:7], *bad[1:4], *good[7:], odd, bad[4]]
    watch = Watch()
    out = tmp_path / "out"
    records = run_batch(inputs, fake_job(out), jobs=jobs, progress=watch)

    assert [record.source for record in records] == [str(path) for path in inputs]
    found = statuses(records)
    assert sorted(found.values()) == ["check"] + ["failed"] * 5 + ["ok"] * 14
    assert watch.total == len(watch.records) == 20
    reasons = {record.scan: record.reasons[0] for record in records if record.status == "failed"}
    assert reasons["bad_numbers"] == "ValueError: the numbers do not add up"
    assert "no such file" in reasons["missing"]
    assert "empty.nii.gz" in reasons["empty"]
    assert "Traceback" in (out / "bad_numbers.error.txt").read_text()
    told = (out / "empty.error.txt").read_text()
    assert reasons["empty"] in told
    assert "Traceback" not in told  # a fault of the file, explained in words

    rows = {row["scan"]: row for row in read_status(out)}
    assert {name: row["status"] for name, row in rows.items()} == found
    assert rows["odd"]["reasons"] == "the brain looks odd"
    assert float(rows["s00"]["brain_ml"]) > 0
    assert "brain_ml" not in rows["missing"]
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == sorted(name for name, status in found.items() if status != "failed")
    assert not list(out.glob(".*"))


def test_a_finished_scan_has_exactly_the_expected_files(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "sub-01_T1w.nii.gz")
    run_batch([scan], fake_job(tmp_path / "out"))
    expected = without_report(expected_files("sub-01_T1w", ALL, SPACE))
    assert listing(tmp_path / "out" / "sub-01_T1w") == expected
    content = json.loads((tmp_path / "out/sub-01_T1w/sub-01_quality.json").read_text())
    assert sorted([*content["files"], "sub-01_quality.json"]) == expected
    assert content["measures"]["not_known"] is None
    assert content["settings"]["lam"] == 0.1


def test_only_requested_outputs_are_written(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "a.nii.gz")
    run_batch([scan], fake_job(tmp_path / "out", outputs=("brain_mask",)))
    assert listing(tmp_path / "out" / "a") == ["a_desc-brain_mask.json", "a_desc-brain_mask.nii.gz", "a_quality.json"]


def test_every_scan_of_a_table_gets_the_mask_of_its_row(tmp_path: Path) -> None:
    """One that is missing is the fault of its scan alone; a mask that changes is a reason to do its scan again."""
    for name in ("a", "b"):
        write_scan_file(tmp_path / f"{name}.nii.gz")
    mask = write_scan_file(tmp_path / "m.nii.gz")
    table = tmp_path / "scans.tsv"
    table.write_text("path\tmask\toutput_name\na.nii.gz\tm.nii.gz\tfirst\nb.nii.gz\tabsent.nii.gz\t\n")
    one, two = run_batch([table], fake_job(tmp_path / "out"))
    assert (one.scan, one.status) == ("first", "ok")
    assert (two.scan, two.status) == ("b", "failed")
    assert "absent.nii.gz" in two.reasons[0]
    assert run_batch([table], fake_job(tmp_path / "out"))[0].reused
    later = mask.stat().st_mtime + 10
    os.utime(mask, (later, later))
    assert not run_batch([table], fake_job(tmp_path / "out"))[0].reused


def test_a_requested_output_that_is_not_made_is_a_failure(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "a.nii.gz")
    records = run_batch([scan], fake_job(tmp_path / "out", strip=False, outputs=("brain_mask",)))
    assert records[0].status == "failed"
    assert "gave no brain_mask" in records[0].reasons[0]


def test_resume_skips_what_is_finished_and_says_why_not(tmp_path: Path) -> None:
    a, b = write_scan_file(tmp_path / "a.nii.gz"), write_scan_file(tmp_path / "b.nii.gz")
    out = tmp_path / "out"

    def again(**changes) -> tuple[list[bool], list[str]]:
        watch = Watch()
        records = run_batch([a, b], fake_job(out, **changes), progress=watch)
        assert {record.status for record in records} == {"ok"}
        return [record.reused for record in records], watch.messages

    assert again() == ([False, False], [])
    assert again() == ([True, True], [])
    assert again(threads=1) == ([True, True], [])
    reused, messages = again(lam=1.0)
    assert reused == [False, False]
    assert messages[0] == "a: done again, settings changed: lam 0.1 -> 1.0"
    os.utime(a, (1, 1))
    assert again(lam=1.0)[0] == [False, True]
    (out / "b" / "b_desc-brain_mask.nii.gz").unlink()
    reused, messages = again(lam=1.0)
    assert reused == [True, False]
    assert "files are missing: b_desc-brain_mask.nii.gz" in messages[0]
    assert again(lam=1.0, overwrite=True)[0] == [False, False]


def test_a_failed_scan_is_tried_again_and_its_error_file_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = tmp_path / "a.nii.gz"
    assert statuses(run_batch([path], fake_job(out))) == {"a": "failed"}
    assert (out / "a.error.txt").exists()
    write_scan_file(path)
    assert statuses(run_batch([path], fake_job(out))) == {"a": "ok"}
    assert not (out / "a.error.txt").exists()


def test_status_keeps_the_scans_of_earlier_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch([write_scan_file(tmp_path / "a.nii.gz")], fake_job(out))
    run_batch([write_scan_file(tmp_path / "b.nii.gz")], fake_job(out))
    assert [row["scan"] for row in read_status(out)] == ["a", "b"]


def test_another_scan_of_the_same_name_never_replaces_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch([write_scan_file(tmp_path / "p/a.nii.gz", 1)], fake_job(out))
    records = run_batch([write_scan_file(tmp_path / "q/a.nii.gz", 2)], fake_job(out))
    assert records[0].scan == "q_a"
    assert finished_scans(out) == {"a": str(tmp_path / "p/a.nii.gz"), "q_a": str(tmp_path / "q/a.nii.gz")}


def test_files_of_a_person_survive_a_redo(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "a.nii.gz")
    out = tmp_path / "out"
    run_batch([scan], fake_job(out))
    (out / "a" / "my_notes.txt").write_text("keep me")
    run_batch([scan], fake_job(out, outputs=("brain_mask",)))
    assert (out / "a" / "my_notes.txt").read_text() == "keep me"
    assert not (out / "a" / "a_desc-preproc_image.nii.gz").exists()


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "a.nii.gz")
    other = tmp_path / "out" / "a" / "thesis.txt"
    other.parent.mkdir(parents=True)
    other.write_text("years of work")
    records = run_batch([scan], fake_job(tmp_path / "out"))
    assert records[0].status == "failed"
    assert "not replaced" in records[0].reasons[0]
    assert other.read_text() == "years of work"


@pytest.mark.parametrize("mask_name", ["a.nii.gz", "a_mask.nii.gz"])
def test_masks_are_found_by_name(tmp_path: Path, mask_name: str) -> None:
    scans = [write_scan_file(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    write_scan_file(tmp_path / "masks" / mask_name)
    records = run_batch(scans, fake_job(tmp_path / "out", mask=tmp_path / "masks"))
    assert statuses(records) == {"a": "ok", "b": "failed"}
    assert "has no mask for b.nii.gz" in records[1].reasons[0]


def test_each_scan_gets_the_settings_it_needs(tmp_path: Path) -> None:
    seen = []

    class Recording(FakeProcessor):
        def __init__(self, settings):
            super().__init__(settings)
            seen.append(settings)

        def again(self, settings):
            return Recording(settings)

    make = Recording
    scans = [write_scan_file(tmp_path / f"s{i}.nii.gz", i) for i in range(3)]
    run_batch(scans, fake_job(tmp_path / "out", native_resolution=True, make_processor=make))
    assert [settings.resolution for settings in seen] == [5.0]  # made once, for three scans of one voxel size
    run_batch(scans[:1], fake_job(tmp_path / "out", mask=scans[0], make_processor=make))
    assert seen[-1].mask.data.shape == SHAPE


def test_one_mask_for_many_scans_is_refused(tmp_path: Path) -> None:
    scans = [write_scan_file(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    with pytest.raises(InputError, match="one mask cannot serve 2 scans"):
        run_batch(scans, fake_job(tmp_path / "out", mask=scans[0]))


def test_unreadable_and_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="names a file"):
        run_batch([tmp_path], fake_job(tmp_path / "file"))
    with pytest.raises(InputError, match="names a file"):
        run_batch([tmp_path], fake_job(tmp_path / "b.nii.gz"))
    with pytest.raises(InputError, match="cannot make the output folder"):
        run_batch([tmp_path], fake_job(tmp_path / "file" / "out"))

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "a.nii.gz")

    scan = write_scan_file(tmp_path / "a.nii.gz")
    monkeypatch.setattr("neuralprep.volume.load", denied)
    records = run_batch([scan], fake_job(tmp_path / "out"))
    assert "a.nii.gz: permission denied" in records[0].reasons[0]


def test_a_full_disk_is_a_clear_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    scans = [write_scan_file(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    monkeypatch.setattr("neuralprep.engine.images.save", full)
    records = run_batch(scans, fake_job(tmp_path / "out"))
    assert statuses(records) == {"a": "failed", "b": "failed"}
    assert "no space left" in records[0].reasons[0]
    assert not list((tmp_path / "out").glob(".partial*"))


def test_explanations(tmp_path: Path) -> None:
    assert "fewer --jobs" in explain(MemoryError(), tmp_path)
    assert explain(KeyError("x\ny"), tmp_path) == "KeyError: 'x\\ny'"
    assert explain(ValueError(), tmp_path) == "ValueError: no message"


BATCH = """
from pathlib import Path
import sys
from engine.fake_processor import fake_job
from neuralprep.engine.run import run_batch
run_batch([sys.argv[1]], fake_job(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_nothing_half_written_and_goes_on(tmp_path: Path, stop: signal.Signals) -> None:
    for i in range(6):
        write_scan_file(tmp_path / "in" / f"{'slow' if i < 4 else 'xgated'}{i}.nii.gz", i)
    out = tmp_path / "out"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    script = tmp_path / "batch.py"
    script.write_text(f"if __name__ == '__main__':{textwrap.indent(BATCH, '    ')}")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "in"), str(out)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # run in the background of a shell, the tests inherit that Ctrl-C is ignored; their children must not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while len(finished_scans(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, stop)
    process.wait(timeout=300)
    (tmp_path / "in" / "open").touch()

    before = {name: (out / name).stat().st_mtime_ns for name in finished_scans(out)}
    assert 2 <= len(before) < 6
    expected = without_report(expected_files("slow0", ALL, SPACE))
    for name in before:
        assert listing(out / name) == [file.replace("slow0", name) for file in expected]
    assert {p.name for p in out.iterdir() if p.is_dir() and not p.name.startswith(".")} == set(before)
    if stop == signal.SIGINT:
        assert not list(out.glob(".partial*"))
        assert {row["scan"] for row in read_status(out)} == set(before)

    records = run_batch([tmp_path / "in"], fake_job(out))
    assert {record.scan for record in records if record.reused} == set(before)
    assert {record.status for record in records} == {"ok"}
    assert not list(out.glob(".partial*"))
    assert len(read_status(out)) == 6


def test_staging_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    mine = staging.open_staging(tmp_path, "a")
    alive = mine.with_name(mine.name.rpartition("-")[0] + f"-{os.getppid()}")
    mine.replace(alive)
    foreign = tmp_path / ".partial-b@another.host-77"
    foreign.mkdir()
    assert staging.recover(tmp_path) == []
    os.utime(foreign, (1, 1))
    assert len(staging.recover(tmp_path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [alive.name]


def test_a_run_stopped_between_two_renames_is_put_right(tmp_path: Path) -> None:
    scan = write_scan_file(tmp_path / "a.nii.gz")
    out = tmp_path / "out"
    job = fake_job(out)
    run_batch([scan], job)
    (out / "a").rename(out / f".old-a@{os.uname().nodename}-{os.getpid()}")
    records = run_batch([scan], replace(job, overwrite=False))
    assert records[0].reused
    assert not list(out.glob(".old*"))
