"""Checkpoints that resume exactly: float32 safetensors in separate files (each small) and a JSON state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuralprep.errors import WeightsError


class EMA:
    """Exponential moving average of a module's parameters; the decay ramps up so that early steps are forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Blend in the current parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value, 1 - decay)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA, state: dict[str, Any]
) -> None:
    """Write a checkpoint beside the old one, then swap; a killed run keeps one whole checkpoint."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _save(model.state_dict(), fresh / "model.safetensors")
    _save(ema.values, fresh / "ema.safetensors")
    names = [name for name, _ in model.named_parameters()]
    moments = optimizer.state_dict()["state"]
    for key in ("exp_avg", "exp_avg_sq"):
        _save({name: moments[i][key] for i, name in enumerate(names) if i in moments}, fresh / f"{key}.safetensors")
    (fresh / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


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
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise WeightsError(f"{folder}: the checkpoint is of another network: {error}") from error
    device = next(model.parameters()).device
    ema.values = {name: t.to(device) for name, t in load_file(folder / "ema.safetensors").items()}
    averages, squares = load_file(folder / "exp_avg.safetensors"), load_file(folder / "exp_avg_sq.safetensors")
    steps = torch.tensor(float(state["step"]))
    current = optimizer.state_dict()
    current["state"] = {
        i: {"step": steps.clone(), "exp_avg": averages[name].to(device), "exp_avg_sq": squares[name].to(device)}
        for i, (name, _) in enumerate(model.named_parameters())
        if name in averages
    }
    optimizer.load_state_dict(current)
    return state
