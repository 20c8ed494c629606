"""One loaded network that maps arrays to arrays, whatever runs it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import InputError
from neuralprep.weights.registry import ModelFiles, find_model

Array = NDArray[np.float32]
DEVICES = ("auto", "cpu", "cuda", "mps")


class Prediction(NamedTuple):
    """What the NPP network says about one volume of (X, Y, Z) voxels.

    Attributes
    ----------
    distances
        (2, X, Y, Z) signed distance to the brain-tissue and the inner-skull surface, mm, negative inside.
    coordinates
        (3, X/4, Y/4, Z/4) template mm at the centres of blocks of 4 voxels.
    log_gain, mask_logit
        (X/2, Y/2, Z/2): chi = exp(log_gain) * sigmoid(mask_logit).
    """

    distances: Array
    coordinates: Array
    log_gain: Array
    mask_logit: Array


class Backend(Protocol):
    """Runs the raw network."""

    name: str

    def __call__(self, image: Array, log10_lambda: float) -> list[Array]:
        """Map an image (1, 1, X, Y, Z) to the network's outputs in order, each with a batch axis."""


@dataclass(frozen=True, eq=False)
class Session:
    """A network ready to run. Make one with :func:`open_session` and reuse it."""

    model: ModelFiles
    backend: Backend

    def predict(self, image: Array, lam: float) -> Prediction:
        """Run the network on an image (X, Y, Z) in [0, 1] with smoothness ``lam``."""
        if lam <= 0:
            raise InputError(f"lambda is {lam}; it must be positive")
        batch = np.ascontiguousarray(image, np.float32)[None, None]
        distances, coordinates, log_gain, mask_logit = self.backend(batch, float(np.log10(lam)))
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
    if device not in DEVICES:
        raise InputError(f"unknown device '{device}'; choose one of {', '.join(DEVICES)}")
    files = find_model(model)
    if device == "auto":
        device = "cuda" if _cuda_is_usable() else "cpu"
    threads = threads or available_threads()
    if device == "cpu" and importlib.util.find_spec("openvino") is not None and files.graph_matches():
        return Session(files, OpenVINOBackend(files, threads))
    return Session(files, TorchBackend(files, device, threads))


def available_threads() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuda_is_usable() -> bool:
    """Whether PyTorch can use a CUDA device; PyTorch (seconds of import) is only asked where a driver is present."""
    drivers = ("/dev/nvidia0", "/proc/driver/nvidia/version", "C:/Windows/System32/nvcuda.dll")
    if not any(Path(driver).exists() for driver in drivers):
        return False
    import torch

    return torch.cuda.is_available()


class OpenVINOBackend:
    """Runs the exported graph with OpenVINO in float32; one compiled network per input shape."""

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
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, image: Array, log10_lambda: float) -> list[Array]:
        """See :class:`Backend`."""
        shape = image.shape
        if shape not in self._compiled:
            graph = self._core.read_model(self._graph)
            graph.reshape({0: list(shape), 1: [1, 1]})
            self._compiled[shape] = self._core.compile_model(graph, "CPU", self._settings)
        result = self._compiled[shape]([image, np.full((1, 1), log10_lambda, np.float32)])
        return [np.array(value) for value in result.values()]


class TorchBackend:
    """Runs the network with PyTorch: the reference, and the way to a GPU."""

    def __init__(self, files: ModelFiles, device: str, threads: int) -> None:
        import torch

        from neuralprep.networks.layers import channels_last
        from neuralprep.networks.loading import load_network

        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[device]:
            raise InputError(f"device '{device}' is not available to PyTorch here; use --device cpu")
        self.name = f"torch-{device}"
        self._torch = torch
        self._device = torch.device(device)
        if device == "cpu":
            torch.set_num_threads(threads)
        self._network = channels_last(load_network(files.weights).eval().to(self._device))

    def __call__(self, image: Array, log10_lambda: float) -> list[Array]:
        """See :class:`Backend`."""
        torch = self._torch
        with torch.inference_mode():
            x = torch.from_numpy(image).to(self._device)
            out = self._network(x, torch.full((1, 1), log10_lambda, device=self._device))
        return [value.float().cpu().numpy() for value in out]
