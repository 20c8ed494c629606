"""What can go wrong in a batch: nothing is lost, nothing is half written, nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.fake_processor import fake_job, write_scan_file
from engine.test_claims import end, hold_elsewhere
from engine.test_run import ALL, SPACE, TESTS, Watch, listing, statuses, without_report
from neuralprep.bids.derivatives import expected_files
from neuralprep.engine.claims import FOLDER, Claims
from neuralprep.engine.cluster import Execution
from neuralprep.engine.overview import look
from neuralprep.engine.record import finished_scans, read_status
from neuralprep.engine.run import run_batch
from neuralprep.errors import InputError

ONE = ("brain_mask",)
NOBODY = 65534

BATCH = """
import sys
from pathlib import Path
from engine.fake_processor import fake_job
from neuralprep.engine.run import run_batch

if __name__ == "__main__":
    records = run_batch([sys.argv[1]], fake_job(Path(sys.argv[2])), jobs=int(sys.argv[3]))
    print(*sorted(f"{record.scan}={record.status}" for record in records))
"""


def batch_process(script: Path, inputs: Path, out: Path, jobs: int) -> subprocess.Popen:
    """A run in a process group of its own."""
    script.write_text(BATCH)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(script), str(inputs), str(out), str(jobs)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # run in the background of a shell, the tests inherit that Ctrl-C is ignored; their children must not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(what, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert what()


def assert_whole(out: Path, names: Sequence[str]) -> None:
    """These scans and no others are there, with every file; nothing is left over."""
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders == set(names)
    for name in names:
        expected = without_report(expected_files("scan", ALL, SPACE))
        assert listing(out / name) == [file.replace("scan", name) for file in expected]
    # the draft of a table, of a command that was killed as it wrote it, goes with a run a minute later
    assert not [path for path in out.glob(".*") if not path.match(".np-*.part")]


def computed(folder: Path) -> Counter[str]:
    """How often the processor has worked on each scan."""
    return Counter((folder / "computed.txt").read_text().split())


def test_a_scan_that_kills_its_process_is_given_up_and_costs_nobody_else(tmp_path: Path) -> None:
    for name in ("a_counted", "b_counted", "killer_counted", "fragile_counted", "c_counted", "d_counted"):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    records = run_batch([tmp_path / "in"], fake_job(out), execution=Execution(1, "local", deaths=3))
    found = statuses(records)
    assert found.pop("killer_counted") == "failed"
    assert set(found.values()) == {"ok"}
    reason = next(record.reasons[0] for record in records if record.status == "failed")
    assert "was killed 3 times" in reason
    assert reason in (out / "killer_counted.error.txt").read_text()
    assert_whole(out, list(found))
    times = computed(tmp_path / "in")
    # its first death may have been that of the scan beside it, before it was its turn
    assert 2 <= times["killer_counted.nii.gz"] <= 3
    assert times["fragile_counted.nii.gz"] == 2
    # a scan that was only beside them may have been interrupted, and then once: afterwards suspects are alone
    assert all(count <= 3 for count in times.values())


def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    names = [*(f"slow{i}" for i in range(8)), "slow8_gated", "slow9_gated"]
    for i, name in enumerate(names):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz", i)
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        """Kill two workers at random moments, each with a scan in its hands; the run cannot end before."""
        dice = random.Random(4)
        while len(killed) < 2:
            time.sleep(0.1 + dice.random() / 2)
            at_work = [held for held in Claims(out).all() if held.alive and held.pid not in (*killed, os.getpid())]
            if at_work:
                killed.append(at_work[0].pid)
                os.kill(killed[-1], signal.SIGKILL)
        (tmp_path / "in" / "open").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    records = run_batch([tmp_path / "in"], fake_job(out), jobs=2)
    killer.join()
    assert statuses(records) == dict.fromkeys(names, "ok")
    assert_whole(out, names)
    assert len(read_status(out)) == len(names)


def test_a_killed_command_takes_its_workers_along_and_goes_on(tmp_path: Path) -> None:
    names = [f"{'slow' if i < 4 else 'xgated'}{i}_counted" for i in range(8)]
    for i, name in enumerate(names):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz", i)
    out = tmp_path / "out"
    process = batch_process(tmp_path / "batch.py", tmp_path / "in", out, 2)
    wait_for(lambda: len(finished_scans(out)) >= 2)
    assert any(held.alive for held in Claims(out).all())
    process.kill()  # the command alone: nobody tells the workers
    process.communicate()
    wait_for(lambda: not any(held.alive for held in Claims(out).all()))
    (tmp_path / "in" / "open").touch()
    overview = look(out)
    assert [run.alive for run in overview.runs] == [False]
    assert overview.runs[0].total == 8
    before = {name: (out / name).stat().st_mtime_ns for name in finished_scans(out)}

    records = run_batch([tmp_path / "in"], fake_job(out))
    assert statuses(records) == dict.fromkeys(names, "ok")
    assert {record.scan for record in records if record.reused} >= set(before)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert_whole(out, names)
    times = computed(tmp_path / "in")
    assert all(times[f"{name}.nii.gz"] == 1 for name in before)
    assert max(times.values()) <= 2


def test_ctrl_c_ends_command_and_workers_at_once(tmp_path: Path) -> None:
    for i in range(12):
        write_scan_file(tmp_path / "in" / f"slow{i:02}{'_gated' * (i > 7)}.nii.gz", i)
    out = tmp_path / "out"
    process = batch_process(tmp_path / "batch.py", tmp_path / "in", out, 2)
    wait_for(lambda: len(finished_scans(out)) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=300)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    done = finished_scans(out)
    assert 2 <= len(done) < 12
    assert {row["scan"] for row in read_status(out)} <= set(done)
    assert_whole(out, list(done))


def test_a_scan_that_hangs_is_ended_by_the_time_limit(tmp_path: Path) -> None:
    for name in ("a", "hang", "b", "c"):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    records = run_batch([tmp_path / "in"], fake_job(out), execution=Execution(1, time_limit_s=6.0))
    found = statuses(records)
    assert found.pop("hang") == "failed"
    assert set(found.values()) == {"ok"}
    reason = next(record.reasons[0] for record in records if record.status == "failed")
    assert "longer than the time limit of 6 s" in reason
    assert_whole(out, list(found))


def test_two_runs_at_once_share_the_work(tmp_path: Path) -> None:
    names = [f"slow{i}_counted" for i in range(8)]
    for i, name in enumerate(names):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz", i)
    write_scan_file(tmp_path / "in" / "bad_counted.nii.gz")
    out = tmp_path / "out"
    runs = [batch_process(tmp_path / f"batch{i}.py", tmp_path / "in", out, 1) for i in range(2)]
    expected = sorted(["bad_counted=failed", *(f"{name}=ok" for name in names)])
    for run in runs:
        printed, errors = run.communicate(timeout=600)
        assert (run.returncode, errors) == (0, "")
        assert printed.split() == expected
    times = computed(tmp_path / "in")
    # the failed one may be tried again by a run that began after its failure, as any later run would
    assert times.pop("bad_counted.nii.gz") <= 2
    assert set(times.values()) == {1}
    assert_whole(out, names)
    assert {row["scan"]: row["status"] for row in read_status(out)} == dict(row.split("=") for row in expected)


def test_a_scan_of_another_run_is_waited_for_and_taken_over_when_that_dies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    other = hold_elsewhere(out, "a")

    class Ending(Watch):
        def done(self, record) -> None:
            super().done(record)
            if len(self.records) == 1:
                end(other)

    watch = Ending()
    records = run_batch([tmp_path / "in"], fake_job(out), progress=watch)
    assert [record.scan for record in watch.records] == ["b", "a"]
    assert statuses(records) == {"a": "ok", "b": "ok"}
    assert any("another run works in this folder" in text and str(other.pid) in text for text in watch.messages)
    assert_whole(out, ["a", "b"])


def test_overwriting_twice_at_once_and_after_a_death_does_it_once(tmp_path: Path) -> None:
    """A scan that a worker has published before it died, or another run has redone, is not redone again."""
    scan = write_scan_file(tmp_path / "a_counted.nii.gz")
    out = tmp_path / "out"
    run_batch([scan], fake_job(out))
    other = hold_elsewhere(out, "a_counted")

    class Redoing(Watch):
        def message(self, text: str) -> None:
            """The run waits for the other: that redoes the scan and dies."""
            super().message(text)
            if "another run works" in text:
                run_batch([scan], fake_job(tmp_path / "aside"))
                shutil.rmtree(out / "a_counted")
                (tmp_path / "aside" / "a_counted").rename(out / "a_counted")
                end(other)

    records = run_batch([scan], fake_job(out, overwrite=True), progress=Redoing())
    assert statuses(records) == {"a_counted": "ok"}
    assert computed(tmp_path)["a_counted.nii.gz"] == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_duplicates_are_done_once(tmp_path: Path, jobs: int) -> None:
    scan = write_scan_file(tmp_path / "in" / "a_counted.nii.gz")
    write_scan_file(tmp_path / "in" / "b_counted.nii.gz", 1)
    (tmp_path / "link.nii.gz").symlink_to(scan)
    (tmp_path / "list.txt").write_text("in/a_counted.nii.gz\nin/../in/a_counted.nii.gz\n")
    watch = Watch()
    inputs = [scan, tmp_path / "in", tmp_path / "link.nii.gz", tmp_path / "list.txt"]
    records = run_batch(inputs, fake_job(tmp_path / "out", outputs=ONE), jobs=jobs, progress=watch)
    assert [record.scan for record in records] == ["a_counted", "b_counted"]
    assert sum("more than once" in text for text in watch.messages) == 4
    assert set(computed(tmp_path / "in").values()) == {1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux" or not shutil.which("mount"):
        pytest.skip("only root on Linux can mount a small file system")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=False,
                          capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_fails_scans_in_words_and_the_next_run_goes_on(small_disk: Path, tmp_path: Path, jobs: int) -> None:
    names = [f"s{i:02}" for i in range(16)]
    for i, name in enumerate(names):
        write_scan_file(tmp_path / "in" / f"{name}.nii.gz", i)
    out = small_disk / "out"
    records = run_batch([tmp_path / "in"], fake_job(out), jobs=jobs)
    found = statuses(records)
    done = [name for name, status in found.items() if status == "ok"]
    assert 1 <= len(done) < 16
    assert set(done) == set(finished_scans(out))
    for record in records:
        assert record.status == "ok" or "no space left" in record.reasons[0].lower()
    assert {p.name for p in out.iterdir() if p.is_dir() and p.name != FOLDER} == set(done)

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    records = run_batch([tmp_path / "in"], fake_job(out))
    assert statuses(records) == dict.fromkeys(names, "ok")
    assert {record.scan for record in records if record.reused} == set(done)
    assert_whole(out, names)


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user without rights, and the rights of that user: those of root would bind nowhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    run_batch([write_scan_file(tmp_path / "a.nii.gz")], fake_job(tmp_path / "out"))  # loads what nobody may not
    folder = Path(tempfile.mkdtemp())  # not below the folders of pytest, which are closed to others
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o755)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(0)
        os.setegid(0)
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_any_more(as_nobody: Path) -> None:
    names = [f"s{i}" for i in range(4)]
    for name in names:
        write_scan_file(as_nobody / "in" / f"{name}.nii.gz")
    out = as_nobody / "out"

    class Locking(Watch):
        def done(self, record) -> None:
            super().done(record)
            if len(self.records) == 1:
                out.chmod(0o555)

    watch = Locking()
    found = statuses(run_batch([as_nobody / "in"], fake_job(out, outputs=ONE), progress=watch))
    out.chmod(0o755)
    assert found == {"s0": "ok", "s1": "failed", "s2": "failed", "s3": "failed"}
    assert all("permission denied" in record.reasons[0] for record in watch.records[1:])
    assert any("status table is out of date" in text for text in watch.messages)
    again = run_batch([as_nobody / "in"], fake_job(out, outputs=ONE))
    assert statuses(again) == dict.fromkeys(names, "ok")
    assert [record.reused for record in again] == [True, False, False, False]
    assert not list(out.glob(".*"))


def test_folders_without_permission_are_named(as_nobody: Path) -> None:
    scan = write_scan_file(as_nobody / "a.nii.gz")
    closed = write_scan_file(as_nobody / "b.nii.gz")
    closed.chmod(0)
    out = as_nobody / "out"
    out.mkdir(mode=0o555)
    with pytest.raises(InputError, match="out"):
        run_batch([scan], fake_job(out))
    assert not list(out.iterdir())
    records = run_batch([scan, closed], fake_job(as_nobody / "other"))
    assert statuses(records) == {"a": "ok", "b": "failed"}
    assert f"{closed}: may not be read" in records[1].reasons[0]


def test_status_while_it_runs(tmp_path: Path) -> None:
    for i in range(9):
        write_scan_file(tmp_path / "in" / f"slow{i}.nii.gz", i)
    write_scan_file(tmp_path / "in" / "slow9_gated.nii.gz")
    write_scan_file(tmp_path / "in" / "bad.nii.gz")
    out = tmp_path / "out"
    start = time.monotonic()
    process = batch_process(tmp_path / "batch.py", tmp_path / "in", out, 1)
    wait_for(lambda: (out / "status.tsv").exists() and len(finished_scans(out)) >= 3)
    wait_for(lambda: look(out).runs[0].done > 1)
    wait_for(lambda: look(out).running)
    overview = look(out)
    seconds = time.monotonic() - start
    (tmp_path / "in" / "open").touch()
    process.communicate(timeout=300)
    (run,) = overview.runs
    assert (run.alive, run.total, run.pid, run.failed) == (True, 11, process.pid, 1)
    # of those that are done one took no time and the others 0.4 s each; the start of the command is not counted
    assert run.done / seconds < run.per_s < run.done / (0.39 * (run.done - 1))
    assert run.left_s == pytest.approx((11 - run.done) / run.per_s)
    assert all(held.pid == process.pid and 0 <= held.age_s < seconds for held in overview.running)
    assert "do not add up" in overview.failures["bad"]
    json.dumps(overview.as_json())
    after = look(out)
    assert (after.scans, after.runs, after.running) == ({"ok": 10, "check": 0, "failed": 1}, [], [])
