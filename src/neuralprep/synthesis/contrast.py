"""Mean intensities of the classes: physically motivated looks and fully random ones."""

from __future__ import annotations

import numpy as np

from neuralprep.synthesis.classes import CLASSES, EXTRA_CEREBRAL, INDEX

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
    "CT": {
        # After the head window [-100, 200] HU mapped to [0, 1].
        "air": (0.0, 0.005), "cerebral_wm": (0.425, 0.01), "cerebral_gm": (0.46, 0.01), "thalamus": (0.45, 0.01),
        "striatum": (0.45, 0.01), "pallidum": (0.45, 0.02), "hippocampus": (0.45, 0.01),
        "cerebellar_wm": (0.425, 0.01), "cerebellar_gm": (0.455, 0.01), "brainstem": (0.43, 0.01),
        "ventricle": (0.36, 0.01), "csf": (0.375, 0.02), "wm_lesion": (0.40, 0.03), "brain_vessel": (0.5, 0.05),
        "artery": (0.5, 0.05), "vein": (0.52, 0.05), "eye": (0.38, 0.02), "eye_muscle": (0.5, 0.03),
        "optic_nerve": (0.45, 0.02), "mucosa": (0.45, 0.1), "skin": (0.35, 0.15), "cord": (0.43, 0.02),
        "cortical_bone": (1.0, 0.02), "cancellous_bone": (0.9, 0.1),
    },
}

_NEIGHBOURS = (
    ("cortical_bone", "cancellous_bone"), ("csf", "cortical_bone"), ("skin", "soft_tissue"), ("mucosa", "soft_tissue"),
    ("vein", "csf"), ("artery", "csf"), ("eye_muscle", "soft_tissue"), ("air", "cortical_bone"),
)
_BRAIN_LIKE = ("thalamus", "striatum", "hippocampus", "pallidum", "brainstem", "cerebellar_wm", "cerebellar_gm")


def table_size() -> int:
    """Number of entries of an intensity table: the classes, then the soft-tissue regions."""
    return len(CLASSES) + SOFT_BINS


def draw_means(look: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the mean intensity of every class (and soft-tissue region) for a look, or for ``"random"``.

    Returns
    -------
    ndarray
        (:func:`table_size`,) float, within [0, 1.1].
    """
    means = rng.uniform(0, 1, table_size())
    if look == "random":
        _correlate_brain(means, rng)
    else:
        for name, (mean, spread) in LOOKS[look].items():
            means[INDEX[name]] = mean + spread * rng.standard_normal()
        low, high = (0.25, 0.6) if look == "CT" else (0.15, 1.0)
        means[len(CLASSES) :] = rng.uniform(low, high, SOFT_BINS)
    if rng.random() < 0.3:
        means[len(CLASSES) :] = means[len(CLASSES)]
    for first, second in _NEIGHBOURS:
        if look == "random" and rng.random() < 0.15:
            means[INDEX[first]] = means[INDEX[second]]
    means[INDEX["soft_tissue"]] = means[len(CLASSES)]
    if look != "CT":
        means = np.clip(means, 0, None) ** np.exp(0.2 * rng.standard_normal())
    return np.clip(means, 0, 1.1)


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
