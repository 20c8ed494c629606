"""Container recipes and examples: what they copy exists, they run without rights, and their commands can be read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from neuralprep.cli import build_parser

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) of the Dockerfile, continued lines joined, comments left out."""
    lines = (ROOT / "containers" / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def ignored(path: str) -> bool:
    """Whether the .dockerignore keeps a path of the repository out of the image: the last rule that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        parents = [str(parent) for parent in Path(path).parents if str(parent) != "."]
        fits = any(fnmatch(name, pattern) or (pattern.startswith("**/") and fnmatch(Path(name).name, pattern[3:]))
                   for name in (path, *parents))  # fmt: skip
        if fits:
            out = not rule.startswith("!")
    return out


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = [text.split()[:-1] for word, text in instructions() if word == "COPY" and not text.startswith("--from")]
    sources = [source for names in copied for source in names]
    assert {"pyproject.toml", "constraints.txt", "src"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert not ignored("src/neuralprep/cli/run.py")
    for secret in (".git", ".git/config", "out/scan.nii.gz", "shared/data/head.nii.gz", "tests/conftest.py",
                   "src/neuralprep/__pycache__/x.pyc", "src/neuralprep/x.pyc"):  # fmt: skip
        assert ignored(secret), secret


def test_the_image_runs_without_rights_and_needs_no_network() -> None:
    found = instructions()
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    final = found[last:]
    user = [text for word, text in final if word == "USER"][-1]
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) > 0
    assert [text for word, text in final if word == "ENTRYPOINT"] == ['["neuralprep"]']
    environment = " ".join(text for word, text in final if word == "ENV")
    assert all(f"{name}_NUM_THREADS=" in environment for name in ("OMP", "OPENBLAS", "MKL"))
    runs = " ".join(text for word, text in found if word == "RUN")
    assert "--constraint constraints.txt" in runs
    assert not re.search(r"\b(curl|wget|git|apt-get)\b|https?://", runs)


def test_the_two_recipes_install_the_same() -> None:
    recipe = (ROOT / "containers" / "neuralprep.def").read_text()
    image = next(text for word, text in instructions() if word == "ARG" and text.startswith("PYTHON_IMAGE"))
    assert f"From: {image.partition('=')[2]}" in recipe
    files = re.search(r"%files\n(.*?)\n\n", recipe, re.S)
    assert files
    for line in files[1].splitlines():
        source, target = line.split()
        assert (ROOT / source).exists(), source
        assert target == f"/source/{source}"
    extras = next(text for word, text in instructions() if word == "ARG" and text.startswith("EXTRAS="))
    assert f'--constraint constraints.txt ".[{extras.partition("=")[2]}]"' in recipe
    # nothing can be installed into an image that is read-only and without a network
    assert {"cpu", "dicom", "viewer"} <= set(extras.partition("=")[2].split(","))
    assert {"%post", "%environment", "%runscript", "%test", "%labels", "%help"} <= set(recipe.splitlines())
    assert "--no-cache-dir" in recipe


def test_the_recipe_is_without_complaint() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([program, str(ROOT / "containers" / "Dockerfile")], check=True)


@pytest.mark.parametrize("name", ["Dockerfile", "neuralprep.def"])
def test_the_commands_in_the_comments_can_be_read(name: str) -> None:
    text = (ROOT / "containers" / name).read_text().replace("\\\n#", "")
    lines = [line for line in text.splitlines() if re.search(r"\b(docker|apptainer) run .*neuralprep", line)]
    commands = [shlex.split(re.split(r"neuralprep(?:\.sif)? ", line.strip("# "), maxsplit=1)[1]) for line in lines]
    commands = [words for words in commands if words[0] in ("run", "bids", "strip")]
    assert commands
    for words in commands:
        build_parser().parse_args(words)


def test_the_array_script_gives_every_scan_to_one_task(tmp_path: Path) -> None:
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("bash is not installed")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "neuralprep"  # says what it was asked for, so that no scan is needed
    fake.write_text(f'#!{shell}\necho "$@"\n')
    fake.chmod(0o755)
    scans = ["/abs/a b.nii.gz", "rel/c.nii.gz", "# not a scan", "", "d.nii.gz\r", "~/e.nii.gz"]
    (tmp_path / "scans.txt").write_text("\n".join(scans) + "\n")
    given: list[str] = []
    for task in range(3, 9):
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                       "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "6", "SLURM_ARRAY_TASK_MIN": "3",
                       "SLURM_CPUS_PER_TASK": "3"}  # fmt: skip
        done = subprocess.run([shell, str(EXAMPLES / "slurm_array.sh"), "scans.txt", "out", "--lambda", "1"],
                              env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)  # fmt: skip
        if "nothing to do" in done.stdout:
            continue
        args = build_parser().parse_args(shlex.split(done.stdout))
        assert (args.lam, args.threads, args.out) == (1.0, 3, Path(f"out/part-{task - 3}"))
        given += (tmp_path / args.inputs[0]).read_text().splitlines()
    folder = tmp_path.resolve()
    assert sorted(given) == sorted(["/abs/a b.nii.gz", f"{folder}/rel/c.nii.gz", f"{folder}/d.nii.gz", "~/e.nii.gz"])
    failed = subprocess.run([shell, str(EXAMPLES / "slurm_array.sh")], capture_output=True, text=True, check=False)
    assert (failed.returncode, "usage" in failed.stderr) == (2, True)


def test_the_snakefile_plans_one_job_for_each_list(tmp_path: Path) -> None:
    pytest.importorskip("snakemake", reason="snakemake is not installed")
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    for name in ("a.nii.gz", "b.nii", "deep/c.mgz", "notes.txt"):
        (tmp_path / "scans" / name).touch()
    command = [sys.executable, "-m", "snakemake", "-s", str(EXAMPLES / "Snakefile"), "--cores", "1", "--dry-run",
               "--config", "scans=scans", "out=out", "per_job=2"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.search(r"^run +2$", done.stdout + done.stderr, re.M)
    assert re.search(r"^collect +1$", done.stdout + done.stderr, re.M)


@pytest.mark.parametrize("name", ["Snakefile", "main.nf"])
def test_the_commands_of_the_workflows_can_be_read(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    line = next(line for line in text.splitlines() if re.match(r'\s*"?neuralprep run ', line))
    line = re.sub(r"\$?\{params\.options\}", "", line.strip().strip('"').partition("||")[0])
    words = re.sub(r"\$?\{.*?\}", "1", line).split()
    args = build_parser().parse_args([word for word in words[1:] if word])
    assert args.threads == 1
    assert args.quiet
