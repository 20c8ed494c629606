"""What registration costs: whole processes of ``register`` and ``template``, as a user starts them.

A 1 mm head onto the 1 mm template, affine and dense, and a template of ``--members`` images (0 for none): seconds, CPU
seconds and peak memory of the process and its children together, start-up included. Times want an otherwise idle
machine, so this is a program of its own with a result file of its own. What keypoints and refinement alone cost, with
both heads in memory and the network open but not compiled for their shapes yet, is a row of its own.

    python benchmarks/registration_cost.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import goal_rows, save_results, targets
from registration_common import GROUP, add_options, moved, open_once, random_affine
from speed import measure

from neuralprep import Settings, load, load_template, save
from neuralprep.alignment import align_views, view
from neuralprep.resample import resample
from neuralprep.templates import space_grid

VERB = (sys.executable, "-m", "neuralprep")
HEAD = "uih770_A_T1w_1mm"
Goals = list[tuple[str, float, float, str]]


def register_rows(heads: Path, threads: int, scratch: Path) -> Goals:
    """A 1 mm head onto the 1 mm template."""
    rows: Goals = []
    fixed = scratch / "fixed.nii.gz"
    save(resample(load_template().t1, space_grid(Settings.space, 1.0)), fixed)
    for kind, seconds, cpu, gib in (("affine", 10.0, 10.0, 3.0), ("svf", 30.0, 15.0, 2.0)):
        command = [*VERB, "register", str(heads / f"{HEAD}.nii.gz"), str(fixed), str(scratch / kind), "--type", kind]
        run = measure([*command, "--threads", str(threads)], None)
        rows += [(f"register --type {kind}, whole process: s", run.seconds, seconds, "<="),
                 (f"register --type {kind}: CPU s", run.cpu_seconds, cpu, "<="),
                 (f"register --type {kind}: GiB", run.peak_gib, gib, "<=")]  # fmt: skip
    return rows


def alignment_rows(heads: Path, threads: int) -> Goals:
    """Keypoints and refinement of the same two heads, within the calling process."""
    moving = load(heads / f"{HEAD}.nii.gz")
    fixed = resample(load_template().t1, space_grid(Settings.space, 1.0))
    session = open_once(threads)
    start = time.process_time()
    align_views(view(session, moving, threads), view(session, fixed, threads))
    return [("keypoints and refinement of two heads: CPU s", time.process_time() - start, 5.0, "<=")]


def template_rows(heads: Path, members: int, seed: int, threads: int, scratch: Path) -> Goals:
    """A template of many images: a few heads, each time carried by another affine."""
    rng, images = np.random.default_rng(seed), []
    for number in range(members):
        scan = load(heads / f"{GROUP[number % len(GROUP)]}.nii.gz")
        images.append(scratch / f"head{number:03}_T1w.nii.gz")
        save(moved(scan, random_affine(rng)), images[-1])
    command = [*VERB, "template", *map(str, images), str(scratch / "group"), "--threads", str(threads)]
    run = measure(command, None)
    return [(f"template of {members}: CPU s per image", run.cpu_seconds / members, 2.0, "<="),
            (f"template of {members}: GiB", run.peak_gib, 3.0, "<=")]  # fmt: skip


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--members", type=int, default=40, help="images of the template; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        found = register_rows(args.heads, args.threads, scratch)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found += alone.submit(alignment_rows, args.heads, args.threads).result()
        if args.members:
            found += template_rows(args.heads, args.members, args.seed, args.threads, scratch)
    print(targets(found), flush=True)
    content: dict[str, Any] = {"threads": args.threads, "acceptance": goal_rows(found)}
    content["headline"] = {name: value for name, value, *_ in found}
    print(save_results("registration_cost", content, args.results))


if __name__ == "__main__":
    main()
