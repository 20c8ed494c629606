"""Trust: the Dice a mask would likely have with the truth, predicted from what is known without the truth.

A line in log(1 - Dice), with coefficients fitted on heads whose truth is known and kept beside the weights
(``<model>_quality.json``, written by ``benchmarks/strip_quality.py``). Every weight points the way its feature must:
more disagreement never predicts a better mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_LEAST = 1e-3

FEATURES: dict[str, str] = {
    "agreement": "loss",
    "mirror_agreement": "loss",
    "registration_score": "loss",
    "template_dice": "loss",
    "odd_gradient_share": "amount",
    "dent_share": "amount",
    "second_component_share": "amount",
    "residual_mm": "amount",
    "fov_contact_cm2": "amount",
}
"""Measures a prediction may use: of a "loss" the distance from 1 counts, of an "amount" the value itself."""


def feature(name: str, value: float) -> float:
    """A measure as a prediction uses it: larger is worse, on a logarithmic scale."""
    badness = 1.0 - value if FEATURES[name] == "loss" else value
    return float(np.log10(max(badness, _LEAST)))


def predict_dice(measures: Mapping[str, float], quality: Mapping[str, Any], sha256: str) -> float | None:
    """Predicted Dice of the mask of the inner skull; None where the model was not calibrated or too little is known.

    Parameters
    ----------
    measures
        Of :func:`neuralprep.stages.quality.assess`.
    quality
        Content of the model's calibration file: ``sha256`` of the weights it was fitted for, and ``fits``, each with
        an ``intercept`` and ``features`` (name -> weight, low, high). The first fit whose features are all known is
        used; a feature beyond what the fit has seen counts as the limit it has seen.
    sha256
        Of the weights that made the mask.
    """
    if quality.get("sha256") != sha256:
        return None
    for fit in quality.get("fits", ()):
        terms = fit["features"]
        if all(np.isfinite(measures.get(name, np.nan)) for name in terms):
            total = fit["intercept"] + sum(
                term["weight"] * float(np.clip(feature(name, measures[name]), term["low"], term["high"]))
                for name, term in terms.items()
            )
            return float(np.clip(1.0 - 10.0**total, 0.0, 1.0))
    return None
