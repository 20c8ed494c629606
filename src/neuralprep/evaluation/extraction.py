"""Brain extraction by several methods on the same scans: make the masks, score them, compare.

Masks are kept as ``<folder>/<method>/<case>.nii.gz`` with their times in ``<folder>/<method>/times.tsv``; what is
there is not made again, so that an interrupted comparison goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import Pair, contrast
from neuralprep.evaluation.measures import MaskSettings, measure_all, measure_masks
from neuralprep.evaluation.peer import Made, Peer
from neuralprep.evaluation.tables import PAPER_TABLES, compare, paper_table
from neuralprep.files import read_text, write_atomic

Say = Callable[[str], None]


def make_masks(peers: Iterable[Peer], scans: Mapping[str, Path], folder: Path, say: Say) -> dict[str, str]:
    """Strip every scan with every peer, one after the other.

    Parameters
    ----------
    peers
        That can run here.
    scans
        Case to scan.
    folder
        Where masks and times are kept.
    say
        Told what was done, a line at a time.

    Returns
    -------
    dict
        ``"method case"`` to why it failed; a failure stops neither the other cases nor the other peers.
    """
    failed: dict[str, str] = {}
    for peer in peers:
        for case, scan in scans.items():
            target = mask_path(folder, peer.name, case)
            if target.is_file():
                continue
            try:
                made = peer.run(scan, target)
            except NeuralprepError as error:
                failed[f"{peer.name} {case}"] = str(error)
                say(f"{peer.name} {case}: failed: {error}")
                continue
            _note_time(folder / peer.name / "times.tsv", case, made)
            say(f"{peer.name} {case}: {made.seconds:.1f} s wall, {made.cpu_seconds:.1f} s CPU")
    return failed


def mask_path(folder: Path, method: str, case: str) -> Path:
    """Where the mask of a case by a method is kept."""
    return folder / method / f"{case}.nii.gz"


def score_methods(
    folders: Mapping[str, Path], truths: Mapping[str, Path], settings: MaskSettings | None = None, jobs: int = 1
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Score the masks of every method against reference masks.

    Parameters
    ----------
    folders
        Method to the folder of its masks, named ``<case>.nii.gz``; ``times.tsv`` in it gives the times.
    truths
        Case to reference mask.
    settings
        How masks are read.
    jobs
        Cases side by side.

    Returns
    -------
    list of dict
        A row per case and method: ``case``, ``method``, ``contrast``, scores, ``seconds`` and ``cpu_seconds``.
    dict
        ``"method case"`` to why it could not be scored.
    """
    rows: list[dict[str, Any]] = []
    faults: dict[str, str] = {}
    for method, folder in folders.items():
        times = read_times(folder / "times.tsv")
        pairs = [Pair(case, folder / f"{case}.nii.gz", truth) for case, truth in truths.items()]
        missing = {pair.name for pair in pairs if not pair.prediction.is_file()}
        faults |= {f"{method} {name}": "there is no mask of it" for name in missing}
        scored = [pair for pair in pairs if pair.name not in missing]
        for done in measure_all(partial(measure_masks, settings or MaskSettings()), method, scored, jobs):
            if done.fault:
                faults[f"{method} {done.case}"] = done.fault
                continue
            seconds, cpu = times.get(done.case, (None, None))
            rows.append(done.row() | {"contrast": contrast(done.case), "seconds": seconds, "cpu_seconds": cpu})
    return rows, faults


def read_times(path: Path) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of every case from a ``times.tsv``; empty if there is none.

    Raises
    ------
    InputError
        A malformed line.
    """
    times: dict[str, tuple[float, float]] = {}
    for line in read_text(path).splitlines() if path.is_file() else []:
        case, *numbers = line.split("\t")
        try:
            wall, cpu = (float(number) for number in numbers)
        except ValueError:
            raise InputError(f"{path}: '{line}' is not a case and two times; delete the file or mend it") from None
        times[case] = (wall, cpu)
    return times


def extraction_report(rows: Sequence[Mapping[str, Any]], reference: str) -> str:
    """NPP's tables of brain extraction and time in Markdown: all cases, per contrast, and paired tests."""
    return "\n\n".join(_sections(rows, reference)) + "\n"


def _sections(rows: Sequence[Mapping[str, Any]], reference: str) -> Iterator[str]:
    from neuralprep.evaluation.tables import column, markdown

    yield paper_table("extraction", rows)
    if len({row["contrast"] for row in rows}) > 1:
        yield paper_table("extraction", rows, ("contrast",))
    if any(row.get("seconds") is not None for row in rows):
        yield paper_table("timing", rows)
    tests = compare(rows, PAPER_TABLES["extraction"].measures, reference)
    if tests:
        lines = [{**test, "measure": column(test["measure"])} for test in tests]
        heading = f"{reference} minus the other: median [95 % interval], paired Wilcoxon test, Holm's correction"
        names = ["measure", "against", "cases", "difference", "difference_low", "difference_high", "effect", "p",
                 "p_holm", "better"]  # fmt: skip
        yield f"{heading}\n\n{markdown(lines, names)}"


def _note_time(path: Path, case: str, made: Made) -> None:
    before = read_text(path) if path.is_file() else ""
    text = f"{before}{case}\t{made.seconds:.1f}\t{made.cpu_seconds:.1f}\n"
    write_atomic(path, [text.encode])
