"""Text for a methods section that names exactly what was run on a scan, and the works to cite for it.

Every sentence depends on a setting, an output or an entry of the provenance; what did not run is not mentioned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neuralprep.registration.affine import LOWEST_GOOD_SCORE
from neuralprep.stages.conform import CT_WINDOW_HU, SPACING_MM
from neuralprep.stages.intensity import NORMAL_LEVEL

if TYPE_CHECKING:
    from neuralprep.pipeline import Result

CITATIONS = {
    "npp": "He X, Wang AQ, Sabuncu MR. Neural Pre-processing: A Learning Framework for End-to-End Brain MRI "
           "Pre-processing. MICCAI 2023, LNCS 14227. doi:10.1007/978-3-031-43993-3_25",
    "mindgrab": "Fani et al. MindGrab for BrainChop. arXiv 2506.11860.",
    "em": "Wells WM, Grimson WEL, Kikinis R, Jolesz FA. Adaptive segmentation of MRI data. IEEE Transactions on "
          "Medical Imaging 15(4):429-442, 1996. doi:10.1109/42.511747",
    "unified": "Ashburner J, Friston KJ. Unified segmentation. NeuroImage 26(3):839-851, 2005. "
               "doi:10.1016/j.neuroimage.2005.02.018",
    "MNI152NLin2009aSym": "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average "
                          "age-appropriate atlases for pediatric studies. NeuroImage 54(1):313-327, 2011. "
                          "doi:10.1016/j.neuroimage.2010.07.033",
}  # fmt: skip


@dataclass(frozen=True)
class Boilerplate:
    """Paragraphs with numbers of references in brackets, and the references in that order."""

    paragraphs: tuple[str, ...]
    references: tuple[str, ...]


@dataclass
class _References:
    """Numbers references in the order of their first use."""

    used: list[str] = field(default_factory=list)

    def __call__(self, *keys: str) -> str:
        self.used += [key for key in keys if key not in self.used]
        return "[" + ", ".join(str(self.used.index(key) + 1) for key in keys) + "]"


def boilerplate(result: Result) -> Boilerplate:
    """Describe a run from its settings, its outputs and its provenance.

    Parameters
    ----------
    result : what the pipeline returned.
    """
    cite = _References()
    parts = [_software(result, cite), _strip(result), _normalise(result, cite), _register(result, cite), _judge(result)]
    return Boilerplate(tuple(part for part in parts if part), tuple(CITATIONS[key] for key in cite.used))


def _software(result: Result, cite: _References) -> str:
    made = result.provenance
    network = f"the network {made['model']!r}" if made.get("model") else "its network"
    if made.get("model") in CITATIONS:
        network += f" {cite(str(made['model']))}"
    checksum = f" (SHA-256 of the weights {made['model_sha256']})" if made.get("model_sha256") else ""
    runtime = f" run with {made['runtime']}" if made.get("runtime") else ""
    # A network that only strips leaves no pose and no lambda behind; the rest follows the paper.
    follows = f", which follows Neural Pre-processing {cite('npp')}, using" if _whole_chain(result) else ", using"
    text = f"The head scan was processed with neuralprep {made.get('neuralprep', '')}".rstrip()
    text += f"{follows} {network}{checksum}{runtime}."
    if made.get("ct_window"):
        low, high = CT_WINDOW_HU
        text += f" It was recognised as a CT and its intensities were limited to {low:g} to {high:g} HU first."
    return text


def _whole_chain(result: Result) -> bool:
    return "lambda" in result.provenance


def _strip(result: Result) -> str:
    outputs, settings = set(result.outputs), result.settings
    if not {"brain_mask", "nocsf_mask", "preproc_brain", "brain_image", "space_preproc_brain"} & outputs:
        return ""
    if settings.mask is not None:
        text = "The brain was extracted with a mask that the user gave."
    elif not _whole_chain(result):
        text = ("The brain was extracted with a mask that the network predicts and that was carried to the grid of the "
                f"scan{_moved(settings.border_mm)}.")
    else:
        text = ("The brain was extracted with signed distances to the inner skull and to the surface of the brain "
                f"tissue, which the network predicts on a {SPACING_MM:g} mm grid and which were interpolated to the "
                "grid of the scan before thresholding; of each mask the largest component was kept. ")
        text += ("Images were stripped at the surface of the brain tissue, without the surrounding fluid"
                 if settings.no_csf else "The brain mask is the inside of the skull with the fluid around the brain")
        text += f"{_moved(settings.border_mm)}."
    if getattr(settings, "keep", None) is not None:
        text += " Voxels of a label that the user gave belong to the masks in any case."
    if "uncertainty" in outputs:
        text += (" The uncertainty of the boundary is the standard deviation of its distance over three looks of the "
                 "network at the head, one of them mirrored.")
    return text


def _moved(border_mm: float) -> str:
    """How far the user moved a boundary, in words."""
    return f", moved {'out' if border_mm > 0 else 'in'}wards by {abs(border_mm):g} mm" if border_mm else ""


def _normalise(result: Result, cite: _References) -> str:
    if not result.settings.normalize or not {"multiplier", "preproc"} & set(result.outputs):
        return ""
    made = result.provenance
    fit: dict[str, Any] = made.get("registration") or {}
    if made.get("ct_window"):
        text = "Intensities were scaled by one factor without a bias field, as CT has none,"
    else:
        text = ("Intensity bias and scale were corrected by a smooth multiplicative field (smoothness weight lambda = "
                f"{result.settings.lam:g}). ")
        if float(fit.get("score", 0.0)) >= LOWEST_GOOD_SCORE:
            text += ("The field predicted by the network was smoothed and refined by expectation maximisation of a "
                     "Gaussian mixture of tissue intensities, with the tissue fractions of the registered "
                     f"{result.settings.space} template as priors {cite('em', 'unified')}. Intensities were then "
                     "scaled")
        else:
            text += ("The field predicted by the network was smoothed; it was not refined with tissue priors, because "
                     "the fit to the template was not close enough for that. Intensities were then scaled")
    return f"{text} to a mean of {NORMAL_LEVEL:g} over brain tissue and ventricles."


def _register(result: Result, cite: _References) -> str:
    outputs, settings = set(result.outputs), result.settings
    if not {"template_from_scan", "space_preproc", "space_preproc_brain", "space_brain_mask"} & outputs:
        return ""
    fit: dict[str, Any] = result.provenance.get("registration") or {}
    start = {"network": ", started from the pose that the network reads off the scan",
             "search": ", found by a search over all rotations because the pose read by the network fitted poorly",
             }.get(str(fit.get("method")), "")  # fmt: skip
    source = f" {cite(settings.space)}" if settings.space in CITATIONS else ""
    text = (f"The brain was registered to the {settings.space} template{source} with an affine of 12 parameters"
            f"{start}; the fit maximises the multiple correlation of the image with the tissue fractions of the "
            "template, which does not depend on the contrast")
    text += f" (correlation {float(fit['score']):.3f})." if "score" in fit else "."
    if {"space_preproc", "space_preproc_brain"} & outputs:
        voxel = settings.resolution or 1.0
        text += f" Images in template space ({voxel:g} mm voxels) were interpolated once, linearly."
    return text


def _judge(result: Result) -> str:
    count, decision = len(result.quality.measures), result.quality.decision
    found = "all were within their accepted ranges" if decision == "ok" else "some were outside and the scan was to be "
    found += "" if decision == "ok" else "checked by eye"
    return f"Quality was judged by {count} automatic measures with fixed ranges; {found}."
