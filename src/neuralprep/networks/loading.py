"""Weights files: float16 safetensors with the layout and the configuration in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuralprep.errors import WeightsError
from neuralprep.networks.ablation import AblationConfig, AblationNet
from neuralprep.networks.meshnet import MeshNet
from neuralprep.networks.npp import CompactNPP, DistanceNet, NPPConfig, StripConfig
from neuralprep.networks.pair import PairConfig, PairNet
from neuralprep.networks.unet import PumbaUNet

NPP_LAYOUT = "npp-compact-1"
STRIP_LAYOUT = "strip-1"
MESHNET_LAYOUT = "meshnet-1"
PUMBA_LAYOUT = "pumba-1"
ABLATION_LAYOUT = "npp-ablation-1"
PAIR_LAYOUT = "pair-1"

_BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    NPP_LAYOUT: lambda c: CompactNPP(NPPConfig(**c)),
    STRIP_LAYOUT: lambda c: DistanceNet(StripConfig(**c)),
    MESHNET_LAYOUT: lambda c: MeshNet(**c),
    PUMBA_LAYOUT: lambda c: PumbaUNet(**c),
    ABLATION_LAYOUT: lambda c: AblationNet(AblationConfig(**c)),
    PAIR_LAYOUT: lambda c: PairNet(PairConfig(**c)),
}


def save_network(
    network_state: Mapping[str, Tensor], config: Mapping[str, object], path: Path, layout: str = NPP_LAYOUT
) -> None:
    """Write weights as float16.

    Parameters
    ----------
    network_state
        The network's state dict.
    config
        Arguments that build the network again (JSON-ready).
    path
        File to write.
    layout
        Which class of network it is.
    """
    half = {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in network_state.items()}
    part = path.with_name(path.name + ".part")  # not through files.py, whose libraries a training machine may lack
    save_file(half, part, metadata={"layout": layout, "config": json.dumps(config)})
    part.replace(path)


def read_weights(path: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Layout, configuration and tensors (float32) of a weights file.

    Raises
    ------
    WeightsError
        Not a weights file of a known layout, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error
    layout = metadata.get("layout", "")
    if layout not in _BUILDERS:
        raise WeightsError(f"{path}: layout '{layout}' is not one of {', '.join(_BUILDERS)}")
    config = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(metadata["config"]).items()}
    return layout, config, state


def load_any(path: Path) -> tuple[str, nn.Module]:
    """The layout and the network of a weights file of any layout; the network computes in float32.

    Raises
    ------
    WeightsError
        Not a weights file of a known layout, or damaged.
    """
    layout, config, state = read_weights(path)
    try:
        network = _BUILDERS[layout](config)
        network.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: tensors do not fit the layout: {error}") from error
    return layout, network


def load_network(path: Path) -> CompactNPP:
    """The default network of a weights file (see :func:`load_any`).

    Raises
    ------
    WeightsError
        Not a weights file, damaged, or of another layout.
    """
    layout, network = load_any(path)
    if not isinstance(network, CompactNPP):
        raise WeightsError(f"{path}: layout '{layout}' is not '{NPP_LAYOUT}': this network strips, but does not "
                           "normalise and register")
    return network
