"""Heads in known places, as alignment sees them: the template drawn in a contrast, with noisy keypoints."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from neuralprep.alignment import View
from neuralprep.grid import Grid
from neuralprep.groupwise.align import Member
from neuralprep.registration.pyramid import block_mean
from neuralprep.resample import resample
from neuralprep.stages.keypoints import Keypoints, template_keypoints
from neuralprep.templates import load_template
from neuralprep.transform import Affine, Chain
from neuralprep.velocity import Velocity
from neuralprep.volume import Volume

CONTRASTS = {"T1w": (0.6, 1.0, 0.2), "T2w": (0.6, 0.4, 1.0), "FLAIR": (0.9, 0.7, 0.1)}


def truth(seed: int, degrees: float = 12.0, stretch: float = 0.0) -> Affine:
    """Template mm -> scan mm."""
    rng = np.random.default_rng(seed)
    turn = rng.normal(size=3)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * turn / np.linalg.norm(turn)).as_matrix()
    matrix[:3, :3] = matrix[:3, :3] @ (np.eye(3) + rng.uniform(-stretch, stretch, (3, 3)))
    matrix[:3, 3] = rng.uniform(-20, 20, 3)
    return Affine(matrix)


def member(
    seed: int, where: Affine, contrast: str = "T1w", digest: str = "", shape: Velocity | None = None
) -> Member:
    """A head of the template's shape carried by `where`, on an upright 2 mm grid, keypoints 1.5 mm off.

    A template point x lies in it at where(shape^-1(x)).
    """
    back = where.inverse() if shape is None else Chain([where.inverse(), shape])
    rng = np.random.default_rng(100 + seed)
    template = load_template()
    parts = zip(CONTRASTS[contrast], (template.gm, template.wm, template.csf), strict=True)
    drawn = template.t1.with_data(np.sum([weight * part.data for weight, part in parts], axis=0, dtype=np.float32))
    center = where.apply(template.t1.grid.center)
    grid = Grid.centered((104, 124, 104), 2.0, center + rng.uniform(-1, 1, 3))
    image = resample(drawn, grid, back)
    mask = resample(template.brain_mask, grid, back, order=0)
    noisy = image.data + rng.normal(0, 0.02, grid.shape).astype(np.float32)
    head = image.with_data(np.where(image.data > 0.02, noisy, 0).astype(np.float32))
    points = template_keypoints("MNI152NLin2009aSym")
    scan = back.inverse().apply(points) + rng.normal(0, 1.5, points.shape)
    keypoints = Keypoints(points, scan, rng.uniform(0.3, 1.0, len(points)))
    gain = Volume(np.ones((4, 4, 4), np.float32), Grid.centered((4, 4, 4), 80.0, center))
    digest = digest or hashlib.sha256(head.data.tobytes()).hexdigest()
    view = View(keypoints, head, mask)
    return Member(Path(f"{seed}.nii.gz"), None, str(seed), contrast, digest, view, grid, gain, 0.0)


def worst_relation_mm(found: tuple[Affine, ...], places: list[Affine]) -> float:
    """Largest mean error, over the brain, of where image i's points are found in image j."""
    points = template_keypoints("MNI152NLin2009aSym")
    pairs = list(zip(found, places, strict=True))
    return max(
        float(np.linalg.norm(other.apply(one.inverse().apply(place.apply(points))) - away.apply(points), axis=1).mean())
        for one, place in pairs
        for other, away in pairs
    )


DRAWN = {"T1w": (100, 70, 25), "T2w": (60, 80, 130), "FLAIR": (75, 95, 15)}
"""White matter, grey matter, fluid."""


def rendered(labels: Volume, seed: int, contrast: str = "T1w") -> Volume:
    """A head drawn from a label map, 2 mm; tissue around the brain has intensities of its own."""
    ids = labels.data.astype(int)
    rng = np.random.default_rng(seed)
    table = rng.uniform(10, 100, ids.max() + 1)
    table[0] = 0
    white, grey, fluid = DRAWN[contrast]
    for tissue, value in (((2, 41, 7, 46, 16, 28, 60), white), ((3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 17, 53), grey),
                          ((4, 43, 24, 14, 15), fluid)):  # fmt: skip
        table[list(tissue)] = value
    affine = labels.grid.affine @ np.diag([2.0, 2, 2, 1])
    affine[:3, 3] += labels.grid.affine[:3, :3] @ np.full(3, 0.5)
    image = block_mean(table[ids].astype(np.float32), (2, 2, 2))
    x, y, z = image.shape
    noisy = np.maximum(image + rng.normal(0, 2.5, image.shape), 0)
    return Volume(noisy.astype(np.float32), Grid((x, y, z), affine))
