"""What the programs about registration share: heads, known motions, the networks opened once."""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np
from common import RESULTS, SHARED
from scipy.spatial.transform import Rotation

from neuralprep import Affine, Grid, Volume
from neuralprep.alignment import View
from neuralprep.evaluation.affine import points_in_mask
from neuralprep.inference.pair_session import PairSession, open_pair_session
from neuralprep.inference.session import Session, open_session

GROUP = ("bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm", "IXI012-HH-1211_T1w_2mm")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that every program about registration has."""
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)


@lru_cache(maxsize=1)
def open_once(threads: int) -> Session:
    """The network, opened once in a process."""
    return open_session("npp", "cpu", threads)


@lru_cache(maxsize=1)
def open_pair_once(threads: int) -> PairSession:
    """The pair network, opened once in a process."""
    return open_pair_session("pair", "cpu", threads)


def moved(volume: Volume, motion: Affine) -> Volume:
    """The same voxels somewhere else in the world: only the header changes."""
    return Volume(volume.data, Grid(volume.grid.shape, motion.matrix @ volume.grid.affine))


def random_affine(rng: np.random.Generator) -> Affine:
    """Up to 30 degrees, sizes 0.85 to 1.2 along each axis, up to 40 mm."""
    matrix = np.eye(4)
    turn = rng.normal(size=3)
    turn *= np.radians(rng.uniform(0, 30)) / np.linalg.norm(turn)
    matrix[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ np.diag(rng.uniform(0.85, 1.2, 3))
    matrix[:3, 3] = rng.uniform(-40, 40, 3)
    return Affine(matrix)


def brain_points(seen: View) -> np.ndarray:
    """Points of the brain, world mm."""
    return points_in_mask(seen.judged.data, seen.judged.grid, 3000)
