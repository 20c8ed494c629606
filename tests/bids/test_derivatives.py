from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuralprep.bids.derivatives import (
    ANATOMICAL_SUFFIXES,
    OTHER_SUFFIXES,
    TABLE,
    ScanName,
    available_outputs,
    expected_files,
    output_files,
)
from neuralprep.bids.sidecars import image_sidecar, is_own_dataset, transform_sidecar, write_json

EXPECTED = Path(__file__).parent.parent / "expected"
SPACE = "MNI152NLin2009aSym"


@pytest.mark.parametrize(
    ("name", "prefix", "suffix"),
    [
        ("scan", "scan", "image"),
        ("sub-01_ses-2_run-1_T1w", "sub-01_ses-2_run-1", "T1w"),
        ("openms_p01_s1_T1W", "openms_p01_s1", "T1w"),
        ("rorden_T1w_0p88", "rorden_T1w_0p88", "image"),
        ("T1w", "T1w", "image"),
        ("a_flair", "a", "FLAIR"),
        ("_T1w", "_T1w", "image"),
    ],
)
def test_name_splits_into_prefix_and_suffix(name: str, prefix: str, suffix: str) -> None:
    assert ScanName.of(name) == ScanName(prefix, suffix)


@pytest.mark.parametrize(
    ("listing", "name", "switches"),
    [
        ("run_scan.txt", "scan", {}),
        ("run_sub-01_T1w.txt", "sub-01_T1w", {}),
        ("run_no-register.txt", "scan", {"register": False}),
        ("run_no-strip.txt", "scan", {"strip": False}),
        ("run_no-normalize.txt", "scan", {"normalize": False}),
    ],
)
def test_listings(listing: str, name: str, switches: dict[str, bool]) -> None:
    outputs = available_outputs(**{"strip": True, "normalize": True, "register": True, **switches})
    assert expected_files(name, outputs, SPACE) == (EXPECTED / listing).read_text().splitlines()


def test_the_table_and_the_pipeline_agree() -> None:
    from neuralprep.pipeline import OUTPUTS

    assert {row.output: row.needs for row in TABLE} == OUTPUTS


def test_every_file_name_is_made_once() -> None:
    files = [file for row in TABLE for file in output_files("sub-01_T1w", row.output, SPACE)]
    assert len(files) == len(set(files))
    assert all(file.startswith("sub-01_") for file in files)


def test_suffix_lists_do_not_overlap() -> None:
    assert not {s.lower() for s in ANATOMICAL_SUFFIXES} & {s.lower() for s in OTHER_SUFFIXES}


def test_image_sidecars_carry_what_bids_requires() -> None:
    for row in TABLE:
        if row.kind == "xfm":
            continue
        content = image_sidecar(row, source="scan.nii.gz", space=SPACE, resolution=(1.0, 1.0, 1.0))
        assert content["SpatialReference"] == (SPACE if row.in_template else "orig")
        assert ("SkullStripped" in content) != (row.kind == "mask")
        assert ("Resolution" in content) == row.in_template
        assert content["Sources"] == ["scan.nii.gz"]
        json.dumps(content, allow_nan=False)


def test_transform_sidecar_states_the_direction() -> None:
    forward = transform_sidecar(source="scan.nii.gz", space=SPACE, inverse=False)
    inverse = transform_sidecar(source="scan.nii.gz", space=SPACE, inverse=True)
    assert (forward["FromSpace"], forward["ToSpace"]) == ("native", SPACE)
    assert (inverse["FromSpace"], inverse["ToSpace"]) == (SPACE, "native")
    assert f"multiplies a point of the template {SPACE}" in forward["Direction"]
    assert "multiplies a point of the scan" in inverse["Direction"]


def test_own_dataset_is_recognised(tmp_path: Path) -> None:
    assert not is_own_dataset(tmp_path)
    path = tmp_path / "dataset_description.json"
    for text in ("{", "[]", '{"GeneratedBy": null}', '{"GeneratedBy": [{"Name": "fMRIPrep"}]}'):
        path.write_text(text)
        assert not is_own_dataset(tmp_path)
    write_json(path, {"GeneratedBy": [{"Name": "neuralprep"}]})
    assert is_own_dataset(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
