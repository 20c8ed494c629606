"""Box plots of scores over methods, as NPP's Figures 3 and 5 have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuralprep.errors import InputError
from neuralprep.evaluation.tables import column, finite, groups
from neuralprep.files import atomic_path

_FORMATS = (".png", ".pdf", ".svg")
_PANELS_PER_ROW = 3
#: colour-blind safe (Okabe and Ito), one per method in turn
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")


def box_plots(
    rows: Sequence[Mapping[str, Any]], measures: Sequence[str], path: Path, by: str = "method", title: str = ""
) -> None:
    """Draw one panel per measure with one box per method; every case is a point.

    Boxes are quartiles, whiskers reach to the furthest case within 1.5 times their height. Infinite scores cannot be
    drawn and are counted under the box.

    Parameters
    ----------
    rows
        Scores per case; see `neuralprep.evaluation.tables`.
    measures
        Panels, in order; those that no row has are left out.
    path
        .png, .pdf or .svg file to write.
    by
        Key that tells the boxes of a panel apart.
    title
        Above the panels.

    Raises
    ------
    InputError
        Unknown ending, nothing to draw, or a file that cannot be written.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path}: unknown ending; write {', '.join(_FORMATS)}")
    shown = [measure for measure in measures if finite(rows, measure)]
    if not shown:
        raise InputError(f"{path}: there are no finite scores of {', '.join(measures)} to draw")
    from matplotlib.figure import Figure

    per_row = min(_PANELS_PER_ROW, len(shown))
    lines = -(-len(shown) // per_row)
    count = len(groups(rows, (by,)))
    figure = Figure(figsize=(per_row * max(2.6, 0.75 * count + 1.0), 2.8 * lines + 0.3), layout="constrained")
    panels = np.ravel(figure.subplots(lines, per_row, squeeze=False))
    for panel, measure in zip(panels, shown, strict=False):
        _draw(panel, rows, measure, by)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def _draw(panel: Any, rows: Sequence[Mapping[str, Any]], measure: str, by: str) -> None:
    """One panel. The jitter of the points is fixed, so that the same scores give the same picture."""
    members = groups(rows, (by,))
    rng = np.random.default_rng(0)
    names = []
    for position, (key, group) in enumerate(members.items()):
        values = finite(group, measure)
        lost = sum(row.get(measure) is not None for row in group) - len(values)
        names.append(f"{key[0]}" + (f"\n({lost} infinite)" if lost else ""))
        if not values:
            continue
        colour = _COLOURS[position % len(_COLOURS)]
        panel.boxplot(
            [values], positions=[position], widths=0.55, showfliers=False, patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
            medianprops={"color": "black"}, whiskerprops={"color": colour}, capprops={"color": colour},
        )
        panel.scatter(position + rng.uniform(-0.18, 0.18, len(values)), values, s=9, color=colour, linewidths=0)
    panel.set_xticks(range(len(names)), names, fontsize=8, rotation=30, ha="right", rotation_mode="anchor")
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.set_title(column(measure), fontsize=9)
    panel.tick_params(axis="y", labelsize=8)
    panel.grid(axis="y", linewidth=0.4, alpha=0.5)
