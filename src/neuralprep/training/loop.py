"""The training loop: samples rendered on the fly, exact resume, EMA, a JSON-lines log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.networks.layers import channels_last
from neuralprep.networks.npp import CompactNPP, coordinate_weights, fit_affine
from neuralprep.synthesis.atlas import Head
from neuralprep.synthesis.sample import DeviceHead, Sample, render
from neuralprep.synthesis.sampler import draw_record
from neuralprep.training.checkpoint import EMA, load_checkpoint, save_checkpoint
from neuralprep.training.losses import Truth, npp_loss, ssim3d
from neuralprep.training.recipe import Recipe, Stage

Progress = Callable[[int, int, float], None]
"""Called with (step, total steps, loss)."""


@dataclass(frozen=True)
class TrainOptions:
    """How to run a recipe: where to keep checkpoints and log, for how long, on what."""

    folder: Path
    device: str = "auto"
    minutes: float | None = None
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 10.0
    log_every: int = 20


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_batch(heads: list[DeviceHead], recipe: Recipe, stage: Stage, seed: tuple[int, ...]) -> tuple[Tensor, Truth]:
    """Render one batch; ``seed`` (ending in the step number) alone decides it, which makes resuming exact."""
    size, batch = stage.at(seed[-1])
    settings = replace(recipe.sampler, shape=(size, size, size), spacing_mm=stage.spacing_mm)
    samples = []
    for k in range(batch):
        rng = np.random.default_rng((*seed, k))
        head = heads[int(rng.integers(len(heads)))]
        samples.append(render(draw_record(head.source.name, rng, settings), head))
    return collate(samples)


def collate(samples: list[Sample]) -> tuple[Tensor, Truth]:
    """Stack samples of one grid into a network input and its truths."""
    def stack(name: str) -> Tensor:
        return torch.stack([getattr(sample, name) for sample in samples])

    image = stack("image")[:, None].contiguous(memory_format=torch.channels_last_3d)
    affine = torch.from_numpy(np.stack([s.template_from_sample for s in samples])).float().to(image.device)
    return image, Truth(stack("clean"), stack("log_gain"), stack("distances"), stack("field_of_view"),
                        stack("coordinates"), affine, samples[0].frame.spacing_mm)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    fraction = min((step - recipe.warmup_steps) / max(recipe.total_steps - recipe.warmup_steps, 1), 1.0)
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * fraction)) / 2


class Trainer:
    """Trains the compact NPP network on a list of heads."""

    def __init__(self, recipe: Recipe, train: list[Head], validation: list[Head], options: TrainOptions) -> None:
        self.recipe, self.options = recipe, options
        self.device = pick_device(options.device)
        torch.manual_seed(recipe.seed)
        self.model = channels_last(CompactNPP(recipe.network).to(self.device))
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=recipe.learning_rate,
                                           weight_decay=recipe.weight_decay, fused=fused)
        self.ema = EMA(self.model, recipe.ema)
        self.heads = [DeviceHead.load(head, self.device) for head in train]
        self.validation = [DeviceHead.load(head, self.device) for head in validation]
        self.step = 0
        self.seconds = 0.0
        checkpoint = self.checkpoint_folder
        if checkpoint.exists() or checkpoint.with_name(checkpoint.name + ".old").exists():
            state = load_checkpoint(checkpoint, self.model, self.optimizer, self.ema)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])

    @property
    def checkpoint_folder(self) -> Path:
        """Folder of the current checkpoint."""
        return self.options.folder / "checkpoint"

    def train(self, progress: Progress | None = None) -> bool:
        """Train until the recipe or the time is used up; returns whether the recipe is complete."""
        start = saved = validated = time.monotonic()
        budget = math.inf if self.options.minutes is None else 60 * self.options.minutes
        before = self.seconds
        while self.step < self.recipe.total_steps and time.monotonic() - start < budget:
            terms = self.train_step()
            now = time.monotonic()
            self.seconds = before + now - start
            if self.step % self.options.log_every == 0:
                self._log({"kind": "train", **{k: round(v.item(), 4) for k, v in terms.items()}})
            if progress is not None:
                progress(self.step, self.recipe.total_steps, terms["total"].item())
            if self.validation and now - validated > 60 * self.options.validate_minutes:
                validated = now
                self._log({"kind": "validation", **self.validate()})
            if now - saved > 60 * self.options.checkpoint_minutes:
                saved = now
                self.save()
        self.save()
        if self.validation:
            self._log({"kind": "validation", **self.validate()})
        return self.step >= self.recipe.total_steps

    def train_step(self) -> dict[str, Tensor]:
        """One optimisation step; returns the loss terms."""
        recipe, stage = self.recipe, self.recipe.stage_at(self.step)
        image, truth = make_batch(self.heads, recipe, stage, (recipe.seed, self.step))
        rng = np.random.default_rng((recipe.seed, self.step, 10_000))
        log10_lambda = torch.full((len(image), 1), float(rng.uniform(*recipe.lambda_log10)), device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            output = self.model(image, log10_lambda)
        total, terms = npp_loss(output, image, truth, log10_lambda, recipe.loss)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
        if torch.isfinite(norm):  # a single degenerate sample must not poison the moments
            self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        return {"total": total.detach(), **terms}

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def averaged(self) -> CompactNPP:
        """A copy of the network with the averaged weights, in evaluation mode."""
        model = channels_last(CompactNPP(self.recipe.network).to(self.device))
        model.load_state_dict(self.ema.values)
        return model.eval()

    def validate(self, count: int = 12) -> dict[str, float]:
        """Scores of the averaged weights on a fixed set of validation samples."""
        model = self.averaged()
        batches = self._validation_batches(count)
        scores = [score for image, truth in batches for score in validation_scores(model, image, truth)]
        return {key: round(float(np.median([s[key] for s in scores])), 4) for key in scores[0]}

    def _validation_batches(self, count: int) -> Iterator[tuple[Tensor, Truth]]:
        stage = replace(self.recipe.stage_at(self.step), batch=1)
        for k in range(count):
            yield make_batch(self.validation, self.recipe, stage, (977, k))

    def save(self) -> None:
        """Write a checkpoint now."""
        state = {"step": self.step, "seconds": self.seconds, "recipe": self.recipe.name, "digest": self.recipe.digest()}
        save_checkpoint(self.checkpoint_folder, self.model, self.optimizer, self.ema, state)

    def _log(self, entry: dict[str, object]) -> None:
        self.options.folder.mkdir(parents=True, exist_ok=True)
        line = {"step": self.step, "seconds": round(self.seconds, 1), **entry}
        with (self.options.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


@torch.no_grad()
def validation_scores(
    model: CompactNPP, image: Tensor, truth: Truth, log10_lambda: float = -1.0
) -> list[dict[str, float]]:
    """Dice of both masks, affine error (mm), gain error and SSIM of the normalised brain for each sample."""
    output = model(image, torch.full((len(image), 1), log10_lambda, device=image.device))
    fitted = fit_affine(output.coordinates, coordinate_weights(output.distances), 4 * truth.spacing_mm)
    rows = []
    for k in range(len(image)):
        seen = truth.inside[k]
        masks = [(output.distances[k, c] < 0) & seen for c in range(2)]
        wanted = [(truth.distances[k, c] < 0) & seen for c in range(2)]
        dice = [2 * (m & w).sum() / (m.sum() + w.sum()).clamp(min=1) for m, w in zip(masks, wanted, strict=True)]
        points = truth.coordinates[k].flatten(1)[:, (F.avg_pool3d(truth.distances[k, 1:], 4) < 0).flatten()]
        inverse = torch.linalg.inv(truth.affine[k])
        back = inverse[:3, :3] @ points + inverse[:3, 3:]
        error = torch.linalg.vector_norm(fitted[k, :, :3] @ back + fitted[k, :, 3:] - points, dim=0).mean()
        half = F.avg_pool3d(truth.distances[k : k + 1, 1:], 2) < 0
        gain = (output.log_gain[k : k + 1] - F.avg_pool3d(truth.log_gain[k : k + 1, None], 2))[half]
        made = output.multiplier()[k : k + 1] * F.avg_pool3d(image[k : k + 1], 2)
        clean = F.avg_pool3d(truth.clean[k, None, None].clamp(max=1) * (truth.distances[k : k + 1, 1:] < 0), 2)
        rows.append({"dice_tissue": dice[0].item(), "dice_icv": dice[1].item(), "affine_mm": error.item(),
                     "gain_std": gain.std().item(), "ssim": ssim3d(made.clamp(0, 1), clean).item()})
    return rows
