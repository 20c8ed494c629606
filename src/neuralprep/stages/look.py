"""Look: run the network on a working grid and read the pose of the brain off its coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.box import bounding_box
from neuralprep.grid import Grid
from neuralprep.inference.session import Prediction, Session
from neuralprep.stages.conform import (
    SPACING_MM,
    TEMPLATE_CENTER_MM,
    WorkingImage,
    close_grid,
    conform,
    wide_grid,
)
from neuralprep.transform import Affine
from neuralprep.volume import Volume

BLOCK = 4
"""Coordinates are predicted for blocks of this many voxels per axis."""
_LEAST_REACH = 0.05
"""However dark the brain, the network's scale covers this share of the scan's."""


@dataclass(frozen=True, eq=False)
class Look:
    """One pass of the network and what it says about pose.

    Attributes
    ----------
    working
        The scan where the network saw it. Of a look up to a ``ceiling`` the network saw brighter voxels as that.
    prediction
        What it answered.
    world_from_template
        Affine fitted to the coordinates: template mm -> scan mm (the pull-back ``template_from_scan``).
    residual_mm
        Root mean square disagreement of coordinates and affine, after down-weighting outliers.
    brain_ml
        Volume inside the inner skull.
    apart
        Of a close look, which is taken of the head and of its mirror image: half the difference of their distances,
        (2, X, Y, Z) mm, and ``prediction`` is their mean. None of any other look.
    """

    working: WorkingImage
    prediction: Prediction
    world_from_template: Affine
    residual_mm: float
    brain_ml: float
    apart: NDArray[np.float32] | None = None

    def half_grid_distance(self) -> NDArray[np.float32]:
        """Distance to the inner skull averaged over blocks of two voxels: the grid of the field."""
        distance = self.prediction.distances[1]
        x, y, z = (n // 2 for n in distance.shape)
        return distance.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))

    @property
    def plausible(self) -> bool:
        """Whether this can be a brain in any pose: enough of it, and coordinates that an affine explains."""
        scale = abs(np.linalg.det(self.world_from_template.matrix[:3, :3])) ** (1 / 3)
        return self.brain_ml > 150 and self.residual_mm < 14 and 0.35 < scale < 1.7

    @property
    def cost(self) -> float:
        """Lower is better: residual, with a penalty for losing brain."""
        return self.residual_mm + 10 * max(0.0, 1 - self.brain_ml / 700)


def look(
    session: Session, scan: Volume, grid: Grid, lam: float, threads: int = 1, *, close: bool = False,
    mirrored: bool = False, ceiling: float = math.inf,
) -> Look:
    """Conform a scan to ``grid``, run the network and fit the pose.

    A ``close`` look, for a brain that lies upright and in the middle of the grid, is taken with the network for such
    looks; a ``mirrored`` one with the finest, and twice, of the head and of its mirror image: the mean of both answers
    is the better one. The network sees intensities up to ``ceiling`` on its scale, and brighter ones as that.
    """
    working = conform(scan, grid, threads)
    reach = min(1.0, max((ceiling - working.low) / (working.high - working.low), _LEAST_REACH))
    seen = working.image if reach == 1 else np.minimum(working.image / np.float32(reach), 1)
    if mirrored:
        prediction, apart = both_ways(session, seen, lam)
    else:
        prediction, apart = session.predict(seen, lam, "close" if close else "wide"), None
    prediction = prediction._replace(log_gain=prediction.log_gain - np.float32(math.log(reach)))
    mask = main_component((prediction.distances[1] < 0) & working.visible)
    affine, residual = fit_pose(prediction, working, mask)
    return Look(working, prediction, affine, residual, float(mask.sum()) * SPACING_MM**3 / 1000, apart)


def both_ways(session: Session, image: NDArray[np.float32], lam: float) -> tuple[Prediction, NDArray[np.float32]]:
    """Mean of the answers about an image and about its mirror image, and half the difference of their distances."""
    plain, other = (session.predict(seen, lam, "fine") for seen in (image, image[::-1]))
    # the template is symmetric: exchanging the sides changes the sign of its x and nothing else
    sides = np.array([-1, 1, 1], np.float32)[:, None, None, None]
    turned = Prediction(other.distances[:, ::-1], sides * other.coordinates[:, ::-1], other.log_gain[::-1],
                        other.mask_logit[::-1])  # fmt: skip
    half = np.float32(0.5)
    mean = Prediction(*(half * (one + two) for one, two in zip(plain, turned, strict=True)))
    return mean, half * (plain.distances - turned.distances)


def find_brain(
    session: Session, scan: Volume, lam: float, threads: int = 1, *, mirrored: bool = True
) -> tuple[Look, Look]:
    """First look at the whole head, second look at the brain in the template's axes.

    If the first look is not plausible (a head in a pose the network does not read), the head is turned through the
    24 poses of a cube until one is; the second look is then repeated from the best. Alignment, which goes on from here
    on the images themselves, does without the second look's ``mirrored`` half and the finest network.

    Returns
    -------
    tuple of Look
        (first, second); their masks agree on a good scan, which quality control uses.
    """
    wide = wide_grid(scan)
    first = look(session, scan, wide, lam, threads)
    if not first.plausible:
        first = turned_looks(session, scan, lam, threads)[0]
    return first, closer_look(session, scan, first, lam, threads, mirrored=mirrored)


def turned_looks(session: Session, scan: Volume, lam: float, threads: int = 1) -> list[Look]:
    """Looks at the whole head turned to the other 23 poses of a cube, the most convincing first."""
    looks = [look(session, scan, grid, lam, threads) for grid in _turned(wide_grid(scan))]
    return sorted(looks, key=lambda one: one.cost)


def closer_look(
    session: Session, scan: Volume, first: Look, lam: float, threads: int = 1, *, mirrored: bool = True
) -> Look:
    """Look at the brain in the pose that a first look found; once more if that pose was far off.

    Where masks come from it (``mirrored``), the network's scale ends at the brightness of the brain.
    """
    ceiling = brain_ceiling(first) if mirrored else math.inf

    def closer(pose: Affine) -> Look:
        return look(session, scan, close_grid(pose), lam, threads, close=True, mirrored=mirrored, ceiling=ceiling)

    second = closer(first.world_from_template)
    again = _turn_deg(first.world_from_template, second.world_from_template) > 12
    if again or second.residual_mm > 6:
        third = closer(second.world_from_template)
        if third.cost < second.cost:
            second = third
    return second


def brain_ceiling(found: Look) -> float:
    """98th percentile of the scan's intensities in the brain that a look found; infinite where that is no brain.

    Fat beside a receive coil, or with a short echo time, is up to three times as bright as the brain. On a scale that
    reaches up to it, what decides where the skull begins, fluid against bone, is a few percent.
    """
    working = found.working
    inside = (found.prediction.distances[1] < 0) & working.visible
    if not (found.plausible and inside.any()):
        return math.inf
    return working.low + float(np.percentile(working.image[inside], 98)) * (working.high - working.low)


def _turned(grid: Grid) -> list[Grid]:
    """Grids over the same box, which lies along the world axes, with their axes turned to the other 23 orientations."""
    turned = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for signs in range(8):
            rotation = np.zeros((3, 3))
            for axis, target in enumerate(order):
                rotation[target, axis] = -1.0 if signs >> axis & 1 else 1.0
            if np.linalg.det(rotation) < 0 or np.allclose(rotation, np.eye(3)):
                continue
            affine = np.eye(4)
            affine[:3, :3] = rotation @ grid.affine[:3, :3]
            x, y, z = (grid.shape[target] for target in order)
            affine[:3, 3] = grid.center - affine[:3, :3] @ ((np.asarray((x, y, z)) - 1) / 2)
            turned.append(Grid((x, y, z), affine))
    return turned


def _turn_deg(first: Affine, second: Affine) -> float:
    """Angle of the rotation between the linear parts of two affines."""
    u, _, vt = np.linalg.svd(np.linalg.inv(first.matrix[:3, :3]) @ second.matrix[:3, :3])
    cosine = (np.trace(u @ vt) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def main_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Largest 26-connected component; an empty mask stays empty."""
    box = bounding_box(mask)
    if box is None:
        return mask
    components, count = ndimage.label(mask[box], np.ones((3, 3, 3), bool))
    if count <= 1:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    largest = np.zeros_like(mask)
    largest[box] = components == sizes.argmax()
    return largest


def fit_pose(prediction: Prediction, working: WorkingImage, mask: NDArray[np.bool_], rounds: int = 3
             ) -> tuple[Affine, float]:
    """Robust least-squares affine from predicted template coordinates.

    Of a network that predicts none, the middle of the brain and the axes of the world. Otherwise weighted by the
    brain's share of each block, re-weighted by Geman-McClure with a 6 mm scale so that a lesion or a
    cut does not pull the fit.

    Returns
    -------
    Affine
        Template mm -> scan mm. The identity shifted to the field of view's centre if there is no brain.
    float
        Weighted root mean square residual in template mm.
    """
    if not prediction.coordinates.size:
        middle = working.grid.voxel_to_world(np.argwhere(mask).mean(0)) if mask.any() else working.grid.center
        return Affine(_shift(middle - np.asarray(TEMPLATE_CENTER_MM))), 0.0
    shape = prediction.coordinates.shape[1:]
    share = mask.reshape(shape[0], BLOCK, shape[1], BLOCK, shape[2], BLOCK).mean((1, 3, 5), dtype=np.float64)
    chosen = share > 0.3
    if chosen.sum() < 30:
        return Affine(_shift(working.grid.center)), float("inf")
    positions = working.grid.voxel_to_world(np.argwhere(chosen) * BLOCK + (BLOCK - 1) / 2)
    targets = prediction.coordinates[:, chosen].T.astype(np.float64)
    center = positions.mean(0)
    design = np.column_stack([(positions - center) / 50, np.ones(len(positions))])
    base = weights = share[chosen]
    for _ in range(rounds):
        root = np.sqrt(weights)[:, None]
        solution, *_ = np.linalg.lstsq(design * root, targets * root, rcond=None)
        squared = ((design @ solution - targets) ** 2).sum(1)
        weights = base / (1 + squared / 36) ** 2
    residual = float(np.sqrt((weights * squared).sum() / weights.sum()))
    if np.linalg.det(solution[:3]) < 0:
        # Up and front decide which side is right: a mirrored answer means that only left and right were misread.
        solution[:, 0] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = solution[:3].T / 50
    matrix[:3, 3] = solution[3] - matrix[:3, :3] @ center
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if not 0.2 < stretch[2] <= stretch[0] < 5:  # no head is this thin or this large: the coordinates are noise
        return Affine(_shift(working.grid.center)), float("inf")
    return Affine(np.linalg.inv(matrix)), residual


def _shift(center: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = center
    return matrix
