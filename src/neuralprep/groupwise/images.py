"""Images of a group: its grid, its average, its brain. Full images are read one after the other, never all at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.groupwise.align import Member
from neuralprep.resample import resample
from neuralprep.stages.conform import windowed
from neuralprep.transform import Transform, slabs
from neuralprep.volume import Volume, load

Image = NDArray[np.float32]
Average = Literal["mean", "robust", "median"]
SPREAD_LIMIT = 2.5
"""The robust mean leaves out values further than this many standard deviations from the mean."""
GAIN_MM, BRAIN_MM = 4.0, 2.0
"""Members hold their gains and their brains' masks on grids of this spacing, so they are carried to one like it."""
_LARGEST_MM = 600.0


def common_grid(members: Sequence[Member], transforms: Sequence[Transform], resolution_mm: float = 1.0) -> Grid:
    """Grid along the axes of the common space that holds every image whole.

    Raises
    ------
    InputError
        The images lie so far apart that such a grid would be senseless.
    """
    corners = [
        transform.inverse().apply(one.grid.voxel_to_world(_box(one.grid)))
        for one, transform in zip(members, transforms, strict=True)
    ]
    low, high = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
    if (high - low).max() > _LARGEST_MM:
        raise InputError(f"the images together span {(high - low).max():.0f} mm; use the standard pose instead")
    shape = np.maximum(1, np.rint((high - low) / resolution_mm)).astype(int)
    return Grid.centered(shape.tolist(), resolution_mm, (low + high) / 2)


def average(
    members: Sequence[Member], transforms: Sequence[Transform], grid: Grid, how: Average = "mean", threads: int = 1,
    scratch: Path | None = None, progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Volume]:
    """Average of the bias-corrected images of each contrast, every image interpolated once (linear).

    Parameters
    ----------
    members, transforms
        As aligned: common space -> image.
    grid
        Of the averages.
    how
        "mean"; "robust": the mean of what lies within 2.5 standard deviations (reads every image twice); "median": of
        each voxel (keeps all images of a contrast in one file of the scratch folder meanwhile).
    threads
    scratch
        Folder with room for the median's file; default the system's.

    Returns
    -------
    dict
        Contrast -> Volume, float32; tissue of every image has a mean of 110. Voxels that less than half of the images
        show are 0.
    """
    if how not in get_args(Average):
        raise InputError(f"average '{how}' is unknown; there are {', '.join(get_args(Average))}")
    made = {}
    for contrast in sorted({one.contrast for one in members}):
        pairs = [(one, at) for one, at in zip(members, transforms, strict=True) if one.contrast == contrast]
        pairs.sort(key=lambda pair: pair[0].digest)

        def images(pairs: list[tuple[Member, Transform]] = pairs) -> Iterator[Image]:
            for one, transform in pairs:
                progress(f"averaging {one.name}")
                yield normalised(one, transform, grid, threads)

        if how == "median":
            values = _median(images(), len(pairs), grid, scratch)
        else:
            values = _mean(images(), len(pairs), grid)
            if how == "robust" and len(pairs) > 2:
                values = _robust_mean(images, len(pairs), grid)
        made[contrast] = Volume(values, grid)
    return made


def normalised(one: Member, transform: Transform, grid: Grid, threads: int = 1) -> Image:
    """A member's bias-corrected image on a grid; NaN outside its field of view."""
    image = windowed(load(one.path, one.frame))
    values = resample(image, grid, transform, fill=np.nan, threads=threads, antialias=True).data
    nodes = _nodes(grid, GAIN_MM)
    gain = _between(resample(one.gain, nodes, transform, fill=float(np.median(one.gain.data))).data, nodes, grid)
    values = np.subtract(values, np.float32(one.offset), dtype=np.float32)
    values *= gain
    return np.maximum(values, 0, out=values)


def mean_brain(members: Sequence[Member], transforms: Sequence[Transform], grid: Grid, threads: int = 1) -> Volume:
    """Where at least half of the group has brain; uint8."""
    nodes = _nodes(grid, BRAIN_MM)
    total = np.zeros(nodes.shape, np.float32)
    for one, transform in sorted(zip(members, transforms, strict=True), key=lambda pair: pair[0].digest):
        judged = one.view.judged
        total += resample(judged.with_data(judged.data.astype(np.float32)), nodes, transform, threads=threads).data
    return Volume((_between(total, nodes, grid) >= len(members) / 2).astype(np.uint8), grid)


def _nodes(grid: Grid, spacing_mm: float) -> Grid:
    """Every second, third, ... voxel of a grid, not further apart than this if that is possible, and past its end."""
    steps = [max(1, int(spacing_mm / edge + 0.01)) for edge in grid.spacing]
    x, y, z = (-(-(n - 1) // step) + 1 for n, step in zip(grid.shape, steps, strict=True))
    return Grid((x, y, z), grid.affine @ np.diag([*map(float, steps), 1.0]))


def _between(values: Image, nodes: Grid, grid: Grid) -> Image:
    """Values at the nodes of a grid, linear between them: for what is smooth, at a fraction of a resampling's cost."""
    shares = []
    for axis, (count, n) in enumerate(zip(grid.shape, nodes.shape, strict=True)):
        position = np.arange(count) * (grid.spacing[axis] / nodes.spacing[axis])
        shares.append(np.stack([np.interp(position, np.arange(n), one) for one in np.eye(n)], 1).astype(np.float32))
    along_x, along_y, along_z = shares
    # in this order no product needs a copy
    return np.matmul(along_y, np.tensordot(along_x, values, 1) @ along_z.T)


def _box(grid: Grid) -> list[tuple[float, float, float]]:
    """Voxel coordinates of the eight corners of the field of view."""
    x, y, z = grid.shape
    return [(a, b, c) for a in (-0.5, x - 0.5) for b in (-0.5, y - 0.5) for c in (-0.5, z - 0.5)]


def _mean(images: Iterator[Image], count: int, grid: Grid) -> Image:
    total, seen = np.zeros(grid.shape), np.zeros(grid.shape, np.int32)
    for image in images:
        known = np.isfinite(image)
        np.add(total, image, out=total, where=known)
        seen += known
    return np.where(2 * seen >= count, total / np.maximum(seen, 1), 0).astype(np.float32)


def _robust_mean(images: Callable[[], Iterator[Image]], count: int, grid: Grid) -> Image:
    total, squares, seen = np.zeros(grid.shape), np.zeros(grid.shape), np.zeros(grid.shape, np.int32)
    for image in images():
        known = np.isfinite(image)
        value = np.where(known, image, 0).astype(np.float64)
        total += value
        squares += value * value
        seen += known
    mean = total / np.maximum(seen, 1)
    limit = SPREAD_LIMIT * np.sqrt(np.maximum(squares / np.maximum(seen, 1) - mean * mean, 0)) + 1e-3
    shown = 2 * seen >= count
    total[:], seen[:] = 0, 0
    for image in images():
        kept = np.abs(np.where(np.isfinite(image), image, np.inf) - mean) <= limit
        total += np.where(kept, image, 0)
        seen += kept
    return np.where(shown, np.where(seen > 0, total / np.maximum(seen, 1), mean), 0).astype(np.float32)


def _median(images: Iterator[Image], count: int, grid: Grid, scratch: Path | None) -> Image:
    out = np.zeros(grid.shape, np.float32)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".np-median-") as folder:
        stack = np.lib.format.open_memmap(Path(folder) / "stack.npy", "w+", np.float32, (count, *grid.shape))
        for index, image in enumerate(images):
            stack[index] = image
        for slab in slabs(grid.shape, (1 << 24) // count):
            part = np.sort(stack[:, slab], axis=0)  # unknown values come last
            seen = np.isfinite(part).sum(0)
            middle = [np.take_along_axis(part, np.maximum(k, 0)[None], 0)[0] for k in ((seen - 1) // 2, seen // 2)]
            middle[1] = np.where(seen % 2, middle[0], np.minimum(middle[1], np.float32(np.finfo(np.float32).max)))
            out[slab] = np.where((seen > 0) & (2 * seen >= count), (middle[0] + middle[1]) / 2, 0)
        del stack
    return out
