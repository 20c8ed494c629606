"""The one table of output names: writing, resuming, reports and tests all read it.

A scan called ``sub-01_ses-2_T1w`` splits into a *prefix* (``sub-01_ses-2``) and a *suffix* (``T1w``).  The
suffix is the last ``_`` token of the name when that is a BIDS image suffix, in any case (``T1W`` becomes
``T1w``); a name without one keeps its whole self as prefix and gets the suffix ``image``.  Every file of the
scan starts with the prefix, so BIDS inputs keep all their entities.

A scan of a BIDS data set shares its folder (``sub-01/anat``) with scans of other contrasts.  There the names say
more: files without the suffix of the image carry it in ``desc-`` unless it is T1w (``desc-brain_mask`` of the T1w,
``desc-brainT2w_mask`` of the T2w), transforms say ``from-T2w``, and the record, page and pictures start with the whole
name of the scan.

A *visit* (`neuralprep.bids.visits`) is named like a scan: ``sub-01_ses-2_contrasts`` for the contrasts of a session,
``sub-01_longitudinal`` for the sessions of a person. What is made of it has ``desc-coreg`` in its name (`VISIT_TABLE`).

Names follow BIDS-Derivatives 1.11 [1]_; ``_xfm`` and ``_distance`` are not in the standard yet.

References
----------
.. [1] BIDS 1.11, "Derivatives from BIDS raw": https://bids-specification.readthedocs.io
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["mask", "map", "image", "xfm"]
Step = Literal["strip", "normalize", "register"]

#: BIDS suffixes of anatomical images, as they are spelled
ANATOMICAL_SUFFIXES = (
    "T1w", "T2w", "T2star", "T2starw", "T1rho", "FLAIR", "FLASH", "PDw", "PDT2", "PD", "MTw", "UNIT1", "MP2RAGE", "MPM",
    "MEGRE", "MESE", "VFA", "IRT1", "T1map", "T2map", "PDmap", "R1map", "inplaneT1", "inplaneT2", "angio",
    "T2starmap", "R2map", "R2starmap", "PDT2map", "MTRmap", "MTsat", "MTR", "MTS", "MWFmap", "M0map", "S0map", "Chimap",
    "pet", "ct", "image",
)  # fmt: skip
#: BIDS suffixes of files that are no anatomical image; a folder walk leaves them out
OTHER_SUFFIXES = (
    "bold", "cbv", "sbref", "dwi", "asl", "m0scan", "epi", "fieldmap", "phasediff", "phase", "phase1", "phase2",
    "magnitude", "magnitude1", "magnitude2", "TB1map", "TB1TFL", "RB1map", "mask", "dseg", "probseg", "xfm",
    "defacemask", "boldref", "dwiref", "perf", "distance", "map",
)  # fmt: skip
#: what a visit is called, in the place of a suffix
VISITS = ("contrasts", "longitudinal")
_SPELLING = {suffix.lower(): suffix for suffix in ANATOMICAL_SUFFIXES}
_DEFAULT_SUFFIX = "image"
#: the contrast whose masks are called plainly ``desc-brain_mask`` in a shared folder, as other programs expect
_UNMARKED = "T1w"
#: the one entity of a scan that stands behind the space in the order of BIDS
_CHUNK_AND_SPACE = re.compile(r"(_chunk-[^_]+)(_space-[^_]+)")

XFM_FORMATS = ("txt", "mat", "fsl.mat", "lta")
QUALITY = "quality.json"
REPORT = "report.html"
OVERVIEW = "overview.png"
VIEWER = "viewer.html"
_UNITS = "arbitrary (with normalisation the mean of brain tissue is 110)"


@dataclass(frozen=True)
class Derivative:
    """One row of the table.

    Parameters
    ----------
    output : str
        Key in ``Result.outputs`` and value of ``--outputs``.
    pattern : str
        File name without extension; fields ``prefix``, ``suffix``, ``mark`` (the suffix where names need it),
        ``space``.
    kind : {"mask", "map", "image", "xfm"}
        What it is: decides data type and sidecar.
    in_template : bool
        Lies on the template grid (True) or on the grid of the scan (False).
    needs : tuple of str
        Steps that must be switched on.
    description : str
        One sentence for the sidecar and for ``--help``.
    stripped : bool
        Image without skull.
    units : str
        Units of the values, if they have any.
    """

    output: str
    pattern: str
    kind: Kind
    in_template: bool
    needs: tuple[Step, ...]
    description: str
    stripped: bool = False
    units: str = ""

    @property
    def dtype(self) -> str:
        """NumPy name of the type on disk."""
        return "uint8" if self.kind == "mask" else "float32"


TABLE: tuple[Derivative, ...] = (
    Derivative("brain_mask", "{prefix}_desc-brain{mark}_mask", "mask", False, ("strip",),
               "Inside of the skull: brain and the cerebrospinal fluid around it."),
    Derivative("nocsf_mask", "{prefix}_desc-nocsf{mark}_mask", "mask", False, ("strip",),
               "Brain tissue and ventricles, without the cerebrospinal fluid around the brain."),
    Derivative("brain_distance", "{prefix}_desc-brain{mark}_distance", "map", False, ("strip",),
               "Signed distance to the surface of the brain mask, negative inside.", units="mm"),
    Derivative("multiplier", "{prefix}_desc-multiplier{mark}_map", "map", False, ("normalize",),
               "Multiplier field: smooth gain (bias correction and scale) in the brain mask; times the scan: brain."),
    Derivative("preproc", "{prefix}_desc-preproc_{suffix}", "image", False, ("normalize",),
               "Scan, bias corrected and intensity normalised, with skull.", units=_UNITS),
    Derivative("preproc_brain", "{prefix}_desc-preprocbrain_{suffix}", "image", False, ("strip",),
               "Preprocessed scan without skull.", stripped=True, units=_UNITS),
    Derivative("space_preproc", "{prefix}_space-{space}_desc-preproc_{suffix}", "image", True, ("register",),
               "Preprocessed scan with skull in template space, interpolated once.", units=_UNITS),
    Derivative("space_preproc_brain", "{prefix}_space-{space}_desc-preprocbrain_{suffix}", "image", True,
               ("strip", "register"),
               "Preprocessed scan without skull in template space, interpolated once.", stripped=True,
               units=_UNITS),
    Derivative("space_brain_mask", "{prefix}_space-{space}_desc-brain{mark}_mask", "mask", True, ("strip", "register"),
               "Brain mask in template space."),
    Derivative("template_from_scan", "{prefix}_from-{source}_to-{target}_mode-image_xfm", "xfm", True, ("register",),
               "Affine between scan and template, both directions, in four formats."),
)  # fmt: skip
ON_REQUEST: tuple[Derivative, ...] = (
    Derivative("brain_image", "{prefix}_desc-brain_{suffix}", "image", False, ("strip",),
               "Scan without skull, its values and its data type as they were.", stripped=True),
    Derivative("nocsf_distance", "{prefix}_desc-nocsf{mark}_distance", "map", False, ("strip",),
               "Signed distance to the surface of brain tissue and ventricles, negative inside.", units="mm"),
    Derivative("uncertainty", "{prefix}_desc-uncertainty{mark}_map", "map", False, ("strip",),
               "Spread of the surface of the brain mask: standard deviation over three looks at the head.",
               units="mm"),
)  # fmt: skip
"""Rows that are written only where they are named."""
_COREG = "Scan as it was measured, in the space that the images of the visit share, interpolated once"
VISIT_TABLE: dict[str, Derivative] = {row.output: row for row in (
    Derivative("coreg", "{prefix}_space-{space}_desc-coreg_{suffix}", "image", True, ("register",), f"{_COREG}."),
    Derivative("coreg_brain", "{prefix}_space-{space}_desc-coregbrain_{suffix}", "image", True, ("strip", "register"),
               f"{_COREG}; without skull.", stripped=True),
    Derivative("coreg_mask", "{prefix}_space-{space}_desc-coregbrain_mask", "mask", True, ("strip", "register"),
               "Brain mask that all images of the visit share."),
    Derivative("coreg_native_mask", "{prefix}_desc-coregbrain{mark}_mask", "mask", False, ("strip", "register"),
               "Brain mask that all images of the visit share, on the grid of this scan."),
    Derivative("coreg_xfm", "{prefix}_from-{source}_to-{target}_mode-image_desc-coreg_xfm", "xfm", True, ("register",),
               "Affine between scan and shared space, both directions, in four formats."),
    Derivative("mean", "{prefix}_space-{space}_desc-mean_{suffix}", "image", True, ("register",),
               "Mean of the scans of all visits, bias corrected and intensity normalised, in their middle.",
               units=_UNITS),
    Derivative("mean_brain", "{prefix}_space-{space}_desc-meanbrain_{suffix}", "image", True, ("strip", "register"),
               "Mean of the scans of all visits without skull.", stripped=True, units=_UNITS),
)}  # fmt: skip
"""Rows of what is made of several scans of a participant together."""
BY_OUTPUT: dict[str, Derivative] = {row.output: row for row in (*TABLE, *ON_REQUEST)}


@dataclass(frozen=True)
class ScanName:
    """Prefix and suffix that all file names of one scan are made of.

    Attributes
    ----------
    prefix, suffix : str
    shared : bool
        The folder holds other scans too, so that names must tell them apart.
    """

    prefix: str
    suffix: str
    shared: bool = field(default=False, repr=False)

    @classmethod
    def of(cls, name: str, *, shared: bool = False) -> ScanName:
        """Split the name of a scan (its stem): see the module's docstring.

        Parameters
        ----------
        name : str
            Stem of the scan, e.g. ``"sub-01_T1w"``; also the name of its folder unless that is shared.
        shared : bool
            The folder holds other scans too.

        Examples
        --------
        >>> ScanName.of("sub-01_run-2_T1w")
        ScanName(prefix='sub-01_run-2', suffix='T1w')
        >>> ScanName.of("patient_FLAIR")
        ScanName(prefix='patient', suffix='FLAIR')
        >>> ScanName.of("head")
        ScanName(prefix='head', suffix='image')
        """
        head, _, last = name.rpartition("_")
        if head and last.lower() in _SPELLING:
            return cls(head, _SPELLING[last.lower()], shared)
        if head and shared and last in VISITS:
            return cls(head, last, shared)
        return cls(name, _DEFAULT_SUFFIX, shared)

    def file(self, ending: str) -> str:
        """Name of a file that has no entities, e.g. ``file(QUALITY)``."""
        return f"{self.prefix}_{self.suffix}_{ending}" if self.shared else f"{self.prefix}_{ending}"

    @property
    def native(self) -> str:
        """The scan's own space, in names of transforms."""
        return self.suffix if self.shared else "native"

    def native_beside(self, space: str) -> str:
        """The scan's own space, in names of transforms to another one that may be called like it."""
        return self.native if self.native != space else "orig"

    def stem(self, row: Derivative, space: str, *, inverse: bool = False) -> str:
        """File name of one output, without extension.

        Parameters
        ----------
        row : Derivative
            Row of the table.
        space : str
            Name of the template space.
        inverse : bool
            For transforms: the direction template -> native.
        """
        native = self.native_beside(space)
        source, target = (space, native) if inverse else (native, space)
        mark = self.suffix if self.shared and self.suffix != _UNMARKED else ""
        stem = row.pattern.format(
            prefix=self.prefix, suffix=self.suffix, mark=mark, space=space, source=source, target=target
        )
        return _CHUNK_AND_SPACE.sub(r"\2\1", stem) if self.shared else stem


def with_resolution(space: str, resolution: float | str) -> str:
    """Template space and voxel size as names say them where a scan has images of several voxel sizes.

    Examples
    --------
    >>> with_resolution("MNI152NLin2009aSym", 1.5)
    'MNI152NLin2009aSym_res-1p5'
    """
    label = resolution if isinstance(resolution, str) else f"{resolution:g}".replace(".", "p")
    return f"{space}_res-{label}"


def output_files(name: str | ScanName, output: str, space: str) -> tuple[str, ...]:
    """All file names that one output leaves behind, sidecars included.

    Parameters
    ----------
    name : str or ScanName
        Name of the scan.
    output : str
        Key of the table.
    space : str
        Name of the template space.
    """
    row, scan = BY_OUTPUT[output], ScanName.of(name) if isinstance(name, str) else name
    if row.kind != "xfm":
        stem = scan.stem(row, space)
        return (f"{stem}.nii.gz", f"{stem}.json")
    endings = (*XFM_FORMATS, "json")
    return tuple(
        f"{scan.stem(row, space, inverse=inverse)}.{ending}" for inverse in (False, True) for ending in endings
    )


def expected_files(name: str | ScanName, outputs: Iterable[str], space: str) -> list[str]:
    """Sorted names of all files a finished scan must have, quality record and report included."""
    scan = ScanName.of(name) if isinstance(name, str) else name
    files = [file for output in outputs for file in output_files(scan, output, space)]
    return sorted([*files, *(scan.file(ending) for ending in (QUALITY, REPORT, OVERVIEW))])


def available_outputs(
    *, strip: bool, normalize: bool, register: bool, on_request: bool = False
) -> tuple[str, ...]:
    """Outputs that these switches leave possible, in table order; those on request too if asked for."""
    on = {"strip": strip, "normalize": normalize, "register": register}
    rows = (*TABLE, *ON_REQUEST) if on_request else TABLE
    return tuple(row.output for row in rows if all(on[step] for step in row.needs))
