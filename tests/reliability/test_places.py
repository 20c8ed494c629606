"""Names, links, permissions and races, through the engine: a record for every scan, whole folders or none."""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from engine.fake_processor import SHAPE, FakeProcessor, fake_job, write_scan_file
from neuralprep.engine.inputs import IMAGE_ENDINGS, expand
from neuralprep.engine.manifest import read_list
from neuralprep.engine.record import read_status
from neuralprep.engine.run import run_batch
from neuralprep.errors import InputError
from neuralprep.pipeline import Settings
from neuralprep.volume import Volume

NAMES = {
    "plain": "scan", "spaces": "my scan 1", "umlauts": "Köpfchen", "Chinese": "脑部扫描", "Arabic": "صورة",
    "emoji": "🧠", "combining": "e\u0301tude", "right to left": "a\u202eb", "zero width": "a\u200bb",
    "new line": "a\nb", "tab": "a\tb", "carriage return": "a\rb", "quotes": "a'b\"c", "backslash": "a\\b",
    "dollar": "$(touch x)", "backtick": "`id`", "semicolon": "a;rm -rf b", "percent": "100%s%n",
    "brackets": "a[1]{2}", "star": "a*b?", "html": "<script>alert(1)<", "entity": "&lt;b&gt;", "formula": "=1+2",
    "plus": "+1", "minus": "-rf", "at": "@SUM(1)", "dots": "..a", "tilde": "~a", "ampersand": "a&b", "hash": "a#b",
    "colon": "a:b", "pipe": "a|b", "long": "x" * 180, "control": "a\x07b\x1b[31m", "device": "NUL",
    "bids": "sub-01_ses-2_T1w", "upper": "SCAN", "two dots": "a.b.c", "only dashes": "---",
    "looks like output": "scan_desc-x", "status": "status.tsv", "dataset": "dataset_description.json",
}  # fmt: skip


def whole(out: Path) -> None:
    """Nothing half done is left, and the table can be read with one row per scan."""
    left = [path.name for path in out.rglob("*") if path.name.startswith((".partial", ".np-", ".old", ".dicom"))]
    assert not left
    rows = list(csv.reader(io.StringIO((out / "status.tsv").read_text(encoding="utf-8")), delimiter="\t",
                           quoting=csv.QUOTE_NONE))  # fmt: skip
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == len(read_status(out)) + 1
    for row in rows[1:]:
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "-")) or cell.lstrip("-").replace(".", "").isdigit()


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("in_folder", [False, True])
def test_names(tmp_path: Path, what: str, in_folder: bool) -> None:
    name = NAMES[what]
    try:
        path = write_scan_file(tmp_path / "in" / (f"{name}/head.nii.gz" if in_folder else f"{name}.nii.gz"))
    except (OSError, InputError):
        pytest.skip("the file system does not take this name")
    out = tmp_path / "out"
    (record,) = run_batch([path], fake_job(out, outputs=("brain_mask",)))
    assert record.status == "ok", record.reasons
    whole(out)
    assert record.scan
    assert not set(record.scan) & set("/\\\n\t\r\0<>\"'`$;&|*?")
    (mask,) = [found for found in out.rglob("*_desc-brain_mask.nii.gz") if found.is_file()]
    np.testing.assert_array_equal(nib.load(mask).affine, np.diag([5.0, 5, 5, 1]))
    assert nib.load(mask).shape == SHAPE
    assert run_batch([path], fake_job(out, outputs=("brain_mask",)))[0].reused


def linked(tmp_path: Path) -> Path:
    (tmp_path / "link.nii.gz").symlink_to(write_scan_file(tmp_path / "store" / "0f3a"  / "key.nii.gz"))
    return tmp_path / "link.nii.gz"


def relative(tmp_path: Path) -> Path:
    write_scan_file(tmp_path / "store" / "key.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to("store/key.nii.gz")
    return tmp_path / "link.nii.gz"


def chained(tmp_path: Path) -> Path:
    (tmp_path / "a.nii.gz").symlink_to(linked(tmp_path))
    return tmp_path / "a.nii.gz"


def hard(tmp_path: Path) -> Path:
    os.link(write_scan_file(tmp_path / "a.nii.gz"), tmp_path / "b.nii.gz")
    return tmp_path / "b.nii.gz"


def in_linked_folder(tmp_path: Path) -> Path:
    write_scan_file(tmp_path / "real" / "a.nii.gz")
    (tmp_path / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    return tmp_path / "linked" / "a.nii.gz"


@pytest.mark.parametrize("make", [linked, relative, chained, hard, in_linked_folder])
def test_links_that_lead_somewhere(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (record,) = run_batch([make(tmp_path)], fake_job(tmp_path / "out"))
    assert record.status == "ok"
    whole(tmp_path / "out")


def dangling(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "nowhere")
    return tmp_path / "a.nii.gz", "no such file|is a link to a file"


def loop(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz", "no such file"


def to_folder(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "folder")
    return tmp_path / "a.nii.gz", "no image found|is a folder"


def to_device(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "a.nii").symlink_to("/dev/zero")
    return tmp_path / "a.nii", "not a regular file"


def pipe(tmp_path: Path) -> tuple[Path, str]:
    os.mkfifo(tmp_path / "a.nii")
    return tmp_path / "a.nii", "not a regular file"


def empty(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "a.nii.gz").touch()
    return tmp_path / "a.nii.gz", "is empty"


def hole(tmp_path: Path) -> tuple[Path, str]:
    with (tmp_path / "a.nii").open("wb") as stream:
        stream.truncate(1 << 33)  # takes no room on the disk
    return tmp_path / "a.nii", "is not NIfTI"


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
@pytest.mark.parametrize("make", [dangling, loop, to_folder, to_device, pipe, empty, hole])
def test_paths_that_lead_nowhere(tmp_path: Path, make: Callable[[Path], tuple[Path, str]]) -> None:
    path, words = make(tmp_path)
    good = write_scan_file(tmp_path / "good.nii.gz")
    start = time.perf_counter()
    try:
        records = run_batch([path, good], fake_job(tmp_path / "out"))
    except InputError as error:
        assert any(word in str(error) for word in words.split("|"))  # noqa: PT017
        return
    assert time.perf_counter() - start < 120  # none of them blocks
    bad = next(record for record in records if record.scan != "good")
    assert bad.status == "failed"
    assert any(word in bad.reasons[0] for word in words.split("|")), bad.reasons
    assert str(path) in bad.reasons[0]
    assert [record.status for record in records if record.scan == "good"] == ["ok"]
    whole(tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0o000, 0o200, 0o111])
def test_files_that_may_not_be_read(tmp_path: Path, mode: int) -> None:
    path = write_scan_file(tmp_path / "a.nii.gz")
    path.chmod(mode)
    (record,) = run_batch([path], fake_job(tmp_path / "out"))
    assert "may not be read" in record.reasons[0]


class Meddler(FakeProcessor):
    """Changes the files of the scan while it is processed."""

    what: Callable[[Path], None]

    def run(self, volume: Volume):  # type: ignore[no-untyped-def]
        assert volume.source is not None
        type(self).what(volume.source)
        return super().run(volume)

    def again(self, settings: Settings) -> Meddler:
        return type(self)(settings)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def replace(path: Path) -> None:
    write_scan_file(path, seed=9)
    os.utime(path, ns=(1, 1))


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("what", [remove, truncate, replace, to_link])
def test_scans_that_change_while_they_are_processed(tmp_path: Path, what: Callable[[Path], None]) -> None:
    """What was read is written, and the next run notices the change."""
    path = write_scan_file(tmp_path / "a.nii.gz")

    class Now(Meddler):
        pass

    Now.what = staticmethod(what)  # type: ignore[assignment]
    job = fake_job(tmp_path / "out", outputs=("brain_mask",), make_processor=Now)
    (record,) = run_batch([path], job)
    whole(tmp_path / "out")
    assert record.status == "ok"
    if what is not replace:
        return
    (again,) = run_batch([path], fake_job(tmp_path / "out", outputs=("brain_mask",)))
    assert not again.reused  # the change is noticed


def test_the_output_folder_goes_while_it_runs(tmp_path: Path) -> None:
    path = write_scan_file(tmp_path / "in" / "a.nii.gz")

    class Now(Meddler):
        what = staticmethod(lambda _: shutil.rmtree(tmp_path / "out"))  # type: ignore[assignment]

    try:
        (record,) = run_batch([path], fake_job(tmp_path / "out", make_processor=Now))
    except InputError as error:
        assert str(tmp_path / "out") in str(error)  # noqa: PT017
    else:
        assert record.status == "failed"
        assert "out" in record.reasons[0]


LISTS: dict[str, tuple[str, bytes, str]] = {
    "binary": ("a.csv", b"\xff\xfe\x00\x01", "UTF-8"), "latin": ("a.txt", "Köpf.nii\n".encode("latin-1"), "UTF-8"),
    "UTF-16": ("a.tsv", "path\na.nii\n".encode("utf-16"), "UTF-8"), "empty": ("a.txt", b"", "names no scan"),
    "comments": ("a.txt", b"# a\n#b\n", "names no scan"), "header only": ("a.csv", b"path,age\n", "names no scan"),
    "NUL": ("a.txt", b"a\0b.nii\n", "NUL"), "only commas": ("a.csv", b",,,\n,,\n", "names no scan"),
    "open quote": ("a.csv", b'path\n"a.nii.gz\nb.nii.gz\n', ""),
    "huge cell": ("a.csv", b"path\n" + b"x" * 200_000, "field limit"),
}  # fmt: skip


@pytest.mark.parametrize("what", LISTS)
def test_lists(tmp_path: Path, what: str) -> None:
    name, content, words = LISTS[what]
    path = tmp_path / name
    path.write_bytes(content)
    if words:
        with pytest.raises(InputError, match=words) as caught:
            read_list(path, IMAGE_ENDINGS)
        assert str(caught.value).startswith(str(path))
        return
    try:
        found = expand([path], tmp_path / "out")
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert all(scan.fault for scan in found.scans)


def test_a_list_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a.nii\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(InputError, match=r"a\.txt: cannot be read \(Permission denied\)"):
        read_list(path, IMAGE_ENDINGS)
