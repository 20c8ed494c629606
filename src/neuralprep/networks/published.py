"""Reading files of published tensors into our networks, without running any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from neuralprep.errors import WeightsError

_SHOWN = 4
"""How many names of a long list an error message quotes."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a ``.pth`` file as a flat table of tensors.

    The file may be a bare state dict or a checkpoint that holds one under ``state_dict`` or ``model``.

    Parameters
    ----------
    path
        File written by ``torch.save``. Only tensors and plain containers are unpickled.

    Returns
    -------
    dict[str, Tensor]
        On the CPU, names as in the file.

    Raises
    ------
    WeightsError
        If the file is missing, unreadable, holds anything but tensors and plain containers, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; give the path of the published .pth file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds Python objects besides tensors, which are not loaded because they could run "
            "code; save its state_dict() alone and load that file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a readable PyTorch weights file ({error}); download it again"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a table of named tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors; give a file with a network's state dict")
    return tensors


def strip_prefixes(
    tensors: Mapping[str, Tensor], expected: Sequence[str], prefixes: Sequence[str]
) -> dict[str, Tensor]:
    """Take wrapper prefixes off the names until they match.

    Parameters
    ----------
    tensors
        Names as in the file.
    expected
        Names the network has; a name in here is never shortened.
    prefixes
        What wrappers put in front (``"module."`` of DataParallel, ``"model."`` of a training module).

    Returns
    -------
    dict[str, Tensor]
        The same tensors under the shortened names.
    """
    wanted = set(expected)
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        short = name
        while short not in wanted:
            prefix = next((p for p in prefixes if short.startswith(p)), None)
            if prefix is None:
                break
            short = short[len(prefix) :]
        result[short] = value
    return result


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, layout: str) -> None:
    """Copy tensors into a network; every name and every shape must fit.

    Parameters
    ----------
    network
        Filled in place; its own dtype is kept.
    tensors
        One entry per entry of the network's state dict.
    path
        Named in the error message.
    layout
        What the file should be, in words, for the error message.

    Raises
    ------
    WeightsError
        If a tensor is missing, unknown or of another shape.
    """
    expected = network.state_dict()
    faults = []
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    for fault, names in (("missing", missing), ("unknown", unknown), ("wrong shape", shapes)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            faults.append(f"{fault}: {', '.join(names[:_SHOWN])}{more}")
    if faults:
        raise WeightsError(f"{path}: does not fit {layout}; " + "; ".join(faults))
    network.load_state_dict(dict(tensors))
