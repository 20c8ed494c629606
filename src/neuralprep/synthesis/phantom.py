"""An analytic head of nested ellipsoids: trains a smoke test and runs unit tests where no label map is at hand."""

from __future__ import annotations

import numpy as np

from neuralprep.distance import signed_distance
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, Head, brain_masks
from neuralprep.synthesis.classes import INDEX

# (class, centre in mm, semi-axes in mm), painted in this order; roughly MNI positions of an adult head.
_PARTS: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float]], ...] = (
    ("skin", (0, -12, -4), (84, 108, 100)),
    ("soft_tissue", (0, -12, -4), (80, 104, 96)),
    ("soft_tissue", (0, -28, -90), (46, 50, 60)),
    ("cord", (0, -28, -100), (6, 6, 60)),
    ("air", (0, 66, -56), (14, 16, 12)),
    ("cortical_bone", (0, -16, 6), (76, 97, 84)),
    ("cancellous_bone", (0, -16, 6), (74, 95, 82)),
    ("cortical_bone", (0, -16, 6), (72, 93, 80)),
    ("csf", (0, -16, 6), (69, 90, 76)),
    ("cerebral_gm", (0, -16, 10), (66, 86, 66)),
    ("cerebral_wm", (0, -16, 12), (58, 78, 56)),
    ("cerebellar_gm", (0, -62, -36), (46, 30, 24)),
    ("cerebellar_wm", (0, -60, -34), (30, 16, 12)),
    ("brainstem", (0, -28, -36), (13, 13, 34)),
    ("striatum", (22, 6, 6), (8, 16, 12)),
    ("striatum", (-22, 6, 6), (8, 16, 12)),
    ("thalamus", (11, -18, 8), (8, 13, 9)),
    ("thalamus", (-11, -18, 8), (8, 13, 9)),
    ("ventricle", (11, -8, 20), (6, 32, 9)),
    ("ventricle", (-11, -8, 20), (6, 32, 9)),
    ("eye", (32, 72, -36), (12, 12, 12)),
    ("eye", (-32, 72, -36), (12, 12, 12)),
)


def phantom_head(name: str = "phantom", size: float = 1.0, spacing_mm: float = 2.0) -> Head:
    """Build the phantom, ``size`` times an adult head, with its distances; its world is the template's."""
    half = np.ceil(np.array([92, 122, 156]) * size / spacing_mm).astype(int)
    axes = [spacing_mm * np.arange(-n, n + 1) for n in half]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    labels = np.zeros(tuple(2 * half + 1), np.uint8)
    for part, center, radii in _PARTS:
        a, b, c = (size * r for r in radii)
        cx, cy, cz = (size * v for v in center)
        inside = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2 <= 1
        if part in ("eye", "skin") or (labels[inside] > 0).any():
            labels[inside] = INDEX[part]
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * half
    labels = np.pad(labels, 1)
    affine[:3, 3] -= spacing_mm
    distances = np.stack([signed_distance(mask, (spacing_mm,) * 3) for mask in brain_masks(labels)])
    quantised = np.clip(np.rint(distances / DISTANCE_STEP_MM), -127, 127).astype(np.int8)
    return Head(name, labels, affine, quantised, affine, np.eye(4))
