"""Files from strangers: no code of theirs runs, no path of theirs is followed, no text of theirs becomes markup."""

from __future__ import annotations

import ast
import gzip
import os
import pickle
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import neuralprep
from engine.fake_processor import fake_job
from neuralprep.engine.record import ScanRecord
from neuralprep.engine.run import run_batch
from neuralprep.errors import InputError, NeuralprepError, WeightsError
from neuralprep.report import write_index
from neuralprep.volume import load

PACKAGE = Path(neuralprep.__file__).parent
#: calls that run what a file says, or write where it says
FORBIDDEN = {"eval", "exec", "extractall", "unpack_archive", "system", "popen", "load_module"}
UNPICKLING = {("pickle", "load"), ("pickle", "loads"), ("marshal", "loads"), ("shelve", "open"), ("dill", "load"),
              ("joblib", "load"), ("yaml", "load")}  # fmt: skip


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def calls() -> list[tuple[Path, ast.Call, str, str]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                base = node.func.value if isinstance(node.func, ast.Attribute) else None
                found.append((path, node, getattr(base, "id", getattr(base, "attr", "")), name))
    return found


def argument(call: ast.Call, name: str) -> object:
    return next((getattr(word.value, "value", None) for word in call.keywords if word.arg == name), None)


def test_no_call_runs_what_a_file_says() -> None:
    for path, call, base, name in calls():
        where = f"{path.relative_to(PACKAGE)}:{call.lineno}"
        assert (base, name) not in UNPICKLING, where
        if name in FORBIDDEN:
            assert name == "eval", where
            assert not call.args, where  # networks have a method of this name, without arguments
        if (base, name) == ("torch", "load"):
            assert argument(call, "weights_only") is True, where
        if (base, name) in (("np", "load"), ("numpy", "load")):
            assert argument(call, "allow_pickle") is False, where
        if base == "subprocess":
            assert not argument(call, "shell"), where


def test_weights_with_objects_are_refused(tmp_path: Path) -> None:
    from neuralprep.networks.published import read_tensors

    marker = tmp_path / "ran"
    for name in ("a.pth", "a.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(marker), protocol=2))
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / name)
    import torch

    torch.save({"state_dict": {"a": torch.zeros(2)}, "extra": Bomb(marker)}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="could run code"):
        read_tensors(tmp_path / "b.pth")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.hdr"])
def test_pickles_in_the_place_of_images_are_not_loaded(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(marker)) + bytes(1000))
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load(tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    (tmp_path / "objects.npy").rename(tmp_path / f"x{name}")
    with pytest.raises(InputError):
        load(tmp_path / f"x{name}")
    assert not marker.exists()


def test_archives_are_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.writestr("../../evil.nii", b"x")
    (record,) = run_batch([tmp_path / "scans.zip"], fake_job(tmp_path / "out"))
    assert "is an archive" in record.reasons[0]
    assert not (tmp_path.parent / "evil.nii").exists()


EVIL = "<script>alert('x')</script>"


def test_text_of_headers_reaches_no_output(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (12, 14, 10)).astype(np.int16),
                            np.diag([5.0, 5, 5, 1]))  # fmt: skip
    for field, size in (("descrip", 80), ("intent_name", 16), ("aux_file", 24), ("db_name", 18)):
        image.header[field] = f"<script>{field}"[:size].encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", EVIL.encode()))
    nib.save(image, tmp_path / "a.nii")
    run_batch([tmp_path / "a.nii"], fake_job(tmp_path / "out"))
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        assert b"<script" not in raw, path


@pytest.mark.parametrize("text", [EVIL, "</script><script>x", "\" onload=\"x", "javascript:x", "<!--", "]]>", "\u2028"])
def test_text_does_not_become_markup(tmp_path: Path, text: str) -> None:
    record = ScanRecord(f"a{text}", f"/in/{text}.nii", "failed", (f"InputError: {text}: no",), 1.0, {"icv_ml": 1.0})
    page = write_index(tmp_path, [record]).read_text(encoding="utf-8")
    lowered = page.lower()
    assert "<script>alert" not in lowered
    assert "<script>x" not in lowered
    assert "onload=\"x" not in lowered
    assert text != "<!--" or "<!--" not in lowered


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY" + bytes(50), bytes(range(64)), b"{}"],
                         ids=["empty", "zip", "numpy", "noise", "json"])
def test_damaged_weights(tmp_path: Path, content: bytes) -> None:
    from neuralprep.networks.published import read_tensors

    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(NeuralprepError, match=r"a\.pth"):
        read_tensors(tmp_path / "a.pth")
