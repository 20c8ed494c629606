"""Starting from trained weights instead of random ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from neuralprep.errors import WeightsError
from neuralprep.networks.loading import MESHNET_LAYOUT, read_weights
from neuralprep.networks.published import fill_network, read_tensors, strip_prefixes
from neuralprep.training.tasks import Task
from neuralprep.weights.registry import find_model


def initialise(network: nn.Module, task: Task, source: str) -> None:
    """Fill a network from weights of its own layout, or of one that holds all tensors but those that begin anew.

    A network whose convolutions are wider than the weights computes at first what they compute (see :func:`widened`).

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
        No such weights, of another layout, or of another size than the recipe's network that is not just narrower.
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
    tensors = widened(network, tensors)
    fill_network(network, tensors, path, "the network of this recipe (see its [network] table)")


def widened(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network with narrower convolutions, grown so that the wider one computes the same function.

    Channels that the tensors lack keep what the network has drawn for them, but nobody who was there before listens to
    them yet: they learn to be of use (the idea of Chen et al., "Net2Net", ICLR 2016, without copies of channels, which
    norms per channel do not need). Only convolutions and their norms grow; a tensor of another kind, and one that is
    larger than the network's, is handed back as it is.
    """
    grown = dict(tensors)
    for prefix, module in network.named_modules():
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.GroupNorm):
            continue
        for own, drawn in module.named_parameters(recurse=False):
            name = f"{prefix}.{own}"
            if name not in tensors or not _fits_into(tensors[name], drawn):
                continue
            value = drawn.detach().clone()
            if value.dim() > 1:
                heard = 1 if isinstance(module, nn.ConvTranspose3d) else 0  # the axis of the channels that listen
                value.narrow(heard, 0, tensors[name].shape[heard]).zero_()
            value[tuple(slice(n) for n in tensors[name].shape)] = tensors[name].to(value)
            grown[name] = value
    return grown


def _fits_into(value: Tensor, drawn: Tensor) -> bool:
    return value.dim() == drawn.dim() and torch.Size(map(min, value.shape, drawn.shape)) == value.shape


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
