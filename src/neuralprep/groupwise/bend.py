"""Dense warps of a group: every head bent onto the group's mean image, and the mean of all warps kept at zero.

On top of the affines of `align_group` each image gets a stationary velocity in the common space. Images are averaged
through what is known so far, each is registered to the average, the mean velocity is taken off all of them (so that
the common space has the mean shape of the group; Guimond et al., Comput Vis Image Underst 77:192, 2000, in the
log-Euclidean form of Arsigny et al., MICCAI 2006), and again. No image is the reference.

An image that finds itself in the average would be held back by it, in small groups by a third and more. It is therefore
registered to the average of the others; with w its velocity to those and v the one it had, its velocity to the average
of all k is ((k - 1) w + v) / k to first order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.grid import FloatArray, Grid
from neuralprep.groupwise.align import GroupFit, Member
from neuralprep.registration.deformable import STANDARD_STIFFNESS, VELOCITY_MM, DeformableSettings, deform
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain, inside_voxels, jacobian_determinant
from neuralprep.trilinear import trilinear
from neuralprep.velocity import Velocity, refined_grid
from neuralprep.volume import Volume

_MARGIN_MM = 24.0
_AROUND = 3
"""Voxels of 2 mm around the brains of most images within which images are averaged."""


@dataclass(frozen=True)
class BendSettings:
    """How a group is bent.

    Parameters
    ----------
    stiffness
        0 bends freely, 10 is nearly affine.
    steps
        One round for each pair of numbers: greatest number of steps on the coarse and on the fine grid. The first
        averages are blurred and tell nothing that the fine grid could use.
    """

    stiffness: float = STANDARD_STIFFNESS
    steps: tuple[tuple[int, int], ...] = ((20, 0), (20, 0), (20, 20))

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not self.steps or any(max(one.steps) == 0 for one in self.rounds()):
            raise InputError(f"steps are {self.steps}; a group needs at least one round, and each round a step")

    def rounds(self) -> list[DeformableSettings]:
        """Settings of each round."""
        return [DeformableSettings(self.stiffness, steps) for steps in self.steps]


@dataclass(frozen=True, eq=False)
class GroupBend:
    """What `bend_group` found.

    Attributes
    ----------
    transforms : tuple of Chain
        Pull-backs, common space -> image: a velocity, then the affine; in the order of the members given. A megabyte
        each.
    bias_mm : float
        Longest vector of the mean velocity: 0 to rounding.
    last_move_mm : float
        How far the last round still changed the velocity that changed most, on average over the brain.
    correlations : tuple of float
        Mean squared local correlation of each image with the others' average, 0 to 1; NaN for the only image of the
        contrast that is averaged.
    before : tuple of float
        The same with the affines alone, against the average of that time.
    volume_changes : tuple of (float, float, int)
        Smallest and largest change of volume of each velocity in the brain (2 mm grid), and how many voxels fold.
    """

    transforms: tuple[Chain, ...]
    bias_mm: float
    last_move_mm: float
    correlations: tuple[float, ...]
    before: tuple[float, ...]
    volume_changes: tuple[tuple[float, float, int], ...]


def bend_group(
    members: Sequence[Member], fit: GroupFit, settings: BendSettings | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> GroupBend:
    """Velocities of all images from one unbiased common space.

    Parameters
    ----------
    members, fit
        A group that has been aligned.
    settings
    progress
        Told in words what goes on.

    Notes
    -----
    All images are registered to the average of one contrast, the most frequent one (the local correlation does not ask
    which contrast an image has): averages of two contrasts would each find a mean shape of their own.
    """
    settings = settings or BendSettings()
    order = sorted(range(len(members)), key=lambda index: members[index].digest)
    state = _State([members[k] for k in order], [fit.transforms[k] for k in order], fit.points)
    before: list[float] = []
    scores: list[float] = []
    moved = 0.0
    for number, one_round in enumerate(settings.rounds(), 1):
        scores, starts, moved = state.bend(one_round, progress, f"round {number} of {len(settings.steps)}")
        before = before or starts
    changes = state.volume_changes()
    back = np.argsort(order)
    return GroupBend(
        tuple(state.transform(k) for k in back), state.bias(), moved, tuple(scores[k] for k in back),
        tuple(before[k] for k in back), tuple(changes[k] for k in back),
    )  # fmt: skip


class _State:
    """A group while it is bent: sorted members, and their velocities on one grid of the common space.

    Images are looked up in and near the brain only, the rest of a head has no say: a megabyte each.
    """

    def __init__(self, members: list[Member], affines: list[Affine], points: FloatArray) -> None:
        self.members, self.affines = members, affines
        self.grid = Grid.around(points, VELOCITY_MM, _MARGIN_MM)
        self.fine = refined_grid(self.grid, VELOCITY_MM / 2)
        self.velocities = [np.zeros((*self.grid.shape, 3), np.float32) for _ in members]
        counts = {one.contrast: sum(other.contrast == one.contrast for other in members) for one in members}
        self.contrast = min(counts, key=lambda name: (-counts[name], name))
        self.averaged = counts[self.contrast]
        brains = np.zeros(self.fine.shape)
        for one, affine in zip(members, affines, strict=True):
            judged = one.view.judged
            brains += resample(judged.with_data(judged.data.astype(np.float32)), self.fine, affine).data
        self.where = ndimage.binary_dilation(brains >= len(members) / 2, iterations=_AROUND)
        self.points = self.fine.voxel_to_world(np.argwhere(self.where))
        self.brain = self._volume(brains[self.where] >= len(members) / 2, np.uint8)

    def transform(self, index: int) -> Chain:
        """Common space -> image."""
        return Chain([Velocity(self.velocities[index], self.grid), self.affines[index]])

    def bias(self) -> float:
        """Longest vector of the mean velocity, mm."""
        return float(np.linalg.norm(self._mean_velocity(), axis=-1).max())

    def bend(
        self, settings: DeformableSettings, progress: Callable[[str], None], name: str
    ) -> tuple[list[float], list[float], float]:
        """Register every image to the average and take the mean off; scores, scores before, and the largest change."""
        images, total, known = self._carried()
        made: list[NDArray[np.float32]] = []
        scores, before = [], []
        for index, one in enumerate(self.members):
            mine, others, seen, summed = self.velocities[index], self.averaged, known, total
            if one.contrast == self.contrast:
                own = np.isfinite(images[index])
                others, seen, summed = others - 1, known - own, total - np.where(own, images[index], 0)
            if others == 0:  # the only one of its contrast stays, the others come to it
                made.append(mine)
                scores.append(float("nan"))
                before.append(float("nan"))
                continue
            progress(f"{name}: bending {one.name}")
            mean = self._volume(summed / np.maximum(seen, 1), np.float32)
            found = deform(mean, self._placed(one.view.head, index), (self.brain, self._placed(one.view.judged, index)),
                           Affine.identity(), settings)
            share = np.float32(others / self.averaged)
            made.append(share * found.velocity.on(self.grid) + (1 - share) * mine)
            scores.append(found.correlation)
            before.append(found.before)
        moved = self._replace(made)
        progress(f"{name}: the image that changed most moved {moved:.2f} mm")
        return scores, before, moved

    def volume_changes(self) -> list[tuple[float, float, int]]:
        """Least and largest Jacobian determinant of each velocity in the brain, and the number of folded voxels."""
        inside, found = self.brain.data > 0, []
        for velocity in self.velocities:
            values = jacobian_determinant(Velocity(velocity, self.grid), self.fine)[inside]
            found.append((float(values.min()), float(values.max()), int(np.count_nonzero(values <= 0))))
        return found

    def _placed(self, volume: Volume, index: int) -> Volume:
        """The same voxels where the affine puts them in the common space: no interpolation."""
        return Volume(volume.data, Grid(volume.grid.shape, self.affines[index].inverse().matrix @ volume.grid.affine))

    def _volume(self, values: NDArray, dtype: type) -> Volume:
        """Values at the points as a volume on the fine grid, 0 elsewhere."""
        data: NDArray = np.zeros(self.fine.shape, dtype)
        data[self.where] = values
        return Volume(data, self.fine)

    def _carried(self) -> tuple[list[NDArray[np.float32]], FloatArray, FloatArray]:
        """Every image at the points, its brain's mean at 1, NaN where unknown; of those averaged sum and number.

        Also makes anew the brain of most images.
        """
        images: list[NDArray[np.float32]] = []
        total, known, brains = (np.zeros(len(self.points)) for _ in range(3))
        for index, one in enumerate(self.members):
            head, judged = one.view.head, one.view.judged
            voxels = head.grid.world_to_voxel(self.transform(index).apply(self.points)).T
            image, brain = trilinear([head.data, judged.data.astype(np.float32)], voxels)
            beyond = ~inside_voxels(voxels, head.grid.shape)
            image[beyond], brain[beyond] = np.nan, 0
            image /= np.float32(max(float(head.data[judged.data > 0].mean()), 1e-6))
            images.append(image)
            if one.contrast == self.contrast:
                seen = np.isfinite(image)
                total += np.where(seen, image, 0)
                known += seen
            brains += brain
        self.brain = self._volume(brains >= len(self.members) / 2, np.uint8)
        return images, total, known

    def _mean_velocity(self) -> FloatArray:
        total = np.zeros((*self.grid.shape, 3))
        for velocity in self.velocities:
            total += velocity
        return np.asarray(total / len(self.velocities))

    def _replace(self, made: list[NDArray[np.float32]]) -> float:
        """Take the new velocities without their mean; mean change in the brain of the one that changed most, mm."""
        old, self.velocities = self.velocities, made
        mean = self._mean_velocity()
        self.velocities = [(velocity - mean).astype(np.float32) for velocity in made]
        inside = resample(self.brain, self.grid, order=0).data > 0
        return max(float(np.linalg.norm(new[inside] - one[inside], axis=-1).mean())
                   for new, one in zip(self.velocities, old, strict=True))
