"""Training recipes: one TOML file says everything a run depends on."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from neuralprep.errors import InputError
from neuralprep.networks.ablation import VARIANTS
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.training.tasks import TASKS, AblationTask, NPPTask, PairTask, Task


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one grid: coarse first, fine later.

    The grid has ``size`` voxels per axis, or is a box of ``shape`` voxels. Every ``wide_every``-th step (0: none) uses
    ``wide_size`` voxels per axis and half the batch, so that the network also meets whole heads with their neck and
    much air.
    """

    steps: int
    size: int = 96
    spacing_mm: float = 2.0
    batch: int = 2
    wide_every: int = 0
    wide_size: int = 128
    shape: tuple[int, int, int] | None = None

    def at(self, step: int) -> tuple[tuple[int, int, int], int]:
        """(grid shape, batch) of step number ``step``."""
        if self.wide_every and step % self.wide_every == 0:
            return (self.wide_size,) * 3, max(self.batch // 2, 1)
        return self.shape or (self.size,) * 3, self.batch

    def sizes(self) -> tuple[int, ...]:
        """Voxels per axis of all its grids."""
        return (*(self.shape or (self.size,)), *((self.wide_size,) if self.wide_every else ()))


GENERATORS = ("heads", "pumba", "brains")


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe.

    Attributes
    ----------
    task
        The network, what it learns and with which weights of its loss terms.
    generator
        ``"heads"`` (label maps, shapes, real images), ``"pumba"`` (that published generator alone) or ``"brains"``
        (groups of brains of label maps; a batch counts groups).
    shapes, real
        Shares of the examples that come from the shape engine and from real images.
    """

    name: str
    stages: tuple[Stage, ...]
    train_heads: tuple[str, ...]
    validation_heads: tuple[str, ...]
    generator: str = "heads"
    shapes: float = 0.0
    real: float = 0.0
    seed: int = 1
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    ema: float = 0.998
    task: Task = field(default_factory=NPPTask)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)

    def __post_init__(self) -> None:
        if self.generator not in GENERATORS:
            raise InputError(f"generator '{self.generator}' is unknown; choose one of {', '.join(GENERATORS)}")
        if min(self.shapes, self.real) < 0 or self.shapes + self.real > 1:
            raise InputError(f"shares of shapes ({self.shapes:g}) and real images ({self.real:g}) must lie between 0 "
                             "and 1, also together")
        if self.generator == "pumba" and (self.shapes or self.real or self.train_heads):
            raise InputError("generator 'pumba' makes every example itself: leave out train_heads, shapes and real")
        if (self.generator == "brains") != isinstance(self.task, PairTask):
            raise InputError("generator 'brains' and task 'pair' belong together")
        if self.generator == "brains" and (self.shapes or self.real):
            raise InputError("generator 'brains' draws brains of label maps only: leave out shapes and real")

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
        content = {**asdict(self), "task_name": self.task.name}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def with_variant(self, variant: str) -> Recipe:
        """The recipe for another variant of the ablation.

        Raises
        ------
        InputError
            The recipe trains no ablation, or the variant is unknown.
        """
        if not isinstance(self.task, AblationTask):
            raise InputError(f"recipe '{self.name}' (task {self.task.name}) has no variants; use the recipe 'ablation'")
        if variant not in VARIANTS:
            raise InputError(f"variant '{variant}' is unknown; choose one of {', '.join(VARIANTS)}")
        return replace(self, task=replace(self.task, network=replace(self.task.network, variant=variant)))


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
    task = _task(values, origin)
    if "sampler" in values:
        values["sampler"] = _build(SamplerSettings, values["sampler"], f"{origin} [sampler]")
    stages = tuple(_build(Stage, stage, f"{origin} [[stages]]") for stage in values.pop("stages", []))
    if not stages:
        raise InputError(f"{origin}: a recipe needs at least one [[stages]] table")
    for stage in stages:
        sizes_fit = all(size % task.multiple == 0 for size in stage.sizes())
        if not sizes_fit or stage.steps < 1 or stage.batch < 1 or stage.spacing_mm <= 0:
            raise InputError(f"{origin}: stage {stage}: sizes must be multiples of {task.multiple}, the rest positive")
    recipe = _build(Recipe, {"train_heads": [], "validation_heads": [], **values, "task": task, "stages": stages},
                    origin)
    assert isinstance(recipe, Recipe)
    return recipe


def _task(values: dict[str, Any], origin: str) -> Task:
    """The task named in a recipe, with its tables [network] and [loss] taken out of ``values``."""
    name = values.pop("task", NPPTask.name)
    if name not in TASKS:
        raise InputError(f"{origin}: task '{name}' is unknown; choose one of {', '.join(TASKS)}")
    kind = TASKS[name]
    tables = {"network": "network", "loss": "loss_weights"}
    default = kind()
    parts: dict[str, Any] = {}
    for table, attribute in tables.items():
        if table not in values:
            continue
        if not hasattr(default, attribute):
            raise InputError(f"{origin} [{table}]: task '{name}' has no settings of this kind; leave the table out")
        parts[attribute] = _build(type(getattr(default, attribute)), values.pop(table), f"{origin} [{table}]")
    return kind(**parts)


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return kind(**{key: _frozen(value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
