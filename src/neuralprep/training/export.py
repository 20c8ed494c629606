"""From a checkpoint to a shippable model: float16 weights, OpenVINO graph, model card."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuralprep.errors import InputError
from neuralprep.networks.loading import load_any, save_network
from neuralprep.training.checkpoint import load_pieces
from neuralprep.training.recipe import Recipe
from neuralprep.training.tasks import Task


class _TupleOutput(nn.Module):
    """The network with a plain tuple as output, which graph converters need."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.network(*inputs)
        return output if isinstance(output, Tensor) else tuple(output)


def export_model(
    checkpoint: Path, recipe: Recipe, target: Path, facts: dict[str, Any], *, graph: bool = True
) -> Path:
    """Write ``target`` (.safetensors), its card (.json) and its graph (.xml, .bin) from averaged weights.

    The graph is left out where OpenVINO is not installed; :func:`export_graph` can add it elsewhere.

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
    graph
        Write the graph if possible.

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
    task, stage = recipe.task, recipe.stage_at(max(state["step"] - 1, 0))  # an unfinished run knows its own grid
    save_network(load_pieces(checkpoint, "ema"), task.config(), target, task.layout)
    target.chmod(0o644)  # safetensors writes files that only their owner can read
    card = {
        "name": target.stem,
        "layout": task.layout,
        "task": task.name,
        "input": task.input_is,
        "spacing_mm": stage.spacing_mm,
        "size": max(stage.sizes()),
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "recipe": recipe.name,
        "recipe_digest": recipe.digest(),
        "train_heads": list(recipe.train_heads),
        "shapes": recipe.shapes,
        "generator": recipe.generator,
        "steps": state["step"],
        "training_seconds": round(state["seconds"]),
        "started_from": state.get("init"),
        "real_images": state.get("real_images", 0),
        **facts,
    }
    target.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    if graph and task.has_graph and importlib.util.find_spec("openvino") is not None:
        export_graph(target, task)
    return target


def export_graph(weights: Path, task: Task) -> Path:
    """Write the OpenVINO graph of a weights file beside it (needs the ``cpu`` extra)."""
    try:
        import openvino
    except ImportError as error:
        raise InputError("exporting the CPU graph needs OpenVINO: pip install 'neuralprep[cpu]'") from error
    network = _TupleOutput(load_any(weights)[1]).eval()
    with warnings.catch_warnings():
        # torch's own shape checks become constants of the trace; they do not depend on the data.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        graph = openvino.convert_model(network, example_input=task.example())
    openvino.save_model(graph, weights.with_suffix(".xml"), compress_to_fp16=True)
    return weights.with_suffix(".xml")
