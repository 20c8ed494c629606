"""Networks that say of every voxel of a cube whether it is brain (MindGrab and its family).

The graph for OpenVINO is built from the tensors alone, so that stripping on a CPU needs no PyTorch. The norms of
these networks average over all they see, so the whole cube is run, never a part of it: cutting to the head and
putting constant air into the statistics was tried and changes the mask (Dice 0.992 to 0.997 with the full cube),
because zero padding at the faces of the cube reaches far into the air. Where the processor multiplies bfloat16 natively
it is used for the convolutions (Dice 0.9999 with float32, two thirds of the time, half of the memory); sums of the
norms are float32 in every case.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuralprep.errors import WeightsError
from neuralprep.inference.session import Array, available_threads, chosen_device
from neuralprep.weights.registry import MESHNET_LAYOUT, ModelFiles, find_model

_NORM_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class MaskSession:
    """A mask network ready to run. Make one with :func:`open_mask_session` and reuse it.

    Attributes
    ----------
    model
        Where the weights are.
    runtime
        What runs it, for provenance.
    side, spacing_mm
        Edge of the cube it wants, in voxels, and their size.
    """

    model: ModelFiles
    runtime: str
    side: int
    spacing_mm: float
    _run: Callable[[Array], Array]

    def predict(self, image: Array) -> Array:
        """Logit of brain (X, Y, Z) of an image (X, Y, Z) in [0, 1], axes left, inferior, anterior."""
        return self._run(np.ascontiguousarray(image, np.float32))


def open_mask_session(model: str = "mindgrab", device: str = "auto", threads: int | None = None) -> MaskSession:
    """Load a mask network on a device.

    Parameters
    ----------
    model
        Name of a shipped or fetched model, or path of a ``.safetensors`` file.
    device
        ``auto`` takes a CUDA device where PyTorch finds one, else the CPU.
    threads
        CPU threads; None uses all cores this process may run on.

    Raises
    ------
    InputError
        Unknown or absent device.
    WeightsError
        Missing or unfit weights, or of another layout.
    """
    device = chosen_device(device)
    files = find_model(model)
    files.must_be(MESHNET_LAYOUT)
    side, spacing = int(files.card.get("size", 256)), float(files.card.get("spacing_mm", 1.0))
    threads = threads or available_threads()
    if device == "cpu" and importlib.util.find_spec("openvino") is not None:
        runtime, run = _openvino(files, side, threads)
    else:
        runtime, run = _torch(files, device, threads)
    return MaskSession(files, runtime, side, spacing, run)


def _openvino(files: ModelFiles, side: int, threads: int) -> tuple[str, Callable[[Array], Array]]:
    """Runs the graph with OpenVINO; compiled at the first image, so that opening costs nothing."""
    import openvino

    core = openvino.Core()
    precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(_graph(files, (side, side, side)), "CPU", settings)

    def run(image: Array) -> Array:
        return np.asarray(compiled(image[None, None])[0][0, 0], np.float32)

    return f"openvino-{precision}", run


def _graph(files: ModelFiles, shape: tuple[int, int, int]) -> object:
    """The network as an OpenVINO model: image (1, 1, X, Y, Z) -> logit of brain (1, 1, X, Y, Z)."""
    import openvino
    from openvino import opset13 as ops

    tensors, dilations = _tensors(files)
    image = state = ops.parameter([1, 1, *shape], openvino.Type.f32)
    space = ops.constant(np.array([2, 3, 4], np.int64))
    ones = [1, 1, 1]
    for index, dilation in enumerate(dilations):
        around = [dilation] * 3
        weight = ops.constant(tensors[f"model.{index}.0.weight"])
        state = ops.convolution(state, weight, ones, around, around, around)
        state = ops.mvn(state, space, True, _NORM_EPS, "inside_sqrt")
        state = ops.gelu(state, "erf")
    weight, bias = (tensors[f"model.{len(dilations)}.{part}"] for part in ("weight", "bias"))
    nothing = [0, 0, 0]
    state = ops.convolution(state, ops.constant(weight[1:2] - weight[0:1]), ones, nothing, nothing, ones)
    state = ops.add(state, ops.constant((bias[1:2] - bias[0:1]).reshape(1, 1, 1, 1, 1)))
    return openvino.Model([state], [image])


def _tensors(files: ModelFiles) -> tuple[dict[str, NDArray[np.float32]], list[int]]:
    """Tensors of a weights file as float32, checked against its configuration, and the dilation of each block."""
    from safetensors.numpy import load_file

    try:
        config = json.loads(files.metadata["config"])
        dilations = [int(value) for value in config["dilations"]]
        width = int(config["channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{files.weights}: its metadata do not describe a MeshNet ({error})") from error
    tensors = {name: value.astype(np.float32) for name, value in load_file(files.weights).items()}
    last = len(dilations)
    expected: dict[str, tuple[int, ...]]
    expected = {f"model.{k}.0.weight": (width, width if k else 1, 3, 3, 3) for k in range(last)}
    expected |= {f"model.{last}.weight": (2, width, 1, 1, 1), f"model.{last}.bias": (2,)}
    if {name: value.shape for name, value in tensors.items()} != expected:
        raise WeightsError(f"{files.weights}: its tensors do not fit a MeshNet of {width} channels and {last} blocks")
    return tensors, dilations


def _torch(files: ModelFiles, device: str, threads: int) -> tuple[str, Callable[[Array], Array]]:
    """Runs the network with PyTorch, in float32."""
    import torch

    from neuralprep.inference.session import torch_device
    from neuralprep.networks.meshnet import MeshNet, brain_logit

    where = torch_device(device, threads)
    tensors, dilations = _tensors(files)
    network = MeshNet(tensors["model.0.0.weight"].shape[0], dilations)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    network.eval().to(where)

    def run(image: Array) -> Array:
        logit = brain_logit(network, torch.from_numpy(image)[None, None].to(where))
        return np.asarray(logit.cpu().numpy(), np.float32)

    return f"torch-{device}", run
