"""Anatomical classes of the head model and the table from FreeSurfer-style label numbers to them.

Left and right structures share a class (their contrast is the same); hemispheres stay separable through the
template coordinates that every sample carries. Extra-cerebral numbers follow the whole-head maps distributed
with SynthSeg (Billot et al., Medical Image Analysis 2023).
"""

from __future__ import annotations

from types import MappingProxyType

CLASSES: tuple[str, ...] = (
    "air",
    "cerebral_wm",
    "cerebral_gm",
    "thalamus",
    "striatum",
    "pallidum",
    "hippocampus",
    "cerebellar_wm",
    "cerebellar_gm",
    "brainstem",
    "ventricle",
    "csf",
    "wm_lesion",
    "brain_vessel",
    "artery",
    "vein",
    "eye",
    "eye_muscle",
    "optic_nerve",
    "soft_tissue",
    "mucosa",
    "skin",
    "cord",
    "cortical_bone",
    "cancellous_bone",
    "internal_air",
    "dura",
    "inner_table",
    "fat",
    "lesion",
    "holder",
)
"""Class names; the position is the class index. The last six are never read from a label map: the first four are
told apart when a head is loaded (:func:`neuralprep.synthesis.heads.refined`), the others are painted."""

INDEX = MappingProxyType({name: i for i, name in enumerate(CLASSES)})

_MEMBERS: dict[str, tuple[int, ...]] = {
    "air": (0,),
    "cerebral_wm": (2, 41, 251, 252, 253, 254, 255),
    "cerebral_gm": (3, 42, 136, 137, 163, 164),
    "thalamus": (9, 10, 48, 49),
    "striatum": (11, 12, 26, 50, 51, 58),
    "pallidum": (13, 52),
    "hippocampus": (17, 18, 53, 54),
    "cerebellar_wm": (7, 46),
    "cerebellar_gm": (8, 47),
    "brainstem": (16, 28, 60, 85),
    "ventricle": (4, 5, 14, 15, 43, 44, 72),
    "csf": (24,),
    "wm_lesion": (25, 57, 77),
    "brain_vessel": (30, 62),
    "artery": (502,),
    "vein": (514,),
    "eye": (506,),
    "eye_muscle": (508,),
    "optic_nerve": (530,),
    "soft_tissue": (507,),
    "mucosa": (509,),
    "skin": (511,),
    "cord": (512,),
    "cortical_bone": (515,),
    "cancellous_bone": (516,),
}

FREESURFER: MappingProxyType[int, int] = MappingProxyType(
    {number: INDEX[name] for name, numbers in _MEMBERS.items() for number in numbers}
)
"""FreeSurfer-style label number -> class index."""

WHITE_MATTER: tuple[str, ...] = ("cerebral_wm", "cerebellar_wm", "brainstem", "wm_lesion", "pallidum")
GREY_MATTER: tuple[str, ...] = ("cerebral_gm", "thalamus", "striatum", "hippocampus", "cerebellar_gm", "brain_vessel")
FLUID: tuple[str, ...] = ("ventricle", "csf")
BRAIN_TISSUE: tuple[str, ...] = (*WHITE_MATTER, *GREY_MATTER)
CONTENTS: tuple[str, ...] = (*BRAIN_TISSUE, *FLUID)
"""What lies inside the skull and moves with the brain."""
EXTRA_CEREBRAL: tuple[str, ...] = (
    *CLASSES[CLASSES.index("artery") : CLASSES.index("cancellous_bone") + 1], "dura", "inner_table", "fat",
)
FRACTIONS: tuple[str, ...] = ("GM", "WM", "CSF", "other", "lesion")
"""Order of tissue fractions. White-matter lesions and oedema are white matter, resection cavities fluid; tumours and
bleeds are lesion."""


def indices(names: tuple[str, ...]) -> tuple[int, ...]:
    """Class indices of ``names``, in order."""
    return tuple(INDEX[name] for name in names)
