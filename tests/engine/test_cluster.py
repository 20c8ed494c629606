"""Batches on real workers: on this machine, behind a scheduler that runs already, in a queue."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.fake_processor import FakeProcessor, fake_job, write_scan_file
from engine.test_run import TESTS, Watch, listing, statuses
from neuralprep.cli import main
from neuralprep.engine import cluster
from neuralprep.engine.attempt import Task, attempt
from neuralprep.engine.cluster import QUEUES, Execution, check
from neuralprep.engine.inputs import Scan
from neuralprep.engine.run import run_batch
from neuralprep.engine.worker import Job
from neuralprep.errors import InputError
from neuralprep.pipeline import Settings

ONE = ("brain_mask",)


class Telling(FakeProcessor):
    """Says in the measures who it is."""

    def again(self, settings):
        return Telling(settings)

    def run(self, volume):
        result = super().run(volume)
        facts = {"pid": float(os.getpid()), "threads": float(self.settings.threads or 0), "id": float(id(self))}
        facts["omp"] = float(os.environ.get("OMP_NUM_THREADS", "0"))
        return replace(result, quality=replace(result.quality, measures=facts))


def scans(folder: Path, count: int) -> list[Path]:
    return [write_scan_file(folder / f"s{i:02}.nii.gz", i) for i in range(count)]


def test_workers_load_the_network_once_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    job = fake_job(tmp_path / "out", make_processor=Telling, outputs=ONE)
    records = run_batch(scans(tmp_path / "in", 24), job, jobs=2)
    assert {record.status for record in records} == {"ok"}
    assert [record.scan for record in records] == [f"s{i:02}" for i in range(24)]
    told = [record.measures for record in records]
    workers = {tell["pid"] for tell in told}
    assert 1 <= len(workers) <= 2
    assert os.getpid() not in workers
    # one network in a worker; each of its two threads has a view of it
    assert len({(tell["pid"], tell["id"]) for tell in told}) <= 2 * len(workers)
    assert {(tell["threads"], tell["omp"]) for tell in told} == {(3.0, 3.0)}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A scheduler with one worker that somebody else has started: its address and its file."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address=":0", memory_limit=0,
                      silence_logs=50) as waiting:  # fmt: skip
        file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
        file.write_text(json.dumps(waiting.scheduler.identity()))
        yield waiting.scheduler_address, file


def test_a_scheduler_that_runs_serves_one_run_after_the_other(scheduler: tuple[str, Path], tmp_path: Path) -> None:
    paths = scans(tmp_path / "in", 3)
    told = []
    for number, where in enumerate(scheduler):
        job = fake_job(tmp_path / f"out{number}", make_processor=Telling, outputs=ONE, lam=1.0 + number)
        records = run_batch(paths, job, execution=Execution(cluster=str(where)))
        assert {record.status for record in records} == {"ok"}
        told += [record.measures for record in records]
        content = json.loads((tmp_path / f"out{number}" / "s00" / "s00_quality.json").read_text())
        assert content["settings"]["lam"] == 1.0 + number
        assert not list((tmp_path / f"out{number}").glob(".*"))
    assert len({tell["pid"] for tell in told}) == 1
    assert {tell["threads"] for tell in told} == {3.0}  # what its worker was started with


def test_output_folders_are_the_same_from_any_working_directory(
    scheduler: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans(tmp_path / "in", 1)
    monkeypatch.chdir(tmp_path)
    records = run_batch(["in"], fake_job(Path("out"), outputs=ONE), execution=Execution(cluster=scheduler[0]))
    assert statuses(records) == {"s00": "ok"}
    assert listing(tmp_path / "out" / "s00")


def test_a_worker_of_another_version_refuses(tmp_path: Path) -> None:
    task = Task("run", fake_job(tmp_path), 0.0, version="0.0.1")
    with pytest.raises(InputError, match=r"the command 0\.0\.1: install one"):
        attempt(task, Scan(tmp_path / "a.nii", "a"))


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_jobs_of_a_queue_do_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real dask-jobqueue with commands that start and stop jobs on this machine, as SLURM's do on others."""
    pytest.importorskip("dask_jobqueue")
    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    jobs.mkdir()
    _program(programs / "sbatch", f'cp "$1" {jobs}/job.sh\nsetsid sh {jobs}/job.sh > {jobs}/log 2>&1 &\n'
                                  f'echo $! > {jobs}/id\necho "Submitted batch job $!"\n')  # fmt: skip
    _program(programs / "scancel", 'kill -- "-$1" 2>/dev/null || kill "$1"\n')
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    monkeypatch.setenv("PYTHONPATH", path)  # SLURM passes the environment on as well
    out = tmp_path / "out"
    options = {"queue": "short", "memory": "2GB", "walltime": "00:10:00"}
    job = fake_job(out, make_processor=Telling, outputs=ONE, threads=1)
    records = run_batch(scans(tmp_path / "in", 3), job, execution=Execution(1, "slurm", options))
    assert {record.status for record in records} == {"ok"}
    assert os.getpid() not in {record.measures["pid"] for record in records}
    script = (jobs / "job.sh").read_text()
    assert "#SBATCH -p short" in script
    assert "#SBATCH --mem=2G" in script
    assert "--tls-key" in script  # nobody else gives the worker orders
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (Execution(cluster="kubernetes"), "unknown cluster kubernetes. Give local, slurm, pbs"),
        (Execution(cluster="gone.json"), "no such file"),
        (Execution(cluster="slurm"), "needs the command sbatch"),
        (Execution(cluster="tcp://127.0.0.1:1", jobs=3), "--jobs has no effect with tcp://127.0.0.1:1"),
        (Execution(options={"queue": "short"}), "no effect without a queue"),
    ],
)
def test_clusters_that_cannot_be_used(execution: Execution, message: str) -> None:
    if execution.cluster in QUEUES and shutil.which(QUEUES[execution.cluster][1]):
        pytest.skip("there is a queue here")
    with pytest.raises(InputError, match=message):
        check(execution)


def test_one_process_needs_no_cluster(tmp_path: Path) -> None:
    write_scan_file(tmp_path / "a.nii.gz")
    code = (
        "import sys\nfrom pathlib import Path\nfrom engine.fake_processor import fake_job\n"
        "from neuralprep.engine.run import run_batch\n"
        f"run_batch([{str(tmp_path / 'a.nii.gz')!r}], fake_job(Path({str(tmp_path / 'out')!r})))\n"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed', 'tornado')))"
    )
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == ""
    assert (tmp_path / "out" / "a").is_dir()


def test_no_scheduler_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    scan = write_scan_file(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="no scheduler answers"):
        run_batch([scan], fake_job(tmp_path / "out"), execution=Execution(cluster="tcp://127.0.0.1:9"))
    assert not list((tmp_path / "out").glob(".*"))


def test_wrong_flags_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_scan_file(tmp_path / "a.nii.gz")
    for flags in (["--cluster", "moon"], ["--cluster-option", "queue=short"]):
        assert main(["run", str(scan), str(tmp_path / "out"), *flags]) == 2
        assert not (tmp_path / "out").exists()
    for flags in (["--time-limit", "0"], ["--cluster-option", "queue"]):
        with pytest.raises(SystemExit):
            main(["run", str(scan), str(tmp_path / "out"), *flags])
    assert "unknown cluster moon" in capsys.readouterr().err


def test_two_workers_with_the_real_network_give_what_one_process_gives(tmp_path: Path, shared_data: Path) -> None:
    heads = [shared_data / "heads" / name for name in ("IXI012-HH-1211_T1w_2mm.nii.gz", "xa30_prisma_T1w_2mm.nii.gz")]
    if not all(head.is_file() for head in heads):
        pytest.skip("the heads are not in ../shared/data")
    settings = Settings(register=False, normalize=False, quick=True, outputs=ONE, threads=1)
    files = {}
    for jobs in (1, 2):
        out = tmp_path / f"out{jobs}"
        watch = Watch()
        records = run_batch(heads, Job(settings, out, write_report=False), jobs=jobs, progress=watch)
        assert all(record.status in ("ok", "check") for record in records), records
        files[jobs] = {path.name: path.read_bytes() for path in sorted(out.glob("*/*_mask.nii.gz"))}
    assert len(files[1]) == 2
    assert files[1] == files[2]
