"""Which stacks are anatomy, and why the others are not.

The words returned say what a series is in terms of this list, never in the words of its own description: people's
names stand there more often than one would like. Image types: DICOM PS3.3, C.7.6.1.1.2 and C.8.3.1.1.1.
"""

from __future__ import annotations

import re

from neuralprep.dicom.stacks import Stack
from neuralprep.headers import MAX_VOXELS, MIN_VOXELS

_MODALITIES = ("MR", "CT")
_IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT", "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR", "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR",
}  # fmt: skip
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_PHASE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "PHASE DIFFERENCE", "VELOCITY MAP"}
_LOCALISER = {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM"}
_DIFFUSION = {"DIFFUSION", "ADC", "TRACEW", "FA", "DWI", "DIFFUSION_ANISO", "TENSOR", "EADC"}
_PERFUSION = {"PERFUSION", "ASL", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "SUBTRACTION", "GBP", "PBP"}
_FUNCTIONAL = {"FMRI", "MOSAIC", "BOLD"}
_MADE = {"MIP", "MINIP", "MPR", "PROJECTION IMAGE", "MAX_IP", "MIN_IP", "CSA RESAMPLED", "CSAPARALLEL", "REFORMATTED",
         "VOLREND", "SURFACE", "SCREEN SAVE", "CALIBRATION"}  # fmt: skip
#: in the words of description, protocol and sequence
_SAID = (
    (r"\b(locali[sz]er|scout|survey|topogram|3.?plane|aascout|aahead_scout|loc)\b", "a localiser"),
    (r"\b(dwi|dti|diff|diffusion|adc|tracew?|dki|hardi|noddi|ep_b\d*|b\d{3,4})\b", "diffusion"),
    (r"\b(perf|perfusion|pwi|asl|pasl|pcasl|dsc|ctp)\b", "perfusion"),
    (r"\b(bold|fmri|func|functional|resting.?state|rsfmri|rest|sbref)\b", "functional"),
    (r"\b(field.?map\w*|fmap|b0.?map\w*|b1.?map\w*|gre_field_mapping|topup)\b", "a field map"),
    (r"\b(phase.?contrast|venc\w*)\b", "a flow image"),
)
_NOT_HEAD = {"CHEST", "ABDOMEN", "PELVIS", "KNEE", "HIP", "SHOULDER", "LSPINE", "TSPINE", "HEART", "LIVER", "BREAST",
             "FOOT", "ANKLE", "HAND", "WRIST", "ELBOW", "EXTREMITY", "PROSTATE", "LEG", "ARM", "KIDNEY", "THORAX",
             "CARDIAC", "UTERUS", "BLADDER", "THIGH"}  # fmt: skip


def why_not(stack: Stack) -> str:
    """Why a stack is no anatomical volume of a head that can be processed; "" if it is one."""
    return stack.fault or _by_class(stack) or _by_kind(stack) or _by_words(stack) or _by_slices(stack)


def is_derived(stack: Stack) -> bool:
    """Whether it was computed from other images; used only where nothing original is there."""
    return "DERIVED" in stack.kind


def _by_class(stack: Stack) -> str:
    first = stack.first
    if first.sop_class.startswith(_SECONDARY_CAPTURE):
        return "a secondary capture (a picture of a screen)"
    if first.modality not in _MODALITIES:
        return "neither MR nor CT"
    if first.sop_class not in _IMAGE_CLASSES:
        return "not of an image class that is read (MR and CT images, classic and enhanced)"
    if first.samples != 1:
        return "in colour"
    if first.body_part in _NOT_HEAD:
        return f"of another part of the body ({first.body_part.lower()})"
    return ""


def _by_kind(stack: Stack) -> str:
    kind = stack.kind
    later = set(kind[2:])
    if set(kind) & _LOCALISER:
        return "a localiser"
    if later & _DIFFUSION or any(part.frame.b_value for part in stack.slices):
        return "diffusion"
    if later & _PERFUSION:
        return "perfusion"
    if later & _FUNCTIONAL:
        return "functional"
    if later & _PHASE:
        return "a phase, real or imaginary image"
    if "SECONDARY" in kind[:2] or ("DERIVED" in kind and later & _MADE):
        return "derived from other images (a projection, a reformat or a map)"
    return ""


def _by_words(stack: Stack) -> str:
    words = re.sub(r"[_\-+*./]+", " ", stack.first.words)
    for pattern, what in _SAID:
        if re.search(pattern, words) or re.search(pattern, stack.first.words):
            return what
    if "EP" in stack.first.sequence:
        return "echo planar (functional, diffusion or perfusion)"
    return ""


def _by_slices(stack: Stack) -> str:
    volumes = stack.volumes
    if volumes > 1:
        return f"a series of {volumes} volumes at the same place, not one volume"
    count = len(stack.slices)
    if count < MIN_VOXELS:
        split = f" in this direction and contrast ({stack.others} other groups in the series)" if stack.others else ""
        return f"only {count} {'slice' if count == 1 else 'slices'}{split}; at least {MIN_VOXELS} are needed"
    rows, columns = stack.first.shape
    if count * rows * columns > MAX_VOXELS:
        return f"more than {MAX_VOXELS:.0e} voxels; resample it, or check whether its tags are damaged"
    return ""
