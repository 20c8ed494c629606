"""The tests of faults, again and again: workers and clients killed, a full disk, taken permissions, two runs at once.

    python benchmarks/faults.py --times 20

Each time is a process of its own; what fails is printed with the end of its output. Saves ``faults.json``; the exit
code is 1 unless every run was green.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, save_results

ROOT = Path(__file__).resolve().parents[1]
TESTS = tuple(f"tests/engine/test_{name}.py" for name in ("claims", "faults", "cluster"))
_SHOWN = 3000


def once(scratch: Path) -> dict[str, Any]:
    """One run of the tests: how many passed and did not, seconds, and the load of the machine when it began."""
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (\w+)", lines[-1] if lines else "")}
    if done.returncode:
        print(done.stdout[-_SHOWN:], done.stderr[-_SHOWN:], sep="\n")
    return {"green": done.returncode == 0, "passed": counts.get("passed", 0), "skipped": counts.get("skipped", 0),
            "failed": counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0),
            "seconds": time.perf_counter() - start, "load": load}  # fmt: skip


def main() -> None:
    """Run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.times):
            rows.append(once(Path(scratch) / "tmp"))
            words = "{passed} passed, {failed} failed, {seconds:.0f} s".format(**rows[-1])
            print(f"run {number + 1}: {words}", flush=True)
    green = sum(row["green"] for row in rows)
    seconds = statistics.median(row["seconds"] for row in rows)
    print(f"{green} of {len(rows)} runs green, {rows[-1]['passed']} tests each, median {seconds:.0f} s")
    print(save_results("faults", {"tests": list(TESTS), "green": green, "rows": rows}, args.results))
    sys.exit(green < len(rows))


if __name__ == "__main__":
    main()
