"""Which series are anatomy, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom.phantom import write_series
from neuralprep.dicom.search import find
from neuralprep.errors import InputError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# what -> (tags, words of the reason)
SKIPPED: dict[str, tuple[dict[str, Any], str]] = {
    "localiser by type": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localiser"),
    "localiser by words": ({"SeriesDescription": "AAHead_Scout_64ch"}, "a localiser"),
    "survey": ({"SeriesDescription": "SURVEY"}, "a localiser"),
    "three planes": ({"SeriesDescription": "3-Plane Loc"}, "a localiser"),
    "diffusion by type": ({"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}, "diffusion"),
    "diffusion by b-value": ({"DiffusionBValue": 1000.0}, "diffusion"),
    "diffusion by words": ({"SeriesDescription": "ep2d_diff_3scan_trace_p2"}, "diffusion"),
    "ADC map": ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "diffusion"),
    "perfusion by type": ({"ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION"]}, "perfusion"),
    "perfusion by words": ({"SeriesDescription": "pCASL_3D"}, "perfusion"),
    "functional by type": ({"ImageType": ["ORIGINAL", "PRIMARY", "FMRI", "NONE"]}, "functional"),
    "mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "functional"),
    "functional by words": ({"SeriesDescription": "task-rest_bold"}, "functional"),
    "echo planar": ({"ScanningSequence": ["EP", "SE"]}, "echo planar"),
    "field map": ({"SeriesDescription": "gre_field_mapping"}, "a field map"),
    "phase": ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "a phase"),
    "phase map": ({"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]}, "a phase"),
    "real": ({"ImageType": ["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"]}, "a phase"),
    "flow": ({"SeriesDescription": "phase_contrast venc60"}, "a flow image"),
    "secondary": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "derived"),
    "projection": ({"ImageType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"]}, "derived"),
    "screen": ({"SOPClassUID": SECONDARY_CAPTURE}, "a secondary capture"),
    "ultrasound": ({"Modality": "US"}, "neither MR nor CT"),
    "PET": ({"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, "neither MR nor CT"),
    "knee": ({"BodyPartExamined": "KNEE"}, "of another part of the body (knee)"),
    "colour": ({"SamplesPerPixel": 3}, "in colour"),
}
TAKEN: dict[str, dict[str, Any]] = {
    "T1w": {},
    "T2w": {"SeriesDescription": "t2_tse_dark-fluid_tra"}, "FLAIR": {"SeriesDescription": "3D Ax FLAIR CUBE"},
    "no words": {"SeriesDescription": "", "ProtocolName": ""}, "GE": {"ImageType": ["ORIGINAL", "PRIMARY", "OTHER"]},
    "GE MPR": {"ImageType": ["ORIGINAL", "PRIMARY", "MPR"]}, "SWI": {"SeriesDescription": "SWI_Images"},
    "inversion": {"ImageType": ["ORIGINAL", "PRIMARY", "M_IR", "M", "IR"]}, "head": {"BodyPartExamined": "HEAD"},
    "a name": {"SeriesDescription": "Resting^Peter"}, "contrast": {"SeriesDescription": "MPRAGE +C post gad"},
}  # fmt: skip


@pytest.mark.parametrize("what", SKIPPED)
def test_no_anatomy(tmp_path: Path, what: str) -> None:
    tags, words = SKIPPED[what]
    write_series(tmp_path / "in" / "b", number=9, **tags)
    with pytest.raises(InputError, match="no anatomical series") as caught:
        find(tmp_path / "in")
    assert f"series 9 skipped: {words}" in str(caught.value)
    write_series(tmp_path / "in" / "a", number=4)
    found = find(tmp_path / "in")
    assert [series.label for series in found.series] == ["series 4"] or what in ("ultrasound", "PET")
    assert any(f"series 9 skipped: {words}" in text for text in found.messages)


@pytest.mark.parametrize("what", TAKEN)
def test_anatomy(tmp_path: Path, what: str) -> None:
    write_series(tmp_path / "in", **TAKEN[what])
    found = find(tmp_path / "in")
    assert [series.name for series in found.series] == ["in_series-3"]
    assert not found.messages


def test_derived_only_where_nothing_original_is_there(tmp_path: Path) -> None:
    derived = {"ImageType": ["DERIVED", "PRIMARY", "M", "ND"], "study": "1.2.3"}
    write_series(tmp_path / "in" / "b", number=8, **derived)
    found = find(tmp_path / "in")
    assert [series.label for series in found.series] == ["series 8"]
    assert "marked as derived" in found.messages[0]
    write_series(tmp_path / "in" / "a", number=2, study="1.2.3")
    found = find(tmp_path / "in")
    assert [series.label for series in found.series] == ["series 2"]
    assert "series 8 skipped: derived" in found.messages[0]


def test_few_slices_and_a_thin_slab(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "few", offsets=[0, 8, 16, 24, 32, 40, 48], number=1)
    write_series(tmp_path / "in" / "thin", offsets=[i * 1.0 for i in range(20)], number=2)
    with pytest.raises(InputError) as caught:
        find(tmp_path / "in")
    assert "series 1 skipped: only 7 slices; at least 8 are needed" in str(caught.value)
    assert "series 2 skipped: covers only 20 mm" in str(caught.value)


def test_echoes_of_one_series_are_volumes_of_their_own(tmp_path: Path) -> None:
    for start, echo in ((0, 12.0), (100, 90.0)):
        write_series(tmp_path / "in", start=start, series="1.2.3.4", study="1.2", EchoTime=echo)
    found = find(tmp_path / "in")
    assert [series.name for series in found.series] == ["in_series-3_part-1", "in_series-3_part-2"]
    assert [len(series.files) for series in found.series] == [24, 24]


def test_magnitude_and_phase_of_one_series(tmp_path: Path) -> None:
    for start, kind in ((0, "M"), (100, "P")):
        write_series(tmp_path / "in", start=start, series="1.2.3.4", study="1.2",
                     ImageType=["ORIGINAL", "PRIMARY", kind, "ND"])  # fmt: skip
    found = find(tmp_path / "in")
    assert [series.name for series in found.series] == ["in_series-3_part-1"]
    assert "part 2 skipped: a phase" in found.messages[0]


def test_repetitions_are_no_volume(tmp_path: Path) -> None:
    for start in (0, 100, 200):
        write_series(tmp_path / "in", start=start, series="1.2.3.4", study="1.2")
    with pytest.raises(InputError, match="series of 3 volumes at the same place"):
        find(tmp_path / "in")
