"""Nothing that tells who somebody is gets out: not into a file, not into a name, not into a log.

Distinctive values stand in every tag that may hold text, a date, a time or an identifier, and every byte of every
output is searched for them, also within gzip, PNG text and base64.
"""

from __future__ import annotations

import base64
import gzip
import re
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from dicom.phantom import write_series
from engine.fake_processor import fake_job
from neuralprep.cli import main
from neuralprep.dicom.search import find
from neuralprep.engine.run import run_batch
from neuralprep.errors import InputError

#: what tells apart images and makes them readable, and is not text about a person
KEPT = {
    "SOPClassUID", "Modality", "ImageType", "Rows", "Columns", "PixelData", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "SpecificCharacterSet", "PhotometricInterpretation", "PatientPosition",
    "BodyPartExamined", "Manufacturer", "ComplexImageComponent", "AcquisitionContrast", "FrameType",
}  # fmt: skip
#: groups and elements of the standard that hold people, places, dates and identifiers
GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x0088, 0x2050, 0x4008)
MADE = {
    "PN": "Zzxperson{n}^Qqgiven", "LO": "Zzxlong{n}", "SH": "Zzxshort{n}", "ST": "Zzxtext{n}", "LT": "Zzxltext{n}",
    "UT": "Zzxutext{n}", "UC": "Zzxuchar{n}", "AE": "ZZXAE{n}", "AS": "0{m:02d}Y", "DA": "1937{m:02d}{d:02d}",
    "TM": "0351{m:02d}.7{n:03d}", "DT": "1937{m:02d}{d:02d}035142.7{n:03d}", "UI": "1.2.826.0.1.77{n}.98765",
    "UR": "http://zzx/{n}",
}  # fmt: skip
FOUND = re.compile(
    rb"zzx(?:person|long|short|l?text|utext|uchar|ae\d|private|creator|/)|qqgiven|1\.2\.826\.0\.1\.77\d*"
    rb"|1937(0[1-9]|1[0-2])(0[1-9]|[12]\d)|\b0351(0[1-9]|1[0-2])\.7", re.IGNORECASE,
)  # fmt: skip


def plant(tags: Dataset, series: str, index: int) -> int:
    """Fill every tag of the dictionary that may hold such a value; how many were filled."""
    from pydicom._dicom_dict import DicomDictionary

    number = 0
    for tag in sorted(DicomDictionary):
        keyword = keyword_for_tag(tag)
        if tag >> 16 not in GROUPS or keyword in KEPT or not keyword:
            continue
        kind = MADE.get(dictionary_VR(tag))
        if kind is None:
            continue
        number += 1
        setattr(tags, keyword, kind.format(n=number % 1000, m=number % 12 + 1, d=number % 28 + 1))
    tags.SOPInstanceUID = tags.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.77{index}.98765.{index}"
    tags.SeriesInstanceUID, tags.StudyInstanceUID = f"1.2.826.0.1.778.98765.{series}", "1.2.826.0.1.779.98765"
    block = tags.private_block(0x0029, "ZZXCREATOR", create=True)
    block.add_new(1, "LO", "Zzxprivate")
    return number


def search(folder: Path, said: str = "") -> list[str]:
    """Places where a planted value is found."""
    hits = [f"name {path}" for path in folder.rglob("*") if FOUND.search(path.name.encode())]
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        raw = path.read_bytes()
        layers = [raw]
        if raw[:2] == b"\x1f\x8b":
            layers = [gzip.decompress(raw)[:1000]]  # the header; the rest is pixels, where any bytes may stand
        elif path.suffix == ".html":
            layers = [re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", raw)]
            layers += [base64.b64decode(found) for found in re.findall(rb"base64,([A-Za-z0-9+/=]+)", raw)]
        hits += [f"{path}: {match.group()!r}" for layer in layers for match in [FOUND.search(layer)] if match]
    if FOUND.search(said.encode()):
        hits.append(f"printed: {said}")
    return hits


def planted(folder: Path, source: Path | None = None, **tags: object) -> Path:
    """A series full of planted values, in folders and files that are called after them."""
    inner = folder / "export" / "Zzxperson_Qqgiven" / "1.2.826.0.1.779.98765"
    if source is None:
        paths = write_series(inner, **tags)  # type: ignore[arg-type]
    else:
        inner.mkdir(parents=True)
        paths = [Path(shutil.copy(source, inner))]
    for index, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        assert plant(dataset, path.parent.name[:1], index) > 300
        dataset.save_as(inner / f"Zzxperson_1.2.826.0.1.77{index}.98765", enforce_file_format=True)
        path.unlink()
    return folder / "export"


def test_the_search_finds_what_it_must(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": "ZZXPERSON12^Qqgiven"}')
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"born 19370412"))
    hidden = base64.b64encode(b"1.2.826.0.1.7712.9")
    (tmp_path / "c.html").write_bytes(b'<img src="data:image/png;base64,' + hidden + b'">')
    (tmp_path / "zzxlong").mkdir()
    assert len(search(tmp_path, "at 035104.7001")) == 5


def test_faults_tell_nothing_either(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Skipped, incomplete, damaged and repeated series: their messages, records, error files and logs."""
    caplog.set_level("DEBUG")
    root = planted(tmp_path / "whole")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lost = tmp_path / "lost" / "export"
    shutil.copytree(root, lost)
    sorted(path for path in lost.rglob("*") if path.is_file())[7].unlink()
    torn = tmp_path / "torn" / "export"
    shutil.copytree(root, torn)
    for path in sorted(path for path in torn.rglob("*") if path.is_file())[3:6]:
        path.write_bytes(path.read_bytes()[: -900 if path.stat().st_size % 2 else 600])
    packed = tmp_path / "packed" / "export"
    shutil.copytree(root, packed)
    for path in [path for path in packed.rglob("*") if path.is_file()]:
        tags = pydicom.dcmread(path)
        tags.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        tags.PixelData = encapsulate([tags.PixelData])
        tags["PixelData"].is_undefined_length = True
        tags.save_as(path)
    skipped = planted(tmp_path / "skipped", modality="MR", offsets=[0.0, 10.0, 20.0])
    out = tmp_path / "out"
    records = run_batch([root, lost, torn, packed, skipped], fake_job(out))
    assert [record.status for record in records] == ["ok", "failed", "failed", "failed", "failed"]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "log").write_text(f"{records}\n{caplog.text}\n{list(find(root).messages)}")
    with pytest.raises(InputError) as caught:
        find(skipped)
    captured = capfd.readouterr()
    said = f"{captured.out}{captured.err}{caught.value}"
    assert not search(out, said)
    assert not search(tmp_path / "records")
    assert files


@pytest.mark.slow
def test_no_planted_value_in_any_output_of_a_real_run(
    tmp_path: Path, shared_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = next((shared_data / "dicom" / "dicom_xa30_enhanced_T1").iterdir())
    root = planted(tmp_path, source)
    assert main(["run", str(root), str(tmp_path / "out"), "--outputs", "brain_mask,brain_image,preproc",
                 "--no-register", "-v", "--threads", "1"]) == 0  # fmt: skip
    captured = capfd.readouterr()
    written = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(name.endswith("report.html") for name in written)
    assert any(name.endswith("desc-brain_image.nii.gz") for name in written)
    assert not search(tmp_path / "out", captured.out + captured.err)


def test_the_uid_of_a_file_is_not_its_name(tmp_path: Path) -> None:
    """Series that were sent twice, under other names, are one."""
    uid = generate_uid()
    write_series(tmp_path / "in", series=uid, study="1.2")
    for path in sorted((tmp_path / "in").iterdir()):
        shutil.copy(path, path.with_name(f"Zzx{path.name}"))
    found = find(tmp_path / "in")
    assert len(found.series) == 1
    assert not FOUND.search(" ".join(found.messages).encode())
