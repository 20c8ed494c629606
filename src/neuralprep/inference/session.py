"""One loaded network that maps arrays to arrays, whatever runs it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError, WeightsError
from neuralprep.weights.registry import PAIR_LAYOUT, ModelFiles, find_model

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]
LookKind = Literal["wide", "close", "fine"]
DEVICES = ("auto", "cpu", "cuda", "mps")
_KEPT_SHAPES = 4
"""Compiled networks that are kept: each has buffers of its own."""


class Prediction(NamedTuple):
    """What the NPP network says about one volume of (X, Y, Z) voxels.

    Attributes
    ----------
    distances
        (2, X, Y, Z) signed distance to the brain-tissue and the inner-skull surface, mm, negative inside.
    coordinates
        (3, X/4, Y/4, Z/4) template mm at the centres of blocks of 4 voxels; empty of a network without pose.
    log_gain, mask_logit
        (X/2, Y/2, Z/2): chi = exp(log_gain) * sigmoid(mask_logit); zero of a network without field.
    """

    distances: Array
    coordinates: Array
    log_gain: Array
    mask_logit: Array


class Backend(Protocol):
    """Runs the raw network."""

    name: str

    def __call__(self, *inputs: Array) -> list[Array]:
        """Map inputs with a batch axis to the network's outputs in order; inputs that it does not take are left out."""


@dataclass(frozen=True, eq=False)
class Session:
    """A network ready to run. Make one with :func:`open_session` and reuse it.

    ``closer`` and ``finer`` run the model's networks of the closer look, the quick one and the one that masks come
    from.
    """

    model: ModelFiles
    backend: Backend
    closer: Backend | None = None
    finer: Backend | None = None

    def predict(self, image: Array, lam: float, look: LookKind = "wide") -> Prediction:
        """Run a network on an image (X, Y, Z) in [0, 1] with smoothness ``lam``.

        ``look`` is "wide" at a head in any pose; where the pose is known "close", or "fine": at twice the cost.
        """
        if lam <= 0:
            raise InputError(f"lambda is {lam}; it must be positive")
        batch = np.ascontiguousarray(image, np.float32)[None, None]
        backend = {"wide": None, "close": self.closer, "fine": self.finer}[look] or self.backend
        distances, *others = backend(batch, np.full((1, 1), np.log10(lam), np.float32))
        if not others:
            half = np.zeros(tuple(n // 2 for n in image.shape), np.float32)
            return Prediction(distances[0], np.zeros((3, 0, 0, 0), np.float32), half, half)
        coordinates, log_gain, mask_logit = others
        return Prediction(distances[0], coordinates[0], log_gain[0, 0], mask_logit[0, 0])


def open_session(model: str = "npp", device: str = "auto", threads: int | None = None) -> Session:
    """Load a model on a device.

    Parameters
    ----------
    model
        Name of a shipped model or path of a ``.safetensors`` file.
    device
        ``auto`` takes a CUDA device where PyTorch finds one, else the CPU.
    threads
        CPU threads; None uses all cores this process may run on.

    Raises
    ------
    InputError
        Unknown or absent device.
    WeightsError
        Missing or unfit weights.
    """
    files = find_model(model)
    if files.layout == PAIR_LAYOUT:
        raise WeightsError(f"{files.weights}: networks of layout '{PAIR_LAYOUT}' cannot be run on a scan")

    def beside(other: ModelFiles | None) -> Backend | None:
        if other is None:
            return None
        other.must_be(files.layout)
        return open_backend(other, device, threads)

    closer = beside(files.close)
    finer = closer if files.fine is files.close else beside(files.fine)
    return Session(files, open_backend(files, device, threads), closer, finer)


def open_backend(files: ModelFiles, device: str = "auto", threads: int | None = None) -> Backend:
    """What runs a model: its graph with OpenVINO on a CPU where both are there, else PyTorch.

    Raises
    ------
    InputError
        Unknown or absent device.
    WeightsError
        Unfit weights.
    """
    device = chosen_device(device)
    threads = threads or available_threads()
    if device == "cpu" and importlib.util.find_spec("openvino") is not None and files.graph_matches():
        return OpenVINOBackend(files, threads)
    return TorchBackend(files, device, threads)


def available_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_device(device: str) -> str:
    """A device by its name; ``auto`` is a CUDA device where PyTorch finds one, else the CPU.

    Raises
    ------
    InputError
        Unknown name.
    """
    if device not in DEVICES:
        raise InputError(f"unknown device '{device}'; choose one of {', '.join(DEVICES)}")
    return device if device != "auto" else "cuda" if cuda_is_usable() else "cpu"


def cuda_is_usable() -> bool:
    """Whether PyTorch can use a CUDA device; PyTorch (seconds of import) is only asked where a driver is present."""
    drivers = ("/dev/nvidia0", "/proc/driver/nvidia/version", "C:/Windows/System32/nvcuda.dll")
    if not any(Path(driver).exists() for driver in drivers):
        return False
    import torch

    return torch.cuda.is_available()


def torch_device(device: str, threads: int) -> torch.device:
    """PyTorch's device of a name, with the number of CPU threads set.

    Raises
    ------
    InputError
        PyTorch does not find it.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device]:
        raise InputError(f"device '{device}' is not available to PyTorch here; use --device cpu")
    if device == "cpu":
        torch.set_num_threads(threads)
    return torch.device(device)


class OpenVINOBackend:
    """Runs the exported graph with OpenVINO in float32; one compiled network per input shape, the last few kept.

    One network compiled with open sizes would spare 0.2 s for every further size, but is slower by a tenth on two
    threads and by 0.1 s the first time; most runs see one size.
    """

    name = "openvino"

    def __init__(self, files: ModelFiles, threads: int) -> None:
        import openvino

        self._core = openvino.Core()
        self._graph = files.graph
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, *inputs: Array) -> list[Array]:
        """See :class:`Backend`."""
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._compiled:
            while len(self._compiled) >= _KEPT_SHAPES:
                del self._compiled[next(iter(self._compiled))]
            graph = self._core.read_model(self._graph)
            # networks that only strip know no lambda
            graph.reshape({k: list(shape) for k, shape in enumerate(shapes[: len(graph.inputs)])})
            self._compiled[shapes] = self._core.compile_model(graph, "CPU", self._settings)
        compiled = self._compiled[shapes] = self._compiled.pop(shapes)  # the last used is the last to go
        result = compiled(list(inputs[: len(compiled.inputs)]))
        return [np.array(value) for value in result.values()]


class TorchBackend:
    """Runs the network with PyTorch: the reference, and the way to a GPU."""

    def __init__(self, files: ModelFiles, device: str, threads: int) -> None:
        import torch

        from neuralprep.networks.layers import channels_last, with_exact_norms
        from neuralprep.networks.loading import load_any
        from neuralprep.networks.npp import CompactNPP, DistanceNet
        from neuralprep.networks.pair import PairNet

        self.name = f"torch-{device}"
        self._torch = torch
        self._device = torch_device(device, threads)
        layout, network = load_any(files.weights)
        takes = {CompactNPP: 2, DistanceNet: 1, PairNet: 3}
        if type(network) not in takes:
            raise WeightsError(f"{files.weights}: networks of layout '{layout}' cannot be run on a scan")
        self._takes = takes[type(network)]
        self._network = channels_last(network.eval().to(self._device))
        if self._device.type == "cpu":
            with_exact_norms(self._network)

    def __call__(self, *inputs: Array) -> list[Array]:
        """See :class:`Backend`."""
        torch = self._torch
        with torch.inference_mode():
            out = self._network(*(torch.from_numpy(value).to(self._device) for value in inputs[: self._takes]))
        parts = (out,) if isinstance(out, torch.Tensor) else out
        return [value.float().cpu().numpy() for value in parts]
