"""Text for a methods section that names exactly what was run, and the works to cite for it.

Every sentence depends on a setting, an output or an entry of the provenance; what did not run is not mentioned. The
text is of one scan, or of a group of scans for which the same sentences hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuralprep.stages.conform import CT_WINDOW_HU, SPACING_MM
from neuralprep.stages.intensity import NORMAL_LEVEL

if TYPE_CHECKING:
    from neuralprep.pipeline import Result

CITATIONS = {
    "npp": "He X, Wang AQ, Sabuncu MR. Neural Pre-processing: A Learning Framework for End-to-End Brain MRI "
           "Pre-processing. MICCAI 2023, LNCS 14227. doi:10.1007/978-3-031-43993-3_25",
    **dict.fromkeys(("mindgrab", "mindgrab-2mm"), "Fani et al. MindGrab for BrainChop. arXiv 2506.11860."),
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


@dataclass(frozen=True)
class Run:
    """What was done to a scan, or to several in the same way.

    Attributes
    ----------
    settings : mapping
        Fields of `neuralprep.settings.Settings` that are not volumes.
    outputs : frozenset of str
        Outputs that were made.
    provenance : mapping
        As the pipeline gives it.
    mask, keep : bool
        The user gave a mask, or a label to keep.
    native_resolution : bool
        Template images have the voxel size of each scan.
    decisions : mapping
        Decision -> scans with it.
    measures : int
        Number of quality measures of one scan, 0 where they differ.
    """

    settings: Mapping[str, Any]
    outputs: frozenset[str]
    provenance: Mapping[str, Any]
    mask: bool = False
    keep: bool = False
    native_resolution: bool = False
    decisions: Mapping[str, int] = field(default_factory=dict)
    measures: int = 0

    @classmethod
    def of_result(cls, result: Result) -> Run:
        """What the pipeline just did."""
        settings = {name: getattr(result.settings, name) for name in result.settings.__dataclass_fields__}
        given = {name: settings.pop(name, None) is not None for name in ("mask", "keep")}
        return cls(settings, frozenset(result.outputs), result.provenance, **given,
                   decisions={result.quality.decision: 1}, measures=len(result.quality.measures))

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Run:
        """What the quality record of a finished scan tells."""
        settings = dict(record.get("settings") or {})
        return cls(settings, frozenset(record.get("outputs") or ()), record.get("provenance") or {},
                   mask=record.get("mask") is not None, keep=record.get("keep") is not None,
                   native_resolution=bool(settings.pop("native_resolution", False)),
                   decisions={str(record.get("status", "ok")): 1}, measures=len(record.get("measures") or ()))

    @property
    def whole_chain(self) -> bool:
        """A network that only strips leaves no pose and no lambda behind."""
        return "lambda" in self.provenance


@dataclass
class _References:
    """Numbers references in the order of their first use."""

    used: list[str] = field(default_factory=list)

    def __call__(self, *keys: str) -> str:
        self.used += [key for key in keys if key not in self.used]
        return "[" + ", ".join(str(self.used.index(key) + 1) for key in keys) + "]"


def boilerplate(result: Result) -> Boilerplate:
    """Describe what was done to one scan.

    Parameters
    ----------
    result : what the pipeline returned.
    """
    return _text(Run.of_result(result))


def batch_boilerplate(records: Iterable[Mapping[str, Any]]) -> list[tuple[int, Boilerplate]]:
    """Describe what was done to many scans, once for each way it was done.

    Parameters
    ----------
    records : contents of the quality records of finished scans.

    Returns
    -------
    Number of scans and their text, the most frequent way first.
    """
    groups: dict[str, Run] = {}
    for record in records:
        run = _without_scores(Run.of_record(record))
        told = asdict(replace(run, decisions={}, measures=0)) | {"outputs": sorted(run.outputs)}
        key = repr(sorted((name, str(value)) for name, value in told.items()))
        before = groups.get(key)
        if before is not None:
            decisions = Counter(before.decisions) + Counter(run.decisions)
            run = replace(run, decisions=decisions, measures=run.measures if run.measures == before.measures else 0)
        groups[key] = run
    made = [(sum(run.decisions.values()), _text(run)) for run in groups.values()]
    return sorted(made, key=lambda pair: -pair[0])


def _without_scores(run: Run) -> Run:
    """Without the numbers of one scan: what is left is what was done."""
    kept = ("neuralprep", "model", "model_sha256", "close_model_sha256", "runtime", "lambda", "ct_window", "bias")
    made = {key: run.provenance[key] for key in kept if key in run.provenance}
    fit = run.provenance.get("registration") or {}
    if fit.get("method"):
        made["registration"] = {"method": fit["method"]}
    return replace(run, provenance=made)


def _text(run: Run) -> Boilerplate:
    cite = _References()
    parts = [_software(run, cite), _strip(run), _normalise(run, cite), _register(run, cite), _judge(run)]
    return Boilerplate(tuple(part for part in parts if part), tuple(CITATIONS[key] for key in cite.used))


def _software(run: Run, cite: _References) -> str:
    made = run.provenance
    network = f"the network {made['model']!r}" if made.get("model") else "its network"
    if made.get("model") in CITATIONS:
        network += f" {cite(str(made['model']))}"
    checksum = f" (SHA-256 of the weights {made['model_sha256']})" if made.get("model_sha256") else ""
    if checksum and made.get("close_model_sha256"):
        checksum = f"{checksum[:-1]}, of those for the closer look {made['close_model_sha256']})"
    runtime = f" run with {made['runtime']}" if made.get("runtime") else ""
    follows = f", which follows Neural Pre-processing {cite('npp')}, using" if run.whole_chain else ", using"
    text = f"{_subject(run)} processed with neuralprep {made.get('neuralprep', '')}".rstrip()
    text += f"{follows} {network}{checksum}{runtime}."
    if made.get("ct_window"):
        low, high = CT_WINDOW_HU
        text += f" It was recognised as a CT and its intensities were limited to {low:g} to {high:g} HU first."
    return text


def _subject(run: Run) -> str:
    count = sum(run.decisions.values())
    return "The head scan was" if count <= 1 else f"{count} head scans were"


def _strip(run: Run) -> str:
    outputs, settings = run.outputs, run.settings
    if not {"brain_mask", "nocsf_mask", "preproc_brain", "brain_image", "space_preproc_brain"} & outputs:
        return ""
    moved = _moved(float(settings.get("border_mm", 0.0)))
    if run.mask:
        text = "The brain was extracted with a mask that the user gave."
    elif not run.whole_chain:
        text = ("The brain was extracted with a mask that the network predicts and that was carried to the grid of the "
                f"scan{moved}.")
    else:
        text = ("The brain was extracted with signed distances to the inner skull and to the surface of the brain "
                f"tissue, which the network predicts on a {SPACING_MM:g} mm grid and which were interpolated to the "
                "grid of the scan before thresholding; of each mask the largest component was kept. ")
        text += ("Images were stripped at the surface of the brain tissue, without the surrounding fluid"
                 if settings.get("no_csf") else "The brain mask is the inside of the skull with the fluid around the "
                 "brain")  # fmt: skip
        text += f"{moved}."
    if run.keep:
        text += " Voxels of a label that the user gave belong to the masks in any case."
    if "uncertainty" in outputs:
        text += (" The uncertainty of the boundary is the standard deviation of its distance over three looks of the "
                 "network at the head, one of them mirrored.")
    return text


def _moved(border_mm: float) -> str:
    """How far the user moved a boundary, in words."""
    return f", moved {'out' if border_mm > 0 else 'in'}wards by {abs(border_mm):g} mm" if border_mm else ""


def _normalise(run: Run, cite: _References) -> str:
    if not run.settings.get("normalize") or not {"multiplier", "preproc"} & run.outputs:
        return ""
    space = run.settings.get("space")
    if run.provenance.get("ct_window"):
        text = "Intensities were scaled by one factor without a bias field, as CT has none,"
    else:
        text = ("Intensity bias and scale were corrected by a smooth multiplicative field (smoothness weight lambda = "
                f"{run.settings.get('lam', 0.0):g}). ")
        way = str(run.provenance.get("bias") or "")
        if way == "refined":
            text += ("The field predicted by the network was smoothed and refined by expectation maximisation of a "
                     "Gaussian mixture of log intensities, with the places of brain structures in the registered "
                     f"{space} space as priors {cite('em', 'unified')}. ")
        elif way.startswith("smoothed"):
            why = ("too little brain tissue was visible" if way.endswith("little tissue")
                   else "the fit to the template was not close enough for that")
            text += ("The field predicted by the network was smoothed; it was not refined by a mixture model, because "
                     f"{why}. ")
        text += "Intensities were then scaled"
    return f"{text} to a mean of {NORMAL_LEVEL:g} over brain tissue and ventricles."


def _register(run: Run, cite: _References) -> str:
    outputs, settings = run.outputs, run.settings
    if not {"template_from_scan", "space_preproc", "space_preproc_brain", "space_brain_mask"} & outputs:
        return ""
    fit: dict[str, Any] = run.provenance.get("registration") or {}
    start = {"network": ", started from the pose that the network reads off the scan",
             "search": ", found by a search over all rotations because the pose read by the network fitted poorly",
             }.get(str(fit.get("method")), "")  # fmt: skip
    space = str(settings.get("space"))
    source = f" {cite(space)}" if space in CITATIONS else ""
    text = (f"The brain was registered to the {space} template{source} with an affine of 12 parameters"
            f"{start}; the fit maximises the multiple correlation of the image with the tissue fractions of the "
            "template, which does not depend on the contrast")
    text += f" (correlation {float(fit['score']):.3f})." if "score" in fit else "."
    if {"space_preproc", "space_preproc_brain"} & outputs:
        sizes = ["native" if run.native_resolution else settings.get("resolution") or 1.0,
                 *settings.get("more_resolutions", ())]
        voxel = " and ".join("voxels as fine as those of the scan" if size == "native" else f"{size:g} mm voxels"
                             for size in sizes)
        text += f" Images in template space ({voxel}) were interpolated once, linearly."
    return text


def _judge(run: Run) -> str:
    number = f"{run.measures} " if run.measures else ""
    text = f"Quality was judged by {number}automatic measures with fixed ranges; "
    count, fine = sum(run.decisions.values()), run.decisions.get("ok", 0)
    if fine == count:
        return f"{text}all were within their accepted ranges."
    if count == 1:
        return f"{text}some were outside and the scan was to be checked by eye."
    return f"{text}in {count - fine} of the {count} scans some were outside, and these were to be checked by eye."
