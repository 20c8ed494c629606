"""Pictures of the documentation, drawn from the demonstration head at build time: python docs/figures.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from neuralprep import Preprocessor, Settings, Volume
from neuralprep.demo import random_pose, render
from neuralprep.grid import Grid
from neuralprep.templates import load_template

_VOXEL_MM = 2.0
_LAMBDAS = (0.001, 0.1, 10.0)


def draw_all(folder: Path) -> None:
    """Draw every picture into a folder."""
    head = _head()
    keep = Preprocessor(Settings(device="cpu"))
    result = keep.run(head)
    _steps(head, result.outputs, folder / "steps.png")
    fields = [keep.again(Settings(device="cpu", lam=lam, register=False, outputs=("multiplier",))).run(head)
              for lam in _LAMBDAS]  # fmt: skip
    _lambdas([result.outputs["multiplier"] for result in fields], folder / "lambda.png")


def _head() -> Volume:
    """The head of `neuralprep demo`, in coarser voxels."""
    rng = np.random.default_rng(0)
    pose = random_pose(rng)
    centre = pose.apply(np.array([[0.0, -8.0, -22.0]]))[0]
    grid = Grid.centered((128, 120, 108), _VOXEL_MM, centre, codes="PSR")
    return render(load_template(), grid, pose, rng)[0]


def _slice(volume: Volume, world: np.ndarray | None = None) -> np.ndarray:
    """Axial slice through a point (mm), nose up, left on the left."""
    turned = volume.oriented("RAS")
    at = turned.data.shape[2] // 2 if world is None else int(turned.grid.world_to_voxel(world[None])[0][2].round())
    return np.asarray(turned.data[:, :, at]).T[::-1]


def _show(axis: Any, picture: np.ndarray, title: str, **how: Any) -> Any:
    drawn = axis.imshow(picture, interpolation="nearest", **{"cmap": "gray", **how})
    axis.set_title(title, fontsize=9, color="#333333")
    axis.axis("off")
    return drawn


def _steps(head: Volume, made: dict[str, Any], path: Path) -> None:
    """Scan, masks, field, corrected brain, brain in the template."""
    middle = head.grid.voxel_to_world(np.argwhere(made["brain_mask"].data > 0).mean(axis=0)[None])[0] + (0, 0, 12)
    figure, axes = plt.subplots(1, 5, figsize=(11.5, 2.9), constrained_layout=True)
    scan = _slice(head, middle)
    _show(axes[0], scan, "scan")
    _show(axes[1], scan, "masks")
    for name, colour in (("brain_mask", "#ff9f1c"), ("nocsf_mask", "#2ec4ff")):
        axes[1].contour(_slice(made[name], middle), [0.5], colors=colour, linewidths=1)
    field = np.ma.masked_equal(_slice(made["multiplier"], middle), 0)
    axes[2].set_facecolor("black")
    drawn = _show(axes[2], field, "multiplier field $\\chi$", cmap="viridis")
    figure.colorbar(drawn, ax=axes[2], orientation="horizontal", fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)
    _show(axes[3], _slice(made["preproc_brain"], middle), "corrected, stripped", vmin=0, vmax=150)
    _show(axes[4], _slice(made["space_preproc_brain"], np.array([0.0, 0.0, 12.0])), "in MNI space", vmin=0, vmax=150)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lambdas(fields: list[Volume], path: Path) -> None:
    """The multiplier field at three settings of its smoothness."""
    middle = fields[0].grid.voxel_to_world(np.argwhere(fields[0].data > 0).mean(axis=0)[None])[0] + (0, 0, 12)
    pictures = [np.ma.masked_equal(_slice(field, middle), 0) for field in fields]
    low, high = np.percentile(np.concatenate([picture.compressed() for picture in pictures]), (1, 99))
    figure, axes = plt.subplots(1, len(fields), figsize=(7.5, 2.9), constrained_layout=True)
    for axis, picture, lam in zip(axes, pictures, _LAMBDAS, strict=True):
        drawn = _show(axis, picture, f"$\\lambda$ = {lam:g}", cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(drawn, ax=axes, fraction=0.04).ax.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    draw_all(target)
