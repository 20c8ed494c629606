"""Mean intensities of the classes: physically motivated looks and fully random ones."""

from __future__ import annotations

import numpy as np

from neuralprep.synthesis.classes import CLASSES, EXTRA_CEREBRAL, INDEX, indices

HU_LOW, HU_HIGH = -100.0, 200.0
"""Display window of a head CT; intensity 0 and 1 of a CT in the head model."""

SOFT_BINS = 4
"""The soft-tissue class is split into this many smooth regions (fat, muscle, gland ... have no own label)."""

LOOKS: dict[str, dict[str, tuple[float, float]]] = {
    # (mean, spread) of the intensity relative to the brightest common tissue; values are typical ratios of
    # clinical protocols at 1.5-3 T. Classes that are not listed are drawn at random.
    "T1w": {
        "air": (0.02, 0.02), "cerebral_wm": (0.80, 0.07), "cerebral_gm": (0.58, 0.07), "thalamus": (0.68, 0.06),
        "striatum": (0.63, 0.06), "pallidum": (0.75, 0.06), "hippocampus": (0.58, 0.06),
        "cerebellar_wm": (0.78, 0.07), "cerebellar_gm": (0.57, 0.07), "brainstem": (0.74, 0.07),
        "ventricle": (0.18, 0.07), "csf": (0.22, 0.08), "wm_lesion": (0.55, 0.1), "brain_vessel": (0.4, 0.2),
        "artery": (0.6, 0.3), "vein": (0.4, 0.25), "eye": (0.22, 0.08), "eye_muscle": (0.55, 0.1),
        "optic_nerve": (0.6, 0.1), "mucosa": (0.55, 0.15), "skin": (0.75, 0.2), "cord": (0.7, 0.1),
        "cortical_bone": (0.10, 0.07), "cancellous_bone": (0.6, 0.22),
    },
    "T2w": {
        "air": (0.02, 0.02), "cerebral_wm": (0.30, 0.06), "cerebral_gm": (0.42, 0.06), "thalamus": (0.36, 0.05),
        "striatum": (0.36, 0.05), "pallidum": (0.25, 0.05), "hippocampus": (0.44, 0.05),
        "cerebellar_wm": (0.32, 0.06), "cerebellar_gm": (0.42, 0.06), "brainstem": (0.33, 0.05),
        "ventricle": (0.92, 0.08), "csf": (0.85, 0.12), "wm_lesion": (0.65, 0.12), "brain_vessel": (0.3, 0.2),
        "artery": (0.15, 0.12), "vein": (0.25, 0.15), "eye": (0.9, 0.1), "eye_muscle": (0.3, 0.08),
        "optic_nerve": (0.35, 0.08), "mucosa": (0.65, 0.15), "skin": (0.4, 0.18), "cord": (0.35, 0.08),
        "cortical_bone": (0.06, 0.05), "cancellous_bone": (0.35, 0.15),
    },
    "FLAIR": {
        "air": (0.03, 0.02), "cerebral_wm": (0.48, 0.06), "cerebral_gm": (0.62, 0.07), "thalamus": (0.55, 0.06),
        "striatum": (0.57, 0.06), "pallidum": (0.45, 0.06), "hippocampus": (0.64, 0.06),
        "cerebellar_wm": (0.48, 0.06), "cerebellar_gm": (0.58, 0.07), "brainstem": (0.5, 0.06),
        "ventricle": (0.10, 0.05), "csf": (0.14, 0.07), "wm_lesion": (0.9, 0.1), "brain_vessel": (0.4, 0.2),
        "artery": (0.2, 0.15), "vein": (0.3, 0.2), "eye": (0.12, 0.06), "eye_muscle": (0.45, 0.1),
        "optic_nerve": (0.5, 0.1), "mucosa": (0.7, 0.15), "skin": (0.6, 0.2), "cord": (0.5, 0.1),
        "cortical_bone": (0.08, 0.06), "cancellous_bone": (0.4, 0.18),
    },
    "PDw": {
        "air": (0.03, 0.02), "cerebral_wm": (0.62, 0.06), "cerebral_gm": (0.76, 0.06), "thalamus": (0.7, 0.05),
        "striatum": (0.72, 0.05), "pallidum": (0.62, 0.05), "hippocampus": (0.76, 0.05),
        "cerebellar_wm": (0.64, 0.06), "cerebellar_gm": (0.75, 0.06), "brainstem": (0.66, 0.05),
        "ventricle": (0.8, 0.12), "csf": (0.78, 0.14), "wm_lesion": (0.85, 0.08), "brain_vessel": (0.5, 0.2),
        "artery": (0.4, 0.25), "vein": (0.5, 0.25), "eye": (0.8, 0.12), "eye_muscle": (0.6, 0.1),
        "optic_nerve": (0.6, 0.1), "mucosa": (0.75, 0.12), "skin": (0.7, 0.18), "cord": (0.65, 0.08),
        "cortical_bone": (0.12, 0.08), "cancellous_bone": (0.6, 0.18),
    },
    "EPI": {
        # T2*-weighted, fat suppressed.
        "air": (0.03, 0.02), "cerebral_wm": (0.42, 0.06), "cerebral_gm": (0.55, 0.06), "thalamus": (0.48, 0.05),
        "striatum": (0.48, 0.05), "pallidum": (0.3, 0.08), "hippocampus": (0.55, 0.06),
        "cerebellar_wm": (0.44, 0.06), "cerebellar_gm": (0.54, 0.06), "brainstem": (0.45, 0.06),
        "ventricle": (0.9, 0.1), "csf": (0.8, 0.15), "wm_lesion": (0.7, 0.1), "brain_vessel": (0.3, 0.2),
        "artery": (0.3, 0.2), "vein": (0.2, 0.12), "eye": (0.9, 0.12), "eye_muscle": (0.3, 0.1),
        "optic_nerve": (0.35, 0.1), "mucosa": (0.4, 0.2), "skin": (0.15, 0.1), "cord": (0.4, 0.1),
        "cortical_bone": (0.03, 0.03), "cancellous_bone": (0.1, 0.08), "fat": (0.12, 0.1), "dura": (0.1, 0.08),
    },
    "PET": {
        # Uptake of a glucose tracer.
        "air": (0.01, 0.01), "cerebral_wm": (0.38, 0.08), "cerebral_gm": (0.95, 0.08), "thalamus": (0.9, 0.1),
        "striatum": (0.95, 0.1), "pallidum": (0.6, 0.1), "hippocampus": (0.7, 0.1),
        "cerebellar_wm": (0.4, 0.08), "cerebellar_gm": (0.8, 0.1), "brainstem": (0.5, 0.08),
        "ventricle": (0.12, 0.06), "csf": (0.12, 0.06), "wm_lesion": (0.3, 0.1), "brain_vessel": (0.3, 0.1),
        "artery": (0.25, 0.1), "vein": (0.25, 0.1), "eye": (0.1, 0.05), "eye_muscle": (0.5, 0.2),
        "optic_nerve": (0.3, 0.1), "mucosa": (0.35, 0.15), "skin": (0.15, 0.08), "cord": (0.35, 0.1),
        "cortical_bone": (0.1, 0.05), "cancellous_bone": (0.15, 0.08), "fat": (0.08, 0.05), "dura": (0.2, 0.08),
    },
}
_REST: dict[str, dict[str, tuple[float, float]]] = {
    "T1w": {"fat": (0.88, 0.12), "dura": (0.4, 0.2)},
    "T2w": {"fat": (0.6, 0.2), "dura": (0.15, 0.1)},
    "FLAIR": {"fat": (0.6, 0.2), "dura": (0.35, 0.15)},
    "PDw": {"fat": (0.7, 0.15), "dura": (0.35, 0.15)},
}
for _look, _values in _REST.items():
    LOOKS[_look] |= _values
LOOKS["MP2RAGE"] = LOOKS["T1w"] | {"fat": (0.9, 0.06), "vein": (0.35, 0.1), "artery": (0.7, 0.2)}

HOUNSFIELD: dict[str, tuple[float, float]] = {
    # (mean, spread) in Hounsfield units
    "air": (-1000, 5), "cerebral_wm": (28, 2), "cerebral_gm": (37, 2), "thalamus": (35, 2), "striatum": (35, 2),
    "pallidum": (37, 5), "hippocampus": (36, 2), "cerebellar_wm": (29, 2), "cerebellar_gm": (37, 2),
    "brainstem": (30, 3), "ventricle": (6, 3), "csf": (10, 5), "wm_lesion": (20, 5), "brain_vessel": (45, 10),
    "artery": (45, 12), "vein": (55, 10), "eye": (12, 6), "eye_muscle": (55, 8), "optic_nerve": (35, 6),
    "mucosa": (45, 15), "skin": (35, 20), "cord": (35, 5), "cortical_bone": (1200, 200),
    "cancellous_bone": (450, 120), "internal_air": (-980, 15), "dura": (60, 12), "fat": (-95, 12),
}
LOOKS["CT"] = {
    name: ((mean - HU_LOW) / (HU_HIGH - HU_LOW), spread / (HU_HIGH - HU_LOW))
    for name, (mean, spread) in HOUNSFIELD.items()
}
_CT_SOFT = (0.4, 0.58)  # muscle and glands, 20 to 75 HU

_NEIGHBOURS = (
    ("cortical_bone", "cancellous_bone"), ("csf", "cortical_bone"), ("csf", "cerebral_gm"), ("skin", "soft_tissue"),
    ("skin", "fat"), ("mucosa", "soft_tissue"), ("vein", "csf"), ("artery", "csf"), ("eye_muscle", "soft_tissue"),
    ("air", "cortical_bone"), ("internal_air", "cortical_bone"),
)
_BRAIN_LIKE = ("thalamus", "striatum", "hippocampus", "pallidum", "brainstem", "cerebellar_wm", "cerebellar_gm")
_VESSELS = ("artery", "vein", "brain_vessel")


def table_size() -> int:
    """Number of entries of an intensity table: the classes, then the soft-tissue regions."""
    return len(CLASSES) + SOFT_BINS


def draw_means(look: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the mean intensity of every class (and soft-tissue region) for a look, or for ``"random"``.

    Returns
    -------
    ndarray
        (:func:`table_size`,) float, within [0, 1.1]; for a CT beyond it, as 0 and 1 are HU_LOW and HU_HIGH.
    """
    means = rng.uniform(0, 1, table_size())
    if look == "random":
        _correlate_brain(means, rng)
    else:
        for name, (mean, spread) in LOOKS[look].items():
            means[INDEX[name]] = mean + spread * rng.standard_normal()
        low, high = _CT_SOFT if look == "CT" else (0.15, 1.0)
        means[len(CLASSES) :] = rng.uniform(low, high, SOFT_BINS)
    if look != "CT" and (look != "random" or rng.random() < 0.85):
        means[INDEX["internal_air"]] = means[INDEX["air"]]
    if rng.random() < 0.1:  # a contrast agent or inflow
        bright = (0.85, 1.3) if look == "CT" else (0.9, 1.1)
        means[list(indices(_VESSELS))] = rng.uniform(*bright, len(_VESSELS))
    if rng.random() < 0.3:
        means[len(CLASSES) :] = means[len(CLASSES)]
    means[INDEX["soft_tissue"]] = means[len(CLASSES)]
    if look == "CT":
        return means
    return np.clip(np.clip(means, 0, None) ** np.exp(0.2 * rng.standard_normal()), 0, 1.1)


def draw_merges(rng: np.random.Generator, chance: float) -> tuple[tuple[str, str], ...]:
    """Draw pairs of neighbouring classes that share an intensity, each with probability ``chance``."""
    return tuple(pair for pair in _NEIGHBOURS if rng.random() < chance)


def _correlate_brain(means: np.ndarray, rng: np.random.Generator) -> None:
    """Make a random look a possible one: deep grey matter lies between grey and white, air is usually dark."""
    white, grey = means[INDEX["cerebral_wm"]], means[INDEX["cerebral_gm"]]
    if abs(white - grey) < 0.05:
        grey = means[INDEX["cerebral_gm"]] = np.clip(white + rng.choice([-1, 1]) * rng.uniform(0.05, 0.3), 0, 1)
    for name in _BRAIN_LIKE:
        means[INDEX[name]] = white + (grey - white) * rng.uniform(-0.2, 1.2)
    means[INDEX["csf"]] = means[INDEX["ventricle"]] + rng.normal(0, 0.08)
    if rng.random() < 0.7:
        means[INDEX["air"]] = rng.uniform(0, 0.12)
    if rng.random() < 0.4:
        means[INDEX["cortical_bone"]] = rng.uniform(0, 0.15)


def merged_extra_cerebral(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give all extra-cerebral classes one intensity: the crudest head a network may meet."""
    out = means.copy()
    value = rng.uniform(0.1, 1)
    for name in EXTRA_CEREBRAL:
        out[INDEX[name]] = value
    out[len(CLASSES) :] = value
    return out


def with_bright_fat(means: np.ndarray, factor: float, marrow: float, soft: np.ndarray) -> np.ndarray:
    """Make what holds fat brighter, as short echo times and receive coils on the scalp do.

    Spin-echo T1w heads show fat at 2.5 times the white matter.

    Parameters
    ----------
    means
        Intensity table.
    factor
        Of skin and subcutaneous fat.
    marrow, soft
        How much of it the marrow of the skull gets, and each of the SOFT_BINS soft-tissue regions: 0 (nothing) to 1.
    """
    out = means.copy()
    for name in ("skin", "fat"):
        out[INDEX[name]] *= factor
    out[INDEX["cancellous_bone"]] *= 1 + (factor - 1) * marrow
    out[len(CLASSES) :] *= 1 + (factor - 1) * soft
    out[INDEX["soft_tissue"]] = out[len(CLASSES)]
    return out
