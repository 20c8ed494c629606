"""Every effect of the head model by name, alone and at any strength: for galleries and tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neuralprep.synthesis.classes import CLASSES, INDEX
from neuralprep.synthesis.contrast import LOOKS, SOFT_BINS, table_size, with_bright_fat
from neuralprep.synthesis.record import (
    Anatomy,
    Background,
    Coils,
    EchoPlanar,
    Kspace,
    Mass,
    Motion,
    Record,
    Slices,
)
from neuralprep.synthesis.spatial import Pose

_SOFT = (0.5, 0.6, 0.56, 0.64)


def plain_record(head: str, look: str = "T1w", **changes: Any) -> Record:
    """The sample of a head with the mean intensities of a look, and no fault at all."""
    means = np.zeros(table_size())
    for name, (mean, _) in LOOKS[look].items():
        means[INDEX[name]] = mean
    if "internal_air" not in LOOKS[look]:
        means[INDEX["internal_air"]] = means[INDEX["air"]]
    means[len(CLASSES) :] = 0.5 if look == "CT" else _SOFT
    means[INDEX["soft_tissue"]] = means[len(CLASSES)]
    window = "late" if look == "CT" else "none"
    record = Record(head, look, means=tuple(map(float, means)), spreads=(0.0,) * table_size(), window=window,
                    anatomy=Anatomy(neck="extend"))
    return replace(record, **changes)


@dataclass(frozen=True)
class Effect:
    """One effect.

    Attributes
    ----------
    name, group
        What it is called and where it belongs.
    look
        Contrast in which it shows well.
    apply
        (record, strength 0-1) -> record with the effect; strength 0 leaves the record as it is.
    """

    name: str
    group: str
    look: str
    apply: Callable[[Record, float], Record]


def _anatomy(**values: Any) -> Callable[[Record, float], Record]:
    """Change the anatomy; numbers are scaled by the strength."""

    def apply(record: Record, strength: float) -> Record:
        if strength == 0:
            return record
        return replace(record, anatomy=replace(record.anatomy, **_scaled(values, strength)))

    return apply


def _set(field: str, kind: type | None = None, /, **values: Any) -> Callable[[Record, float], Record]:
    """Set a field of the record to a number, or to an object made of numbers, scaled by the strength."""

    def apply(record: Record, strength: float) -> Record:
        if strength == 0:
            return record
        scaled = _scaled(values, strength)
        return replace(record, **{field: scaled["value"] if kind is None else kind(**scaled)})

    return apply


def _scaled(values: dict[str, Any], strength: float) -> dict[str, Any]:
    return {key: strength * value if isinstance(value, float) else value for key, value in values.items()}


def _mass(**values: Any) -> Callable[[Record, float], Record]:
    def apply(record: Record, strength: float) -> Record:
        if strength == 0:
            return record
        scaled = {**values, "radius_mm": strength * values["radius_mm"]}
        return replace(record, masses=(Mass(**{"seed": 3, **scaled}),))

    return apply


def _motion(record: Record, strength: float) -> Record:
    poses = ((0.0,) * 6, tuple(strength * v for v in (4.0, -3.0, 5.0, 3.0, 4.0, -3.0)),
             tuple(strength * v for v in (-3.0, 2.0, -4.0, -2.0, 3.0, 4.0)))
    motion = Motion(1, (0.6, 0.2, 0.2), poses)  # type: ignore[arg-type]
    return replace(record, kspace=Kspace(motion=motion)) if strength else record


def _wrap(record: Record, strength: float) -> Record:
    return replace(record, kspace=Kspace(wrap=(1, 0.0, 0.3 * strength))) if strength else record


def _ghost(record: Record, strength: float) -> Record:
    return replace(record, kspace=Kspace(ghost=(1, 3, 0.4 * strength, 0.6))) if strength else record


def _spikes(record: Record, strength: float) -> Record:
    spikes = ((12, 20, 3, 0.12 * strength, 0.4), (-25, 9, 0, 0.08 * strength, 1.0))
    return replace(record, kspace=Kspace(spikes=spikes)) if strength else record


def _gibbs(record: Record, strength: float) -> Record:
    kept = 1 - 0.65 * strength
    return replace(record, kspace=Kspace(gibbs=(1.0, kept, kept))) if strength else record


def _thick(axis: int) -> Callable[[Record, float], Record]:
    def apply(record: Record, strength: float) -> Record:
        spec = tuple((9.0 * strength, 6.0 * strength, 0.3) if a == axis else None for a in range(3))
        return replace(record, resolution=spec) if strength else record

    return apply


def _merged(first: str, second: str) -> Callable[[Record, float], Record]:
    def apply(record: Record, strength: float) -> Record:
        merged = ((first, second),)
        return replace(record, anatomy=replace(record.anatomy, merged=merged)) if strength else record

    return apply


def _intensity(value: float, *names: str) -> Callable[[Record, float], Record]:
    """Draw the intensity of classes towards a value."""

    def apply(record: Record, strength: float) -> Record:
        means = np.array(record.means)
        for name in names:
            means[INDEX[name]] += strength * (value - means[INDEX[name]])
        return replace(record, means=tuple(means.tolist()))

    return apply


def _dura(record: Record, strength: float) -> Record:
    return replace(record, anatomy=replace(record.anatomy, dura=round(2 * strength)))


def _fat(record: Record, strength: float) -> Record:
    return replace(record, anatomy=replace(record.anatomy, fat=strength > 0))


def _bright_fat(record: Record, strength: float) -> Record:
    if strength == 0:
        return record
    means = with_bright_fat(np.array(record.means), 1 + 3 * strength, 0.5, np.linspace(0, 1, SOFT_BINS))
    return replace(record, means=tuple(means.tolist()), ceiling=True)


def _gamma(record: Record, strength: float) -> Record:
    return replace(record, gamma=1 + 1.2 * strength)


def _inverted(record: Record, strength: float) -> Record:
    return replace(record, invert=strength > 0)


def _rician(record: Record, strength: float) -> Record:
    return replace(record, noise=0.15 * strength, rician=True)


def _neck(kind: str, **values: float) -> Callable[[Record, float], Record]:
    """How the neck ends, in a head so high in the field of view that it shows."""

    def apply(record: Record, strength: float) -> Record:
        record = replace(record, pose=replace(record.pose, shift_mm=(0.0, 0.0, 55.0), scale=(0.85, 0.85, 0.85)))
        if strength == 0:
            return replace(record, anatomy=replace(record.anatomy, neck="cut"))
        return replace(record, anatomy=replace(record.anatomy, neck=kind, **_scaled(values, strength)))

    return apply


def _lesions(record: Record, strength: float) -> Record:
    if strength == 0:
        return record
    return replace(record, anatomy=replace(record.anatomy, lesions=strength, lesion_intensity=0.95))


def _pose(**values: tuple[float, ...] | float) -> Callable[[Record, float], Record]:
    """Blend the pose from the plain one to the given values."""

    def apply(record: Record, strength: float) -> Record:
        blended = {}
        for key, value in values.items():
            mixed = np.asarray(getattr(record.pose, key)) * (1 - strength) + np.asarray(value) * strength
            blended[key] = tuple(mixed.tolist()) if mixed.ndim else float(mixed)
        return replace(record, pose=replace(record.pose, **blended))  # type: ignore[arg-type]

    return apply


def _stripped(record: Record, strength: float) -> Record:
    return replace(record, stripped_mm=3 - 3 * strength) if strength else record


def _defaced(record: Record, strength: float) -> Record:
    return replace(record, deface_deg=40.0, deface_mm=24 - 20 * strength) if strength else record


def _holder(record: Record, strength: float) -> Record:
    background = Background(holder=strength, holder_gap_mm=6.0, table=True)
    return replace(record, background=background) if strength else record


def _cut(record: Record, strength: float) -> Record:
    return replace(record, cut=((0.0, 0.0), (0.0, 0.3 * strength), (0.0, 0.3 * strength)))


_TUMOUR = {"kind": "tumour", "direction": (1.0, 0.1, 0.2), "depth_mm": 34.0, "radius_mm": 26.0, "push": 0.4,
           "intensity": 0.45, "core": 0.6, "core_intensity": 0.2, "rim_mm": 3.0, "rim_intensity": 1.0,
           "oedema_mm": 12.0, "oedema_intensity": 0.55}

EFFECTS: tuple[Effect, ...] = (
    Effect("atrophy", "anatomy", "T1w", _anatomy(atrophy=-0.3)),
    Effect("growth", "anatomy", "T1w", _anatomy(atrophy=0.15)),
    Effect("wide ventricles", "anatomy", "T1w", _anatomy(ventricles_mm=9.0)),
    Effect("white-matter lesions", "anatomy", "FLAIR", _lesions),
    Effect("tumour", "anatomy", "T1w", _mass(**_TUMOUR)),
    Effect("extra-axial tumour", "anatomy", "T1w",
           _mass(kind="extra-axial", direction=(0.2, 0.0, 1.0), depth_mm=9.0, radius_mm=26.0, push=0.8,
                 roughness=0.1, intensity=0.95)),
    Effect("cavity", "anatomy", "T1w",
           _mass(kind="cavity", direction=(0.15, 1.0, 0.15), depth_mm=12.0, radius_mm=24.0, fluid=True, intensity=0.2)),
    Effect("bleed", "anatomy", "CT",
           _mass(kind="bleed", direction=(-1.0, 0.1, 0.1), depth_mm=35.0, radius_mm=20.0, push=0.4, intensity=0.58)),
    Effect("extended neck", "anatomy", "T1w", _neck("extend", shoulders=1.2)),
    Effect("cropped neck", "anatomy", "T1w", _neck("crop", neck_margin_mm=10.0)),
    Effect("small head", "shape", "T1w", _pose(scale=(0.55, 0.55, 0.55))),
    Effect("animal", "shape", "T1w", _pose(scale=(0.45, 0.75, 0.45), shear=(0.1, 0.0, 0.2), muzzle=2.0)),
    Effect("deformation", "shape", "T1w", _pose(warp_mm=9.0)),
    Effect("rotation", "shape", "T1w", _pose(rotation_deg=(40.0, 20.0, 30.0))),
    Effect("dura", "labels", "T2w", _dura),
    Effect("subcutaneous fat", "labels", "T1w", _fat),
    Effect("fat far brighter than the brain", "labels", "T1w", _bright_fat),
    Effect("fluid like bone", "labels", "T1w", _merged("csf", "cortical_bone")),
    Effect("fluid like grey matter", "labels", "T1w", _merged("csf", "cerebral_gm")),
    Effect("bone like marrow", "labels", "T1w", _merged("cortical_bone", "cancellous_bone")),
    Effect("skin like soft tissue", "labels", "T1w", _merged("skin", "soft_tissue")),
    Effect("bright vessels", "labels", "T1w", _intensity(1.3, "artery", "vein", "brain_vessel")),
    Effect("bright inner air", "labels", "T1w", _intensity(0.8, "internal_air")),
    Effect("stripped", "labels", "T1w", _stripped),
    Effect("defaced", "labels", "T1w", _defaced),
    Effect("textured background", "background", "T1w", _set("background", Background, kind="blobs", level=0.6, seed=5)),
    Effect("noisy background", "background", "T1w", _set("background", Background, kind="noise", level=0.3, seed=5)),
    Effect("zeroed background", "background", "T1w", _set("background", Background, kind="zero")),
    Effect("MP2RAGE", "background", "MP2RAGE", _set("background", Background, kind="mp2rage", level=0.3, seed=5)),
    Effect("head rest and couch", "background", "CT", _holder),
    Effect("smooth bias", "coils", "T1w", _set("bias_strength", value=0.7)),
    Effect("receive coils", "coils", "T1w", _set("coils", Coils, count=6, strength=0.8, seed=2)),
    Effect("motion", "raw data", "T1w", _motion),
    Effect("ghosts", "raw data", "T1w", _ghost),
    Effect("spikes", "raw data", "T1w", _spikes),
    Effect("truncation", "raw data", "T1w", _gibbs),
    Effect("wrap-around", "raw data", "T1w", _wrap),
    Effect("distortion", "raw data", "EPI", _set("echo_planar", EchoPlanar, shift_mm=12.0, seed=4)),
    Effect("dropout", "raw data", "EPI", _set("echo_planar", EchoPlanar, dropout=1.0, seed=4)),
    Effect("thick axial slices", "resolution", "T1w", _thick(2)),
    Effect("thick sagittal slices", "resolution", "T1w", _thick(0)),
    Effect("blur", "resolution", "T1w", _set("psf_mm", value=9.0)),
    Effect("PET", "resolution", "PET", _set("psf_mm", value=8.0)),
    Effect("interleaved slices", "resolution", "T1w", _set("slices", Slices, interleave=0.4)),
    Effect("corrupted slices", "resolution", "T1w", _set("slices", Slices, corrupted=6, seed=3)),
    Effect("noise", "intensity", "T1w", _set("noise", value=0.15)),
    Effect("Rician noise", "intensity", "T1w", _rician),
    Effect("gamma", "intensity", "T1w", _gamma),
    Effect("inverted", "intensity", "T1w", _inverted),
    Effect("cut field of view", "intensity", "T1w", _cut),
)


def effect_record(effect: Effect, head: str, strength: float, size: int, spacing_mm: float) -> Record:
    """The plain sample of a head with one effect."""
    record = plain_record(head, effect.look, shape=(size, size, size), spacing_mm=spacing_mm,
                          pose=Pose(warp_seed=6, warp_spacing_mm=30.0))
    return effect.apply(record, strength)
