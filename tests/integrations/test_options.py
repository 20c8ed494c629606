"""The description of a verb says what its parser takes: values -> words -> parser -> the same values."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest

from neuralprep.cli import VERBS, build_parser
from neuralprep.errors import InputError
from neuralprep.integrations.boutiques import descriptor, main
from neuralprep.integrations.options import Option, command_line, read_verb, verbs, written_files

PARSERS = dict(verbs())
NAMES = list(PARSERS)
#: words that the functions of the command line take, where a plain one will not do
_SPECIAL = {
    "N|mean": "mean", "N|mean|each": "each", "native|MM": "native", "zero|min|V": "min", "KEY=VALUE": "mem=4G",
    "LOW,HIGH": "1,99", "NAME|LOW,HIGH": "brain",
}  # fmt: skip


def sample(option: Option, rng: random.Random, verb: str) -> Any:
    """A value that the verb accepts, or None where none is known to this test."""
    if option.kind == "flag":
        return True
    if option.choices:
        one: Any = rng.choice(option.choices)
    elif option.kind == "number":
        one = rng.choice((0.5, 1.0, 2.0))
    elif option.kind == "integer":
        one = rng.randint(1, 9)
    elif option.kind == "path":
        one = rng.choice(("a.nii.gz", "folder/b c.nii", "-dash.nii.gz"))
    elif option.name == "outputs":
        one = {"run": "brain_mask,preproc", "bids": "brain_mask,preproc", "strip": "mask,distance"}.get(verb)
    else:
        one = _SPECIAL.get(option.metavar, "x" if option.required else None)
    if one is None or not accepted(verb, option, one):
        return None
    return [one, one] if option.many or option.appends else one


def accepted(verb: str, option: Option, value: Any) -> bool:
    """Whether the function that reads this option takes the value; ranges are not part of a description."""
    read = next((action.type for action in PARSERS[verb]._actions if option.flag in action.option_strings), None)
    try:
        return not callable(read) or read(str(value)) is not None
    except (argparse.ArgumentTypeError, ValueError):
        return False


def test_every_verb_is_described() -> None:
    assert {name.split()[0] for name in NAMES} == set(VERBS)
    for name in NAMES:
        verb = read_verb(name)
        assert len({option.name for option in verb.options}) == len(verb.options)
        assert all(option.help for option in verb.options if option.flags), name
    with pytest.raises(InputError, match="no verb 'walk'"):
        read_verb("walk")


@pytest.mark.parametrize("name", NAMES)
def test_words_come_back_as_the_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, rng = read_verb(name), random.Random(name)
    parser = build_parser()
    monkeypatch.setattr(argparse.ArgumentParser, "error", _raise)
    for _ in range(15):
        values: dict[str, Any] = {}
        for option in verb.options:
            value = sample(option, rng, name)
            if value is None or set(option.excludes) & set(values):
                assert not option.required or option.excludes, (name, option)
                continue
            if option.required or not option.flags or rng.random() < 0.4:
                values[option.name] = value
        if required_group(name) and not required_group(name) & set(values):
            continue
        words = command_line(verb, values)
        parsed = vars(parser.parse_args([*name.split(), *words]))
        for option in verb.options:
            if option.name in values and option.name in parsed:
                _same(values[option.name], parsed[option.name], option, values)


def required_group(name: str) -> set[str]:
    """Options of which one has to be given."""
    groups = [group for group in PARSERS[name]._mutually_exclusive_groups if group.required]
    return {action.dest for group in groups for action in group._group_actions}


def _raise(self: argparse.ArgumentParser, message: str) -> None:
    raise AssertionError(message)


def _same(given: Any, read: Any, option: Option, values: dict[str, Any]) -> None:
    if isinstance(given, list):
        assert option.name in ("transform", "inverse") or len(read) == len(given), option  # those two share a list
        if option.kind == "path":
            assert [Path(str(item)) for item in read] == [Path(item) for item in given], option
    elif option.kind == "path":
        assert Path(str(read)) == Path(given), option
    elif option.kind in ("flag", "number", "integer"):
        assert read in values.values(), option  # or that of another spelling of the same option


def test_kinds_are_what_the_parser_gives() -> None:
    kinds = {option.name: option.kind for option in read_verb("run").options}
    assert {name: kinds[name] for name in ("inputs", "out", "lam", "threads", "no_csf", "fill", "frame", "mask")} == {
        "inputs": "path", "out": "path", "lam": "number", "threads": "integer", "no_csf": "flag", "fill": "text",
        "frame": "text", "mask": "path"}  # fmt: skip
    strip = {option.name: option for option in read_verb("strip").options}
    assert strip["mask_out"].written
    assert not strip["keep_label"].written
    assert strip["resume"].excludes == ("overwrite",)


@pytest.mark.parametrize("name", [name for name in NAMES if read_verb(name).options])
def test_descriptors_are_valid_and_build_the_same_command(name: str, tmp_path: Path) -> None:
    described = descriptor(name, image="neuralprep:test")
    verb = read_verb(name)
    assert [entry["id"] for entry in described["inputs"]] == [option.name for option in verb.options]
    assert described["container-image"]["image"] == "neuralprep:test"
    bosh = pytest.importorskip("boutiques.bosh", reason="boutiques is not installed")
    file = tmp_path / "descriptor.json"
    file.write_text(json.dumps(described))
    bosh.bosh(["validate", str(file)])
    rng = random.Random(name)
    values: dict[str, Any] = {}
    for option in verb.options:
        value = sample(option, rng, name)
        if value is not None and option.kind != "path" and not set(option.excludes) & set(values):
            values[option.name] = value
        elif option.required and option.kind == "path":
            values[option.name] = ["a.nii.gz", "b.nii.gz"] if option.many else "a.nii.gz"
    call = tmp_path / "call.json"
    call.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    line = bosh.bosh(["exec", "simulate", str(file), "-i", str(call)]).shell_command
    assert line.split() == ["neuralprep", *name.split(), *command_line(verb, values)]


def test_the_module_writes_the_descriptor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "masks"]) == 0
    assert json.loads(capsys.readouterr().out) == descriptor("evaluate masks")
    with pytest.raises(InputError, match="takes nothing"):
        descriptor("weights list")
    with pytest.raises(SystemExit):
        main(["walk"])
    assert "there is no verb 'walk'" in capsys.readouterr().err


def test_written_files_are_those_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "sub-01_T1w").mkdir()
    (tmp_path / "sub-01_T1w" / "sub-01_desc-brain_mask.nii.gz").touch()
    (tmp_path / "status.tsv").write_text("scan\tstatus\nsub-01_T1w\tok\nbad\tfailed\n")
    found = written_files(tmp_path, None)
    assert found.pop("brain_mask") == [str(tmp_path / "sub-01_T1w" / "sub-01_desc-brain_mask.nii.gz")]
    assert not any(found.values())


def test_written_files_of_a_bids_app_lie_in_its_folders(tmp_path: Path) -> None:
    visit = tmp_path / "sub-01" / "ses-2" / "anat"
    visit.mkdir(parents=True)
    (visit / "sub-01_ses-2_desc-brainT2w_mask.nii.gz").touch()
    (tmp_path / "status.tsv").write_text("scan\tstatus\nsub-01_ses-2_T2w\tok\n")
    found = written_files(tmp_path, None)
    assert found.pop("brain_mask") == [str(visit / "sub-01_ses-2_desc-brainT2w_mask.nii.gz")]
    assert not any(found.values())


def test_options_that_exist_only_to_be_refused_are_not_offered() -> None:
    names = {option.name for option in read_verb("bids").options}
    assert {"random_seed", "output_spaces", "reports_only"} <= names
    assert not {"work_dir", "fs_license_file", "task_id"} & names
    assert all(argparse.SUPPRESS not in option.help for verb in NAMES for option in read_verb(verb).options)
