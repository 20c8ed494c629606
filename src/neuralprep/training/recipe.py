"""Training recipes: one TOML file says everything a run depends on."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from neuralprep.errors import InputError
from neuralprep.networks.npp import GRID_MULTIPLE, NPPConfig
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.training.losses import LossWeights


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one cubic grid: coarse first, fine later.

    Every ``wide_every``-th step (0: none) uses ``wide_size`` voxels per axis and half the batch, so that the network
    also meets whole heads with their neck and much air.
    """

    steps: int
    size: int = 96
    spacing_mm: float = 2.0
    batch: int = 2
    wide_every: int = 0
    wide_size: int = 128

    def at(self, step: int) -> tuple[int, int]:
        """(grid size, batch) of step number ``step``."""
        if self.wide_every and step % self.wide_every == 0:
            return self.wide_size, max(self.batch // 2, 1)
        return self.size, self.batch


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe.

    ``lambda_log10`` is the range from which log10(lambda) is drawn uniformly, once per batch.
    """

    name: str
    stages: tuple[Stage, ...]
    train_heads: tuple[str, ...]
    validation_heads: tuple[str, ...]
    seed: int = 1
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    ema: float = 0.998
    lambda_log10: tuple[float, float] = (-3.0, 1.0)
    network: NPPConfig = field(default_factory=NPPConfig)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    loss: LossWeights = field(default_factory=LossWeights)

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that step number ``step`` (from 0) belongs to; past the end, the last one."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def digest(self) -> str:
        """Short hash of the whole recipe, for logs and model cards."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def load_recipe(name_or_path: str) -> Recipe:
    """Load a shipped recipe by name, or a TOML file by path.

    Raises
    ------
    InputError
        Neither exists, or a key or value is wrong.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise InputError(f"{path}: no such recipe file")
        text = path.read_text(encoding="utf-8")
    else:
        shipped = resources.files("neuralprep.training") / "recipes" / f"{name_or_path}.toml"
        if not shipped.is_file():
            names = ", ".join(shipped_recipes())
            raise InputError(f"no shipped recipe '{name_or_path}'; shipped are {names}, or give a .toml file")
        text = shipped.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name_or_path}: not valid TOML: {error}") from error
    return _recipe(values, name_or_path)


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("neuralprep.training") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _recipe(values: dict[str, Any], origin: str) -> Recipe:
    nested: dict[str, type] = {"network": NPPConfig, "sampler": SamplerSettings, "loss": LossWeights}
    parts: dict[str, Any] = {
        key: _build(kind, values.pop(key), f"{origin} [{key}]") for key, kind in nested.items() if key in values
    }
    stages = tuple(_build(Stage, stage, f"{origin} [[stages]]") for stage in values.pop("stages", []))
    if not stages:
        raise InputError(f"{origin}: a recipe needs at least one [[stages]] table")
    for stage in stages:
        sizes_fit = stage.size % GRID_MULTIPLE == 0 and stage.wide_size % GRID_MULTIPLE == 0
        if not sizes_fit or stage.steps < 1 or stage.batch < 1 or stage.spacing_mm <= 0:
            raise InputError(f"{origin}: stage {stage}: size must be a multiple of {GRID_MULTIPLE}, the rest positive")
    return _build(Recipe, {**values, **parts, "stages": stages}, origin)


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return kind(**{key: _frozen(value) for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
