"""Deformable registration of two brains: a stationary velocity field, symmetric by construction.

A network may say where to start (`Predict`); the images then improve on it.

Both images are carried half way, into a mid-space, and compared there by local correlation (Avants et al., Medical
Image Analysis 12 (2008) 26), squared so that it does not matter which of two neighbouring tissues is the brighter one
in either image. The velocity follows the gradient of that measure, smoothed before (viscous) and after (elastic) each
step (Vercauteren et al., NeuroImage 45 (2009) S61; Mansi et al., IJCV 92 (2011) 92). Exchanging the images changes the
sign of the velocity and nothing else; the inverse is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.registration.averages import halves
from neuralprep.registration.local_correlation import Level
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain
from neuralprep.velocity import Velocity, refined_grid
from neuralprep.volume import Volume

FloatImage = NDArray[np.float32]
Predict = Callable[[FloatImage, FloatImage, float], FloatImage]
"""A network: brains (X, Y, Z) on an upright 2 mm grid and a stiffness -> velocity (3, X/2, Y/2, Z/2) in its voxels."""

VELOCITY_MM = 4.0
"""Spacing of the velocity; the images are compared on this grid first, then on one twice as fine."""
STANDARD_STIFFNESS = 0.1
_MARGIN_MM = 12.0
_ELASTIC_VOX = 0.55  # at the standard stiffness: bends as much as SyN does between two adults
_LONGEST_STEP = 0.5  # of a voxel of the level
_PATIENCE = 5
_BOX, _BOX_MULTIPLE = 96, 16  # voxels per axis that a network sees at least, and steps beyond
_GAIN = 5e-4  # a level ends when this much correlation is not gained in `_PATIENCE` steps


@dataclass(frozen=True)
class DeformableSettings:
    """How to deform.

    Parameters
    ----------
    stiffness
        0.1 is the standard, 0 bends freely, 10 is nearly affine: the elastic smoothing grows with its square root.
    steps
        Greatest number of steps on the coarse and on the fine grid; none trust the network alone.
    """

    stiffness: float = STANDARD_STIFFNESS
    steps: tuple[int, int] = (20, 20)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not (np.isfinite(self.stiffness) and self.stiffness >= 0):
            raise InputError(f"stiffness is {self.stiffness}; it must be zero or positive")
        if min(self.steps) < 0:
            raise InputError(f"steps are {self.steps}; they cannot be negative")


@dataclass(frozen=True, eq=False)
class DeformableFit:
    """What `deform` found.

    Attributes
    ----------
    to_middle, from_middle : Affine
        The two halves of the affine: fixed mm -> mid-space mm -> moving mm.
    velocity : Velocity
        In the mid-space.
    correlation : float
        Mean squared local correlation in the brains, 0 to 1, at the end.
    before : float
        The same before, at the affine, on the same grid.
    """

    to_middle: Affine
    velocity: Velocity
    from_middle: Affine
    correlation: float
    before: float

    @property
    def fixed_from_moving(self) -> Chain:
        """Pull-back, fixed mm -> moving mm."""
        return Chain([self.to_middle, self.velocity, self.from_middle])


def deform(
    fixed: Volume, moving: Volume, brains: tuple[Volume, Volume], affine: Affine,
    settings: DeformableSettings | None = None, *, predict: Predict | None = None, upright: Affine | None = None,
) -> DeformableFit:
    """Find the velocity that carries one brain onto another.

    Parameters
    ----------
    fixed, moving : Volume
        Images of similar resolution (2 mm), any contrast.
    brains : tuple of Volume
        Masks of the fixed and of the moving brain, on the images' grids. What an operator cut out of a mask (a lesion)
        has no say.
    affine : Affine
        Where to start from: pull-back, fixed mm -> moving mm.
    settings : DeformableSettings, optional
    predict : callable, optional
        Where to start from; otherwise from nothing.
    upright : Affine, optional
        Rigid motion from the mid-space (`neuralprep.registration.averages.halves` of the affine) to one whose axes are
        the head's right, anterior and superior, which a network needs.

    Returns
    -------
    DeformableFit

    Raises
    ------
    InputError
        A mask is empty, or nothing is to be done: no step and no network.
    """
    settings = settings or DeformableSettings()
    for name, mask in zip(("fixed", "moving"), brains, strict=True):
        if not np.any(mask.data):
            raise InputError(f"{mask.source or 'the ' + name + ' image'}: the mask of its brain is empty")
    if predict is None and max(settings.steps) == 0:
        raise InputError("no step and no network: nothing would bend")
    to_middle, from_middle = halves(affine)
    if upright is not None:
        to_middle = Affine(upright.matrix @ to_middle.matrix)
        from_middle = Affine(from_middle.matrix @ upright.inverse().matrix)
    coarse = _middle_grid(brains, (to_middle, from_middle.inverse()))
    fine = refined_grid(coarse, VELOCITY_MM / 2)
    # What the mid-space sees of an image is looked up where its inverse half says.
    pulls = (to_middle.inverse(), from_middle)
    seen = [_seen(image, mask, fine, pull)
            for image, mask, pull in zip((fixed, moving), brains, pulls, strict=True)]
    masks = seen[0][1], seen[1][1]
    images = _same_sense((seen[0][0], seen[1][0]), masks)
    counted = ndimage.binary_dilation((masks[0] > 0) | (masks[1] > 0), iterations=2)
    counted &= ~((masks[0] < 0) | (masks[1] < 0))
    smooth = [ndimage.gaussian_filter(image, 1.0)[::2, ::2, ::2] for image in images]
    elastic = _ELASTIC_VOX * np.sqrt(settings.stiffness / STANDARD_STIFFNESS)
    nothing: FloatImage = np.zeros((3, *coarse.shape), np.float32)
    velocity = nothing if predict is None else _predicted(predict, seen[0][0], seen[1][0], coarse, settings.stiffness)
    levels = (Level(smooth[0], smooth[1], counted[::2, ::2, ::2], 1), Level(images[0], images[1], counted, 2))
    before = levels[1].compare(nothing)[1]
    for level, steps in zip(levels, settings.steps, strict=True):
        velocity = _climbed(level, velocity, elastic, steps)
    vectors = np.ascontiguousarray(np.moveaxis(VELOCITY_MM * velocity, 0, -1))
    found = Velocity(vectors, coarse)
    return DeformableFit(to_middle, found, from_middle, levels[1].compare(velocity)[1], before)


def _predicted(predict: Predict, fixed: FloatImage, moving: FloatImage, coarse: Grid, stiffness: float) -> FloatImage:
    """What a network says, on the velocity's grid, in its voxels; the images stand in the middle of its box."""
    shape = np.array(fixed.shape)
    box = np.maximum(_BOX_MULTIPLE * np.ceil(shape / _BOX_MULTIPLE).astype(int), _BOX)
    before = (box - shape) // 2
    around = list(zip(before, box - shape - before, strict=True))
    there, here = (np.pad(np.clip(image, 0, 1), around) for image in (fixed, moving))
    said = predict(there, here, stiffness)
    # Node j of the coarse grid is voxel 2 j of the fine one; the network's voxels lie between two fine voxels.
    axes = [(2 * np.arange(n) + offset - 0.5) / 2 for n, offset in zip(coarse.shape, before, strict=True)]
    where = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    return np.stack([ndimage.map_coordinates(one, where, order=1, mode="nearest") for one in said])


def _climbed(level: Level, velocity: FloatImage, elastic: float, steps: int) -> FloatImage:
    """The velocity after the steps of a level, fewer if the correlation no longer grows."""
    history: list[float] = []
    for _ in range(steps):
        direction, correlation = level.compare(velocity)
        history.append(correlation)
        longest = float(np.sqrt((direction**2).sum(0)).max())
        slow = len(history) > _PATIENCE and history[-1] < history[-1 - _PATIENCE] + _GAIN
        if slow or longest <= 0:
            break
        velocity = velocity + np.float32(_LONGEST_STEP / (level.factor * longest)) * direction
        if elastic > 0:
            velocity = np.stack([ndimage.gaussian_filter(one, elastic) for one in velocity])
    return velocity


def _middle_grid(brains: tuple[Volume, Volume], into: tuple[Affine, Affine]) -> Grid:
    """Grid of the velocity in the mid-space: along its axes, about both brains."""
    points = [way.apply(mask.grid.voxel_to_world(np.argwhere(mask.data > 0)))
              for mask, way in zip(brains, into, strict=True)]
    return Grid.around(np.concatenate(points), VELOCITY_MM, _MARGIN_MM)


def _seen(image: Volume, mask: Volume, grid: Grid, pull: Affine) -> tuple[FloatImage, FloatImage]:
    """The brain of an image on a grid of the mid-space, scaled to 1; and 1 in the brain, -1 in its holes, else 0."""
    brain = mask.data > 0
    filled = ndimage.binary_fill_holes(brain)
    kinds = brain.astype(np.float32) - (filled & ~brain)
    carried = resample(image, grid, pull).data
    inside = resample(mask.with_data(filled.astype(np.float32)), grid, pull).data > 0.5
    top = float(np.percentile(carried[inside], 99)) if inside.any() else 0.0
    where: FloatImage = resample(mask.with_data(kinds), grid, pull, order=0).data
    return (carried * inside / max(top, 1e-6)).astype(np.float32), where


def _same_sense(
    images: tuple[FloatImage, FloatImage], masks: tuple[FloatImage, FloatImage]
) -> tuple[FloatImage, FloatImage]:
    """Both images, one with dark and bright exchanged if one is bright where the other is dark (T1w and T2w).

    The measure asks for neither sense, but the surface of the brain, with nothing outside, must fit the rest: of two
    contrary images the one with the brighter rim is exchanged, so that fluid is dark in both.
    """
    both = (masks[0] > 0) & (masks[1] > 0)
    if np.count_nonzero(both) < 2 or np.corrcoef(images[0][both], images[1][both])[0, 1] >= 0:
        return images
    rims = []
    for image, mask in zip(images, masks, strict=True):
        inner = ndimage.binary_erosion(mask > 0, iterations=2)
        rim = (mask > 0) & ~inner
        rims.append(float(image[rim].mean() / max(float(image[inner].mean()), 1e-6)) if inner.any() else 0.0)
    brighter = int(rims[1] > rims[0])
    image, brain = images[brighter], masks[brighter] != 0
    exchanged = np.where(brain, np.float32(image[brain].max()) - image, np.float32(0))
    return (images[0], exchanged) if brighter else (exchanged, images[1])
