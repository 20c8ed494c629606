"""What one DICOM file says about its images: only the tags that are needed, and none of them is ever shown.

Names of people, dates and identifiers stay inside this package: patient and study tell series apart, the words of the
description sort out what is no anatomy, and nothing of it goes into a message, a file or a name.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralprep.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FRAMES = 20_000
#: what pydicom raises for damaged files, when reading them or only when a value is looked at
DAMAGED = (ValueError, LookupError, AttributeError, TypeError, NotImplementedError, EOFError, OSError, ArithmeticError,
           RecursionError, struct.error, zlib.error)
_GE_COMPONENT = 0x0043102F
_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "SeriesNumber", "Modality",
    "ImageType", "SeriesDescription", "ProtocolName", "SequenceName", "ScanningSequence", "BodyPartExamined", "Rows",
    "Columns", "NumberOfFrames", "SamplesPerPixel", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ComplexImageComponent", "TemporalPositionIdentifier",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Frame:
    """One slice.

    Attributes
    ----------
    position : (3,) tuple
        Centre of its first pixel, LPS mm; None where the file does not say.
    rows_cols : (6,) tuple
        Directions along a row and along a column; None where the file does not say.
    spacing : (2,) tuple
        mm between rows and between columns; None where the file does not say.
    kind : tuple of str
        Image type, upper case, with the complex component.
    contrast : tuple of float or None
        Echo time, inversion time (ms) and flip angle (degrees).
    time : int or None
        Temporal position.
    b_value : float or None
        Diffusion weighting.
    """

    position: tuple[float, ...] | None
    rows_cols: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    kind: tuple[str, ...]
    contrast: tuple[float | None, ...]
    time: int | None
    b_value: float | None


@dataclass(frozen=True)
class Instance:
    """One file. `patient`, `study`, `series`, `uid` and `words` never leave this package."""

    path: Path
    uid: str
    patient: str
    study: str
    series: str
    number: int | None
    modality: str
    sop_class: str
    syntax: str
    words: str
    sequence: tuple[str, ...]
    body_part: str
    shape: tuple[int, int]
    samples: int
    frames: tuple[Frame, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM after its preamble, whatever it is called."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_instance(path: Path) -> Instance | None:
    """The tags of a file; None if it is damaged or holds no image."""
    pydicom = require_pydicom()
    from pydicom.filereader import read_file_meta_info

    keywords: list[Any] = [*_KEYWORDS, _GE_COMPONENT]
    with quiet():
        try:
            syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
            if syntax == _DEFLATED:  # expanding it is not bounded, and dcm2niix does not read it
                return None
            return _instance(path, pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keywords), syntax)
        except (*DAMAGED, MemoryError):
            return None


def require_pydicom() -> Any:
    """The library that reads tags.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError("reading DICOM needs packages that are not installed: pip install 'neuralprep[dicom]'; or "
                         "convert the series to NIfTI first (dcm2niix)") from None
    return pydicom


@contextmanager
def quiet() -> Iterator[None]:
    """No warning of pydicom gets out: they quote values of tags."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _instance(path: Path, tags: Dataset, syntax: str) -> Instance | None:
    """Everything needed of one file; None without pixels."""
    rows, columns = _integer(tags, "Rows"), _integer(tags, "Columns")
    if not rows or not columns or rows < 1 or columns < 1 or "SeriesInstanceUID" not in tags:
        return None
    words = " ".join(_text(tags, name) for name in ("SeriesDescription", "ProtocolName", "SequenceName"))
    study = _text(tags, "StudyInstanceUID")
    return Instance(
        path, _text(tags, "SOPInstanceUID"), _text(tags, "PatientID") or study, study, _text(tags, "SeriesInstanceUID"),
        _integer(tags, "SeriesNumber"), _text(tags, "Modality").upper(), _text(tags, "SOPClassUID"), syntax,
        words.lower(), _strings(tags, "ScanningSequence"), _text(tags, "BodyPartExamined").upper().replace(" ", ""),
        (rows, columns), _integer(tags, "SamplesPerPixel") or 1, _frames(tags),
    )  # fmt: skip


def _frames(tags: Dataset) -> tuple[Frame, ...]:
    """The slices of a file: one of a classic image, all of an enhanced one."""
    groups = tags.get("PerFrameFunctionalGroupsSequence")
    shared = tags.get("SharedFunctionalGroupsSequence")
    if not groups:
        count = _integer(tags, "NumberOfFrames") or 1
        if count > 1:  # old multi-frame images do not say where their frames lie
            return tuple([Frame(None, None, None, _kind(tags), (), None, None)] * min(count, MAX_FRAMES))
        return (_frame([tags]),)
    if len(groups) > MAX_FRAMES:
        raise ValueError("too many frames")
    return tuple(_frame([group, *([shared[0]] if shared else []), tags]) for group in groups)


def _frame(places: Sequence[Dataset]) -> Frame:
    """One slice, from the first place that knows each value: the frame, what frames share, the file."""
    def value(group: str, keyword: str) -> Any:
        for place in places:
            inner = place.get(group)
            found = inner[0].get(keyword) if inner else place.get(keyword)
            if found not in (None, ""):
                return found
        return None

    kind = _kind(places[-1])
    frame_type = value("MRImageFrameTypeSequence", "FrameType")
    component = value("MRImageFrameTypeSequence", "ComplexImageComponent")
    more = [*_listed(frame_type), *_listed(component)]
    b_value = _number(value("MRDiffusionSequence", "DiffusionBValue"))
    contrast = [
        _number(value("MREchoSequence", "EffectiveEchoTime") or value("", "EchoTime")),
        _number(value("MRModifierSequence", "InversionTimes") or value("", "InversionTime")),
        _number(value("MRTimingAndRelatedParametersSequence", "FlipAngle")),
    ]
    time = _number(value("FrameContentSequence", "TemporalPositionIndex") or value("", "TemporalPositionIdentifier"))
    return Frame(
        _numbers(value("PlanePositionSequence", "ImagePositionPatient"), 3),
        _numbers(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        _numbers(value("PixelMeasuresSequence", "PixelSpacing"), 2),
        tuple(dict.fromkeys((*kind, *more))), tuple(contrast), None if time is None else int(time), b_value,
    )  # fmt: skip


def _kind(tags: Dataset) -> tuple[str, ...]:
    """Image type, and the complex component where GE says it in a tag of its own."""
    kind = _strings(tags, "ImageType")
    if _GE_COMPONENT in tags and tags[_GE_COMPONENT].VR == "SS":
        code = _number(tags[_GE_COMPONENT].value)
        if code in (1, 2, 3):
            kind += (_COMPONENTS[int(code)],)
    return kind


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(part).strip().upper() for part in ([value] if isinstance(value, str) else value)]


def _strings(tags: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(_listed(tags.get(keyword)))


def _text(tags: Dataset, keyword: str) -> str:
    value = tags.get(keyword)
    return "" if value is None else str(value).strip()


def _integer(tags: Dataset, keyword: str) -> int | None:
    number = _number(tags.get(keyword))
    return None if number is None else int(number)


def _number(value: Any) -> float | None:
    """The first finite number of a value."""
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) and hasattr(value, "__len__"):
        value = value[0] if len(value) else math.nan
    number = float(value)
    return number if math.isfinite(number) else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    if value is None or isinstance(value, str | int | float) or len(value) != count:
        return None
    numbers = tuple(float(part) for part in value)
    return numbers if all(map(math.isfinite, numbers)) else None
