"""A pair network with random weights, as files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from neuralprep.networks.loading import PAIR_LAYOUT, save_network
from neuralprep.networks.pair import PairConfig
from neuralprep.training.export import export_graph
from neuralprep.training.tasks import PairTask


def random_pair(folder: Path, strength: float = 1.0) -> Path:
    """Weights, graph and card of a small network that says something of `strength` whatever it is shown."""
    torch.manual_seed(0)
    task = PairTask(network=PairConfig((8, 8, 16, 16), 1, (8, 8, 16, 16)))
    network = task.build()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("bend.heads"):
                parameter.mul_(30 * strength)
            if name.startswith("structure_head"):
                parameter.mul_(10)  # shares that hardly differ would be mostly rounding after the first norm
            if name.startswith("bend.hypernetwork.last"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    path = folder / "random.safetensors"
    save_network(network.state_dict(), task.config(), path, PAIR_LAYOUT)
    export_graph(path, task)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    return path
