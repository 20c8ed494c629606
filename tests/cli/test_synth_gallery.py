"""The gallery of effects and CT numbers, from the outside."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import main
from neuralprep.synthesis.effects import EFFECTS

TINY = ["--size", "24", "--spacing", "10"]


def test_gallery_shows_every_effect_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", str(tmp_path), "--gallery", "--count", "2", "--seed", "3", *TINY]) == 0
    page = tmp_path / "index.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert list(tmp_path.iterdir()) == [page]
    text = page.read_text(encoding="utf-8")
    for effect in EFFECTS:
        assert f"<h3>{effect.name} ({effect.look})</h3>" in text
    assert "atrophy -0.3" in text
    assert "coils (count 6, strength 0.8)" in text
    assert "http" not in text  # self-contained
    pictures = re.findall(r"base64,([^']*)'", text)
    assert len(pictures) > 3 * len(EFFECTS)
    encoded = base64.b64decode(pictures[0])
    assert encoded.startswith(b"\x89PNG")
    start = encoded.index(b"IDAT") + 4
    length = int.from_bytes(encoded[start - 8 : start - 4], "big")
    pixels = zlib.decompress(encoded[start : start + length])
    assert len(set(pixels)) > 20  # greys and both outlines
    # The strongest atrophy differs from the plain picture.
    assert pictures[0] != pictures[3]


def test_gallery_and_samples_refuse_flags_without_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", str(tmp_path), "--gallery", "--hounsfield", *TINY]) == 2
    assert "leave out --hounsfield" in capsys.readouterr().err
    assert main(["synth", str(tmp_path), "--hounsfield", "--look", "T1w", *TINY]) == 2
    assert "needs --look CT" in capsys.readouterr().err
    record = tmp_path / "one.json"
    record.write_text("{1}")
    assert main(["synth", str(tmp_path), "--record", str(record), "--look", "T1w"]) == 2
    assert "leave out --look" in capsys.readouterr().err
    assert main(["synth", str(tmp_path), "--record", str(record)]) == 2
    assert "one.json: not JSON" in capsys.readouterr().err
    record.write_text("{}")
    assert main(["synth", str(tmp_path), "--record", str(record)]) == 2
    assert "one.json: the record's means have 0 entries" in capsys.readouterr().err
    assert main(["synth", str(tmp_path), "--gallery", "--head", "nobody"]) == 2
    assert "no head 'nobody'" in capsys.readouterr().err


def test_ct_is_written_in_hounsfield_units(tmp_path: Path) -> None:
    arguments = ["--look", "CT", "--hounsfield", "--count", "1", "--seed", "4", "--size", "40", "--spacing", "6"]
    assert main(["synth", str(tmp_path), *arguments]) == 0
    (raw,) = tmp_path.glob("*_desc-hounsfield.nii.gz")
    values = nib.load(raw).get_fdata()
    assert values.min() < -900
    assert values.max() > 500
    inside = nib.load(str(raw).replace("desc-hounsfield", "desc-icv_distance")).get_fdata() < -12
    assert 10 < np.median(values[inside]) < 50
