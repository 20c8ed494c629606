"""Drawing what is wrong with a head: atrophy, lesions, tumours, cavities, bleeds; and how its neck ends."""

from __future__ import annotations

import numpy as np

from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.record import Anatomy, Mass

_KINDS = {"tumour": 0.35, "extra-axial": 0.25, "cavity": 0.2, "bleed": 0.12, "region": 0.08}


def draw_anatomy(rng: np.random.Generator, means: np.ndarray, dura: float, atrophy: float, lesions: float) -> Anatomy:
    """Draw changes of the whole head; ``dura``, ``atrophy`` and ``lesions`` are probabilities."""
    change = widened = load = 0.0
    if rng.random() < atrophy:
        change = float(rng.uniform(-0.28, 0.12))
        if rng.random() < 0.6:  # fluid inside follows the fluid outside
            widened = float(np.clip(-18 * change + rng.normal(0, 1.5), -2, 8))
    elif rng.random() < 0.3 * atrophy:
        widened = float(rng.uniform(1, 9))
    if rng.random() < lesions:
        load = float(rng.uniform(0.1, 1))
    neck = str(rng.choice(("crop", "extend", "cut"), p=(0.45, 0.5, 0.05)))
    return Anatomy(
        atrophy=change,
        ventricles_mm=widened,
        lesions=load,
        lesion_seed=int(rng.integers(2**31)),
        lesion_intensity=float(means[INDEX["wm_lesion"]]),
        neck=neck,
        neck_margin_mm=float(rng.uniform(0, 6)),
        shoulders=float(rng.uniform(0.2, 1.2)) if rng.random() < 0.5 else 0.0,
        dura=int(rng.integers(1, 3)) if rng.random() < dura else 0,
        fat=bool(rng.random() < 0.6),
    )


def draw_masses(rng: np.random.Generator, look: str, means: np.ndarray) -> tuple[Mass, ...]:
    """Draw one to three focal lesions."""
    count = 1 + int(rng.random() < 0.25) + int(rng.random() < 0.1)
    return tuple(_draw_mass(rng, look, means) for _ in range(count))


def _draw_mass(rng: np.random.Generator, look: str, means: np.ndarray) -> Mass:
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    radius = float(rng.uniform(4, 20) if kind == "bleed" else rng.uniform(5, 28))
    depth = radius * rng.uniform(0.1, 0.9) if kind == "extra-axial" else rng.uniform(0, 60)
    push = {"tumour": rng.uniform(0, 0.6), "extra-axial": rng.uniform(0.4, 0.85), "bleed": rng.uniform(0.2, 0.7)}
    direction = rng.standard_normal(3)
    direction /= max(float(np.linalg.norm(direction)), 1e-9)
    x, y, z = direction.tolist()
    tumour = kind in ("tumour", "extra-axial")
    white, fluid = (float(means[INDEX[name]]) for name in ("cerebral_wm", "ventricle"))
    lesion = float(means[INDEX["wm_lesion"]])
    has_core = kind == "tumour" and rng.random() < 0.5
    has_rim = (tumour or kind == "cavity") and rng.random() < 0.4
    return Mass(
        kind=kind,
        direction=(x, y, z),
        depth_mm=float(depth),
        radius_mm=radius,
        roughness=float(rng.uniform(0.05, 0.2) if kind == "extra-axial" else rng.uniform(0.1, 0.4)),
        push=float(push.get(kind, 0.0)),
        fluid=kind == "cavity",
        intensity=_intensity(rng, kind, look, means),
        core=float(rng.uniform(0.3, 0.8)) if has_core else 0.0,
        core_intensity=float(fluid + rng.normal(0, 0.01 if look == "CT" else 0.1)),
        rim_mm=float(rng.uniform(1, 4)) if has_rim else 0.0,
        rim_intensity=float(rng.uniform(0.5, 0.75) if look == "CT" else rng.uniform(0.3, 1.2)),
        oedema_mm=float(rng.uniform(3, 20)) if kind != "cavity" and rng.random() < 0.4 else 0.0,
        oedema_intensity=float(white + (lesion - white) * rng.uniform(0.3, 1.1)),
        texture=float(rng.uniform(0, 0.01 if look == "CT" else 0.06)),
        seed=int(rng.integers(2**31)),
    )


def _intensity(rng: np.random.Generator, kind: str, look: str, means: np.ndarray) -> float:
    """Cavities look like fluid, tumours mostly like grey matter or oedema, anything else like anything."""
    small = 0.01 if look == "CT" else 0.06
    if kind == "cavity":
        return float(means[INDEX["ventricle"]] + small * rng.standard_normal())
    if look == "CT":
        low, high = (0.5, 0.65) if kind == "bleed" else (0.38, 0.56)
        return float(rng.uniform(low, high))
    if kind in ("tumour", "extra-axial") and rng.random() < 0.6:
        like = means[INDEX[str(rng.choice(("cerebral_gm", "wm_lesion", "cerebellar_gm")))]]
        return float(np.clip(like + 0.12 * rng.standard_normal(), 0, 1.2))
    return float(rng.uniform(0, 1.1))
