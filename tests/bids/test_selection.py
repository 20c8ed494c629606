"""Which images are processed: suffixes, runs, parts, echoes, filter files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralprep.bids.dataset import Image
from neuralprep.bids.entities import split_name
from neuralprep.bids.selection import read_filters, select
from neuralprep.errors import InputError

NAMES = (
    "sub-01_ses-1_T1w", "sub-01_ses-1_acq-mprage_run-01_T1w", "sub-01_ses-1_acq-mprage_run-2_T1w",
    "sub-01_ses-2_T1w", "sub-01_ses-2_T2w", "sub-01_ses-2_FLAIR", "sub-01_ses-2_UNIT1", "sub-01_ses-2_angio",
    "sub-01_ses-2_inv-1_part-phase_MP2RAGE", "sub-01_ses-2_T1map", "sub-01_ses-2_part-phase_T2starw",
    "sub-01_ses-2_part-mag_T2starw", "sub-01_ses-2_echo-2_PDw", "sub-01_ses-2_echo-10_PDw",
)  # fmt: skip


def images(*names: str) -> list[Image]:
    return [Image(Path(f"/raw/{n}.nii.gz"), f"{n}.nii.gz", *split_name(n)) for n in names or NAMES]


def chosen(*found: Image) -> list[str]:
    return [image.stem.removeprefix("sub-01_") for image in found]


def filtered(tmp_path: Path, content: Any, **more: Any) -> list[str]:
    path = tmp_path / "filter.json"
    path.write_text(json.dumps(content))
    return chosen(*select(images(), queries=read_filters(path)[0], **more)[0])


def test_default_takes_structural_magnitudes_and_first_echoes_and_says_the_rest() -> None:
    kept, messages = select(images())
    assert chosen(*kept) == [
        "ses-1_T1w", "ses-1_acq-mprage_run-01_T1w", "ses-1_acq-mprage_run-2_T1w", "ses-2_T1w", "ses-2_T2w",
        "ses-2_FLAIR", "ses-2_UNIT1", "ses-2_part-mag_T2starw", "ses-2_echo-2_PDw"]  # fmt: skip
    text = "\n".join(messages)
    for words in ("1 images: angio (", "MP2RAGE (inversion images; UNIT1 is taken)", "T1map (quantitative map)",
                  "1 images: part-phase, not a magnitude", "1 images: later echoes"):  # fmt: skip
        assert words in text
    assert sum(int(message.split()[2]) for message in messages) == len(NAMES) - len(kept)


def test_suffixes_and_runs() -> None:
    assert chosen(*select(images(), suffixes=["angio", "FLAIR"])[0]) == ["ses-2_FLAIR", "ses-2_angio"]
    assert chosen(*select(images(), runs=["run-1"])[0]) == ["ses-1_acq-mprage_run-01_T1w"]


@pytest.mark.parametrize(
    ("content", "suffix", "kept"),
    [
        ({"t1w": {"acquisition": None, "session": "2"}}, "T1w", ["ses-2_T1w"]),
        ({"t1w": {"acquisition": "mprage", "run": [1]}}, "T1w", ["ses-1_acq-mprage_run-01_T1w"]),
        ({"t1w": {"acq": "Query.NONE", "datatype": "anat", "extension": ".nii.gz"}}, "T1w", ["ses-1_T1w", "ses-2_T1w"]),
        ({"t1w": {"run": "*"}}, "T1w", ["ses-1_acq-mprage_run-01_T1w", "ses-1_acq-mprage_run-2_T1w"]),
        ({"t1w": {"session": ["ses-1", "2"], "run": "Query.OPTIONAL", "acquisition": [None]}}, "T1w",
         ["ses-1_T1w", "ses-2_T1w"]),
        ({"t2starw": {"part": "phase"}}, "T2starw", ["ses-2_part-phase_T2starw"]),
        ({"pdw": {"echo": [2, 10]}}, "PDw", ["ses-2_echo-2_PDw", "ses-2_echo-10_PDw"]),
        ({"angio": {}}, "angio", ["ses-2_angio"]),
        ({"t1w": {"suffix": ["T1w", "T1map"], "session": "2"}}, "T1map", ["ses-2_T1map"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_filter_rules_its_suffix_and_no_other(tmp_path: Path, content: Any, suffix: str, kept: list[str]) -> None:
    found = filtered(tmp_path, content)
    assert [name for name in found if name.endswith(f"_{suffix}")] == kept
    ruled = {"T1w", suffix} if suffix == "T1map" else {suffix}
    others = [name for name in chosen(*select(images())[0]) if name.rpartition("_")[2] not in ruled]
    assert [name for name in found if name.rpartition("_")[2] not in ruled] == others


def test_entries_on_other_data_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": {"task": "rest"}, "t1w": {"session": "1"}, "fmap": {"datatype": "fmap"}}))
    queries, messages = read_filters(path)
    assert [query.name for query in queries] == ["t1w"]
    assert "passed over bold, fmap" in messages[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"), ("[]", "no filter file"), ('{"t1w": "01"}', "no filter file"),
        ('{"bold": {}}', "no entry about an anatomical image"), ("{}", "no entry"),
        ('{"t1w": {"sesion": "1"}}', "unknown entity 'sesion'"), ('{"t1w": {"session": 1.5}}', "session is 1.5"),
        ('{"t1w": {"session": true}}', "session is true"), ('{"t1w": {"datatype": "func"}}', "datatype"),
        ('{"t1w": {"suffix": "bold"}}', "suffix bold"),
    ],
)  # fmt: skip
def test_faulty_filters_are_explained(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"filter.json.*{said}"):
        read_filters(path)
