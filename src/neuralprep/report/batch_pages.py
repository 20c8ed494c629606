"""Pages and files on a whole output folder of a BIDS data set: participants, the group, the methods text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from neuralprep.bids.dataset import SUFFIXES
from neuralprep.bids.entities import split_name
from neuralprep.bids.sidecars import write_text
from neuralprep.report import group_table
from neuralprep.report.boilerplate import batch_boilerplate
from neuralprep.report.group_page import INDEX, entries_of, group_page, write_group

CITATION = "CITATION.md"
GROUP = "group"


def write_subjects(out_dir: Path, records: Iterable[Any], subjects: Collection[str]) -> None:
    """Write ``sub-<label>.html`` of each participant: its scans with pictures, reasons and links.

    Parameters
    ----------
    out_dir : output folder.
    records : records of all scans in it, see `neuralprep.report.group_page.write_index`.
    subjects : which participants, with ``sub-``.
    """
    entries, _ = entries_of(out_dir, records)
    for subject in sorted(subjects):
        own = [entry for entry in entries if entry["name"].partition("_")[0] == subject]
        if own:
            write_group(out_dir / f"{subject}.html", own, subject, links=[("All scans", INDEX)])


def write_group_level(
    out_dir: Path, contents: Mapping[str, Mapping[str, Any]], failed: Iterable[Any]
) -> tuple[Path, int]:
    """Write ``group.tsv`` with its description and ``group.html``, one page more per contrast where there are several.

    Parameters
    ----------
    out_dir : output folder.
    contents : quality records of the finished scans, by name.
    failed : records of scans that failed.

    Returns
    -------
    The page, and how many scans have outlying measures.
    """
    failed = list(failed)
    names = {record.scan for record in failed}
    finished = {name: content for name, content in contents.items() if name not in names}
    far = group_table.outliers(finished)
    entries, notice = entries_of(out_dir, [*failed, *(
        {**content, "reasons": [*content.get("reasons", ()), *(one.words for one in far.get(name, ()))], "name": name,
         "measures": {key: value for key, value in content.get("measures", {}).items() if value is not None}}
        for name, content in finished.items()
    )])  # fmt: skip
    group_table.write_table(out_dir, finished, failed, far, {entry["name"]: entry["decision"] for entry in entries})
    title = out_dir.resolve().name
    contrasts = sorted({split_name(entry["name"])[1] for entry in entries})
    pages = {suffix: f"{GROUP}_{suffix}.html" for suffix in contrasts if len(contrasts) > 1}
    links = [("All", f"{GROUP}.html"), *pages.items()] if pages else []
    for suffix, page in pages.items():
        own = [entry for entry in entries if split_name(entry["name"])[1] == suffix]
        write_group(out_dir / page, own, f"{title}: {suffix}", links=links, notice=notice)
    for old in {out_dir / f"{GROUP}_{suffix}.html" for suffix in SUFFIXES} - {out_dir / p for p in pages.values()}:
        old.unlink(missing_ok=True)  # of a contrast that is not there any more
    path = out_dir / f"{GROUP}.html"
    write_text(path, group_page(title, entries, review=False, notice=notice, links=links))
    return path, len(far)


def write_citation(out_dir: Path, contents: Iterable[Mapping[str, Any]]) -> Path | None:
    """Write ``logs/CITATION.md``: what was done to the finished scans, one text for each way it was done."""
    made = batch_boilerplate(contents)
    if not made:
        return None
    parts = ["# Methods\n"]
    for count, text in made:
        if len(made) > 1:
            parts.append(f"## {count} scan{'' if count == 1 else 's'}\n")
        parts += [f"{paragraph}\n" for paragraph in text.paragraphs]
        parts += ["References:\n", *(f"{number}. {entry}" for number, entry in enumerate(text.references, 1)), ""]
    path = out_dir / "logs" / CITATION
    path.parent.mkdir(exist_ok=True)
    write_text(path, "\n".join(parts))
    return path

