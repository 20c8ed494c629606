"""``.bidsignore`` against the library that implements ``.gitignore``."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.bids.ignore import IgnoreRules

FILES = (
    "T1w.json", "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", "sub-01/ses-1/anat/x_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz", "code/run[1].sh", "derivatives/sub-01/anat/sub-01_T1w.nii.gz", "a.b", "axb",
)  # fmt: skip
PATTERNS = (
    "*", "*.json", "sub-01", "sub-01/", "/sub-01/", "anat/", "**/anat", "sub-01/**", "**/*_T1w.nii.gz", "sub-0?/anat",
    "sub-0[12]/anat/*", "sub-0[!1]/", "a.b", "derivatives/", "/T1w.json", "# note",
    "", "  ", "*/anat/*_T2w*", "sub-01/**/x_T1w.nii.gz", "code/run*", "sub-01/anat",
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(PATTERNS), max_size=4))
def test_as_gitignore(lines: list[str]) -> None:
    pathspec = pytest.importorskip("pathspec", reason="pathspec comes with mypy (extra dev)")
    oracle = pathspec.PathSpec.from_lines("gitignore", lines)
    rules = IgnoreRules(lines)
    assert {file: rules(file) for file in FILES} == {file: oracle.match_file(file) for file in FILES}


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["*_T1w.nii.gz", "!sub-02/anat/*"], ["sub-02/anat/sub-02_T1w.nii.gz"]),
        (["!sub-02/anat/*", "*_T1w.nii.gz"], []),
        (["*_T1w.nii.gz", "!sub-0[12]/**", "sub-01/anat/"],
         ["sub-01/ses-1/anat/x_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz"]),
        (["sub-*/", "!*_T1w.nii.gz"], []),
    ],
    ids=str,
)  # fmt: skip
def test_the_last_rule_decides_and_a_folder_takes_all_with_it(lines: list[str], kept: list[str]) -> None:
    rules = IgnoreRules(lines)
    scans = [file for file in FILES if file.endswith("_T1w.nii.gz")]
    found = [file for file in scans if not rules(file)]
    assert [file for file in found if not file.startswith("derivatives")] == kept
