"""The training loop: samples rendered on the fly, exact resume, EMA, a JSON-lines log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralprep.errors import InputError
from neuralprep.networks.layers import channels_last
from neuralprep.synthesis.atlas import Head
from neuralprep.synthesis.sample import DeviceHead
from neuralprep.training.batch import Batch
from neuralprep.training.checkpoint import EMA, has_checkpoint, load_checkpoint, save_checkpoint
from neuralprep.training.data import Pool, make_batch
from neuralprep.training.distributed import join_team
from neuralprep.training.initial import initialise, source_digest
from neuralprep.training.real import RealImage
from neuralprep.training.recipe import Recipe

Progress = Callable[[int, int, Tensor], None]
"""Called with (step, total steps, loss); reading the loss waits for the device."""

_LAMBDA_STREAM = 10_000  # the number of the random stream that is not a sample's
_VALIDATION_SEED = 977
_ASK_EVERY = 16  # steps between questions to the team's leader, which wait for the device


@dataclass(frozen=True)
class TrainOptions:
    """How to run a recipe: where to keep checkpoints and log, for how long, on what, from which weights.

    ``precision`` of the network's products is ``"float32"``, ``"bfloat16"`` or ``"auto"``: bfloat16 on a GPU, float32
    on a processor. There bfloat16 halves the time where there is AMX (not with AVX-512 BF16 alone); runs are then not
    repeated to the last bit, and on grids below 32 voxels per axis some kernels return rubbish (PyTorch 2.13).
    """

    folder: Path
    device: str = "auto"
    minutes: float | None = None
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 10.0
    log_every: int = 20
    init: str | None = None
    precision: str = "auto"


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    fraction = min((step - recipe.warmup_steps) / max(recipe.total_steps - recipe.warmup_steps, 1), 1.0)
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * fraction)) / 2


class Trainer:
    """Trains the network of a recipe's task.

    Parameters
    ----------
    recipe
        What to train.
    train, validation
        Label maps; none for a recipe that makes its heads itself.
    options
        How.
    reals
        Loader of real images for the trainer's device, called only if the recipe wants some.
    """

    def __init__(self, recipe: Recipe, train: Sequence[Head], validation: Sequence[Head], options: TrainOptions,
                 reals: Callable[[torch.device], Sequence[RealImage]] | None = None) -> None:
        self.recipe, self.options = recipe, options
        self.team = join_team(options.device)
        self.device = self.team.device
        torch.manual_seed(recipe.seed)
        self.model = channels_last(recipe.task.build().to(self.device))
        self.step, self.seconds = 0, 0.0
        self.init_digest = None if options.init is None else source_digest(options.init)
        resumes = has_checkpoint(self.checkpoint_folder)
        if options.init is not None and not resumes:
            initialise(self.model, recipe.task, options.init)
        self.ema = EMA(self.model, recipe.ema, ramp=self.init_digest is None)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=recipe.learning_rate,
                                           weight_decay=recipe.weight_decay, fused=self.device.type == "cuda")
        if resumes:
            self._resume()
        self.network = self.team.wrapped(self.model)
        self.pool = self._pool(train, list(reals(self.device)) if reals is not None else [])
        self.validation_pool = self._validation_pool(validation)

    @property
    def checkpoint_folder(self) -> Path:
        """Folder of the current checkpoint."""
        return self.options.folder / "checkpoint"

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint_folder, self.model, self.optimizer, self.ema)
        if self.init_digest is not None and state.get("init") != self.init_digest:
            raise InputError(f"{self.options.folder}: holds a run that did not start from {self.options.init}; give "
                             "another --out, or leave out --init to go on with that run")
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.init_digest = state.get("init")
        self.ema.ramp = self.init_digest is None

    def _pool(self, heads: Sequence[Head], reals: Sequence[RealImage]) -> Pool:
        recipe = self.recipe
        return Pool(self.device, tuple(DeviceHead.load(head, self.device) for head in heads), tuple(reals),
                    recipe.shapes, recipe.real, recipe.generator)

    def _validation_pool(self, heads: Sequence[Head]) -> Pool | None:
        """Validation heads, or what the generators make where there are none to train on either."""
        if heads:
            loaded = tuple(DeviceHead.load(head, self.device) for head in heads)
            return Pool(self.device, loaded, generator=self.recipe.generator)
        if self.recipe.generator == "pumba":
            return Pool(self.device, generator=self.recipe.generator)
        return Pool(self.device, shapes=1.0) if not self.pool.heads else None

    def train(self, progress: Progress | None = None) -> bool:
        """Train until the recipe or the time is used up; returns whether the recipe is complete."""
        start = saved = validated = time.monotonic()
        budget = math.inf if self.options.minutes is None else 60 * self.options.minutes
        before, first = self.seconds, self.step
        self._log({"kind": "start", **self._settings()})
        while self.step < self.recipe.total_steps:
            ask = self.team.size == 1 or (self.step % _ASK_EVERY == 0 or self.device.type == "cpu")
            if ask and not self.team.agree(time.monotonic() - start < budget):
                break
            terms = self.train_step()
            now = time.monotonic()
            self.seconds = before + now - start
            if self.step % self.options.log_every == 0:
                self._log({"kind": "train", **{k: round(v.item(), 4) for k, v in terms.items()}})
            if progress is not None:
                progress(self.step, self.recipe.total_steps, terms["total"])
            if now - validated > 60 * self.options.validate_minutes:
                validated = now
                self._log_validation()
            if now - saved > 60 * self.options.checkpoint_minutes:
                saved = now
                self.save()
        self.save()
        if self.step > first:
            self._log_validation()
        return self.step >= self.recipe.total_steps

    def train_step(self) -> dict[str, Tensor]:
        """One optimisation step; returns the loss terms."""
        recipe = self.recipe
        seed = (recipe.seed, self.step)
        batch = make_batch(self.pool, recipe, recipe.stage_at(self.step), seed, self.team.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        rng = np.random.default_rng((*seed, _LAMBDA_STREAM))
        total, terms = recipe.task.loss(self._mixed(self.network), batch, rng)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
        if torch.isfinite(norm):  # a single degenerate sample must not poison the moments
            self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        return {"total": total.detach(), **terms}

    def _mixed(self, network: nn.Module) -> Callable[..., Any]:
        """The network as tasks call it: in bfloat16 if asked for. Losses are computed outside, in float32."""
        half = self.options.precision == "bfloat16" or (self.options.precision == "auto" and self.device.type == "cuda")

        def forward(*inputs: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
                return network(*inputs)

        return forward

    def averaged(self) -> nn.Module:
        """A copy of the network with the averaged weights, in evaluation mode."""
        model = channels_last(self.recipe.task.build().to(self.device))
        model.load_state_dict(self.ema.values)
        return model.eval()

    @torch.no_grad()
    def validate(self, count: int = 12) -> dict[str, float]:
        """Median scores of the averaged weights on a fixed set of validation samples; empty without any."""
        if self.validation_pool is None:
            return {}
        model = self.averaged()
        rows = [row for batch in self._validation_batches(self.validation_pool, count)
                for row in self.recipe.task.scores(model, batch)]
        names = {name: None for row in rows for name in row}
        return {name: round(float(np.median([row[name] for row in rows if name in row])), 4) for name in names}

    def _validation_batches(self, pool: Pool, count: int) -> Iterator[Batch]:
        stage = replace(self.recipe.stage_at(self.step), batch=1)
        for k in range(count):
            yield make_batch(pool, self.recipe, stage, (_VALIDATION_SEED, k))

    def save(self) -> None:
        """Write a checkpoint now."""
        if self.team.leads:
            state = {"step": self.step, "seconds": self.seconds, "init": self.init_digest, **self._settings()}
            save_checkpoint(self.checkpoint_folder, self.model, self.optimizer, self.ema, state)

    def _settings(self) -> dict[str, object]:
        return {"recipe": self.recipe.name, "task": self.recipe.task.name, "digest": self.recipe.digest(),
                "processes": self.team.size, "device": self.device.type, "real_images": len(self.pool.reals)}

    def _log_validation(self) -> None:
        if self.team.leads and (scores := self.validate()):
            self._log({"kind": "validation", **scores})

    def _log(self, entry: dict[str, object]) -> None:
        if not self.team.leads:
            return
        self.options.folder.mkdir(parents=True, exist_ok=True)
        line = {"step": self.step, "seconds": round(self.seconds, 1), **entry}
        with (self.options.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
