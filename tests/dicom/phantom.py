"""DICOM files made for tests: a small head with known values at known places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

ROWS, COLUMNS, SLICES = 40, 36, 24
SPACING = (2.0, 2.5)  # between rows, between columns
STEP = 3.0
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)

#: values as a function of LPS mm
Scene = Callable[[np.ndarray], np.ndarray]


def ramp(points: np.ndarray) -> np.ndarray:
    """Linear in the world: interpolation does not change it."""
    return 500 + points @ (2.0, 3.0, 4.0)


def head(points: np.ndarray) -> np.ndarray:
    """A bright ball with a marker on one side."""
    ball = 600.0 * (np.linalg.norm(points, axis=-1) < 32)
    return ball + 300.0 * (np.linalg.norm(points - (18, 8, 6), axis=-1) < 8) + 20


def normal_of(orientation: Sequence[float]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def centred(orientation: Sequence[float], offsets: np.ndarray, lean: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """Positions of first pixels of slices along the normal (plus `lean` for each mm), around the isocentre."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    corner = -row * SPACING[1] * (COLUMNS - 1) / 2 - column * SPACING[0] * (ROWS - 1) / 2
    along = np.asarray(offsets, dtype=float) - np.mean(offsets)
    return corner + along[:, None] * (normal_of(orientation) + np.asarray(lean, dtype=float))


def pixel_places(position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float] = SPACING,
                 shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    """LPS mm of the centre of every pixel (rows, columns, 3): DICOM PS3.3, equation C.7.6.2.1-1."""
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    return (np.array(position) + columns[..., None] * spacing[1] * np.array(orientation[:3])
            + rows[..., None] * spacing[0] * np.array(orientation[3:]))


def write_series(folder: Path, *, offsets: Sequence[float] | None = None, orientation: Sequence[float] = AXIAL,
                 lean: Sequence[float] = (0, 0, 0), scene: Scene = head, number: int = 3, ending: str = ".dcm",
                 modality: str = "MR", order: Sequence[int] | None = None, start: int = 0, edit: Any = None,
                 study: str | None = None, series: str | None = None, **tags: Any) -> list[Path]:
    """Write one file per slice; `tags` are set on all, `edit(dataset, index)` may change each."""
    folder.mkdir(parents=True, exist_ok=True)
    places = centred(orientation, np.arange(SLICES) * STEP if offsets is None else np.asarray(offsets), lean)
    study, series = study or generate_uid(), series or generate_uid()
    paths = []
    for index, position in enumerate(places):
        values = scene(pixel_places(position, orientation))
        made = make_slice(values, position, orientation, modality)
        made.StudyInstanceUID, made.SeriesInstanceUID = study, series
        made.SeriesNumber, made.InstanceNumber = number, (index if order is None else order[index]) + 1
        for name, value in tags.items():
            setattr(made, name, value)
        if edit is not None:
            edit(made, index)
        path = folder / f"{start + (index if order is None else order[index]):04d}{ending}"
        made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def make_slice(values: np.ndarray, position: Sequence[float], orientation: Sequence[float],
               modality: str) -> FileDataset:
    """A classic image; of CT the stored values are 1024 above the Hounsfield units."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality, made.Manufacturer, made.PatientID, made.PatientName = modality, "SIEMENS", "p1", "Nobody^At^All"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    made.SeriesDescription, made.ProtocolName = "t1_mprage", "t1_mprage"
    if modality == "MR":
        made.ScanningSequence, made.SequenceVariant, made.MRAcquisitionType = "GR", "SP", "3D"
        made.EchoTime, made.RepetitionTime = 3.0, 2000.0
    made.PatientPosition = "HFS"
    made.ImagePositionPatient = [f"{value:.6f}" for value in position]
    made.ImageOrientationPatient = [f"{value:.8f}" for value in orientation]
    made.PixelSpacing, made.SliceThickness = list(SPACING), STEP
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.RescaleSlope, made.RescaleIntercept = 1, -1024 if modality == "CT" else 0
    made.PixelData = (np.rint(values) + (1024 if modality == "CT" else 0)).astype("<i2").tobytes()
    return made


def enhanced(folder: Path, scene: Scene = head, orientation: Sequence[float] = AXIAL, times: int = 1) -> Path:
    """One enhanced multi-frame MR file of the same head."""
    folder.mkdir(parents=True, exist_ok=True)
    places = centred(orientation, np.arange(SLICES) * STEP)
    planes = [np.rint(scene(pixel_places(position, orientation))).astype("<i2") for position in places]
    made = make_slice(planes[0], places[0], orientation, "MR")
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = (
        generate_uid(), generate_uid(), 7, 1)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(made, name)
    made.NumberOfFrames = SLICES * times
    made.PerFrameFunctionalGroupsSequence = []
    for time in range(times):
        for index, position in enumerate(places):
            made.PerFrameFunctionalGroupsSequence.append(_frame_group(position, index, time))
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = [f"{value:.8f}" for value in orientation]
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), STEP
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PixelData = b"".join(plane.tobytes() for plane in planes) * times
    made.save_as(folder / "enhanced", enforce_file_format=True)
    return folder / "enhanced"


def _frame_group(position: np.ndarray, index: int, time: int) -> Dataset:
    group, place, content = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = [f"{value:.6f}" for value in position]
    content.StackID, content.InStackPositionNumber, content.TemporalPositionIndex = "1", index + 1, time + 1
    content.DimensionIndexValues = [1, index + 1, time + 1]
    group.PlanePositionSequence, group.FrameContentSequence = [place], [content]
    return group
