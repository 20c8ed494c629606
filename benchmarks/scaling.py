"""What a batch costs beyond its scans: several workers on real heads, and ten thousand scans that cost nothing.

* ``real``: the heads of a folder by one worker and by two, one thread each, against what the same scans need without
  any of it: one plain process, and two plain processes side by side, each with half of the heads (two cores share their
  memory, so a scan takes longer beside another one). Throughput counts from each process's second scan on: its first
  also loads the network. 1.00 means that nothing is lost to scheduling and claims. Heads that are fewer than asked for
  are given again under other names.
* ``manifest``: a list of many small files with a processor that does nothing; everything else is real: list, claims,
  scheduler, workers, staging, records, table. Time and memory of the command (the scheduler lives in it) per scan,
  the time to find everything finished in a second run, the time of ``neuralprep status``.

    python benchmarks/scaling.py --heads 16 --scans 10000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, SHARED, find_heads, markdown, save_results

from neuralprep.engine.cluster import LOCAL, Execution
from neuralprep.engine.overview import look
from neuralprep.engine.record import ScanRecord, read_status, records_of, write_status
from neuralprep.engine.run import run_batch
from neuralprep.engine.worker import Job
from neuralprep.grid import Grid
from neuralprep.pipeline import Result, Settings
from neuralprep.stages.quality import Quality
from neuralprep.volume import Volume, save

_SHAPE = (16, 16, 16)


class Stub:
    """A processor whose result is there at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def again(self, settings: Settings) -> Stub:
        return Stub(settings)

    def run(self, volume: Volume) -> Result:
        mask = volume.with_data((volume.data > 0).astype(np.uint8))
        measures = {f"measure_{number}": 1.0 + number for number in range(24)}  # as many as a real scan has
        return Result(volume, self.settings, {"brain_mask": mask}, Quality(measures, "ok", ()), {}, {})


class Watch:
    """Notes when scans are done and how much memory the command has."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.done_s: list[float] = []
        self.records: list[ScanRecord] = []

    def begin(self, total: int) -> None:
        """Nothing to prepare."""

    def message(self, text: str) -> None:
        print(text, file=sys.stderr)

    def done(self, record: ScanRecord) -> None:
        self.done_s.append(time.perf_counter() - self.start)
        self.records.append(record)


def timed(inputs: list[Path], job: Job, execution: Execution) -> tuple[Watch, dict[str, float]]:
    """Run a batch; what it cost the command itself."""
    import psutil

    process = psutil.Process()
    watch, before, memory = Watch(), process.cpu_times(), process.memory_info().rss
    run_batch(inputs, job, progress=watch, execution=execution)
    after = process.cpu_times()
    cost = {
        "wall_s": time.perf_counter() - watch.start,
        "command_cpu_s": after.user + after.system - before.user - before.system,
        "command_growth_mib": (process.memory_info().rss - memory) / 2**20,
    }
    return watch, cost


def plain(heads: list[Path], folder: Path) -> list[float]:
    """Seconds at which the scans of a batch without workers were done."""
    return timed(heads, Job(Settings(threads=1), folder), Execution())[0].done_s


def side_by_side(heads: list[Path], folder: Path, processes: int) -> float:
    """Seconds per scan of so many plain processes at once, each with its part of the heads."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(plain, heads[k::processes], folder / f"plain{processes}-{k}") for k in range(processes)]
        rates = [(len(done) - 1) / (done[-1] - done[0]) for done in (part.result() for part in parts)]
    return 1 / sum(rates)


def real(heads: list[Path], folder: Path) -> dict[str, Any]:
    """Throughput of workers on real heads against that of plain processes."""
    rows = []
    for workers in (1, 2):
        need_s = side_by_side(heads, folder, workers)
        watch, cost = timed(heads, Job(Settings(threads=1), folder / f"workers{workers}"), Execution(workers, LOCAL))
        # Up to the last scan but one per worker: at the end of a list one of them waits for the other.
        warm = watch.done_s[workers - 1 : len(heads) - workers + 1]
        found_s = (warm[-1] - warm[0]) / (len(warm) - 1)
        rows.append({"workers": workers, "plain, s per scan": need_s, "workers, s per scan": found_s,
                     "ratio": found_s / need_s, "wall s": cost["wall_s"]})  # fmt: skip
    print(markdown(rows, ["workers", "plain, s per scan", "workers, s per scan", "ratio", "wall s"]))
    return {"heads": len(heads), "rows": rows}


def named_heads(folder: Path, count: int, scratch: Path) -> list[Path]:
    """So many heads; those of the folder again and again, as copies of their own name."""
    found = find_heads(folder)
    scratch.mkdir()
    out = []
    for number in range(count):
        source = found[number % len(found)]
        out.append(scratch / f"head{number:03d}_{source.name}")
        shutil.copyfile(source, out[-1])
    return out


def manifest(count: int, folder: Path, workers: int) -> dict[str, Any]:
    """Cost of everything but the computation, for a list of `count` scans."""
    scans = folder / "scans"
    scans.mkdir()
    first = scans / "first.nii.gz"
    save(Volume(np.arange(4096, dtype=np.int16).reshape(_SHAPE), Grid(_SHAPE, np.diag([10.0, 10.0, 10.0, 1.0]))), first)
    content = first.read_bytes()
    names = [f"sub{number:06d}_T1w.nii.gz" for number in range(count)]
    for name in names:
        (scans / name).write_bytes(content)
    first.unlink()
    table = folder / "manifest.tsv"
    table.write_text("\n".join(["path", *(f"scans/{name}" for name in names)]) + "\n")
    job = Job(Settings(outputs=("brain_mask",), threads=1), folder / "out", make_processor=Stub, write_report=False)
    timed([scans / name for name in names[:8]], replace(job, out_dir=folder / "warm"), Execution(workers, LOCAL))
    _, first_run = timed([table], job, Execution(workers, LOCAL))
    _, second_run = timed([table], job, Execution(workers, LOCAL))
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "neuralprep", "status", str(job.out_dir)], check=True,
                          capture_output=True, text=True)  # fmt: skip
    found: dict[str, Any] = {
        "scans": count, "workers": workers, "first": first_run, "again": second_run,
        "command_cpu_ms_per_scan": 1000 * first_run["command_cpu_s"] / count,
        "command_kib_per_scan": 1024 * first_run["command_growth_mib"] / count,
        "again_ms_per_scan": 1000 * second_run["wall_s"] / count,
        "status_s": time.perf_counter() - start, "status": done.stdout.splitlines()[0].removeprefix(f"{job.out_dir}: "),
    }  # fmt: skip
    print(f"{count} scans that cost nothing, {workers} workers: {first_run['wall_s']:.1f} s;", end=" ")
    print("command {command_cpu_ms_per_scan:.2f} ms CPU, {command_kib_per_scan:.1f} KiB per scan;".format(**found))
    print(f"all found finished again in {second_run['wall_s']:.1f} s; status in {found['status_s']:.2f} s")
    return found


def tables(count: int, folder: Path) -> dict[str, float]:
    """Seconds to write, read and look at the table of `count` scans that failed (nothing else is on the disk)."""
    measures = {f"measure_{number}": 1.0 + number for number in range(24)}
    records = [ScanRecord(f"sub{n:06d}_T1w", f"/data/sub{n:06d}_T1w.nii.gz", "failed", ("x",), 1.0, measures)
               for n in range(count)]  # fmt: skip
    folder.mkdir()
    (folder / "neuralprep.log").touch()
    times: dict[str, float] = {}
    jobs = {"write": lambda: write_status(folder, records), "rewrite": lambda: write_status(folder, records),
            "read": lambda: records_of(read_status(folder)), "look": lambda: look(folder)}  # fmt: skip
    for name, work in jobs.items():
        start = time.process_time()
        work()
        times[f"{name}_cpu_s"] = time.process_time() - start
    print(f"table of {count}: " + ", ".join(f"{name} {value:.2f}" for name, value in times.items()))
    return {"scans": count, **times}


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "heads")
    parser.add_argument("--heads", type=int, default=16, help="real heads, at least 6; 0 for none")
    parser.add_argument("--scans", type=int, default=10_000, help="scans of the manifest; 0 for none")
    parser.add_argument("--table", type=int, default=100_000, help="rows of the table")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="of the manifest")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    content: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.heads:
            content["real"] = real(named_heads(options.data, options.heads, folder / "heads"), folder)
        if options.scans:
            content["manifest"] = manifest(options.scans, folder, options.workers)
        if options.table:
            content["table"] = tables(options.table, folder / "table")
    print(f"\nsaved {save_results('scaling', content, options.results)}")


if __name__ == "__main__":
    main()
