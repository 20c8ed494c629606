"""What the benchmark programs share: result files, finished work that is not done again, heads, machine."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.evaluation.cases import contrast
from neuralprep.evaluation.tables import cell, column, compare, markdown, summarize, wide, write_json
from neuralprep.inference.session import available_threads

__all__ = [
    "CACHE", "RESULTS", "SHARED", "Ledger", "add_options", "cell", "column", "comparison_table", "contrast",
    "find_heads", "goal_rows", "load_mask", "machine", "markdown", "run_cached", "save_parts", "save_results", "spread",
    "stem", "summarize", "summary_table", "targets", "wide",
]  # fmt: skip

SHARED = Path("../shared/data")
"""Where the public heads, labels and peer weights lie beside a checkout; every program has an option for it."""
RESULTS = Path("benchmarks/results")
CACHE = Path("benchmarks/cache")
PACKAGE = Path(__file__).parent.parent / "src" / "neuralprep"
PIPELINE_PARTS = (
    "grid", "box", "distance", "volume", "trilinear", "lattice", "transform", "resample", "templates", "networks",
    "inference", "registration", "stages", "pipeline", "settings", "steps",
)  # fmt: skip
"""Parts of the package that a result of the pipeline depends on."""


def stem(path: Path) -> str:
    """Name of a scan without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def find_heads(folder: Path) -> list[Path]:
    """The heads of a folder in order of name; lesion drawings are left out."""
    return [p for p in sorted(folder.glob("*.nii.gz")) if not stem(p).endswith("_lesion")]


def load_mask(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """A mask file as (boolean array, voxel edges in mm)."""
    import nibabel as nib

    image = nib.load(path)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    return np.asanyarray(image.dataobj) > 0, tuple(float(s) for s in spacing)


def spread(values: Sequence[float]) -> str:
    """Median with the range in brackets."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def summary_table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str], by: Sequence[str] = ()) -> str:
    """Markdown: per group the median with its 95 % bootstrap interval, then the 5th or 95th percentile and the worst.

    The percentile and the extreme are those of the bad side.
    """
    lines = summarize(rows, measures, by)
    for line in lines:
        low = line["worst"] is not None and line["worst"] <= line["p5"]
        line["bad 5 %"] = line["p5"] if low else line["p95"]
        line["median [95 %]"] = wide([line], [line["measure"]])[0][column(line["measure"])]
        line["measure"] = column(line["measure"])
    return markdown(lines, [*by, "measure", "cases", "median [95 %]", "bad 5 %", "worst"])


def comparison_table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str], reference: str) -> str:
    """Markdown: paired Wilcoxon tests of a reference method, corrected by Holm."""
    tests = [{**test, "measure": column(test["measure"])} for test in compare(rows, measures, reference)]
    names = ["difference", "difference_low", "difference_high", "effect", "p", "p_holm", "better"]
    return markdown(tests, ["measure", "against", "cases", *names])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that every resumable benchmark has."""
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished work is kept")
    parser.add_argument("--fresh", action="store_true", help="do finished work again")
    parser.add_argument("--results", type=Path, default=RESULTS)


class Ledger:
    """Results of finished pieces of work, one JSON line each, so that a benchmark that was stopped goes on.

    The file's name depends on the settings and on the code that the results depend on, the benchmark's own included:
    what was measured with other settings or other code is never taken for this.

    Parameters
    ----------
    name
        Of the benchmark.
    settings
        Everything that determines the results, as plain data.
    parts
        Modules and packages of ours that they depend on; None for what depends on a peer alone, whose version then
        belongs to the settings.
    folder
        Where the file is kept.
    fresh
        Forget what is there.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Any], parts: Sequence[str] | None, folder: Path, fresh: bool = False
    ) -> None:
        text = json.dumps(settings, sort_keys=True, default=str)
        text += "" if parts is None else code_fingerprint(parts)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}-{key}.jsonl"
        if fresh:
            self.path.unlink(missing_ok=True)
        self._known: dict[str, Any] = {}
        for line in self.path.read_text().splitlines() if self.path.is_file() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            self._known[entry["key"]] = entry["value"]

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, key: str, value: Any) -> None:
        """Keep one result."""
        self._known[key] = value
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "value": value}, default=float) + "\n")


def run_cached(
    ledger: Ledger, work: Callable[..., Any], tasks: Mapping[str, tuple[Any, ...]], jobs: int = 1
) -> dict[str, Any]:
    """Do the tasks that the ledger lacks, `jobs` at a time, and return the results of all in their order.

    `work` must be a function of a module; its results must survive JSON.
    """
    todo = {key: arguments for key, arguments in tasks.items() if key not in ledger}
    start = time.perf_counter()

    def note(key: str, value: Any, number: int) -> None:
        ledger.add(key, value)
        seconds = time.perf_counter() - start
        print(f"[{number}/{len(todo)}] {key} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    if jobs <= 1 or len(todo) <= 1:
        for number, (key, arguments) in enumerate(todo.items(), 1):
            note(key, work(*arguments), number)
    else:
        # read by the processes when they load their libraries: threads beyond the cores wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_threads() // jobs)))
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(work, *arguments): key for key, arguments in todo.items()}
            for number, done in enumerate(as_completed(running), 1):
                note(running[done], done.result(), number)
    # through JSON once, so that a first run and a resumed one print the same
    return {key: json.loads(json.dumps(ledger[key], default=float)) for key in tasks}


def code_fingerprint(parts: Sequence[str]) -> str:
    """Checksum of the code of some parts of the package and of the running benchmark, and of the shipped weights.

    Comments and docstrings do not count.
    """
    checksum = hashlib.sha256()
    files = [Path(sys.argv[0]).resolve()]
    if files[0].parent != Path(__file__).resolve().parent:
        files.clear()
    for part in sorted(parts):
        files += sorted((PACKAGE / part).rglob("*.py")) if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    for path in files:
        checksum.update(ast.dump(_without_docstrings(ast.parse(path.read_text(encoding="utf-8")))).encode())
    for path in sorted((PACKAGE / "weights").glob("*.safetensors")):
        checksum.update(path.read_bytes())
    return checksum.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return tree


def machine() -> dict[str, Any]:
    """What a reader needs to judge a time: processor, cores, load when measured."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.is_file() else []
    return {
        "date": date.today().isoformat(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def save_results(name: str, content: Mapping[str, Any], folder: Path) -> Path:
    """Write one JSON result file, with the machine it was measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json({"machine": machine(), **content}, path)
    return path


def save_parts(
    name: str, content: Mapping[str, Any], parts: Iterable[str], headline: Callable[[dict[str, Any]], Any], folder: Path
) -> Path:
    """Write the result file of a program whose parts can be run one at a time: what the others left there is kept.

    ``measured`` says of each part when and where it was run; the headline is made from all of them.
    """
    path = folder / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    measured = {**before.get("measured", {}), **dict.fromkeys(parts, machine())}
    merged = {**before, **content, "measured": measured, "machine": machine()}
    return save_results(name, {**merged, "headline": headline(merged)}, folder)


def targets(found: Iterable[tuple[str, float | None, float, str]]) -> str:
    """Markdown of goals: what is measured, its value, the goal, and whether it is met; ``>=`` or ``<=``."""
    rows = []
    for name, value, goal, way in found:
        met = "not measured"
        if value is not None:
            met = "yes" if (value >= goal if way == ">=" else value <= goal) else "no"
        rows.append({"goal": f"{name} {way} {cell(goal)}", "found": value, "met": met})
    return markdown(rows, ["goal", "found", "met"])


def goal_rows(found: Iterable[tuple[str, float, float, str]]) -> list[dict[str, Any]]:
    """The same goals as rows of a result file."""
    return [{"goal": name, "found": value, "limit": goal} for name, value, goal, _ in found]
