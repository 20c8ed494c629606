"""The peers: this package and other people's tools, each behind the interface of `neuralprep.evaluation.peer`.

Libraries run in this process and have no time limit; commands have one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from neuralprep.errors import InputError
from neuralprep.evaluation.peer import Peer, PeerError, Task
from neuralprep.evaluation.peer_commands import COMMANDS, TIMEOUT_S, CommandPeer
from neuralprep.pipeline import Preprocessor, Settings
from neuralprep.volume import Volume, load, save


class Ours(Peer):
    """Our own pipeline behind the same interface, so that it is scored and timed like any other."""

    name = "neuralprep"

    def __init__(self, task: Task = "strip", threads: int = 1, settings: dict[str, Any] | None = None) -> None:
        super().__init__(threads)
        self.task = task
        outputs = {"strip": "brain_mask", "correct": "preproc"}
        if task not in outputs:
            raise InputError("the package registers to its own templates; compare it through the pipeline instead")
        self._output = outputs[task]
        off: dict[str, Any] = {"normalize": False, "register": False} if task == "strip" else {"register": False}
        chosen = {**off, **(settings or {}), "threads": threads, "outputs": (self._output,)}
        self._preprocessor = Preprocessor(Settings(**chosen))

    def missing(self) -> str | None:
        """Never: it is this package."""
        return None

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        made = self._preprocessor.run(load(scan)).outputs[self._output]
        assert isinstance(made, Volume)
        save(made, folder / "out.nii.gz")
        return folder / "out.nii.gz"


class DeepBet(Peer):
    """deepbet (MIT), which carries its weights; its defaults, on the CPU."""

    name, task = "deepbet", "strip"

    def missing(self) -> str | None:
        """Whether the package is installed."""
        return _not_installed("deepbet", "deepbet")

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        import torch
        from deepbet import run_bet

        torch.set_num_threads(self.threads)
        made = folder / "out.nii.gz"
        run_bet([str(scan)], mask_paths=[str(made)], no_gpu=True, skip_broken=False)
        return made


class MindGrabPeer(Peer):
    """MindGrab with the published tensors through our layout; see `neuralprep.evaluation.mindgrab`."""

    name, task = "mindgrab", "strip"

    def __init__(self, weights: Path | None, threads: int = 1) -> None:
        super().__init__(threads)
        self.weights = weights
        self._network: Any = None

    def missing(self) -> str | None:
        """Whether the file of published tensors is there."""
        if self.weights is None:
            return "its weights are published apart; give the path of their model.pth"
        return None if self.weights.is_file() else f"{self.weights}: no such file; give the published model.pth"

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        from neuralprep.evaluation.mindgrab import MindGrab

        if self._network is None:
            assert self.weights is not None
            self._network = MindGrab(self.weights, self.threads)
        save(self._network.strip(load(scan, checks=False)), folder / "out.nii.gz")
        return folder / "out.nii.gz"


class SimpleItkN4(Peer):
    """N4 as SimpleITK has it, on every fourth voxel within the mask (Otsu's if none is given).

    Source: Tustison et al., IEEE Trans. Med. Imaging 29:1310 (2010).
    """

    name, task = "N4", "correct"
    SHRINK = 4

    def missing(self) -> str | None:
        """Whether the package is installed."""
        return _not_installed("SimpleITK", "SimpleITK")

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        import SimpleITK as sitk  # noqa: N813 - the field's name for it

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self.threads)
        image = sitk.ReadImage(str(scan), sitk.sitkFloat32)
        if mask is None:
            inside = sitk.OtsuThreshold(image, 0, 1, 200)
        else:
            inside = sitk.Cast(sitk.ReadImage(str(mask)) > 0, sitk.sitkUInt8)
            inside.CopyInformation(image)
        shrink = [max(1, min(self.SHRINK, size // 8)) for size in image.GetSize()]
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(inside, shrink))
        corrected = image / sitk.Exp(sitk.Cast(n4.GetLogBiasFieldAsImage(image), sitk.sitkFloat32))
        sitk.WriteImage(corrected, str(folder / "out.nii.gz"))
        return folder / "out.nii.gz"


class AntsN4(Peer):
    """ANTs' ``abp_n4``: outliers cut off, then N4 with its defaults."""

    name, task = "ants-abpN4", "correct"

    def missing(self) -> str | None:
        """Whether the package is installed."""
        return _not_installed("ants", "antspyx")

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        import ants

        inside = None if mask is None else ants.image_read(str(mask)).threshold_image(0.5, 1e9)
        ants.image_write(ants.abp_n4(ants.image_read(str(scan)), mask=inside), str(folder / "out.nii.gz"))
        return folder / "out.nii.gz"


class AntsAffine(Peer):
    """ANTs' affine registration of a brain to a brain template; gives ITK's affine, fixed -> moving."""

    name, task = "ants-affine", "register"

    def missing(self) -> str | None:
        """Whether the package is installed."""
        return _not_installed("ants", "antspyx")

    def _make(self, scan: Path, folder: Path, mask: Path | None, template: Path | None) -> Path:
        import ants

        if template is None:
            raise PeerError(f"{self.name}: needs a template to register to")
        fixed, moving = ants.image_read(str(template)), ants.image_read(str(scan))
        if mask is not None:
            moving = moving * ants.image_read(str(mask)).threshold_image(0.5, 1e9)
        # a fixed seed: the metric samples points at random
        fit = ants.registration(
            fixed, moving, type_of_transform="Affine", outprefix=str(folder / "out_"), random_seed=1
        )
        return Path(fit["fwdtransforms"][0])


def all_peers(threads: int = 1, mindgrab: Path | None = None, timeout_s: float = TIMEOUT_S) -> list[Peer]:
    """Every peer, installed or not, in the order of tables."""
    libraries: list[Peer] = [DeepBet(threads), MindGrabPeer(mindgrab, threads)]
    libraries += [SimpleItkN4(threads), AntsN4(threads), AntsAffine(threads)]
    return libraries + [CommandPeer(command, threads, timeout_s) for command in COMMANDS.values()]


def choose(peers: Iterable[Peer], task: Task, names: Sequence[str] | None = None) -> tuple[list[Peer], dict[str, str]]:
    """The peers of a task that can run here, and why the others cannot.

    Parameters
    ----------
    peers
        For example `all_peers`.
    task
        What they must do.
    names
        Only these; None takes all that can run.

    Returns
    -------
    list of Peer
    dict
        Name to reason of every peer of the task that cannot run.

    Raises
    ------
    InputError
        A name that no peer of the task has, or a named peer that cannot run.
    """
    able = {peer.name: peer for peer in peers if peer.task == task}
    reasons = {name: reason for name, peer in able.items() if (reason := peer.missing()) is not None}
    if names is None:
        return [peer for name, peer in able.items() if name not in reasons], reasons
    for name in names:
        if name not in able:
            raise InputError(f"no peer is called {name}; there are {', '.join(able)}")
        if name in reasons:
            raise InputError(f"{name}: {reasons[name]}")
    return [able[name] for name in names], {}


def _not_installed(module: str, package: str) -> str | None:
    return None if importlib.util.find_spec(module) else f"not installed; pip install {package}"
