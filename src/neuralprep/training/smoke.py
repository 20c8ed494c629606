"""A minute of training on the phantom head: does the whole chain learn on this machine?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from neuralprep.networks.npp import NPPConfig
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.recipe import Recipe, Stage
from neuralprep.training.tasks import NPPTask

QUIET_SAMPLER = SamplerSettings(
    look_weights=(("T1w", 1.0),), any_rotation=0.0, wide_tilt=0.0, infant=0.0, animal=0.0, cut=0.0, shift_mm=8.0,
    thick=0.0, blob=0.0, lesions=0.0, atrophy=0.0, backdrop=0.0, motion=0.0, ghost=0.0, spikes=0.0, wrap=0.0,
    gibbs=0.0, slices=0.0, coils=0.0,
)
"""One contrast in easy poses, without faults: what a short training can learn."""

SMOKE_RECIPE = Recipe(
    name="smoke",
    stages=(Stage(steps=400, size=32, spacing_mm=6.0, batch=2),),
    train_heads=("phantom",),
    validation_heads=(),
    learning_rate=3e-3,
    warmup_steps=10,
    task=NPPTask(network=NPPConfig(widths=(8, 16, 24), field_widths=(8, 8), blocks=1)),
    sampler=QUIET_SAMPLER,
)


def run_smoke(folder: Path, minutes: float, device: str = "auto", steps: int | None = None) -> tuple[float, float]:
    """Train for ``minutes`` or ``steps`` and return the mean loss of the first and of the last ten steps."""
    recipe = SMOKE_RECIPE
    if steps is not None:
        recipe = replace(recipe, stages=(replace(recipe.stages[0], steps=steps),))
    trainer = Trainer(recipe, [phantom_head(spacing_mm=4.0)], [], TrainOptions(folder, device, minutes))
    losses: list[float] = []
    trainer.train(lambda step, total, loss: losses.append(loss.item()))
    return float(np.mean(losses[:10])), float(np.mean(losses[-10:]))
