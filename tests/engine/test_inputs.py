from __future__ import annotations

from pathlib import Path

import pytest

from neuralprep.bids.sidecars import DESCRIPTION_FILE, dataset_description, write_json
from neuralprep.engine.inputs import IMAGE_ENDINGS, distinct_names, expand, image_stem
from neuralprep.engine.manifest import read_list
from neuralprep.errors import InputError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(found) -> list[str]:
    return [scan.name for scan in found.scans]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("A.NII.GZ", "A"), ("a.mgz", "a"), ("a.gz", None), (".nii", None),
        ("a.json", None),
    ],
)
def test_image_stem(name: str, stem: str | None) -> None:
    assert image_stem(Path(name)) == stem


def test_a_folder_gives_its_images_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b/z.nii", "a.nii.gz", "b/y.mgz", "notes.txt", "._a.nii.gz", ".hidden/x.nii.gz", "a.json"):
        touch(tmp_path / "in" / name)
    found = expand([tmp_path / "in"], tmp_path / "out")
    assert names(found) == ["a", "y", "z"]
    assert not found.messages


def test_own_outputs_and_other_bids_files_are_left_out(tmp_path: Path) -> None:
    data = tmp_path / "in"
    for name in ("sub-1_T1w.nii.gz", "sub-1_bold.nii.gz", "sub-2_bold.nii.gz", "sub-1_desc-brain_mask.nii.gz"):
        touch(data / name)
    touch(data / "earlier" / "x" / "x_desc-preproc_image.nii.gz")
    write_json(data / "earlier" / DESCRIPTION_FILE, dataset_description())
    touch(data / "out" / "y.nii.gz")
    found = expand([data], data / "out")
    assert names(found) == ["sub-1_T1w"]
    assert "2 bold" in found.messages[0]
    assert "1 mask" in found.messages[0]


def test_the_output_folder_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="output folder"):
        expand([tmp_path], tmp_path)


def test_empty_folder_says_what_is_readable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"no image found .*\.nii\.gz"):
        expand([tmp_path / "in"], tmp_path / "out")


def test_globs(tmp_path: Path) -> None:
    for name in ("a1.nii.gz", "a2.nii.gz", "b.nii.gz", "a.json"):
        touch(tmp_path / name)
    found = expand([str(tmp_path / "a*")], tmp_path / "out")
    assert names(found) == ["a1", "a2"]
    assert "no images" in found.messages[0]
    with pytest.raises(InputError, match="pattern"):
        expand([str(tmp_path / "c*.nii")], tmp_path / "out")


def test_a_file_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    path = touch(tmp_path / "scan[1].nii.gz")
    found = expand([str(path)], tmp_path / "out")
    assert found.scans[0].path == path
    assert names(found) == ["scan-1-"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("list.txt", "# heads\na.nii.gz\n\n  sub/b.nii.gz  \n"),
        ("list.csv", "id,path,age\n1,a.nii.gz,30\n2,sub/b.nii.gz,31\n"),
        ("list.csv", "a.nii.gz,30\nsub/b.nii.gz,31\n"),
        ("list.csv", "file;age\na.nii.gz;30\nsub/b.nii.gz;31\n"),
        ("list.tsv", "age\tScan\n30\ta.nii.gz\n31\tsub/b.nii.gz\n"),
        ("list.csv", "\ufeffimage\r\na.nii.gz\r\nsub/b.nii.gz\r\n"),
        ("list.csv", 'path,note\na.nii.gz,"x, y"\nsub/b.nii.gz,\n'),
    ],
)
def test_lists(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    paths = [row.path for row in read_list(tmp_path / file, IMAGE_ENDINGS)]
    assert paths == [tmp_path / "a.nii.gz", tmp_path / "sub/b.nii.gz"]


def test_empty_and_binary_lists_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="names no scan"):
        read_list(tmp_path / "empty.txt", IMAGE_ENDINGS)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="UTF-8"):
        read_list(tmp_path / "binary.csv", IMAGE_ENDINGS)


def test_missing_and_unreadable_paths_become_faults(tmp_path: Path) -> None:
    touch(tmp_path / "notes.pdf")
    found = expand([tmp_path / "gone.nii.gz", tmp_path / "notes.pdf"], tmp_path / "out")
    assert "no such file" in found.scans[0].fault
    assert "not an image" in found.scans[1].fault


def test_the_same_file_twice_is_done_once(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(path)
    found = expand([path, tmp_path / "x" / ".." / "a.nii.gz", tmp_path / "link.nii.gz"], tmp_path / "out")
    assert names(found) == ["a"]
    assert len(found.messages) == 2


def test_links_keep_their_own_name(tmp_path: Path) -> None:
    target = touch(tmp_path / "annex" / "MD5-123.nii.gz")
    (tmp_path / "sub-1_T1w.nii.gz").symlink_to(target)
    assert names(expand([tmp_path / "sub-1_T1w.nii.gz"], tmp_path / "out")) == ["sub-1_T1w"]


def test_equal_stems_get_distinct_names(tmp_path: Path) -> None:
    paths = [touch(tmp_path / name) for name in ("p/a.nii.gz", "q/a.nii.gz", "q/A.nii", "b.nii.gz")]
    found = expand(paths, tmp_path / "out")
    assert names(found)[:2] == ["p_a", "q_a"]
    assert names(found)[3] == "b"
    assert len({name.lower() for name in names(found)}) == 4
    assert len(found.messages) == 3


def test_names_of_an_earlier_run_hold(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "p/a.nii.gz"), touch(tmp_path / "q/a.nii.gz")
    assert distinct_names([first], {"p_a": str(first)}, []) == {first: "p_a"}
    # another scan of the same name never takes the folder of one that still exists
    assert distinct_names([second], {"a": str(first)}, []) == {second: "q_a"}
    # a source that is gone was moved
    assert distinct_names([second], {"a": str(tmp_path / "gone.nii.gz")}, []) == {second: "a"}


def test_a_table_can_give_a_scan_a_name_a_mask_and_a_label(tmp_path: Path) -> None:
    """Paths start at the table's folder; "n/a" is nothing; a column that means something else is left alone."""
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / "raw" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "raw" / name).touch()
    table = tmp_path / "scans.tsv"
    table.write_text("output_name\tpath\tname\tkeep_label\tmask\n"
                     "first\traw/a.nii.gz\tJane\tlesion.nii.gz\tn/a\n"
                     "n/a\traw/b.nii.gz\tJohn\t\tb_mask.nii.gz\n")
    one, two = expand([table], tmp_path / "out").scans
    assert (one.name, one.keep, one.mask) == ("first", tmp_path / "lesion.nii.gz", None)
    assert (two.name, two.keep, two.mask) == ("b", None, tmp_path / "b_mask.nii.gz")


def test_two_rows_that_ask_for_one_name_get_two(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "scans.csv").write_text("path,output_name\na.nii.gz,same\nb.nii.gz,same\n")
    found = expand([tmp_path / "scans.csv"], tmp_path / "out")
    assert len({scan.name for scan in found.scans}) == 2
    assert sum("another scan is called same" in message for message in found.messages) >= 1
