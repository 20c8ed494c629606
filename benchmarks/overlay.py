"""Pictures of masks on their heads, for looking at: three planes, one colour of outline per mask.

Never commit a picture of a head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLORS = ("#ffd400", "#00e5ff", "#ff4fd8", "#7dff5a")


def save_overlay(scan: Path, masks: dict[str, Path], target: Path, cuts: int = 4) -> None:
    """Draw axial, coronal and sagittal slices of a scan with the outlines of masks on the same grid.

    Parameters
    ----------
    scan
        Image file.
    masks
        Name in the legend to mask file.
    target
        PNG file.
    cuts
        Slices per plane, spread over the extent of the first mask.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(scan))
    data = np.nan_to_num(np.asanyarray(image.dataobj, dtype=np.float32))
    arrays = {name: np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj) > 0 for name, path in masks.items()}
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    found = np.argwhere(next(iter(arrays.values())))
    low, high = (found.min(0), found.max(0)) if len(found) else (np.zeros(3), np.array(data.shape) - 1)
    top = np.percentile(data, 99.5)
    figure, axes = plt.subplots(3, cuts, figsize=(3 * cuts, 9), facecolor="black")
    for row, axis in enumerate((2, 1, 0)):
        across, along = (a for a in range(3) if a != axis)
        for column, share in enumerate(np.linspace(0.12, 0.88, cuts)):
            index = round(low[axis] + share * (high[axis] - low[axis]))
            panel = axes[row, column]
            panel.imshow(
                data.take(index, axis).T,
                cmap="gray",
                vmin=0,
                vmax=top,
                origin="lower",
                aspect=spacing[along] / spacing[across],
            )
            for (_, mask), color in zip(arrays.items(), COLORS, strict=False):
                plane = mask.take(index, axis).T
                if plane.any() and not plane.all():
                    panel.contour(plane, [0.5], colors=color, linewidths=0.8)
            panel.axis("off")
    for column, (name, color) in enumerate(zip(arrays, COLORS, strict=False)):
        figure.text(0.02 + 0.2 * column, 0.985, name, color=color, va="top")
    figure.subplots_adjust(0, 0, 1, 0.96, 0.01, 0.01)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=60)
    plt.close(figure)
