"""Finding weights: shipped ones by name, fetched ones in the user's cache folder, a user's own by path.

A model is a few files with one stem: ``.safetensors`` (the weights; its metadata hold the layout, which decides the
class of network, and the configuration), ``.json`` (the model card), ``.xml`` + ``.bin`` (the same network as an
OpenVINO graph, so that inference on a CPU does not import torch) and ``_quality.json`` (how well its masks can be
trusted, see :mod:`neuralprep.stages.trust`). A model may have further networks of the same layout with the same files,
for the closer look at a brain whose pose is known: its stem followed by ``_close``, a quick one, enough for alignment;
followed by ``_fine``, the one that masks and fields come from.
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
from neuralprep.weights.published import PUBLISHED, cache_folder

#: layouts the pipeline can run besides `strip-1` (see `neuralprep.networks.loading`, which needs PyTorch to import)
NPP_LAYOUT, MESHNET_LAYOUT, PAIR_LAYOUT = "npp-compact-1", "meshnet-1", "pair-1"


_CLOSE, _FINE = "_close", "_fine"


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
    def close(self) -> ModelFiles | None:
        """The network of a quick closer look, where that is not the same."""
        return self._beside(_CLOSE)

    @cached_property
    def fine(self) -> ModelFiles | None:
        """The network of the closer look that masks and fields come from, where that is not the same."""
        return self._beside(_FINE) or self.close

    def _beside(self, ending: str) -> ModelFiles | None:
        path = self.weights.with_name(f"{self.weights.stem}{ending}.safetensors")
        return ModelFiles(path.stem, path) if path.is_file() else None

    @property
    def digest(self) -> str:
        """Checksum of all weights that a scan meets on its way to a mask."""
        if self.fine is None:
            return self.sha256
        return hashlib.sha256(f"{self.sha256} {self.fine.sha256}".encode()).hexdigest()

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model card, empty for a model without one."""
        return _json(self.card_file)

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Coefficients that predict the Dice of its masks, empty for a model that was not calibrated."""
        return _json(self.weights.with_name(f"{self.weights.stem}_quality.json"))

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Metadata of the weights file: ``layout`` and ``config``.

        Raises
        ------
        WeightsError
            The file is not of the safetensors format, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.weights, framework="numpy") as stored:
                return dict(stored.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{self.weights}: cannot be read as safetensors: {error}") from error

    @property
    def layout(self) -> str:
        """Which class of network the weights fill."""
        return self.metadata.get("layout", "")

    def must_be(self, layout: str) -> None:
        """Refuse weights of another layout.

        Raises
        ------
        WeightsError
            They are, or the file cannot be read.
        """
        if self.layout != layout:
            raise WeightsError(f"{self.weights}: layout '{self.layout}' is not '{layout}'")

    def graph_matches(self) -> bool:
        """Whether the graph was exported from exactly these weights."""
        return self.graph.is_file() and self.graph.with_suffix(".bin").is_file() and (
            self.card.get("sha256") == self.sha256
        )


def shipped() -> list[str]:
    """Names of the models inside the package; networks of a closer look belong to their model."""
    return [stem for stem in _inside() if not stem.endswith((_CLOSE, _FINE))]


def _inside() -> list[str]:
    """Stems of all weights inside the package."""
    entries = (entry.name for entry in resources.files("neuralprep.weights").iterdir())
    return sorted(name.removesuffix(".safetensors") for name in entries if name.endswith(".safetensors"))


def fetched() -> list[str]:
    """Names of the models in the user's cache folder."""
    return sorted(path.stem for path in cache_folder().glob("*.safetensors"))


def find_model(name_or_path: str) -> ModelFiles:
    """A shipped or fetched model by name, or a ``.safetensors`` file by path.

    The networks of a closer look have names too, ``npp_close`` and ``npp_fine``: training may start from them.

    Raises
    ------
    WeightsError
        No such model, or a published one that was not fetched yet.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file")
        return ModelFiles(path.stem, path)
    if name_or_path in _inside():
        return ModelFiles(name_or_path, Path(str(resources.files("neuralprep.weights") / f"{path}.safetensors")))
    if name_or_path in fetched():
        return ModelFiles(name_or_path, cache_folder() / f"{name_or_path}.safetensors")
    if name_or_path in PUBLISHED:
        raise WeightsError(f"the published weights of '{name_or_path}' are not on this machine. "
                           f"{PUBLISHED[name_or_path].how_to_get()}")
    if path.suffix in (".pth", ".pt"):
        names = ", ".join(PUBLISHED)
        raise WeightsError(f"{path}: published weights are converted once: neuralprep weights get NAME --from {path} "
                           f"(NAME is one of {names}), then give NAME as the model")
    names = ", ".join(shipped()) or "none"
    raise WeightsError(f"no shipped model '{name_or_path}'; shipped are {names}; to be fetched are "
                       f"{', '.join(PUBLISHED)}; or give a .safetensors file")


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
