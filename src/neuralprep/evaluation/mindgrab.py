"""MindGrab as its own tool runs it: the published network with its conforming and cleaning.

A peer to compare with. The scan is conformed as FreeSurfer does (256^3, 1 mm, LIA, trilinear, 8-bit scaling), scaled
by quantiles, the largest component is kept and carried back to the native grid. The norms of the network see the air
around the head, so the full cube is always run. OpenVINO in float32 takes a third of PyTorch's time; their masks have
a Dice of 0.9997 with each other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from neuralprep.networks.meshnet import MINDGRAB_SIDE, load_mindgrab
from neuralprep.stages.look import main_component
from neuralprep.volume import Volume

LIA = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Columns: world direction of the voxel axes (left, inferior, anterior)."""

_Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class MindGrab:
    """The published network, ready to run.

    Parameters
    ----------
    weights
        The published ``model.pth``.
    threads
        CPU threads.

    Raises
    ------
    WeightsError
        The file is missing or does not fit the network.
    """

    def __init__(self, weights: Path, threads: int) -> None:
        self._logits = _openvino(weights, threads) if importlib.util.find_spec("openvino") else _torch(weights, threads)

    def strip(self, scan: Volume) -> Volume:
        """Brain mask (bool) of a scan, on its grid."""
        cube, cube_affine = conform(scan.data, scan.grid.affine)
        logits = self._logits(quantile_normalize(cube)[None, None])
        brain = main_component(logits[0, 1] > logits[0, 0])
        step = np.linalg.inv(cube_affine) @ scan.grid.affine
        native = ndimage.affine_transform(
            brain.astype(np.float32), step[:3, :3], step[:3, 3], scan.grid.shape, order=1
        )
        return scan.with_data(native >= 0.5)


def conform_affine(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel-to-world matrix of the 256^3 1 mm LIA cube around a scan.

    FreeSurfer puts voxel 128 of the cube on voxel ``shape / 2`` of the scan (an index, not the centre of the field of
    view); so does this.
    """
    center = affine[:3, :3] @ (np.asarray(shape[:3]) / 2) + affine[:3, 3]
    result = np.eye(4)
    result[:3, :3] = LIA
    result[:3, 3] = center - LIA @ np.full(3, MINDGRAB_SIDE / 2)
    return result


def scale_to_uint8(data: NDArray) -> NDArray[np.uint8]:
    """FreeSurfer's robust 8-bit scaling: the top 0.1 % of the non-zero voxels saturate."""
    low, high = float(data.min()), float(data.max())
    if high <= low:
        return np.zeros(data.shape, np.uint8)
    counts, edges = np.histogram(data, bins=1000, range=(low, high))
    nonzero = np.count_nonzero(np.abs(data) >= 1e-15)
    above = np.cumsum(counts[::-1])[::-1]
    keep = np.flatnonzero(above >= 0.001 * nonzero)
    top = edges[keep[-1] + 1] if keep.size else high
    return np.clip(np.rint((data - low) * (255 / (top - low))), 0, 255).astype(np.uint8)


def conform(data: NDArray, affine: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Scan on the 256^3 1 mm LIA cube: (uint8 array, voxel-to-world matrix of the cube)."""
    cube = conform_affine(data.shape, affine)
    step = np.linalg.inv(affine) @ cube
    moved = ndimage.affine_transform(
        data.astype(np.float32), step[:3, :3], step[:3, 3], (MINDGRAB_SIDE,) * 3, order=1, cval=float(data.min())
    )
    return scale_to_uint8(moved), cube


def quantile_normalize(data: NDArray) -> NDArray[np.float32]:
    """Scale the 2nd and 98th percentiles to 0 and 1 and clip, as MindGrab's own tool does."""
    values = data.astype(np.float32)
    low, high = np.quantile(values, (0.02, 0.98))
    return np.clip((values - low) / (high - low + 1e-3), 0, 1).astype(np.float32)


def _openvino(weights: Path, threads: int) -> _Logits:
    import openvino
    import torch

    model = openvino.convert_model(load_mindgrab(weights), example_input=torch.zeros(1, 1, 32, 32, 32))
    model.reshape([1, 1, *[MINDGRAB_SIDE] * 3])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", options)

    def logits(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(compiled(image)[0], dtype=np.float32)

    return logits


def _torch(weights: Path, threads: int) -> _Logits:
    import torch

    torch.set_num_threads(threads)
    network = load_mindgrab(weights)

    def logits(image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = torch.from_numpy(image).to(memory_format=torch.channels_last_3d)
            return np.asarray(network(batch).numpy(), dtype=np.float32)

    return logits
