"""How long the lesion-wise scores of a case take: three regions of 240 x 240 x 155 voxels, from arrays in memory.

Cases: one tumour; many metastases, some lost and some invented; the same metastases with all of them bridged by the
result into one component, which every lesion is then compared with in full; and empty maps. CPU and wall seconds, the
median of the repetitions.

    python benchmarks/lesions.py --repeat 3
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
from common import RESULTS, markdown, save_results

from neuralprep.evaluation.lesions import PRESETS, score_lesions

SHAPE = (240, 240, 155)
Pair = tuple[np.ndarray, np.ndarray]


def blob(labels: np.ndarray, center: np.ndarray, radius: float, rng: np.random.Generator, rough: float = 0.0) -> None:
    """Put a ball of edema (2) around an enhancing rim (3) around a core (1) into the map."""
    low = np.maximum(0, (center - radius * 1.6 - 1).astype(int))
    high = np.minimum(SHAPE, (center + radius * 1.6 + 2).astype(int))
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    position = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1)
    distance = np.linalg.norm(position - center, axis=-1) / radius + rough * rng.standard_normal(tuple(high - low))
    inside = labels[box]
    for edge, label in ((1.0, 2), (0.7, 3), (0.45, 1)):
        inside[distance < edge] = label


def tumour(rng: np.random.Generator) -> Pair:
    """A large tumour with a ragged boundary; the result is another drawing of it, shifted."""
    truth, result = np.zeros((2, *SHAPE), np.uint8)
    blob(truth, np.array([90.0, 130.0, 80.0]), 38.0, rng, 0.05)
    blob(result, np.array([91.0, 128.0, 81.0]), 37.0, rng, 0.05)
    return result, truth


def metastases(rng: np.random.Generator, count: int = 80) -> Pair:
    """Lesions of 2 to 9 mm radius all over the brain; one in five is lost, and as many are invented."""
    truth, result = np.zeros((2, *SHAPE), np.uint8)
    for number in range(count):
        center, radius = rng.uniform((40, 30, 20), (200, 210, 135)), rng.uniform(2, 9)
        invented = number % 5 == 1
        if not invented:
            blob(truth, center, radius, rng)
        if number % 5:
            blob(result, center + (0 if invented else rng.normal(0, 0.7, 3)), radius, rng)
    return result, truth


def bridged(rng: np.random.Generator) -> Pair:
    """Metastases that a lattice of the result connects."""
    result, truth = metastases(rng)
    for axis in range(3):
        lattice = np.zeros(SHAPE, bool)
        lattice[tuple(slice(30, n - 20) if a == axis else slice(30, n - 20, 30) for a, n in enumerate(SHAPE))] = True
        result[lattice] = 3
    return result, truth


def empty(rng: np.random.Generator) -> Pair:
    """Nothing to find and nothing found."""
    return np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)


CASES = {"one tumour": tumour, "metastases": metastases, "metastases, bridged": bridged, "empty": empty}


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure every case with the rules of two challenges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for name, make in CASES.items():
        result, truth = make(np.random.default_rng(0))
        for preset in ("brats-gli", "brats-met"):
            times = []
            for _ in range(args.repeat):
                wall, cpu = time.perf_counter(), cpu_seconds()
                scores = score_lesions(result, truth, PRESETS[preset])
                times.append((time.perf_counter() - wall, cpu_seconds() - cpu))
            kinds = [lesion.kind for lesion in scores["WT"].lesions]
            rows.append({
                "case": name,
                "preset": preset,
                "lesions (WT)": kinds.count("found") + kinds.count("missed"),
                "false positives (WT)": kinds.count("false positive"),
                "wall s": statistics.median(wall for wall, _ in times),
                "CPU s": statistics.median(cpu for _, cpu in times),
            })
    print(markdown(rows, list(rows[0])))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nlargest memory of the process: {memory:.2f} GiB")
    print("saved", save_results("lesions", {"repeat": args.repeat, "rows": rows, "memory_gib": memory}, args.results))


if __name__ == "__main__":
    main()
