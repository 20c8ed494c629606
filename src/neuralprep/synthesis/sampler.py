"""Drawing records at random: the distribution of heads, looks and faults that networks are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuralprep.synthesis.contrast import draw_means, merged_extra_cerebral, table_size
from neuralprep.synthesis.sample import Blob, Record
from neuralprep.synthesis.spatial import Pose


@dataclass(frozen=True)
class SamplerSettings:
    """Ranges and probabilities of :func:`draw_record`; ``look_weights`` are relative."""

    shape: tuple[int, int, int] = (128, 128, 128)
    spacing_mm: float = 2.0
    look_weights: tuple[tuple[str, float], ...] = (
        ("random", 0.45), ("T1w", 0.25), ("T2w", 0.1), ("FLAIR", 0.08), ("PDw", 0.07), ("CT", 0.05),
    )
    any_rotation: float = 0.08
    tilt_deg: float = 12.0
    wide_tilt_deg: float = 40.0
    wide_tilt: float = 0.25
    shift_mm: float = 30.0
    scale: tuple[float, float] = (0.8, 1.15)
    infant: float = 0.05
    warp_mm: float = 5.0
    bias: float = 0.6
    thick: float = 0.45
    noise: float = 0.06
    cut: float = 0.3
    stripped: float = 0.1
    defaced: float = 0.12
    blob: float = 0.2
    subsamples: int = 2


def draw_record(head: str, rng: np.random.Generator, settings: SamplerSettings, look: str | None = None) -> Record:
    """Draw the record of one sample of ``head``; ``look`` fixes the contrast."""
    if look is None:
        names, weights = zip(*settings.look_weights, strict=True)
        look = str(rng.choice(names, p=np.asarray(weights) / sum(weights)))
    means = draw_means(look, rng)
    if look == "random" and rng.random() < 0.1:
        means = merged_extra_cerebral(means, rng)
    wobble = 0.01 if look == "CT" else rng.uniform(0, 0.06)
    spreads = wobble * rng.uniform(0.2, 1, table_size())
    spreads[0] *= 0.3
    return Record(
        head=head,
        look=look,
        shape=settings.shape,
        spacing_mm=settings.spacing_mm,
        pose=_draw_pose(rng, settings),
        means=tuple(map(float, means)),
        spreads=tuple(map(float, spreads)),
        texture_seed=_seed(rng),
        soft_seed=_seed(rng),
        blobs=_draw_blobs(rng, settings),
        bias_strength=0.0 if look == "CT" else float(rng.uniform(0, settings.bias)),
        bias_nodes=(int(rng.integers(2, 6)), int(rng.integers(2, 6)), int(rng.integers(2, 6))),
        bias_seed=_seed(rng),
        resolution=_draw_resolution(rng, settings),
        noise=float(rng.uniform(0, settings.noise)) if rng.random() < 0.8 else 0.0,
        rician=bool(rng.random() < 0.5),
        noise_seed=_seed(rng),
        invert=bool(look == "random" and rng.random() < 0.1),
        cut=_draw_cut(rng, settings),
        stripped_mm=float(rng.uniform(-1, 2)) if rng.random() < settings.stripped else None,
        deface_deg=float(rng.uniform(20, 60)) if rng.random() < settings.defaced else None,
        deface_mm=float(rng.uniform(2, 20)),
        subsamples=settings.subsamples,
    )


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _draw_pose(rng: np.random.Generator, settings: SamplerSettings) -> Pose:
    if rng.random() < settings.any_rotation:
        rotation = rng.uniform(-180, 180, 3)
    else:
        limit = settings.wide_tilt_deg if rng.random() < settings.wide_tilt else settings.tilt_deg
        rotation = rng.uniform(-limit, limit, 3)
    low, high = (0.5, 0.8) if rng.random() < settings.infant else settings.scale
    scale = rng.uniform(low, high) * rng.uniform(0.92, 1.08, 3)
    return Pose(
        rotation_deg=_triple(rotation),
        scale=_triple(scale),
        shear=_triple(rng.uniform(-0.03, 0.03, 3)),
        shift_mm=_triple(rng.uniform(-settings.shift_mm, settings.shift_mm, 3)),
        mirror=bool(rng.random() < 0.5),
        warp_mm=float(rng.uniform(0, settings.warp_mm)),
        warp_spacing_mm=float(rng.uniform(16, 40)),
        warp_seed=_seed(rng),
    )


def _draw_blobs(rng: np.random.Generator, settings: SamplerSettings) -> tuple[Blob, ...]:
    if rng.random() >= settings.blob:
        return ()
    # A box in template mm that holds the brain; some balls reach its surface, as extra-axial tumours do.
    low, high = np.array([-60, -90, -40]), np.array([60, 60, 65])
    return tuple(
        Blob(
            center_mm=_triple(rng.uniform(low, high)),
            radius_mm=float(rng.uniform(4, 26)),
            intensity=float(rng.uniform(0, 1.1)),
            seed=_seed(rng),
        )
        for _ in range(int(rng.integers(1, 4)))
    )


def _draw_resolution(
    rng: np.random.Generator, settings: SamplerSettings
) -> tuple[tuple[float, float, float] | None, ...]:
    """Thick slices along one axis, a coarse isotropic grid, or a mild blur of one axis or none."""
    spec: list[tuple[float, float, float] | None] = [None, None, None]
    if rng.random() < settings.thick:
        axis = int(rng.choice(3, p=(0.25, 0.25, 0.5)))
        step = float(rng.uniform(2.2, 7.5))
        spec[axis] = (step, step * float(rng.uniform(0.6, 1.0)), float(rng.random()))
    elif rng.random() < 0.3:
        step = float(rng.uniform(2.0, 4.0))
        spec = [(step, step, float(rng.random())) for _ in range(3)]
    return tuple(spec)


def _draw_cut(rng: np.random.Generator, settings: SamplerSettings) -> tuple[tuple[float, float], ...]:
    cut = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    if rng.random() < settings.cut:
        for _ in range(int(rng.integers(1, 4))):
            cut[int(rng.integers(3))][int(rng.integers(2))] = float(rng.uniform(0, 0.3))
    return tuple((a, b) for a, b in cut)

