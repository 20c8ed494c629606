"""Checkpoints that resume exactly: float32 safetensors in pieces of at most 16 MiB and a JSON state.

Pieces are small so that they pass through anything that limits the size of a file. The moments stay in float32: in
half precision a resumed run would differ from an uninterrupted one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuralprep.errors import WeightsError

PIECE_BYTES = 16 * 2**20
"""A file larger than this holds one single tensor that is."""


class EMA:
    """Exponential moving average of a module's parameters.

    The decay ramps up so that the random first steps are forgotten, unless ``ramp`` is off because the start was worth
    keeping.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: bool = True) -> None:
        self.decay = decay
        self.ramp = ramp
        self.values = {name: p.detach().clone() for name, p in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Blend in the current parameters."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value, 1 - decay)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA, state: dict[str, Any]
) -> None:
    """Write a checkpoint beside the old one, then swap; a killed run keeps one whole checkpoint."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _save(model.state_dict(), fresh, "model")
    _save(ema.values, fresh, "ema")
    names = [name for name, _ in model.named_parameters()]
    moments = optimizer.state_dict()["state"]
    for key in ("exp_avg", "exp_avg_sq"):
        _save({name: moments[i][key] for i, name in enumerate(names) if i in moments}, fresh, key)
    (fresh / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _save(tensors: dict[str, Tensor], folder: Path, stem: str) -> None:
    """Write ``stem.safetensors``, or ``stem-1.safetensors``, ``stem-2...`` where one file would be too large."""
    pieces: list[dict[str, Tensor]] = [{}]
    room = PIECE_BYTES
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        size = value.numel() * value.element_size() + 200  # and its entry in the header
        if size > room and pieces[-1]:
            pieces.append({})
            room = PIECE_BYTES
        pieces[-1][name] = value
        room -= size
    for number, piece in enumerate(pieces, 1):
        save_file(piece, folder / (f"{stem}.safetensors" if len(pieces) == 1 else f"{stem}-{number}.safetensors"))


def load_pieces(folder: Path, stem: str) -> dict[str, Tensor]:
    """Tensors of ``stem.safetensors`` or of its pieces.

    Raises
    ------
    WeightsError
        No such file.
    """
    whole = folder / f"{stem}.safetensors"
    paths = [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: the checkpoint has no {stem}.safetensors; copy the whole folder again")
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return folder.exists() or folder.with_name(folder.name + ".old").exists()


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> dict[str, Any]:
    """Restore everything that :func:`save_checkpoint` wrote and return the state.

    Raises
    ------
    WeightsError
        The checkpoint does not fit the network.
    """
    if not folder.exists() and folder.with_name(folder.name + ".old").exists():
        folder = folder.with_name(folder.name + ".old")  # killed between the two renames
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    try:
        model.load_state_dict(load_pieces(folder, "model"))
    except RuntimeError as error:
        raise WeightsError(f"{folder}: the checkpoint is of another network: {error}") from error
    device = next(model.parameters()).device
    ema.values = {name: t.to(device) for name, t in load_pieces(folder, "ema").items()}
    averages, squares = load_pieces(folder, "exp_avg"), load_pieces(folder, "exp_avg_sq")
    steps = torch.tensor(float(state["step"]))
    current = optimizer.state_dict()
    current["state"] = {
        i: {"step": steps.clone(), "exp_avg": averages[name].to(device), "exp_avg_sq": squares[name].to(device)}
        for i, (name, _) in enumerate(model.named_parameters())
        if name in averages
    }
    optimizer.load_state_dict(current)
    return state
