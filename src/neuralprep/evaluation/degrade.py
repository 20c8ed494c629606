"""Faults put into real scans, with the mask that a clean scan's mask becomes: how much does the answer change?

The faults are those that scanners, pipelines and people make; each is deterministic. A fault that changes the grid
(thick slices, another orientation) carries the reference mask along, so that masks are always compared on one grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from neuralprep.evaluation.bias import simulated_field
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.volume import Volume

Pair = tuple[Volume, Volume]
"""A scan and its reference mask (bool), on one grid."""
_AIR_SHARE = 0.1
_CODES = ("LR", "PA", "IS")


@dataclass(frozen=True)
class Fault:
    """One fault: its name, the group it is reported in, and how it changes a scan and its mask."""

    name: str
    group: str
    apply: Callable[[Volume, Volume], Pair]


def thick_slices(scan: Volume, mask: Volume, axis: int, slice_mm: float = 5.0) -> Pair:
    """Slices of `slice_mm` along one axis: averaged over their thickness, as an anti-aliased scanner would."""
    spacing = list(scan.grid.spacing)
    spacing[axis] = max(slice_mm, spacing[axis])
    grid = scan.grid.with_spacing(spacing)
    soft = mask.with_data(mask.data.astype(np.float32))
    carried = resample(soft, grid, antialias=True)
    return resample(scan, grid, antialias=True), carried.with_data(carried.data >= 0.5)


def noisy(scan: Volume, mask: Volume, percent: float = 8.0, seed: int = 0) -> Pair:
    """Rician noise; its standard deviation is `percent` of the brain's 90th percentile (BrainWeb: of white matter)."""
    level = percent / 100 * float(np.percentile(scan.data[mask.data], 90))
    rng = np.random.default_rng(seed)
    real, imaginary = (rng.standard_normal(scan.data.shape, dtype=np.float32) * np.float32(level) for _ in range(2))
    return scan.with_data(np.hypot(scan.data + real, imaginary)), mask


def biased(scan: Volume, mask: Volume, percent: float = 60.0, seed: int = 0) -> Pair:
    """A smooth multiplicative field of `percent` (see `neuralprep.evaluation.bias.simulated_field`)."""
    field = simulated_field(scan.grid, percent, np.random.default_rng(seed), mask.data)
    return scan.with_data(scan.data * field), mask


def with_gamma(scan: Volume, mask: Volume, gamma: float) -> Pair:
    """Intensities, scaled to [0, 1] by their range without outliers, to the power of `gamma`."""
    low, high = _limits(scan)
    return scan.with_data(np.clip((scan.data - low) / (high - low), 0, 1) ** np.float32(gamma)), mask


def inverted(scan: Volume, mask: Volume) -> Pair:
    """Dark and bright exchanged within the head; air stays dark."""
    low, high = _limits(scan)
    values = np.clip((scan.data - low) / (high - low), 0, 1)
    return scan.with_data(np.where(values > _AIR_SHARE, 1 + np.float32(_AIR_SHARE) - values, values)), mask


def posed(scan: Volume, mask: Volume, rotation: Rotation) -> Pair:
    """The head lying otherwise in the scanner: a rotation of the header about the middle; no voxel changes."""
    turn = np.eye(4)
    turn[:3, :3] = rotation.as_matrix()
    turn[:3, 3] = scan.grid.center - turn[:3, :3] @ scan.grid.center
    grid = Grid(scan.grid.shape, turn @ scan.grid.affine)
    return Volume(scan.data, grid), Volume(mask.data, grid)


def stripped(scan: Volume, mask: Volume) -> Pair:
    """Zero outside the mask."""
    return scan.with_data(np.where(mask.data, scan.data, np.float32(0))), mask


def reoriented(scan: Volume, mask: Volume, codes: str) -> Pair:
    """Axes of the array permuted and flipped to `codes`; the head stays where it is in the world."""
    return scan.oriented(codes), mask.oriented(codes)


def orientations() -> list[str]:
    """The 48 axis codes."""
    return ["".join(letters) for order in permutations(_CODES) for letters in product(*order)]


def faults() -> list[Fault]:
    """The faults that every head is given (orientations apart, see `orientations`)."""
    found = [
        Fault(f"5 mm slices, axis {axis}", "5 mm slices", partial(thick_slices, axis=axis))
        for axis in range(3)
    ]
    found += [
        Fault("noise 8 %", "noise 8 %", noisy),
        Fault("bias 60 %", "bias 60 %", biased),
        Fault("gamma 0.5", "gamma 0.5", partial(with_gamma, gamma=0.5)),
        Fault("gamma 2", "gamma 2", partial(with_gamma, gamma=2.0)),
        Fault("inverted", "inverted", inverted),
    ]
    for axis, sign in product("xyz", (90, -90)):
        rotation = Rotation.from_euler(axis, sign, degrees=True)
        name = f"turned {sign:+d} degrees about {axis}"
        found.append(Fault(name, "turned 90 degrees", partial(posed, rotation=rotation)))
    return found


def _limits(scan: Volume) -> tuple[float, float]:
    """0.5th and 99.5th percentile of every seventh voxel: the range without outliers."""
    values: NDArray = scan.data.ravel()[::7]
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1e-6)
