"""Peers that are commands on PATH. They have a time limit; what they started is ended with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuralprep.evaluation.cases import on_one_grid
from neuralprep.evaluation.peer import Peer, PeerError, Task
from neuralprep.volume import load, save

TIMEOUT_S = 3600.0
_LAST_WORDS = 600
_THREADS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Command:
    """Command line of a tool on PATH.

    In `arguments`, ``{scan}``, ``{mask}``, ``{masked}`` (the scan within the mask) and ``{out}`` (a name in the
    temporary folder, without ending) are filled in; `makes` are the files to look for, relative to that folder.
    """

    name: str
    task: Task
    executable: str
    arguments: tuple[str, ...]
    makes: tuple[str, ...]


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("bet", "strip", "bet", ("{scan}", "{out}", "-m", "-n"), ("out_mask.nii.gz",)),
        Command("mri_synthstrip", "strip", "mri_synthstrip", ("-i", "{scan}", "-m", "{out}.nii.gz"), ("out.nii.gz",)),
        Command("mri_watershed", "strip", "mri_watershed", ("{scan}", "{out}.nii.gz"), ("out.nii.gz",)),
        Command("robex", "strip", "runROBEX.sh", ("{scan}", "{out}_brain.nii.gz", "{out}.nii.gz"), ("out.nii.gz",)),
        Command(
            "hd-bet", "strip", "hd-bet",
            ("-i", "{scan}", "-o", "{out}.nii.gz", "-device", "cpu", "--disable_tta", "--save_bet_mask",
             "--no_bet_image"),
            ("out_bet.nii.gz", "out_mask.nii.gz"),
        ),
        Command("fast", "correct", "fast", ("-B", "-o", "{out}", "{masked}"), ("out_restore.nii.gz",)),
    )
}
"""Options are the tools' own defaults for a single T1w head. Sources: their help texts."""


class CommandPeer(Peer):
    """A tool that is found on PATH."""

    def __init__(self, command: Command, threads: int = 1, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(threads)
        self.command, self.name, self.task, self.timeout_s = command, command.name, command.task, timeout_s

    def missing(self) -> str | None:
        """Whether the executable is on PATH."""
        found = shutil.which(self.command.executable)
        return None if found else f"no '{self.command.executable}' on PATH; install it to compare with it"

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        names = {"scan": str(scan), "out": str(folder / "out"), "mask": str(mask), "masked": str(scan)}
        if mask is not None and any("{masked}" in a for a in self.command.arguments):
            names["masked"] = str(folder / "masked.nii.gz")
            image, inside = load(scan, checks=False), load(mask, checks=False)
            inside = on_one_grid(inside, image)
            save(image.with_data(np.where(inside.data > 0, image.data, np.float32(0))), Path(names["masked"]))
        executable = shutil.which(self.command.executable) or self.command.executable
        arguments = [argument.format(**names) for argument in self.command.arguments]
        self._execute([executable, *arguments], folder)
        made = next((folder / name for name in self.command.makes if (folder / name).is_file()), None)
        return made or folder / self.command.makes[0]

    def _execute(self, arguments: Sequence[str], folder: Path) -> None:
        """Run a command in its own process group, so that all of it can be ended at the time limit."""
        environment = {**os.environ, "FSLOUTPUTTYPE": "NIFTI_GZ", **dict.fromkeys(_THREADS, str(self.threads))}
        log = folder / "log.txt"
        with log.open("wb") as words:
            process = subprocess.Popen(
                arguments, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=words,
                stderr=subprocess.STDOUT, start_new_session=True,
            )
            try:
                code = process.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                raise PeerError(f"{self.name}: not done after {self.timeout_s:g} s; it was ended") from None
            finally:
                _end_group(process)
        if code:
            said = log.read_text(errors="replace").strip()[-_LAST_WORDS:]
            raise PeerError(f"{self.name}: ended with exit code {code}; its last words: {said or '(none)'}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what a command left running; the group is its own, see ``start_new_session``."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
