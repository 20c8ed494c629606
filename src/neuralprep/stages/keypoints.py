"""Keypoints: where fixed points of the template lie in a scan, read off one pass of the network.

The network predicts template coordinates for every block of the scan; it was trained on heads with exactly known
transforms, of any contrast and pose. Looking up where a coordinate occurs turns it into a detector of as many
keypoints as one likes, each with a weight, in world mm. Two scans' keypoints then give rigid, affine and thin-plate
transforms in closed form (the way of KeyMorph: Evan et al., MIDL 2022; BrainMorph: Wang et al., MELBA 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from neuralprep.grid import FloatArray
from neuralprep.stages.look import BLOCK, Look, main_component
from neuralprep.templates import load_template

COUNT = 128
REACH_MM = 10.0
"""Standard deviation of the Gaussian, in template mm, with which blocks vote for a keypoint."""


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Corresponding points of any two scans have the same row.

    Attributes
    ----------
    template : (K, 3) float64
        The keypoints in the template, RAS mm.
    scan : (K, 3) float64
        Where they lie in the scan, RAS mm.
    weights : (K,) float64
        0 (not seen) to about 1.
    """

    template: FloatArray
    scan: FloatArray
    weights: FloatArray


def find_keypoints(found: Look, space: str = "MNI152NLin2009aSym", count: int = COUNT) -> Keypoints:
    """Keypoints of a scan from a look at it.

    Each is the weighted mean position of the blocks whose predicted coordinates lie near it, moved by the pose's
    linear part times what the mean coordinate misses, so that an uneven neighbourhood does not pull it. Its weight is
    the mass of the votes, less where the votes disagree with the pose.
    """
    points = template_keypoints(space, count)
    prediction, grid = found.prediction, found.working.grid
    inside = main_component((prediction.distances[1] < 0) & found.working.visible)
    shape = prediction.coordinates.shape[1:]
    share = inside.reshape(shape[0], BLOCK, shape[1], BLOCK, shape[2], BLOCK).mean((1, 3, 5), dtype=np.float64)
    chosen = share > 0.05
    if not chosen.any():
        return Keypoints(points, np.tile(grid.center, (len(points), 1)), np.zeros(len(points)))
    positions = grid.voxel_to_world(np.argwhere(chosen) * BLOCK + (BLOCK - 1) / 2)
    coordinates = prediction.coordinates[:, chosen].T.astype(np.float64)
    squared = ((points[:, None] - coordinates[None]) ** 2).sum(-1)
    votes = share[chosen] * np.exp(-squared / (2 * REACH_MM**2))
    mass = votes.sum(1)
    safe = np.maximum(mass, 1e-12)[:, None]
    position, coordinate = votes @ positions / safe, votes @ coordinates / safe
    linear = found.world_from_template.matrix[:3, :3]
    scan = position + (points - coordinate) @ linear.T
    # Where no block votes the pose has to answer; such a point has no weight, but must lie somewhere sensible.
    unseen = mass < 1e-3
    scan[unseen] = found.world_from_template.apply(points[unseen])
    miss = np.linalg.norm(found.world_from_template.apply(points) - scan, axis=1)
    # A full neighbourhood of blocks 8 mm apart holds this much mass.
    full = (2 * np.pi) ** 1.5 * REACH_MM**3 / (BLOCK * float(np.mean(grid.spacing))) ** 3
    weights = np.minimum(mass / full, 1.0) / (1 + (miss / 20) ** 2)
    return Keypoints(points, scan, np.where(unseen, 0.0, weights))


@lru_cache(maxsize=4)
def template_keypoints(space: str, count: int = COUNT) -> FloatArray:
    """Evenly spread points of the template's brain: each new one is the voxel farthest from all before it."""
    template = load_template(space)
    mask = template.brain_mask
    voxels = np.argwhere(mask.data[::2, ::2, ::2] > 0) * 2
    world = mask.grid.voxel_to_world(voxels)
    chosen = [int(np.argmin(((world - world.mean(0)) ** 2).sum(1)))]
    nearest = np.full(len(world), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((world - world[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    points = world[chosen]
    points.flags.writeable = False
    return np.asarray(points)
