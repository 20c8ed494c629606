"""Time and memory of the whole chain, beside the tools it replaces.

One head on a 256^3 grid of 1 mm is given to each competitor as a compressed NIfTI file; each runs as a whole
process that starts cold, reads, computes and writes:

* ``neuralprep``: strip, normalise, register, every output and the report (``neuralprep run``);
* ``strip``: ours, strip only (``neuralprep strip``); ``start``: the same command, which ends when the network is open
  and not yet compiled for the shape of a scan. What ``strip`` costs beyond ``start`` has goals;
* ``deepbet``: strip only;
* ``series``: the same three tasks with what people use: deepbet, then SimpleITK's N4 within the mask (shrink 4),
  then an antspyx affine of the brain to the template. Left out when antspyx is missing (``pip install antspyx``).

The competitors take turns in every round, so that a busy machine hits them alike; medians and ranges are given.
Peak memory is that of the process and its children together, sampled 50 times a second. ``batch`` is
``neuralprep run`` on a folder of 20 copies; the warm time per scan is what each scan beyond the first adds.

    python benchmarks/speed.py --rounds 5 --threads 2
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, SHARED, goal_rows, markdown, save_results, spread, targets

EDGE = 256
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

OURS = ("neuralprep", "strip", "start")

_START = """
import sys
from neuralprep.cli import main, strip
def opened(args):
    from neuralprep.engine.single import Preprocessor
    Preprocessor(strip.settings_from(args))
    return 0
strip.execute = opened
sys.exit(main(sys.argv[1:]))
"""

_DEEPBET = """
import sys
from deepbet import run_bet
scan, out = sys.argv[1:3]
run_bet([scan], brain_paths=[out + "/brain.nii.gz"], mask_paths=[out + "/mask.nii.gz"], no_gpu=True)
"""

_SERIES = """
import sys
import ants
import SimpleITK as sitk
from deepbet import run_bet
scan, out, template = sys.argv[1:4]
run_bet([scan], mask_paths=[out + "/mask.nii.gz"], no_gpu=True)
image = sitk.ReadImage(scan, sitk.sitkFloat32)
mask = sitk.Cast(sitk.ReadImage(out + "/mask.nii.gz") > 0, sitk.sitkUInt8)
mask.CopyInformation(image)
n4 = sitk.N4BiasFieldCorrectionImageFilter()
n4.Execute(sitk.Shrink(image, [4] * 3), sitk.Shrink(mask, [4] * 3))
corrected = image / sitk.Exp(n4.GetLogBiasFieldAsImage(image))
sitk.WriteImage(corrected, out + "/corrected.nii.gz")
sitk.WriteImage(sitk.Mask(corrected, mask), out + "/brain.nii.gz")
fixed, moving = ants.image_read(template), ants.image_read(out + "/brain.nii.gz")
fit = ants.registration(fixed, moving, type_of_transform="Affine", outprefix=out + "/affine_")
ants.image_write(fit["warpedmovout"], out + "/brain_mni.nii.gz")
"""


@dataclass(frozen=True)
class Run:
    """Cost of one process."""

    seconds: float
    cpu_seconds: float
    peak_gib: float


def measure(command: list[str], threads: int | None) -> Run:
    """Run a command to its end and measure it; RuntimeError with its last words if it fails.

    ``threads`` limits those of the libraries that peers use; None leaves the environment as a user of ours has it.
    """
    import psutil

    environment = os.environ | ({} if threads is None else dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        before = os.times()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        watched, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            peak = max(peak, _memory(watched))
            time.sleep(0.02)
        seconds, after = time.perf_counter() - start, os.times()
        log.seek(0)
        words = log.read().decode(errors="replace")[-2000:]
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}:\n{words}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, cpu, peak / 2**30)


def _memory(process: Any) -> int:
    """Resident bytes of a process and its children; 0 for those that have just ended."""
    import psutil

    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        return total
    return total


def make_scan(source: Path, target: Path) -> None:
    """Put a head on a 256^3 grid of 1 mm around its centre and write it as int16."""
    from neuralprep import Grid, load, save
    from neuralprep.resample import resample

    volume = load(source)
    grid = Grid.centered((EDGE,) * 3, 1.0, volume.grid.center)
    scan = resample(volume, grid)
    top = float(np.percentile(scan.data, 99.9))
    save(scan.with_data(np.clip(scan.data / top * 1000, 0, 4000).astype(np.int16)), target, dtype="int16")


def commands(scan: Path, out: Path, template: Path) -> dict[str, list[str]]:
    """Command of every competitor that is installed."""
    python = sys.executable
    strip = ["strip", str(scan), str(out / "brain.nii.gz")]
    table = {
        "neuralprep": [python, "-m", "neuralprep", "run", str(scan), str(out), "--overwrite"],
        "strip": [python, "-m", "neuralprep", *strip],
        "start": [python, "-c", _START, *strip],
    }
    if importlib.util.find_spec("deepbet"):
        table["deepbet"] = [python, "-c", _DEEPBET, str(scan), str(out)]
    if all(importlib.util.find_spec(name) for name in ("deepbet", "ants", "SimpleITK")):
        table["series"] = [python, "-c", _SERIES, str(scan), str(out), str(template)]
    return table


def cold_rounds(folder: Path, scan: Path, rounds: int, threads: int) -> dict[str, list[Run]]:
    """Let the competitors take turns, each time in an empty output folder."""
    from neuralprep import load_template, save

    template = folder / "template.nii.gz"
    save(load_template("MNI152NLin2009aSym").t1, template)
    out = folder / "out"
    runs: dict[str, list[Run]] = {}
    for number in range(rounds):
        for name, command in commands(scan, out, template).items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            limit = None if name in OURS else threads
            runs.setdefault(name, []).append(measure(command, limit))
            print(f"round {number + 1} {name}: {runs[name][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    return runs


def strip_goals(runs: dict[str, list[Run]]) -> list[tuple[str, float, float, str]]:
    """What stripping costs beyond the start of the process: medians, compared with their goals."""
    strip, start = (np.median([(run.cpu_seconds, run.peak_gib) for run in runs[name]], 0) for name in OURS[1:])
    cpu, gib = (float(value) for value in strip - start)
    return [(f"strip of a {EDGE}^3 head, after start-up: CPU s", cpu, 3.0, "<="),
            ("the same: GiB", gib, 1.2, "<=")]  # fmt: skip


def batch(folder: Path, scan: Path, copies: int) -> Run:
    """One ``neuralprep run`` over a folder of copies."""
    scans = folder / "scans"
    scans.mkdir()
    for index in range(copies):
        shutil.copyfile(scan, scans / f"scan{index:02d}_T1w.nii.gz")
    return measure([sys.executable, "-m", "neuralprep", "run", str(scans), str(folder / "batch")], None)


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--head", type=Path, default=SHARED / "heads" / "uih770_A_T1w_1mm.nii.gz")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=20, help="scans in the batch; 0 for none")
    parser.add_argument("--threads", type=int, default=2, help="that peers may use")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = folder / "head_T1w.nii.gz"
        make_scan(options.head, scan)
        runs = cold_rounds(folder, scan, options.rounds, options.threads)
        many = batch(folder, scan, options.batch) if options.batch else None
    ours = statistics.median(run.seconds for run in runs["neuralprep"])
    table = []
    for tool, results in runs.items():
        seconds = [run.seconds for run in results]
        row: dict[str, Any] = {"tool": tool, "wall s": spread(seconds), "time / ours": np.median(seconds) / ours}
        row["CPU s"] = spread([run.cpu_seconds for run in results])
        row["peak GiB"] = spread([run.peak_gib for run in results])
        table.append(row)
    print(markdown(table, ["tool", "wall s", "CPU s", "peak GiB", "time / ours"]))
    found = strip_goals(runs)
    print(f"\n{targets(found)}")
    content: dict[str, Any] = {"threads": options.threads, "rounds": options.rounds, "acceptance": goal_rows(found)}
    content["runs"] = {tool: [vars(run) for run in results] for tool, results in runs.items()}
    if many is not None:
        warm = (many.seconds - ours) / max(1, options.batch - 1)
        print(f"\nbatch of {options.batch}: {many.seconds:.1f} s, peak {many.peak_gib:.2f} GiB;", end=" ")
        print(f"warm {warm:.2f} s per scan, {many.seconds / options.batch:.2f} s with the start shared out")
        content["batch"] = vars(many) | {"scans": options.batch, "warm_s": warm}
    print(f"\nsaved {save_results('speed', content, options.results)}")


if __name__ == "__main__":
    main()
