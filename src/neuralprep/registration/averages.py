"""Averages of affine transforms in their group, and transforms that agree with many pairwise ones.

Matrices cannot be averaged entry by entry: the mean of two rotations is no rotation, and the mean of a stretch by two
and a shrinkage by two is no identity. Here every average is taken through logarithms (Arsigny et al., SIAM J Matrix
Anal Appl 29:328, 2007), as the group's own barycentre (Pennec & Arsigny, 2013): the one that does not change when all
transforms are inverted or seen from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import linalg

from neuralprep.errors import GeometryError
from neuralprep.grid import FloatArray
from neuralprep.transform import Affine

# Translations count in units of this many mm, so that rotations and shifts of a head are of one size.
_UNIT_MM = 100.0
_UNITS = np.diag([1 / _UNIT_MM, 1 / _UNIT_MM, 1 / _UNIT_MM, 1.0])
_TOLERANCE = 1e-13
OUTLIER_MM = 2.0
"""Pairs that miss the consensus by more than this count less (Huber)."""


def square_root(transform: Affine) -> Affine:
    """The affine that does half: applied twice it is the transform. The principal root, so the shorter way round.

    Raises
    ------
    GeometryError
        There is none: the affine turns by 180 degrees, or it mirrors.
    """
    # In the units above the entries of rotation and shift are of one size, which is what the root's accuracy wants.
    matrix = _UNITS @ transform.matrix @ np.linalg.inv(_UNITS)
    root = np.real(linalg.sqrtm(matrix))  # a root that is not real, made real, is none
    if not np.abs(root @ root - matrix).max() < 1e-8 * max(1.0, np.abs(matrix).max()):
        raise GeometryError("a transform turns by 180 degrees or mirrors: it has no half, and no logarithm to average")
    root[3] = (0, 0, 0, 1)
    return Affine(np.linalg.inv(_UNITS) @ root @ _UNITS)


def halves(transform: Affine) -> tuple[Affine, Affine]:
    """Two equal parts, points through the first one first: the middle between two spaces lies between them.

    Half of a turn by 180 degrees is not defined; the first part is then the identity.
    """
    try:
        half = square_root(transform)
    except GeometryError:
        return Affine.identity(), transform
    return half, half


def midpoint(first: Affine, second: Affine) -> Affine:
    """Half way from one affine to another in the group: of two rigid motions the midpoint is rigid.

    Raises
    ------
    GeometryError
        They are half a turn apart.
    """
    return _times(first, square_root(_times(first.inverse(), second)))


def logarithm(transform: Affine) -> FloatArray:
    """The principal real logarithm (4, 4) of an affine, translations in units of 100 mm.

    By repeated square roots and the series of the inverse hyperbolic tangent.

    Raises
    ------
    GeometryError
        There is none: the affine turns by 180 degrees, or it mirrors.
    """
    root, roots = transform, 0
    while np.abs((matrix := _UNITS @ root.matrix @ np.linalg.inv(_UNITS)) - np.eye(4)).max() > 0.1:
        root, roots = square_root(root), roots + 1
    z = np.linalg.solve((matrix + np.eye(4)).T, (matrix - np.eye(4)).T).T
    term, total = z, z.copy()
    for power in range(3, 20, 2):
        term = term @ z @ z
        total += term / power
    return np.asarray(2.0 ** (roots + 1) * total)


def exponential(rate: FloatArray) -> Affine:
    """The affine of a logarithm as `logarithm` gives it."""
    matrix = np.linalg.inv(_UNITS) @ linalg.expm(rate) @ _UNITS
    matrix[3] = (0, 0, 0, 1)
    return Affine(matrix)


def mean_logarithm(transforms: Sequence[Affine]) -> FloatArray:
    """Mean (4, 4) of the logarithms: zero for an unbiased group."""
    return np.asarray(sum(logarithm(one) for one in transforms) / len(transforms))


def bias(transforms: Sequence[Affine]) -> float:
    """Largest entry of the mean logarithm: how far the group's mean transform is from the identity."""
    return float(np.abs(mean_logarithm(transforms)).max())


def unbiased(transforms: Sequence[Affine], poses: Sequence[Affine] | None = None) -> Affine:
    """The change of the common space after which the mean transform is the identity.

    Parameters
    ----------
    transforms : Affines
        T_i, pull-backs: common space -> image i.
    poses : Affines, optional
        R_i, a standard pose -> image i. Given them, the mean is that of R_i^-1 T_i: where the heads lie in their
        scanners no longer counts.

    Returns
    -------
    Affine
        M, new common space -> old one, such that the logarithms of all (R_i^-1) T_i M sum to zero.

    Raises
    ------
    GeometryError
        The transforms are too far apart to have a mean.
    """
    seen = list(transforms)
    if poses is not None:
        seen = [_times(pose.inverse(), one) for pose, one in zip(poses, seen, strict=True)]
    shift = _chordal_mean(seen).inverse()
    for _ in range(100):
        mean = mean_logarithm([_times(one, shift) for one in seen])
        shift = _times(shift, exponential(-mean))
        if np.abs(mean).max() < _TOLERANCE:
            return shift
    if bias([_times(one, shift) for one in seen]) > 1e-9:
        raise GeometryError("the images lie too differently in their scanners to have a mean space; use standard poses")
    return shift


def consensus(
    relations: Mapping[tuple[int, int], tuple[Affine, float]], start: Sequence[Affine], points: FloatArray
) -> tuple[list[Affine], list[float]]:
    """Transforms of all images from one common space that agree best with transforms between pairs.

    Parameters
    ----------
    relations : {(i, j): (transform, trust)}
        Pull-backs image i -> image j, each pair once, and how much each is trusted (0 to 1).
    start : Affines
        A first guess, common space -> image i.
    points : (N, 3)
        mm in the common space, where disagreement is measured.

    Returns
    -------
    transforms : list of Affine
        Common space -> image i. Where the common space lies is as in `start`, on average.
    misses : list of float
        Mean disagreement of each image's pairs with them, mm.
    """
    both = {**dict(relations), **{(j, i): (one.inverse(), trust) for (i, j), (one, trust) in relations.items()}}
    found, count = list(start), len(start)
    weights = {pair: trust for pair, (_, trust) in both.items()}
    for step in range(200):
        rates = [np.zeros((4, 4)) for _ in found]
        for (i, j), (relation, _) in sorted(both.items(), key=lambda item: item[0]):
            there = _times(relation, found[i])
            rates[j] += weights[i, j] * logarithm(_times(found[j].inverse(), there)) / count
        found = [_times(one, exponential(rate)) for one, rate in zip(found, rates, strict=True)]
        if step >= 5:  # the first steps bring them together; outliers can only be told afterwards
            for (i, j), miss in _misses(both, found, points).items():
                weights[i, j] = both[i, j][1] * min(1.0, OUTLIER_MM / max(miss, 1e-9))
        if step > 5 and max(np.abs(rate).max() for rate in rates) < _TOLERANCE * 10:
            break
    misses = _misses(both, found, points)
    of_image = [[miss for (_, j), miss in misses.items() if j == k] for k in range(count)]
    return found, [float(np.mean(some)) if some else 0.0 for some in of_image]


def _misses(
    both: Mapping[tuple[int, int], tuple[Affine, float]], found: Sequence[Affine], points: FloatArray
) -> dict[tuple[int, int], float]:
    """Mean distance (mm) for each ordered pair between where image j is and where image i says it is.

    The mean over both directions, so that a pair's weight is one.
    """
    raw = {(i, j): _times(relation, found[i]).distance(found[j], points) for (i, j), (relation, _) in both.items()}
    return {(i, j): (miss + raw[j, i]) / 2 for (i, j), miss in raw.items()}


def _chordal_mean(transforms: Sequence[Affine]) -> Affine:
    """Rigid motion nearest to the arithmetic mean: where the search for the barycentre starts."""
    mean = np.mean([one.matrix for one in transforms], axis=0)
    left, strength, right = np.linalg.svd(mean[:3, :3])
    rotation = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    if strength[1] < 1e-3:
        raise GeometryError("the images lie too differently in their scanners to have a mean space; use standard poses")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, mean[:3, 3]
    return Affine(matrix)


def _times(outer: Affine, inner: Affine) -> Affine:
    """Points go through `inner` first."""
    return Affine(outer.matrix @ inner.matrix)
