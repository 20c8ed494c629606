"""HTML: one self-contained page per scan, and an index page for a folder of results.

The page of a scan embeds its pictures and asks for nothing outside itself. The index refers to the small
overview pictures beside it and loads them as they scroll into view, so that a thousand scans stay readable.
Every name and message goes through the template engine's escaping: file names are not trusted.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

import neuralprep
from neuralprep.bids.derivatives import BY_OUTPUT, QUALITY, REPORT, ScanName, output_files
from neuralprep.bids.sidecars import write_text
from neuralprep.report import figures
from neuralprep.report.png import LINE_COLOURS, Picture
from neuralprep.stages.quality_limits import LIMITS, MEASURES, Measure, Range
from neuralprep.volume import Volume

if TYPE_CHECKING:
    import jinja2

    from neuralprep.pipeline import Result
    from neuralprep.templates import Template

OVERVIEW = "overview.png"
INDEX = "index.html"
#: measures that get a column in the index and a tile at the head of a scan's page, with their short names
KEY_MEASURES = {"icv_ml": "Inside skull, ml", "tissue_ml": "Tissue, ml", "template_dice": "Template overlap",
                "registration_score": "Template correlation"}  # fmt: skip
_BY_NAME = {measure.name: measure for measure in MEASURES}

CITATIONS = (
    "He X, Wang AQ, Sabuncu MR. Neural Pre-processing: A Learning Framework for End-to-End Brain MRI Pre-processing. "
    "MICCAI 2023, LNCS 14227. doi:10.1007/978-3-031-43993-3_25",
    "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average age-appropriate atlases for "
    "pediatric studies. NeuroImage 54(1):313-327, 2011. doi:10.1016/j.neuroimage.2010.07.033 (the MNI152 2009 "
    "templates)",
)


def write_scan(result: Result, folder: Path, name: str, record: Mapping[str, Any] | None = None,
               template: Template | None = None) -> Path:
    """Write the page and the overview picture of one scan.

    Parameters
    ----------
    result : what the pipeline returned; outputs that were switched off leave their figures out.
    folder : where the other files of the scan are; they are listed on the page.
    name : name of the scan, as in the status table.
    record : its record so far (source, status, reasons, seconds); by default taken from `result`.
    template : the template registered to; by default loaded by the name in the settings.

    Returns
    -------
    Path of the page, ``<prefix>_report.html``; ``<prefix>_overview.png`` lies beside it.
    """
    files = ScanName.of(name)
    if template is None and "template_from_scan" in result.outputs:
        from neuralprep.templates import load_template

        template = load_template(result.settings.space)
    record = {"status": result.quality.decision, "reasons": result.quality.reasons, "source": result.scan.source,
              "seconds": sum(result.timings.values()), **(record or {})}
    outputs = _volumes(result)
    overview = figures.overview(result.scan, outputs.get("brain_mask"), outputs.get("nocsf_mask"),
                                outputs.get("space_preproc"), template)
    _write_bytes(folder / files.file(OVERVIEW), overview.small_png())
    page = folder / files.file(REPORT)
    text = _environment().get_template("scan.html.j2").render(
        name=name, version=neuralprep.__version__, record=record, files=_file_rows(folder, name, result),
        figures=_figures(result, template), histogram=_histogram(result), key=_key_numbers(result.quality.measures),
        measures=_measure_rows(result.quality.measures), notes=[*result.scan.notes, *result.quality.notes],
        facts=_facts(result.scan), settings=_setting_rows(result.settings),
        timings=[(step, f"{seconds:.2f} s") for step, seconds in result.timings.items()],
        provenance=_flat(result.provenance), citations=CITATIONS, methods=_methods(result),
        line_colours=[f"rgb{colour}" for colour in LINE_COLOURS],
        field_colours=[f"rgb{colour}" for colour in figures.FIELD_COLOURS],
    )
    write_text(page, _encodable(text))
    return page


def write_index(out_dir: Path, records: Iterable[Any]) -> Path:
    """Write the index page of an output folder.

    Parameters
    ----------
    records : one per scan, a mapping or a dataclass with name (or scan), source, status, reasons, seconds and
        measures; folder (relative to `out_dir`) is the name unless given.
    """
    entries = [_entry(out_dir, record if isinstance(record, Mapping) else asdict(record)) for record in records]
    columns = [(name, title) for name, title in KEY_MEASURES.items()
               if any(name in entry["measures"] for entry in entries)]
    counts = {status: sum(entry["status"] == status for entry in entries) for status in ("ok", "check", "failed")}
    # What needs a person comes first; within that, by name.
    order = {"failed": 0, "check": 1, "ok": 2}
    entries.sort(key=lambda entry: (order[entry["status"]], entry["name"].casefold()))
    text = _environment().get_template("index.html.j2").render(
        entries=entries, columns=columns, counts=counts, version=neuralprep.__version__, folder=out_dir.resolve().name,
        seconds=sum(entry["seconds"] for entry in entries))
    path = out_dir / INDEX
    write_text(path, _encodable(text))
    return path


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
                                     autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters["measure"] = _text
    return environment


def _entry(out_dir: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Row of the index: the record with links to the files that exist."""
    name = str(record.get("name") or record["scan"])
    folder = record.get("folder", name)
    files = ScanName.of(name)

    def link(ending: str) -> str | None:
        if folder is None or not (out_dir / folder / files.file(ending)).is_file():
            return None
        return quote(os.fsencode(Path(folder, files.file(ending)).as_posix()))

    # The status table keeps the sentences of a scan in one cell; here each gets its own line.
    reasons = [part for text in record.get("reasons") or () for part in str(text).replace(".; ", ".\n").split("\n")]
    return {"name": name, "source": str(record.get("source") or ""), "status": record["status"],
            "reasons": reasons, "seconds": float(record.get("seconds") or 0.0),
            "measures": dict(record.get("measures") or {}), "page": link(REPORT), "picture": link(OVERVIEW)}


def _volumes(result: Result) -> dict[str, Volume]:
    """Outputs that are images."""
    return {name: output for name, output in result.outputs.items() if isinstance(output, Volume)}


def _figures(result: Result, template: Template | None) -> dict[str, Any]:
    """Pictures by name as data URIs; a picture whose inputs were not made is missing."""
    scan, outputs = result.scan, _volumes(result)
    mask = outputs.get("brain_mask")
    view = figures.brain_view(scan if mask is None else mask)
    made: dict[str, Any] = {"before": _uri(figures.strip(scan, view))}
    if mask is not None:
        made["outlines"] = _uri(figures.outlines(scan, mask, outputs.get("nocsf_mask")))
    for name, output in (("after", "preproc"), ("brain", "preproc_brain")):
        if output in outputs:
            made[name] = _uri(figures.strip(outputs[output], view))
    if "multiplier" in outputs:
        picture, low, high = figures.multiplier(outputs["multiplier"], view)
        made |= {"multiplier": _uri(picture), "multiplier_low": low, "multiplier_high": high}
    if template is not None and "space_preproc" in outputs:
        made["alignment"] = _uri(figures.alignment(outputs["space_preproc"], template))
    if template is not None and "space_preproc_brain" in outputs:
        made["checkerboard"] = _uri(figures.checkerboard(outputs["space_preproc_brain"], template))
    return made


def _uri(picture: Picture) -> dict[str, Any]:
    rows, columns = picture.index.shape
    return {"uri": "data:image/png;base64," + base64.b64encode(picture.small_png()).decode("ascii"),
            "width": columns, "height": rows}


def _histogram(result: Result) -> dict[str, str] | None:
    """Outlines of the two histograms as SVG path data in a box of 600 x 160."""
    outputs = _volumes(result)
    mask = outputs.get("brain_mask")
    if mask is None:
        return None
    curves = {"before": figures.histogram(result.scan, mask)}
    if "preproc" in outputs:
        curves["after"] = figures.histogram(outputs["preproc"], mask)
    drawn = {name: curve for name, curve in curves.items() if curve is not None}
    if not drawn:
        return None
    # The first bin collects the zeros of masked or clipped voxels and would flatten everything else.
    top = max(float(curve[1:].max()) for curve in drawn.values()) or 1.0

    def path(curve: np.ndarray) -> str:
        across = np.linspace(0, 600, curve.size)
        up = 160 * (1 - np.minimum(curve / top, 1.0))
        return "M0,160 " + " ".join(f"L{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True)) + " L600,160Z"

    return {name: path(curve) for name, curve in drawn.items()}


def _measure_rows(measures: Mapping[str, float]) -> list[dict[str, str]]:
    """Rows of the quality table: what, value, accepted range, and where the value lies."""
    rows = []
    for measure in MEASURES:
        if measure.name not in measures:
            continue
        value, bounds = float(measures[measure.name]), getattr(LIMITS, measure.name)
        state = "ok"
        if not bounds.low <= value <= bounds.high:
            state = "check"
        elif not bounds.usual_low <= value <= bounds.usual_high:
            state = "note"
        rows.append({"label": measure.label, "name": measure.name, "value": _text(value, measure.name),
                     "range": _range_text(measure, bounds), "state": state})
    rows += [{"label": name, "name": name, "value": f"{value:.4g}", "range": "", "state": "ok"}
             for name, value in measures.items() if name not in _BY_NAME]
    return rows


def _range_text(measure: Measure, bounds: Range) -> str:
    """The accepted range, or the usual one where nothing is refused."""
    low, high = bounds.low, bounds.high
    usual = not np.isfinite(low) and not np.isfinite(high)
    if usual:
        low, high = bounds.usual_low, bounds.usual_high
    def number(value: float) -> str:
        return f"{value:.{measure.digits}f}"

    if np.isfinite(low) and np.isfinite(high):
        text = f"{number(low)} to {number(high)}"
    elif np.isfinite(low):
        text = "above 0" if low <= 1e-6 else f"at least {number(low)}"
    else:
        text = f"at most {number(high)}"
    return f"usually {text}" if usual else text


def _text(value: float, name: str) -> str:
    """A value with the digits and the unit of its measure."""
    measure = _BY_NAME.get(name)
    if measure is None:
        return f"{value:.4g}"
    return f"{value:.{measure.digits}f} {measure.unit}".strip()


def _key_numbers(measures: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(title.split(",")[0], _text(measures[name], name)) for name, title in KEY_MEASURES.items()
            if name in measures]


def _facts(scan: Volume) -> list[tuple[str, str]]:
    grid = scan.grid
    size = " x ".join(f"{n * s:.0f}" for n, s in zip(grid.shape, grid.spacing, strict=True))
    return [("Matrix", " x ".join(str(n) for n in grid.shape)),
            ("Voxel size", " x ".join(f"{s:.3g}" for s in grid.spacing) + " mm"),
            ("Field of view", f"{size} mm"), ("Axes", _axes_in_words(grid.axis_codes)),
            ("Handedness", "right-handed" if np.linalg.det(grid.affine[:3, :3]) > 0 else "left-handed")]


def _axes_in_words(codes: str) -> str:
    words = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "top", "I": "bottom"}
    return f"{codes} (towards {', '.join(words[code] for code in codes)})"


def _setting_rows(settings: Any) -> list[tuple[str, str]]:
    if not is_dataclass(settings):
        return []
    return [(item.name, _in_words(getattr(settings, item.name))) for item in fields(settings)]


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "default"
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    if hasattr(value, "grid"):  # a mask given as an image
        return str(value.source or "given as an array")
    return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as rows, keys joined by spaces."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        title = f"{prefix} {key}".strip()
        rows += _flat(value, title) if isinstance(value, Mapping) else [(title, _in_words(value))]
    return rows


def _file_rows(folder: Path, name: str, result: Result) -> list[tuple[str, str]]:
    """Files of the scan and what they are; the record is written after the page, so it is named in advance."""
    space = str(getattr(result.settings, "space", ""))
    described = {file: row.description for output, row in BY_OUTPUT.items()
                 for file in output_files(name, output, space) if not file.endswith(".json")}
    scan = ScanName.of(name)
    described |= {scan.file(QUALITY): "Measures, decision, settings and provenance, for machines.",
                  scan.file(REPORT): "This page.", scan.file(OVERVIEW): "Small picture for the index."}
    present = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    own = {scan.file(ending) for ending in (QUALITY, REPORT, OVERVIEW)}
    names = sorted(file for file in present | own if file in described or not file.endswith(".json"))
    return [(file, described.get(file, "")) for file in names]


def _methods(result: Result) -> str:
    """A paragraph for a methods section, from what was actually run."""
    outputs = result.outputs
    steps: list[tuple[str, Callable[[], str]]] = [
        ("brain_mask", lambda: "skull-stripped"),
        ("preproc", lambda: f"corrected for intensity bias and normalised (lambda = {result.settings.lam:g})"),
        ("template_from_scan", lambda: f"affinely registered to the {result.settings.space} template"),
    ]
    done = [words() for output, words in steps if output in outputs]
    if not done:
        return ""
    listed = done[0] if len(done) == 1 else ", ".join(done[:-1]) + " and " + done[-1]
    return (f"The head scan was {listed} with neuralprep {neuralprep.__version__}, which follows Neural Pre-processing "
            "(He, Wang and Sabuncu, MICCAI 2023).")


def _encodable(text: str) -> str:
    """Undecodable bytes of file names (lone surrogates) as visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none: temporary name in the same folder, then rename."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)
