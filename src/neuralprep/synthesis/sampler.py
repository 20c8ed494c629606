"""Drawing records at random: the distribution of heads, looks and faults that networks are trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from neuralprep.synthesis import sampler_pathology as pathology
from neuralprep.synthesis.contrast import (
    SOFT_BINS,
    draw_means,
    draw_merges,
    merged_extra_cerebral,
    table_size,
    with_bright_fat,
)
from neuralprep.synthesis.record import Background, Coils, EchoPlanar, Kspace, Motion, Record, Slices, Triple
from neuralprep.synthesis.spatial import Pose

_FATTY = ("random", "T1w", "T2w", "FLAIR", "PDw")


@dataclass(frozen=True)
class SamplerSettings:
    """Ranges and probabilities of :func:`draw_record`; ``look_weights`` are relative.

    Numbers named after an effect are probabilities unless a unit or a pair says otherwise: ``blob`` of focal lesions,
    ``lesions`` of small white-matter lesions, ``atrophy`` of a shrunken or swollen brain, ``stripped`` and
    ``defaced`` of a missing skull or face, ``backdrop`` of anything but quiet air around the head, ``animal`` of a
    head of another shape; ``bright_fat`` of fat far brighter than the brain; ``ceiling`` of a scale that ends at the
    brain's brightness; ``thick``, ``cut``, ``blur``, ``coils``, ``motion``, ``ghost``, ``spikes``, ``wrap``,
    ``gibbs`` and ``slices`` of faults of the acquisition. ``noise``, ``bias`` and ``warp_mm`` are upper limits.
    """

    shape: tuple[int, int, int] = (128, 128, 128)
    spacing_mm: float = 2.0
    look_weights: tuple[tuple[str, float], ...] = (
        ("random", 0.4), ("T1w", 0.25), ("T2w", 0.1), ("FLAIR", 0.08), ("PDw", 0.06), ("CT", 0.05), ("EPI", 0.03),
        ("MP2RAGE", 0.02), ("PET", 0.01),
    )
    any_rotation: float = 0.08
    tilt_deg: float = 12.0
    wide_tilt_deg: float = 40.0
    wide_tilt: float = 0.25
    shift_mm: float = 30.0
    scale: tuple[float, float] = (0.8, 1.15)
    infant: float = 0.05
    animal: float = 0.03
    warp_mm: float = 5.0
    bias: float = 0.6
    coils: float = 0.2
    thick: float = 0.45
    blur: float = 0.1
    noise: float = 0.06
    cut: float = 0.3
    stripped: float = 0.1
    defaced: float = 0.12
    blob: float = 0.2
    lesions: float = 0.08
    atrophy: float = 0.2
    dura: float = 0.4
    merged: float = 0.12
    backdrop: float = 0.25
    motion: float = 0.05
    ghost: float = 0.05
    spikes: float = 0.03
    wrap: float = 0.05
    gibbs: float = 0.06
    slices: float = 0.05
    gamma: float = 0.1
    bright_fat: float = 0.0
    ceiling: float = 0.0
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
    resolution = _draw_resolution(rng, settings)
    record = Record(
        head=head,
        look=look,
        shape=settings.shape,
        spacing_mm=settings.spacing_mm,
        pose=_draw_pose(rng, settings),
        means=tuple(map(float, means)),
        spreads=tuple(map(float, spreads)),
        texture_seed=_seed(rng),
        soft_seed=_seed(rng),
        anatomy=pathology.draw_anatomy(rng, means, settings.dura, settings.atrophy, settings.lesions),
        masses=pathology.draw_masses(rng, look, means) if rng.random() < settings.blob else (),
        background=_draw_background(rng, settings),
        bias_strength=float(rng.uniform(0, settings.bias)),
        bias_nodes=(int(rng.integers(2, 6)), int(rng.integers(2, 6)), int(rng.integers(2, 6))),
        bias_seed=_seed(rng),
        kspace=_draw_kspace(rng, settings),
        psf_mm=float(rng.uniform(1.5, 5)) if rng.random() < settings.blur else 0.0,
        resolution=resolution,
        slices=_draw_slices(rng, resolution) if rng.random() < settings.slices else None,
        noise=float(rng.uniform(0, settings.noise)) if rng.random() < 0.8 else 0.0,
        rician=bool(rng.random() < 0.5),
        noise_seed=_seed(rng),
        gamma=float(np.exp(0.3 * rng.standard_normal())) if rng.random() < settings.gamma else 1.0,
        invert=bool(look == "random" and rng.random() < 0.1),
        cut=_draw_cut(rng, settings),
        stripped_mm=float(rng.uniform(-1, 2)) if rng.random() < settings.stripped else None,
        deface_deg=float(rng.uniform(20, 60)) if rng.random() < settings.defaced else None,
        deface_mm=float(rng.uniform(2, 20)),
        subsamples=settings.subsamples,
    )
    if rng.random() < settings.coils:
        coils = Coils(int(rng.integers(1, 13)), float(rng.uniform(0.1, 0.8)), _seed(rng))
        record = replace(record, coils=coils, bias_strength=0.4 * record.bias_strength)
    if look == "random":
        record = replace(record, anatomy=replace(record.anatomy, merged=draw_merges(rng, settings.merged)))
    record = _by_modality(record, rng)
    # drawn last: samples of settings without them stay what they were
    if rng.random() < settings.bright_fat and look in _FATTY:
        record = replace(record, means=_draw_bright_fat(rng, record.means))
    return replace(record, ceiling=bool(rng.random() < settings.ceiling))


def _by_modality(record: Record, rng: np.random.Generator) -> Record:
    """What follows from the kind of scanner: the faults it has and those it cannot have."""
    if record.look == "CT":
        holder = float(rng.uniform(0.2, 1)) if rng.random() < 0.6 else None
        background = Background(holder=holder, holder_gap_mm=float(rng.uniform(0, 25)),
                                holder_mm=float(rng.uniform(2, 10)), table=bool(rng.random() < 0.5))
        return replace(record, bias_strength=0.0, coils=None, kspace=Kspace(), slices=None, rician=False, gamma=1.0,
                       background=background, window="late" if rng.random() < 0.6 else "early")
    if record.look == "PET":
        return replace(record, bias_strength=0.2 * record.bias_strength, coils=None, kspace=Kspace(), slices=None,
                       psf_mm=float(rng.uniform(5, 8)), rician=False)
    if record.look == "MP2RAGE":
        level = float(np.exp(rng.uniform(math.log(0.02), math.log(0.2))))
        return replace(record, background=Background("mp2rage", level, _seed(rng)), bias_strength=0.0, coils=None,
                       noise=0.5 * record.noise, rician=False)
    if record.look == "EPI":
        faults = EchoPlanar(int(rng.choice(3, p=(0.2, 0.75, 0.05))), float(rng.uniform(-9, 9)),
                            float(rng.uniform(0, 1)), _seed(rng))
        step = float(rng.uniform(2.0, 3.5))
        thick = float(rng.uniform(2.5, 5))
        resolution = tuple((s, s, float(rng.random())) for s in (step, step, thick))
        return replace(record, echo_planar=faults, resolution=resolution)
    return record


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _triple(values: np.ndarray) -> Triple:
    x, y, z = values.tolist()
    return x, y, z


def _draw_bright_fat(rng: np.random.Generator, means: tuple[float, ...]) -> tuple[float, ...]:
    factor = math.exp(rng.uniform(math.log(1.3), math.log(4.0)))
    marrow = float(rng.uniform(0, 1))
    soft = np.where(rng.random(SOFT_BINS) < 0.5, rng.uniform(0, 1, SOFT_BINS), 0)
    return tuple(map(float, with_bright_fat(np.asarray(means), factor, marrow, soft)))


def _draw_pose(rng: np.random.Generator, settings: SamplerSettings) -> Pose:
    if rng.random() < settings.any_rotation:
        rotation = rng.uniform(-180, 180, 3)
    else:
        limit = settings.wide_tilt_deg if rng.random() < settings.wide_tilt else settings.tilt_deg
        rotation = rng.uniform(-limit, limit, 3)
    low, high = (0.5, 0.8) if rng.random() < settings.infant else settings.scale
    scale = rng.uniform(low, high) * rng.uniform(0.92, 1.08, 3)
    shear = rng.uniform(-0.03, 0.03, 3)
    muzzle = 1.0
    if rng.random() < settings.animal:
        scale = rng.uniform(0.35, 0.85) * np.exp(rng.normal(0, 0.2, 3))
        shear = rng.uniform(-0.25, 0.25, 3)
        muzzle = float(rng.uniform(1.0, 2.5))
    return Pose(
        rotation_deg=_triple(rotation),
        scale=_triple(scale),
        shear=_triple(shear),
        shift_mm=_triple(rng.uniform(-settings.shift_mm, settings.shift_mm, 3)),
        mirror=bool(rng.random() < 0.5),
        warp_mm=float(rng.uniform(0, settings.warp_mm)),
        warp_spacing_mm=float(rng.uniform(16, 40)),
        warp_seed=_seed(rng),
        muzzle=muzzle,
    )


def _draw_background(rng: np.random.Generator, settings: SamplerSettings) -> Background:
    if rng.random() >= settings.backdrop:
        return Background()
    kind = str(rng.choice(("zero", "blobs", "noise"), p=(0.5, 0.25, 0.25)))
    level = {"zero": 0.0, "blobs": rng.uniform(0.05, 0.6), "noise": rng.uniform(0.02, 0.3)}[kind]
    return Background(kind, float(level), _seed(rng))


def _draw_kspace(rng: np.random.Generator, settings: SamplerSettings) -> Kspace:
    motion = ghost = wrap = None
    spikes: tuple[tuple[int, int, int, float, float], ...] = ()
    gibbs = np.ones(3)
    if rng.random() < settings.motion:
        count = int(rng.integers(2, 6))
        poses = np.concatenate([rng.normal(0, rng.uniform(0.5, 3), (count, 3)),
                                rng.normal(0, rng.uniform(0.5, 4), (count, 3))], 1)
        motion = Motion(int(rng.integers(3)), tuple(rng.dirichlet(np.full(count, 2.0)).tolist()),
                        tuple((a, b, c, d, e, f) for a, b, c, d, e, f in poses.tolist()))
    if rng.random() < settings.ghost:
        ghost = (int(rng.integers(3)), int(rng.integers(2, 8)), float(rng.uniform(0.05, 0.4)),
                 float(rng.uniform(-math.pi, math.pi)))
    if rng.random() < settings.spikes:
        spikes = tuple(
            (*(int(k) for k in rng.integers(-40, 41, 3)), float(rng.uniform(0.01, 0.12)),  # type: ignore[misc]
             float(rng.uniform(-math.pi, math.pi))) for _ in range(int(rng.integers(1, 4)))
        )
    if rng.random() < settings.wrap:
        low, high = rng.uniform(0, 0.22, 2) * (rng.permutation((1.0, 0.0)) if rng.random() < 0.6 else 1)
        wrap = (int(rng.integers(3)), float(low), float(high))
    if rng.random() < settings.gibbs:
        gibbs = np.where(rng.random(3) < 0.6, rng.uniform(0.4, 0.9, 3), 1.0)
    return Kspace(motion, ghost, spikes, wrap, _triple(gibbs))


def _draw_slices(rng: np.random.Generator, resolution: tuple[Triple | None, ...]) -> Slices:
    thick = [axis for axis in range(3) if resolution[axis] is not None]
    axis = thick[0] if len(thick) == 1 else int(rng.integers(3))
    interleave = float(rng.uniform(-0.3, 0.3)) if rng.random() < 0.6 else 0.0
    corrupted = int(rng.integers(1, 4)) if interleave == 0 or rng.random() < 0.2 else 0
    return Slices(axis, interleave, corrupted, _seed(rng))


def _draw_resolution(
    rng: np.random.Generator, settings: SamplerSettings
) -> tuple[Triple | None, ...]:
    """Thick slices along one axis, a coarse isotropic grid, or a mild blur of one axis or none."""
    spec: list[Triple | None] = [None, None, None]
    if rng.random() < settings.thick:
        axis = int(rng.choice(3, p=(0.25, 0.25, 0.5)))
        step = float(rng.uniform(2.2, 7.5) if rng.random() < 0.9 else rng.uniform(7.5, 9.0))
        spec[axis] = (step, step * float(rng.uniform(0.5, 1.0)), float(rng.random()))
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
