"""A whole BIDS data set in one command: 30 sessions of rendered heads, five of them broken in five ways.

Four contrasts at three voxel sizes lie in 12 participants with two or three sessions each, beside files that must be
left alone. Checked are the exit code, that every good scan has every file it should have, that every broken one has
a reason, that running again does nothing and how long that takes (CPU time, which other work on the machine stretches
least), the group level, and the official validator (``pip install bids-validator-deno``; left out where it is not
installed). Prints a table of goals; saves ``bids_dataset.json``.

    python benchmarks/bids_dataset.py --atlas FILE
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, save_results, targets

from neuralprep.bids.derivatives import TABLE, ScanName, expected_files
from neuralprep.bids.layout import home_of
from neuralprep.evaluation.heldout import HeldOutHeads
from neuralprep.grid import Grid
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.volume import Volume, save

SPACE = "MNI152NLin2009aSym"
CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw")
#: in-plane voxel edge of the rendering and slices averaged
GRIDS = ((2.0, 1), (2.5, 1), (2.0, 2))
SESSIONS = tuple((f"{s:02d}", f"{v}") for s in range(1, 13) for v in range(1, 4 if s <= 6 else 3))
NAMES = tuple(
    f"sub-{subject}_ses-{session}_acq-{GRIDS[index % len(GRIDS)][1]}slice_{CONTRASTS[index % len(CONTRASTS)]}"
    for index, (subject, session) in enumerate(SESSIONS)
)
#: what is wrong with which scan
BROKEN = dict(zip(NAMES[3::6], ("truncated", "text", "empty", "four_d", "constant"), strict=True))


def build(root: Path, atlas: Path, seed: int) -> None:
    """Make the data set."""
    root.mkdir(parents=True)
    _json(root / "dataset_description.json", {"Name": "rendered heads", "BIDSVersion": "1.10.0", "License": "CC0"})
    _json(root / "T1w.json", {"MagneticFieldStrength": 3})
    sources = {mm: HeldOutHeads(atlas, _settings(mm)) for mm in {mm for mm, _ in GRIDS}}
    scans = []
    for index, (subject, session) in enumerate(SESSIONS):
        contrast, (mm, _) = CONTRASTS[index % len(CONTRASTS)], GRIDS[index % len(GRIDS)]
        folder = root / f"sub-{subject}" / f"ses-{session}" / "anat"
        folder.mkdir(parents=True)
        case = sources[mm].case(index, seed, contrast)
        path = folder / f"{NAMES[index]}.nii.gz"
        scan = _thick(case.scan, GRIDS[index % len(GRIDS)][1])
        save(scan.with_data(np.rint(scan.data * 1000)), path, dtype="int16", space="native")
        _json(path.with_name(path.name.replace(".nii.gz", ".json")), {"EchoTime": 0.01 * (index % 4 + 1)})
        scans.append(path)
    _others(scans[0])
    for path in scans:
        if path.name.removesuffix(".nii.gz") in BROKEN:
            _break(path, BROKEN[path.name.removesuffix(".nii.gz")])


def _settings(spacing_mm: float) -> SamplerSettings:
    """Ordinary scans: bias, noise and tilt, but nothing that quality control should stop."""
    edge = round(256 / spacing_mm / 8) * 8
    ordinary = SamplerSettings(shape=(edge, edge, edge), spacing_mm=spacing_mm)
    off = dict.fromkeys(("any_rotation", "wide_tilt", "infant", "animal", "cut", "stripped", "defaced", "blob", "thick",
                         "backdrop", "motion", "ghost", "spikes", "wrap", "slices"), 0.0)  # fmt: skip
    return replace(ordinary, **off)


def _thick(scan: Volume, count: int) -> Volume:
    """Neighbouring slices averaged."""
    if count == 1:
        return scan
    whole = scan.cropped((0, 0, 0), (*scan.grid.shape[:2], scan.grid.shape[2] // count * count))
    data = whole.data.reshape(*whole.grid.shape[:2], -1, count).mean(-1)
    affine = whole.grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (count - 1) / 2
    affine[:3, 2] *= count
    return Volume(np.ascontiguousarray(data), Grid((data.shape[0], data.shape[1], data.shape[2]), affine))


def _others(scan: Path) -> None:
    """Files beside the scans that are no anatomical image."""
    stem = scan.name.removesuffix(".nii.gz").rpartition("_")[0]
    shutil.copy(scan, scan.with_name(f"{stem}_mod-T1w_defacemask.nii.gz"))
    func = scan.parent.parent / "func"
    func.mkdir()
    shutil.copy(scan, func / f"{stem.rpartition('_')[0]}_task-rest_bold.nii.gz")


def _break(path: Path, fault: str) -> None:
    """Damage one scan."""
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault == "text":
        path.write_bytes(gzip.compress(b"see the other folder\n"))
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        import nibabel as nib

        image = nib.load(path)
        data = np.asarray(image.dataobj)
        data = np.stack([data] * 3, -1) if fault == "four_d" else np.full_like(data, 7)
        nib.save(nib.Nifti1Image(data, image.affine), path)


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def command(*arguments: str | Path) -> tuple[int, float, float]:
    """Run the program; exit code, wall seconds, CPU seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "neuralprep", "bids", *map(str, arguments)], check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return code, time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def complete(out: Path, name: str) -> bool:
    """Whether a scan has exactly the files that it should have."""
    home = home_of(out, name)
    files = ScanName.of(name, shared=True)
    found = {path.name for path in home.folder.glob("*")} if home.folder.is_dir() else set()
    return set(expected_files(files, [row.output for row in TABLE], SPACE)) <= found


def validator_errors(out: Path) -> tuple[int | None, list[str]]:
    """Number of errors, and the codes of all issues; None where the validator is not installed."""
    program = shutil.which("bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        return None, []
    done = subprocess.run([program, str(out), "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    codes = sorted({f"{issue['severity']} {issue['code']}" for issue in issues})
    return sum(issue["severity"] == "error" for issue in issues), codes


def main() -> None:
    """Parse the command line, run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True, help="atlas file with maps 19 and 20")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=1, help="scans side by side")
    parser.add_argument("--folder", type=Path, help="where to work: kept, goes on with what is there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    work = options.folder or Path(tempfile.mkdtemp(prefix="bids-"))
    raw, out = work / "raw", work / "derivatives"
    if not raw.is_dir():
        build(raw, options.atlas, options.seed)
    flags = ("--output-spaces", f"{SPACE}:res-2", "--nprocs", str(options.jobs), "--quiet")
    first = command(raw, out, "participant", *flags)
    before = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*") if path.is_file()}
    again = command(raw, out, "participant", *flags)
    after = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*") if path.is_file()}
    group = command(raw, out, "group", "--quiet")
    rows = {row["scan"]: row for row in csv.DictReader((out / "group.tsv").open(), delimiter="\t")}
    errors, codes = validator_errors(out)
    good = [name for name in NAMES if name not in BROKEN]
    statuses = {name: rows[name]["status"] if name in rows else "missing" for name in NAMES}
    explained = {name: rows[name]["reasons"].replace(f"{work.resolve()}/", "") for name in BROKEN
                 if rows.get(name, {}).get("status") == "failed"}  # fmt: skip
    found = {
        "scans": len(NAMES), "complete": sum(complete(out, name) for name in good), "explained": len(explained),
        "exit": first[0], "wall_s": first[1], "cpu_s": first[2],
        "again_exit": again[0], "again_wall_s": again[1], "again_cpu_s": again[2],
        "again_changed": len(set(before.items()) ^ set(after.items())), "group_cpu_s": group[2],
        "validator_errors": errors, "validator_issues": codes,
    }  # fmt: skip
    print(targets([
        ("good scans complete", found["complete"], len(good), ">="), ("broken explained", len(explained), 5, ">="),
        ("exit code", first[0], 1, ">="), ("exit code", first[0], 1, "<="),
        ("files changed by running again", found["again_changed"], 0, "<="),
        ("CPU seconds of running again", again[2], 5, "<="), ("errors of the validator", errors, 0, "<="),
    ]))  # fmt: skip
    for name, reason in explained.items():
        print(f"{name} ({BROKEN[name]}): {reason}")
    content = {"headline": found, "statuses": statuses, "broken": BROKEN, "reasons": explained}
    print(f"saved {save_results('bids_dataset', content, options.results)}")
    if options.folder is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
