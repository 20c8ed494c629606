from __future__ import annotations

from pathlib import Path

import pytest

import neuralprep
from engine.fake_processor import fake_job, make_fake, write_scan_file
from neuralprep.cli import build_parser, main
from neuralprep.cli.console import scan_line, status_table
from neuralprep.cli.run import conflict, job_from
from neuralprep.engine import worker
from neuralprep.engine.record import ScanRecord
from neuralprep.engine.run import run_batch


def parse(*arguments: str):
    return build_parser().parse_args(["run", "in.nii", "out", *arguments])


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with the fake processor and without figures."""
    monkeypatch.setattr(worker.Job, "__init__", _fake_init(worker.Job.__init__))


def _fake_init(init):
    def fake(self, *args, **kwargs) -> None:
        init(self, *args, **{"make_processor": make_fake, "write_report": False, **kwargs})

    return fake


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"neuralprep {neuralprep.__version__}\n"


def test_a_flag_that_does_not_exist_leads_to_the_help_of_its_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bids", "raw", "out", "participant", "--notrack", "--mem", "4"])
    assert stop.value.code == 2
    assert "bids takes no --notrack --mem 4. `neuralprep bids --help` lists" in capsys.readouterr().err


def test_every_flag_reaches_the_settings(tmp_path: Path) -> None:
    args = parse(
        "--lambda", "1", "--border", "-2.5", "--no-csf", "--space", "MNI152NLin2009aSym", "--res", "2", "--outputs",
        "brain_mask, preproc", "--fill", "-1000", "--frame", "3", "--overwrite", "--device", "cpu", "--threads", "3",
    )  # fmt: skip
    assert conflict(args) == ""
    job = job_from(args)
    s = job.settings
    assert (s.lam, s.border_mm, s.no_csf, s.resolution, s.fill) == (1.0, -2.5, True, 2.0, -1000.0)
    assert (s.outputs, s.device, s.threads) == (("brain_mask", "preproc"), "cpu", 3)
    assert (job.frame, job.overwrite, job.out_dir) == (3, True, Path("out"))
    switched = job_from(parse("--no-strip", "--no-register", "--frame", "mean"))
    assert (switched.settings.strip, switched.settings.normalize, switched.settings.register) == (False, True, False)
    assert switched.frame == "mean"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lambda", "0.00001"], ["--lambda", "101"], ["--lambda", "x"], ["--res", "0"], ["--res", "big"],
        ["--frame", "-1"], ["--outputs", "brain"], ["--outputs", ","], ["--fill", "none"], ["--jobs", "0"],
        ["--threads", "two"], ["--overwrite", "--resume"], ["--quiet", "--verbose"],
        ["--device", "tpu"], ["--border"], ["--unknown"],
    ],
)  # fmt: skip
def test_values_out_of_range_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    assert "_number" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--border", "1", "--no-strip"], "--border has no effect with --no-strip"),
        (["--no-csf", "--no-strip"], "--no-csf has no effect with --no-strip"),
        (["--mask", "m.nii", "--no-strip"], "--mask has no effect with --no-strip"),
        (["--fill", "min", "--no-strip"], "--fill has no effect with --no-strip"),
        (["--lambda", "1", "--no-normalize"], "--lambda has no effect with --no-normalize"),
        (["--space", "X", "--no-register"], "--space has no effect with --no-register"),
        (["--res", "native", "--no-register"], "--res has no effect with --no-register"),
        (["--border", "0", "--mask", "m.nii"], "--border has no effect with --mask"),
        (["--no-strip", "--no-normalize", "--no-register"], "nothing to do"),
        (["--outputs", "multiplier", "--no-normalize"], "multiplier cannot be made with --no-normalize"),
        (["--outputs", "space_brain_mask", "--no-strip"], "space_brain_mask cannot be made with --no-strip"),
        (["--mask", "gone.nii"], "no such file"),
    ],
)
def test_flags_without_effect_are_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in conflict(parse(*arguments))
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tmp_path), str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fake_engine")
def test_exit_codes_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, odd = write_scan_file(tmp_path / "good.nii.gz"), write_scan_file(tmp_path / "odd.nii.gz")
    bad = write_scan_file(tmp_path / "bad.nii.gz")
    out = str(tmp_path / "out")

    assert main(["run", str(good), str(odd), out]) == 0
    printed = capsys.readouterr()
    assert "[1/2] good ok (" in printed.err
    assert "2 scans: 1 ok, 1 check, 0 failed" in printed.out
    assert "the brain looks odd" in printed.out

    assert main(["run", str(tmp_path / "*.nii.gz"), out]) == 1
    printed = capsys.readouterr()
    assert "bad failed" in printed.err
    assert "1 ok, 1 check, 1 failed (2 finished before)" in printed.out

    assert main(["run", "--quiet", str(bad), str(good), out]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1

    assert main(["run", str(tmp_path / "nothing" / "*.nii"), out]) == 2
    assert "no image matches" in capsys.readouterr().err
    assert main(["run", str(good), str(bad)]) == 2
    assert "last argument is the output folder" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_engine")
def test_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuralprep.volume.load", stop)
    scan = write_scan_file(tmp_path / "a.nii.gz")
    assert main(["run", str(scan), str(tmp_path / "out")]) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".partial*"))


def test_a_terminal_gets_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from neuralprep.cli.console import Console

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    console = Console()
    run_batch([write_scan_file(tmp_path / "a.nii.gz")], fake_job(tmp_path / "out"), progress=console)
    console.close()
    assert "1/1" in capsys.readouterr().err


def test_long_tables_show_what_needs_attention() -> None:
    records = [ScanRecord(f"s{i}", "", "ok") for i in range(100)]
    records.append(ScanRecord("broken", "", "failed", ("InputError: " + "long " * 60,)))
    table = status_table(records, width=80)
    assert len(table.splitlines()) == 3
    assert table.count("long") == 60
    assert scan_line(records[0]) == "s0 ok (0.0 s)"
