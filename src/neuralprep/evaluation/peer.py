"""One interface for other people's tools that strip a head, correct its bias field or register its brain.

A peer says why it cannot run here (`Peer.missing`) instead of failing, works in a temporary folder that is always
removed, and has its output checked: it must be there, be readable, lie on the scan's grid and not be empty.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuralprep.errors import InputError, NeuralprepError
from neuralprep.evaluation.cases import on_one_grid
from neuralprep.volume import Volume, load, save

Task = Literal["strip", "correct", "register"]


class PeerError(NeuralprepError):
    """A peer failed, took too long, or gave something that cannot be used."""


@dataclass(frozen=True)
class Made:
    """What a peer made and what it took."""

    path: Path
    seconds: float
    cpu_seconds: float


class Peer(ABC):
    """One tool for one task.

    Attributes
    ----------
    name
        As in tables.
    task
        "strip" (gives a uint8 mask), "correct" (a float32 bias-corrected image) or "register" (a transform file).
    threads
        CPU threads that it may use.
    """

    name: str
    task: Task

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    @abstractmethod
    def missing(self) -> str | None:
        """Why the peer cannot run here; None if it can."""

    @abstractmethod
    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        """Do the work in a temporary folder and return the file made there."""

    def run(self, scan: Path, target: Path, *, mask: Path | None = None, template: Path | None = None) -> Made:
        """Run the peer on one scan.

        Parameters
        ----------
        scan
            Image file.
        target
            Where to write the mask, image or transform; whole or not at all.
        mask
            Brain mask on the scan's grid, for peers that correct or register.
        template
            Fixed image, for peers that register.

        Returns
        -------
        Made
            Times are those of the tool, without the checking and saving.

        Raises
        ------
        PeerError
            It is not installed, fails, takes too long, or its output is missing, empty or on another grid.
        InputError
            The scan cannot be read or the target not be written.
        """
        reason = self.missing()
        if reason is not None:
            raise PeerError(f"{self.name}: {reason}")
        given = load(scan, checks=False)
        with tempfile.TemporaryDirectory(prefix="np-peer-") as folder:
            wall, cpu = time.perf_counter(), _cpu_seconds()
            made = self._make(scan.resolve(), Path(folder), mask, template)
            seconds, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            if not made.is_file() or not made.stat().st_size:
                raise PeerError(f"{self.name}: made no {made.name} of {scan}; see what it printed")
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.task == "register":
                partial = target.with_name(f".np-{os.getpid()}.part")
                shutil.copyfile(made, partial)
                partial.replace(target)
            else:
                self._keep(load(made, checks=False), given, target)
        return Made(target, seconds, cpu)

    def _keep(self, made: Volume, scan: Volume, target: Path) -> None:
        """Check a mask or image and save it on the scan's grid."""
        try:
            made = on_one_grid(made, scan)
        except InputError as error:
            raise PeerError(f"{self.name}: its output is not on the scan's grid ({error})") from None
        if not made.data.any():
            raise PeerError(f"{self.name}: its output for {scan.source} is empty")
        if self.task == "strip":
            save(scan.with_data(made.data > 0.5), target, dtype="uint8")
        else:
            save(scan.with_data(made.data), target, dtype="float32")


def _cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
