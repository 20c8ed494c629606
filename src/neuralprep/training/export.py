"""From a checkpoint to a shippable model: float16 weights, OpenVINO graph, model card."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neuralprep.errors import InputError
from neuralprep.networks.loading import load_network, save_network
from neuralprep.networks.npp import CompactNPP
from neuralprep.training.recipe import Recipe


class _TupleOutput(nn.Module):
    """The network with a plain tuple as output, which graph converters need."""

    def __init__(self, network: CompactNPP) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, log10_lambda: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(image, log10_lambda))


def export_model(checkpoint: Path, recipe: Recipe, target: Path, facts: dict[str, Any]) -> Path:
    """Write ``target`` (.safetensors), its graph (.xml, .bin) and its card (.json) from averaged weights.

    Parameters
    ----------
    checkpoint
        Folder of a checkpoint of :mod:`neuralprep.training.checkpoint`.
    recipe
        The recipe it was trained with.
    target
        ``.safetensors`` path to write.
    facts
        Further entries of the card, such as measured scores and limits.

    Raises
    ------
    InputError
        ``target`` has another suffix, or there is no checkpoint.
    """
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: the exported weights must be named *.safetensors")
    if not (checkpoint / "state.json").is_file():
        raise InputError(f"{checkpoint}: no checkpoint to export; train first")
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    save_network(load_file(checkpoint / "ema.safetensors"), recipe.network, target)
    target.chmod(0o644)  # safetensors writes files that only their owner can read
    export_graph(target)
    card = {
        "name": target.stem,
        "layout": "npp-compact-1",
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "recipe": recipe.name,
        "recipe_digest": recipe.digest(),
        "train_heads": list(recipe.train_heads),
        "steps": state["step"],
        "training_seconds": round(state["seconds"]),
        **facts,
    }
    target.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return target


def export_graph(weights: Path) -> Path:
    """Write the OpenVINO graph of a weights file beside it (needs the ``cpu`` extra)."""
    try:
        import openvino
    except ImportError as error:
        raise InputError("exporting the CPU graph needs OpenVINO: pip install 'neuralprep[cpu]'") from error
    network = _TupleOutput(load_network(weights)).eval()
    example = (torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1))
    with warnings.catch_warnings():
        # torch's own shape checks become constants of the trace; they do not depend on the data.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        graph = openvino.convert_model(network, example_input=example)
    openvino.save_model(graph, weights.with_suffix(".xml"), compress_to_fp16=True)
    return weights.with_suffix(".xml")
