"""Finding weights: shipped ones by name, a user's own by path.

A model is three files with one stem: ``.safetensors`` (float16 weights, the truth; its metadata hold the layout and
the configuration), ``.json`` (the model card) and ``.xml`` + ``.bin`` (the same network as an OpenVINO graph, so that
inference on a CPU does not import torch).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from neuralprep.errors import WeightsError


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's files are. Only ``weights`` must exist."""

    name: str
    weights: Path

    @property
    def graph(self) -> Path:
        """OpenVINO graph (``.xml``; its ``.bin`` lies beside it)."""
        return self.weights.with_suffix(".xml")

    @property
    def card_file(self) -> Path:
        """Model card."""
        return self.weights.with_suffix(".json")

    @cached_property
    def sha256(self) -> str:
        """Checksum of the weights file, for provenance."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model card, empty for a model without one."""
        if not self.card_file.is_file():
            return {}
        return dict(json.loads(self.card_file.read_text(encoding="utf-8")))

    def graph_matches(self) -> bool:
        """Whether the graph was exported from exactly these weights."""
        return self.graph.is_file() and self.graph.with_suffix(".bin").is_file() and (
            self.card.get("sha256") == self.sha256
        )


def shipped() -> list[str]:
    """Names of the models inside the package."""
    folder = resources.files("neuralprep.weights")
    return sorted(entry.name.removesuffix(".safetensors") for entry in folder.iterdir()
                  if entry.name.endswith(".safetensors"))


def find_model(name_or_path: str) -> ModelFiles:
    """A shipped model by name, or a ``.safetensors`` file by path.

    Raises
    ------
    WeightsError
        No such model.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file")
        return ModelFiles(path.stem, path)
    if name_or_path not in shipped():
        names = ", ".join(shipped()) or "none"
        raise WeightsError(f"no shipped model '{name_or_path}'; shipped are {names}, or give a .safetensors file")
    return ModelFiles(name_or_path, Path(str(resources.files("neuralprep.weights") / f"{name_or_path}.safetensors")))
