"""Several processes that train one network, as ``torchrun`` starts them; one process otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from neuralprep.errors import InputError


@dataclass(frozen=True)
class Team:
    """A process among those that train together.

    Attributes
    ----------
    rank, size
        Its number and the number of all.
    device
        Its device.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes, prints and validates."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The module to call in training: gradients are averaged over the team."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Every loss term touches every output, so no parameter is ever without a gradient.
        return DistributedDataParallel(model, device_ids=ids)

    def agree(self, go_on: bool) -> bool:
        """What the leader says; all must ask together."""
        if self.size == 1:
            return go_on
        flag = torch.tensor(int(go_on), device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag.item())


def join_team(device: str = "auto") -> Team:
    """Join the processes that ``torchrun`` started (RANK, WORLD_SIZE, LOCAL_RANK), or stand alone.

    Parameters
    ----------
    device
        ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; in a team each process takes the GPU of its number.

    Raises
    ------
    InputError
        CUDA is asked for and absent, or there are more processes than GPUs.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available to PyTorch here; use --device cpu")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(0, 1, torch.device(kind))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} has no GPU: start at most {torch.cuda.device_count()} per machine")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    return Team(rank, size, torch.device("cuda", local) if kind == "cuda" else torch.device("cpu"))


def leave_team() -> None:
    """Say goodbye before the process ends."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
