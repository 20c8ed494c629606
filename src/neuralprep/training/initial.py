"""Starting from trained weights instead of random ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from neuralprep.errors import WeightsError
from neuralprep.networks.loading import MESHNET_LAYOUT, read_weights
from neuralprep.networks.published import fill_network, read_tensors, strip_prefixes
from neuralprep.training.tasks import Task
from neuralprep.weights.registry import find_model


def initialise(network: nn.Module, task: Task, source: str) -> None:
    """Fill a network from weights of its own layout, or of one that holds all tensors but those that begin anew.

    Parameters
    ----------
    network
        Filled in place.
    task
        What it will learn.
    source
        See :func:`source_digest`.

    Raises
    ------
    WeightsError
        No such weights, of another layout, or of another size than the recipe's network.
    """
    path = _path(source)
    if path.suffix in (".pth", ".pt"):
        if task.layout != MESHNET_LAYOUT:
            raise WeightsError(f"{path}: published .pth files start only the task mindgrab; give a .safetensors file")
        tensors = strip_prefixes(read_tensors(path), list(network.state_dict()), ("module.",))
    else:
        layout, _, tensors = read_weights(path)
        if layout not in (task.layout, *task.starts_from):
            wanted = " or ".join((task.layout, *task.starts_from))
            raise WeightsError(f"{path}: layout '{layout}' cannot start the task {task.name}; it needs {wanted}")
        if layout != task.layout:
            drawn = network.state_dict()
            tensors = {name: tensors[name] for name in drawn if name in tensors}
            tensors |= {name: value for name, value in drawn.items() if name.startswith(task.begins_anew)}
    fill_network(network, tensors, path, "the network of this recipe (see its [network] table)")


def source_digest(source: str) -> str:
    """Checksum of the weights file that ``source`` names: a shipped model, a .safetensors or a published .pth file."""
    return hashlib.sha256(_path(source).read_bytes()).hexdigest()


def _path(source: str) -> Path:
    path = Path(source)
    if path.suffix in (".pth", ".pt"):
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file")
        return path
    return find_model(source).weights
