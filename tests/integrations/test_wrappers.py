"""Nipype and Pydra: the same command line as the parser reads, run for real; skipped where they are not installed."""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from neuralprep.cli import build_parser
from neuralprep.errors import InputError
from neuralprep.integrations.options import read_verb

pytestmark = pytest.mark.filterwarnings("ignore")  # of the workflow tools
GIVEN: dict[str, Any] = {
    "inputs": ["a b_T1w.nii.gz", "it's.nii.gz"], "out": "out dir", "lam": 0.5, "border": -2.0, "no_csf": True,
    "threads": 2, "fill": "min", "mask": "masks", "device": "cpu",
}  # fmt: skip


def read(line: str) -> dict[str, Any]:
    """What the command line stands for."""
    words = shlex.split(line)
    assert words[0] == "neuralprep"
    return vars(build_parser().parse_args(words[1:]))


def check(parsed: dict[str, Any]) -> None:
    for name, value in GIVEN.items():
        found = parsed[name]
        assert (str(found) if isinstance(found, Path) else found) == value, name


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The command on PATH, and an image that is fast to process: `normalize` needs no network."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    data = np.zeros((12, 12, 12), np.float32)
    data[3:9, 3:9, 3:9] = np.random.default_rng(0).uniform(50, 100, (6, 6, 6))
    path = tmp_path / "brain one_T1w.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([5.0, 5.0, 5.0, 1.0])), path)
    return path


def is_z_scored(path: Path) -> bool:
    data = np.asanyarray(nibabel.load(path).dataobj)
    inside = data[3:9, 3:9, 3:9]
    return abs(float(inside.mean())) < 1e-3 and abs(float(inside.std()) - 1) < 1e-2


def test_nipype_has_every_option_and_the_same_line() -> None:
    pytest.importorskip("nipype", reason="nipype is not installed (extra nipype)")
    from neuralprep.integrations.nipype import Run, interface

    run = Run(**GIVEN)
    check(read(run.cmdline))
    for name in ("run", "strip", "register", "normalize", "demo"):
        traits = set(interface(name).input_spec().copyable_trait_names())
        assert traits == {option.name for option in read_verb(name).options} | {"args", "environ"}
    assert type(pickle.loads(pickle.dumps(run))) is Run
    assert set(Run.output_spec().get()) >= {"out", "brain_mask", "template_from_scan"}
    with pytest.raises(InputError, match="has no OUT"):
        interface("weights list")
    with pytest.raises(ValueError, match="requires a value for input 'inputs'"):
        Run(out="out").run()


def test_nipype_runs_the_command(command: Path, tmp_path: Path) -> None:
    pytest.importorskip("nipype", reason="nipype is not installed (extra nipype)")
    from neuralprep.integrations.nipype import interface

    node = interface("normalize")(inputs=[str(command)], out=str(tmp_path / "z.nii.gz"), method="zscore")
    assert node.run().outputs.out == str(tmp_path / "z.nii.gz")
    assert is_z_scored(tmp_path / "z.nii.gz")
    with pytest.raises(RuntimeError, match="no such file"):
        interface("normalize")(inputs=["nothing.nii.gz"], out=str(tmp_path / "z.nii.gz"), method="zscore").run()


def test_pydra_has_every_option_and_the_same_line() -> None:
    pytest.importorskip("pydra.engine.task", reason="pydra 0.25 is not installed (extra pydra)")
    from neuralprep.integrations.pydra import task

    check(read(shlex.join(task("run", **GIVEN).command_args())))
    names = {field.name for field in task("strip").inputs.__attrs_attrs__}
    assert names >= {option.name for option in read_verb("strip").options}
    with pytest.raises(AttributeError, match="mutually exclusive"):
        task("run", inputs=["a"], out="o", resume=True, overwrite=True).inputs.check_fields_input_spec()


def test_pydra_runs_the_command(command: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydra.engine.task", reason="pydra 0.25 is not installed (extra pydra)")
    from neuralprep.integrations.pydra import task

    node = task("normalize", inputs=[str(command)], out="z.nii.gz", method="zscore", cache_dir=tmp_path / "cache")
    node()
    assert is_z_scored(Path(node.result().output.written))
