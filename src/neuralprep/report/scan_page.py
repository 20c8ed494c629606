"""The page of one scan: self-contained, with its pictures in it, and the overview picture beside it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from neuralprep.bids.derivatives import OVERVIEW, QUALITY, REPORT, VIEWER, ScanName
from neuralprep.bids.sidecars import write_text
from neuralprep.files import read_text, write_atomic
from neuralprep.grid import Grid
from neuralprep.report import facts, figures, measures
from neuralprep.report.boilerplate import boilerplate
from neuralprep.report.figures import Tile
from neuralprep.report.page import render
from neuralprep.transform import Affine
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.pipeline import Result
    from neuralprep.templates import Template

#: slices of the outline figure that the before/after figure shows again, per plane
_AGAIN = ((1, 2, 3), (1, 3), (1,))
_PLANE_NAMES = {"x": "sagittal", "y": "coronal", "z": "axial"}
#: stands in the page where the link to the viewer goes, which is written later; names are escaped, so none can hold it
_NO_VIEWER = "<!-- viewer -->"
_LARGEST_PAGE = 1 << 26


def write_scan(result: Result, folder: Path, name: str, record: Mapping[str, Any] | None = None,
               template: Template | None = None, files: ScanName | None = None,
               written: Collection[str] | None = None) -> Path:
    """Write the page and the overview picture of one scan.

    Parameters
    ----------
    result : what the pipeline returned; outputs that were switched off leave their figures out.
    folder : where the other files of the scan are.
    name : name of the scan, as in the status table.
    record : its record so far (source, status, reasons, seconds); by default taken from `result`.
    template : the template registered to; by default loaded by the name in the settings.
    files : what its files are called; by default as in a folder of its own.
    written : names of its files, for the list on the page; by default all that are in the folder.

    Returns
    -------
    Path of the page, ``<prefix>_report.html``; ``<prefix>_overview.png`` lies beside it. It links to a viewer page that
    is there already; `link_viewer` adds one that is written later.
    """
    files = files or ScanName.of(name)
    if template is None and "template_from_scan" in result.outputs:
        from neuralprep.templates import load_template

        template = load_template(result.settings.space)
    outputs = {key: output for key, output in result.outputs.items() if isinstance(output, Volume)}
    small = figures.overview(result.scan, outputs.get("brain_mask"), outputs.get("nocsf_mask"),
                             outputs.get("space_preproc"), template)
    write_atomic(folder / files.file(OVERVIEW), [small.small_png])
    page = folder / files.file(REPORT)
    present = [path.name for path in folder.iterdir() if path.is_file()] if written is None else written
    listed = facts.file_rows(present, files, result)
    viewer = _viewer_link(files) if has_viewer(folder, files) else _NO_VIEWER
    write_text(page, _page(result, outputs, name, listed, record or {}, template, viewer))
    return page


def has_viewer(folder: Path, files: ScanName) -> bool:
    """Whether a scan has a viewer page of its present results: one that is done again keeps files not its own."""
    page, record = folder / files.file(VIEWER), folder / files.file(QUALITY)
    return page.is_file() and record.is_file() and page.stat().st_mtime >= record.stat().st_mtime


def link_viewer(folder: Path, files: ScanName) -> None:
    """Make the page of a scan link to its viewer page if there is one of its present results, and only then.

    Nothing happens where there is no page, or one of an earlier version.

    Raises
    ------
    InputError
        The page cannot be read or written.
    """
    page = folder / files.file(REPORT)
    if not page.is_file():
        return
    link = _viewer_link(files)
    before, after = (_NO_VIEWER, link) if has_viewer(folder, files) else (link, _NO_VIEWER)
    text = read_text(page, _LARGEST_PAGE)
    if before in text:
        write_text(page, text.replace(before, after, 1))


def _viewer_link(files: ScanName) -> str:
    return f'<a href="{quote(os.fsencode(files.file(VIEWER)))}">3-D viewer</a>'


def _page(result: Result, outputs: dict[str, Volume], name: str, files: facts.Rows, record: Mapping[str, Any],
          template: Template | None, viewer: str) -> str:
    from markupsafe import Markup

    judged = result.quality
    told = {"status": judged.decision, "reasons": judged.reasons, "source": result.scan.source or "",
            "seconds": sum(result.timings.values()), **record}
    rows = measures.rows(judged.measures)
    return render(
        "scan.html.j2", styles=("style.css", "scan.css"), scripts=("scan.js",), policy=("img-src data:",), name=name,
        viewer=Markup(viewer),
        record=told, rows=rows, key=[row for row in rows if row.name in measures.KEY_MEASURES],
        accepted=sum(row.state != "check" for row in rows), volumes=_volumes(judged.measures), notes=judged.notes,
        repairs=result.scan.notes, facts=facts.input_facts(result.scan), settings=facts.setting_rows(result.settings),
        timings=[(step, f"{seconds:.2f} s") for step, seconds in result.timings.items()],
        provenance=facts.flat(result.provenance), files=files,
        methods=boilerplate(result), histogram=_histogram(result.scan, outputs),
        **_figures(result, outputs, template),
    )  # fmt: skip


@dataclass(frozen=True)
class _Slide:
    """A tile as the template draws it: picture `under`, a second one `over` it that can be wiped away, and lines."""

    width: int
    height: int
    title: str
    corner: str
    letters: tuple[str, ...]
    under: str
    over: str
    lines: tuple[tuple[int, str], ...]  # number of the colour, path


class _Pictures:
    """Pictures of a page, each embedded once under a short name and used wherever it is needed."""

    def __init__(self) -> None:
        self.embedded: dict[str, tuple[str, int, int]] = {}

    def add(self, kind: str, tiles: list[Tile]) -> list[str]:
        """Names of the pictures of these tiles."""
        names = [f"{kind}{number}" for number in range(len(tiles))]
        for name, tile in zip(names, tiles, strict=True):
            rows, columns = tile.picture.index.shape
            self.embedded[name] = tile.picture.uri(), columns, rows
        return names


def _legend(result: Result, outputs: dict[str, Volume]) -> dict[int, str]:
    """What the outlines on the scan are, by the number of their colour."""
    settings = result.settings
    words = {"brain_mask": "the mask that was given" if settings.mask is not None else "inside of the skull",
             "nocsf_mask": "brain tissue and ventricles"}
    if settings.border_mm:
        moved = f", moved {'out' if settings.border_mm > 0 else 'in'} by {abs(settings.border_mm):g} mm"
        words["nocsf_mask" if settings.no_csf else "brain_mask"] += moved
    return {number: text for number, (name, text) in enumerate(words.items()) if name in outputs}


def _figures(result: Result, outputs: dict[str, Volume], template: Template | None) -> dict[str, Any]:
    """Figures by name; one whose inputs were not made is empty."""
    pictures, scan = _Pictures(), result.scan
    legend = _legend(result, outputs)
    masks = [outputs[("brain_mask", "nocsf_mask")[number]] for number in legend]
    view = figures.native_view(masks[0] if masks else scan)
    before = figures.grey_tiles(scan, view, figures.outline_paths(masks, view) if masks else ())
    names = pictures.add("b", before)
    again = figures.part_of(view, _AGAIN)
    kept = [start + number for start, chosen in zip((0, 5, 10), _AGAIN, strict=True) for number in chosen]
    same, same_names = [before[n] for n in kept], [names[n] for n in kept]
    made: dict[str, Any] = {"legend": legend, "outlines": _slides(before, tuple(legend), names), "corrected": [],
                            "field": [], "reach": 1.0, "aligned": [], "board": []}
    if "preproc" in outputs:
        after = pictures.add("a", figures.grey_tiles(outputs["preproc"], again))
        made["corrected"] = _slides(same, tuple(legend)[:1], same_names, after)
    if "multiplier" in outputs:
        tiles, made["reach"] = figures.field_tiles(outputs["multiplier"], again)
        made["field"] = _slides(same, (), pictures.add("f", tiles))
    if template is not None and "space_preproc" in outputs:
        space = outputs["space_preproc"]
        ours = pictures.add("s", figures.grey_tiles(space, figures.template_view(template, space.grid)))
        theirs = figures.template_tiles(template)
        shown = pictures.add("t", theirs)
        made["aligned"] = _slides(theirs, (0, 1), ours, shown)
        made["board"] = _slides(_with_own_brain(theirs, result, outputs, template), (0, 1, 2), ours, shown)
        made["squares"] = figures.squares_path(template)
    return {**made, "pictures": pictures.embedded, "colours": [f"rgb{colour}" for colour in figures.FIELD_COLOURS]}


def _with_own_brain(tiles: list[Tile], result: Result, outputs: dict[str, Volume], template: Template) -> list[Tile]:
    """Tiles of the template with the outline of the scan's own brain added, where there is one."""
    moved, mask = result.outputs.get("template_from_scan"), outputs.get("brain_mask")
    if mask is None or not isinstance(moved, Affine):
        return tiles
    # The mask keeps its voxels: its grid is put where the affine has them in template space.
    placed = Volume(mask.data, Grid(mask.grid.shape, moved.inverse().matrix @ mask.grid.affine))
    paths = figures.outline_paths([placed], figures.template_view(template))
    return [replace(tile, outlines=(*tile.outlines, *own)) for tile, own in zip(tiles, paths, strict=True)]


def _slides(tiles: list[Tile], colours: tuple[int, ...], under: list[str],
            over: list[str] | None = None) -> list[_Slide]:
    """Labels of `tiles`, and as many of their lines as there are colours, over the named pictures.

    The first tile of a plane has the letters of its edges.
    """
    slides: list[_Slide] = []
    seen: set[str] = set()
    for number, tile in enumerate(tiles):
        rows, columns = tile.picture.index.shape
        axis, where = tile.plane.name, round(tile.position)
        letters = () if axis in seen else tile.plane.letters
        seen.add(axis)
        lines = tuple(zip(colours, tile.outlines, strict=False))
        slides.append(_Slide(columns, rows, f"{_PLANE_NAMES[axis]}, {axis} {where} mm", f"{axis} {where}", letters,
                             under[number], over[number] if over else "", lines))
    return slides


def _histogram(scan: Volume, outputs: dict[str, Volume]) -> dict[str, str]:
    """Outlines of the histograms before and after as SVG path data in a box of 600 x 210."""
    mask = outputs.get("brain_mask")
    if mask is None:
        return {}
    curves = {"before": figures.histogram(scan, mask)}
    if "preproc" in outputs:
        curves["after"] = figures.histogram(outputs["preproc"], mask)
    drawn = {name: curve for name, curve in curves.items() if curve is not None}
    # The first bin collects the zeros of masked or clipped voxels and would flatten everything else.
    top = max((float(curve[1:].max()) for curve in drawn.values()), default=1.0) or 1.0

    def path(curve: np.ndarray) -> str:
        across = np.linspace(0, 600, curve.size)
        up = 210 * (1 - np.minimum(curve / top, 1.0))
        return "M0,210 " + " ".join(f"L{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True)) + " L600,210Z"

    return {name: path(curve) for name, curve in drawn.items()}


def _volumes(found: Mapping[str, float]) -> dict[str, float]:
    """Inside of the skull, tissue and the fluid around it in ml, and the tissue's share of the width of a bar."""
    inside, tissue = found.get("icv_ml", 0.0), found.get("tissue_ml", 0.0)
    if not (np.isfinite(inside) and np.isfinite(tissue) and 0 < tissue <= inside):
        return {}
    return {"inside": inside, "tissue": tissue, "fluid": inside - tissue, "share": 100 * tissue / inside}
