"""The walk over a BIDS data set: what is taken, what is left out and said, and how fast."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuralprep.bids.dataset import ON_REQUEST, STRUCTURAL, SUFFIXES, read_dataset
from neuralprep.bids.derivatives import ANATOMICAL_SUFFIXES, OTHER_SUFFIXES, ScanName
from neuralprep.bids.entities import split_name
from neuralprep.bids.layout import bids_folder, home_of
from neuralprep.errors import InputError

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes a data set from file names below its folder; only names matter to the walk."""

    def make(*files: str, description: str | None = '{"Name": "x", "BIDSVersion": "1.9.0"}') -> Path:
        root = tmp_path / "raw"
        root.mkdir(exist_ok=True)
        if description is not None:
            (root / "dataset_description.json").write_text(description)
        for file in files:
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make


def names(root: Path, **chosen: list[str]) -> list[str]:
    return [image.stem for image in read_dataset(root, **chosen).images]


def test_sessions_and_runs_stay_apart_and_other_files_are_left_alone(tree: Tree) -> None:
    root = tree(
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii", "sub-02/anat/sub-02_FLAIR.nii.gz",
        "sub-02/anat/sub-02_mod-T1w_defacemask.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz.part",
        "sub-02/func/sub-02_task-x_bold.nii.gz", "sub-02/anat/._sub-02_T1w.nii.gz",
        "derivatives/fmriprep/sub-03/anat/sub-03_desc-preproc_T1w.nii.gz", "sourcedata/sub-04/anat/sub-04_T1w.nii.gz",
    )  # fmt: skip
    found = read_dataset(root)
    assert [image.stem for image in found.images] == [
        "sub-01_ses-a_run-1_T1w", "sub-01_ses-a_run-2_T1w", "sub-01_ses-b_T1w", "sub-02_FLAIR"]  # fmt: skip
    assert found.subjects == ["01", "02"]
    assert found.messages == ["left out in anat folders: 1 defacemask"]
    assert names(root, participants=["sub-02"]) == names(root, participants=["02"]) == ["sub-02_FLAIR"]
    assert names(root, sessions=["ses-b"]) == ["sub-01_ses-b_T1w"]


def test_names_that_do_not_belong_where_they_lie_are_said(tree: Tree) -> None:
    wrong = ["sub-01/anat/sub-02_T1w.nii.gz", "sub-01/anat/T1w.nii.gz", "sub-01/anat/sub-01_space-MNI_T1w.nii.gz",
             "sub-01/ses-1/anat/sub-01_T1w.nii.gz"]  # fmt: skip
    found = read_dataset(tree("sub-01/anat/sub-01_T1w.nii.gz", *wrong))
    assert [image.relative for image in found.images] == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert all(path in found.messages[0] for path in wrong)


def test_one_image_in_two_formats_is_one(tree: Tree) -> None:
    found = read_dataset(tree("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w.nii"))
    assert [image.path.name for image in found.images] == ["sub-01_T1w.nii.gz"]
    assert "sub-01_T1w.nii: left out" in found.messages[0]


def test_sidecars_are_inherited_from_far_to_near(tree: Tree) -> None:
    root = tree(
        "T1w.json", "acq-x_T1w.json", "T2w.json", "task-rest_bold.json", "sub-01/sub-01_T1w.json",
        "sub-01/ses-1/sub-01_ses-1_run-2_T1w.json", "sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-1_T1w.json", "sub-01/ses-1/anat/sub-01_ses-1_T1w.json",
    )  # fmt: skip
    (image,) = read_dataset(root).images
    told = [path.relative_to(root).as_posix() for path in image.sidecars]
    assert set(told) == {
        "T1w.json", "acq-x_T1w.json", "sub-01/sub-01_T1w.json", "sub-01/ses-1/anat/sub-01_ses-1_T1w.json",
        "sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-1_T1w.json"}  # fmt: skip
    depth = [path.count("/") for path in told]
    assert depth == sorted(depth)
    assert told[-1].endswith("run-1_T1w.json")


def test_bidsignore_is_heeded(tree: Tree) -> None:
    root = tree("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz")
    (root / ".bidsignore").write_text("# not yet\nsub-01/\n**/*_T2w.nii.gz\n")
    found = read_dataset(root)
    assert [image.stem for image in found.images] == ["sub-02_T1w"]
    assert "2 in .bidsignore" in found.messages[0]


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (None, "is missing"), ("{", "not valid JSON"), ("[]", "not a JSON object"),
        ('{"DatasetType": "derivative"}', "as if they were raw"),
    ],
)  # fmt: skip
def test_a_faulty_description_is_said_and_the_images_are_found(tree: Tree, description: str, said: str) -> None:
    found = read_dataset(tree("sub-01/anat/sub-01_T1w.nii.gz", description=description))
    assert len(found.images) == 1
    assert said in found.messages[0]


def test_what_cannot_be_a_data_set_is_refused(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no folder sub-.*neuralprep run"):
        read_dataset(tree())
    root = tree("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    with pytest.raises(InputError, match=r"no participant 7\. There are 01"):
        read_dataset(root, participants=["01", "sub-7"])
    with pytest.raises(InputError, match=r"no session 2\. There are 1"):
        read_dataset(root, sessions=["2"])
    (root / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "neuralprep"}]}))
    with pytest.raises(InputError, match="outputs of neuralprep"):
        read_dataset(root)


def test_a_subject_without_images_is_said(tree: Tree) -> None:
    found = read_dataset(tree("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/func/sub-02_task-x_bold.nii.gz"))
    assert found.messages == ["without an anatomical image: sub-02"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tree: Tree) -> None:
    root = tree("sub-01/anat/sub-01_T1w.nii.gz")
    (root / "sub-01/anat").chmod(0)
    with pytest.raises(InputError, match="sub-01/anat: cannot be read"):
        read_dataset(root)


def test_every_suffix_is_known_to_the_table_of_names() -> None:
    assert not set(STRUCTURAL) & set(ON_REQUEST)
    assert set(SUFFIXES) <= set(ANATOMICAL_SUFFIXES)
    assert not set(SUFFIXES) & set(OTHER_SUFFIXES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_and_places_of_outputs_follow_from_the_name_of_the_scan(tmp_path: Path, suffix: str) -> None:
    name = f"sub-01_ses-2_acq-x_run-1_{suffix}"
    assert split_name(name) == ({"sub": "01", "ses": "2", "acq": "x", "run": "1"}, suffix)
    assert bids_folder(name) == "sub-01/ses-2/anat"
    (tmp_path / "sub-01/ses-2/anat").mkdir(parents=True)
    home = home_of(tmp_path, name)
    assert home.folder == tmp_path / "sub-01/ses-2/anat"
    assert home.quality.name == f"{name}_quality.json"
    (tmp_path / name).mkdir()  # of `neuralprep run` on the plain file
    assert home_of(tmp_path, name).files == ScanName("sub-01_ses-2_acq-x_run-1", suffix)


def test_twelve_thousand_files_take_about_a_second(tmp_path: Path) -> None:
    for subject in range(1500):
        for session in ("1", "2"):
            stem = f"sub-{subject:04d}_ses-{session}"
            folder = tmp_path / f"sub-{subject:04d}" / f"ses-{session}" / "anat"
            folder.mkdir(parents=True)
            for name in ("T1w.nii.gz", "T1w.json", "T2w.nii.gz", "T2w.json"):
                (folder / f"{stem}_{name}").touch()
    start = time.process_time()
    found = read_dataset(tmp_path)
    assert len(found.images) == 6000
    assert all(len(image.sidecars) == 1 for image in found.images)
    assert time.process_time() - start < 4  # 0.6 s on an idle core
