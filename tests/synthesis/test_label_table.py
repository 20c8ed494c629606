"""Numberings of label maps."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.registration.labels import GRAY_LABELS, VENTRICLE_LABELS, WHITE_LABELS
from neuralprep.synthesis.classes import CLASSES, FREESURFER, INDEX
from neuralprep.synthesis.label_table import DEFAULT, READABLE, check_labels, freesurfer_numbers, read_table


def test_default_agrees_with_what_maps_were_packed_with() -> None:
    assert {n: DEFAULT[n] for n in FREESURFER} == dict(FREESURFER)


@pytest.mark.parametrize(("number", "name"), [
    (1024, "cerebral_gm"), (2035, "cerebral_gm"), (11143, "cerebral_gm"), (3007, "cerebral_wm"), (165, "cortical_bone"),
    (258, "soft_tissue"), (259, "eye"), (257, "csf"), (262, "air"), (172, "cerebellar_gm"), (174, "brainstem"),
    (31, "ventricle"), (915, "cortical_bone"), (126, "cord"), (0, "air"), (999, None), (1036, None),
])
def test_known_numbers(number: int, name: str | None) -> None:
    assert (None if name is None else INDEX[name]) == DEFAULT.get(number)


def test_numbers_without_a_change_of_meaning_stay() -> None:
    numbers = np.array([[0, 2, 3, 136], [24, 515, 507, 16]])
    assert np.array_equal(freesurfer_numbers(numbers, DEFAULT), numbers)


def test_stand_ins_mean_the_same_to_packing_and_to_the_template_fit() -> None:
    # Every class under a foreign number.
    table = {100_000 + index: index for index in map(INDEX.__getitem__, READABLE)}
    foreign = np.array(sorted(table))
    found = freesurfer_numbers(foreign, table)
    assert [FREESURFER[int(n)] for n in found] == [table[int(n)] for n in foreign]
    grey = dict.fromkeys(("thalamus", "striatum", "cerebral_gm", "cerebellar_gm", "hippocampus"), GRAY_LABELS)
    white = dict.fromkeys(("cerebral_wm", "cerebellar_wm", "brainstem", "pallidum"), WHITE_LABELS)
    for name, members in {**grey, **white, "ventricle": VENTRICLE_LABELS}.items():
        assert found[list(foreign).index(100_000 + INDEX[name])] in members, name


def test_table_overrides_the_default(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("label\tclass\tnote\n7\tcsf\tmine\n4711\tskin\t\n")
    table = read_table(path)
    assert CLASSES[table[7]] == "csf"
    assert CLASSES[table[4711]] == "skin"
    assert table[2] == DEFAULT[2]
    assert freesurfer_numbers(np.array([7, 2, 4711]), table).tolist() == [24, 2, 511]


@pytest.mark.parametrize(("text", "message"), [
    ("label,class\n1,skin\n", "tab-separated columns label and class"),
    ("label\tclass\n1.5\tskin\n", "line 2: label '1.5' is not a whole number"),
    ("label\tclass\n1\tskin\n1\tcsf\n", "line 3: label 1 is listed twice"),
    ("label\tclass\n1\tfur\n", "class 'fur' is unknown; choose one of air"),
])
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path)
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "none.tsv")


@pytest.mark.parametrize("name", ["lab2im_label_map", "synthsr_brains/synthsr_brain1_labels",
                                  "synthseg_training/training_seg_19"])
def test_public_maps_need_no_table(shared_data: Path, name: str) -> None:
    path = shared_data / "labels" / f"{name}.nii.gz"
    check_labels([(path, np.asarray(nib.load(path).dataobj))], DEFAULT)


def test_foreign_numbering_is_noticed(shared_data: Path) -> None:
    path = shared_data / "labels" / "malf_oasis" / "1000_glm.nii.gz"  # Neuromorphometrics
    with pytest.raises(InputError, match=r"1000_glm\.nii\.gz: unknown labels 23 \(704 voxels in 1 maps\), 32"):
        check_labels([(path, np.asarray(nib.load(path).dataobj))], DEFAULT)


def test_unknown_labels_are_counted_over_all_maps() -> None:
    maps = [(Path("a.nii"), np.array([2, 3, 9000, 9000])), (Path("b.nii"), np.array([9000, 8000, 0, 0]))]
    with pytest.raises(InputError, match=r"a\.nii: unknown labels 8000 \(1 voxels in 1 maps\), "
                                         r"9000 \(3 voxels in 2 maps\); name their classes"):
        check_labels(maps, DEFAULT)
    check_labels(maps, {**DEFAULT, 8000: 0, 9000: 0})
    with pytest.raises(InputError, match="not whole numbers"):
        check_labels([(Path("c.nii"), np.array([0.5, 1.0]))], DEFAULT)
