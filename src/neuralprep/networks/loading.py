"""Weights files of the compact network: float16 safetensors with layout and configuration in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuralprep.errors import WeightsError
from neuralprep.networks.npp import CompactNPP, NPPConfig

LAYOUT = "npp-compact-1"


def save_network(network_state: dict[str, Tensor], config: NPPConfig, path: Path) -> None:
    """Write weights as float16."""
    half = {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in network_state.items()}
    save_file(half, path, metadata={"layout": LAYOUT, "config": json.dumps(config.as_dict())})


def load_network(path: Path) -> CompactNPP:
    """Read a file written by :func:`save_network`; the network computes in float32.

    Raises
    ------
    WeightsError
        Not a weights file of this layout, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error
    if metadata.get("layout") != LAYOUT:
        raise WeightsError(f"{path}: layout '{metadata.get('layout')}' is not '{LAYOUT}'")
    config = json.loads(metadata["config"])
    network = CompactNPP(NPPConfig(tuple(config["widths"]), tuple(config["field_widths"]), int(config["blocks"])))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path}: tensors do not fit the layout: {error}") from error
    return network
