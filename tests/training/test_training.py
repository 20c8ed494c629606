"""Recipes, exact resume, export, and that training learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import neuralprep
from neuralprep.errors import InputError, WeightsError
from neuralprep.inference.session import OpenVINOBackend, Session, TorchBackend, open_session
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.training.checkpoint import EMA
from neuralprep.training.export import export_model
from neuralprep.training.loop import Trainer, TrainOptions, learning_rate
from neuralprep.training.recipe import Recipe, Stage, load_recipe, shipped_recipes
from neuralprep.training.smoke import SMOKE_RECIPE, run_smoke
from neuralprep.weights.registry import find_model

TINY = replace(SMOKE_RECIPE, stages=(Stage(steps=4, size=16, spacing_mm=12.0, batch=2),
                                     Stage(steps=4, size=32, spacing_mm=6.0, batch=1)))
HEAD = phantom_head(spacing_mm=6.0)


def trainer(folder: Path, recipe: Recipe = TINY) -> Trainer:
    return Trainer(recipe, [HEAD], [HEAD], TrainOptions(folder, "cpu", log_every=1))


def test_smoke_training_learns(tmp_path: Path) -> None:
    first, last = run_smoke(tmp_path, 5.0, "cpu", steps=60)
    assert last < 0.8 * first


def test_stopping_and_resuming_gives_the_same_weights(tmp_path: Path) -> None:
    straight = trainer(tmp_path / "a")
    straight.train()
    stopped = trainer(tmp_path / "b")
    for _ in range(3):
        stopped.train_step()
    stopped.save()
    resumed = trainer(tmp_path / "b")
    assert resumed.step == 3
    resumed.train()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in straight.ema.values.items():
        assert torch.equal(value, resumed.ema.values[name]), name
    lines = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [4, 5, 6, 7, 8]
    assert {"dice_icv", "affine_mm", "ssim"} <= set(lines[-1])


def test_a_run_killed_between_the_renames_still_resumes(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step()
    run.save()
    run.checkpoint_folder.rename(run.checkpoint_folder.with_name("checkpoint.old"))
    assert trainer(tmp_path).step == 1


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step()
    run.save()
    other = replace(TINY, network=replace(TINY.network, widths=(8, 16, 32)))
    with pytest.raises(WeightsError, match="another network"):
        trainer(tmp_path, other)


def test_time_budget_stops_early_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = Trainer(TINY, [HEAD], [], TrainOptions(tmp_path, "cpu", minutes=0.0))
    assert run.train() is False
    assert (tmp_path / "checkpoint" / "state.json").is_file()


def test_ema_approaches_a_constant_and_lags_behind_a_jump() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    ema = EMA(layer, 0.9)
    layer.weight.data.fill_(2.0)
    values = []
    for step in range(1000, 1040):
        ema.update(layer, step)
        values.append(ema.values["weight"].item())
    assert values[0] == pytest.approx(1.1)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(2.0, abs=0.02)


def test_learning_rate_warms_up_then_falls_to_the_end() -> None:
    recipe = replace(TINY, stages=(Stage(steps=100),), warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_every_shipped_recipe_loads_and_keeps_the_test_heads_out() -> None:
    for name in shipped_recipes():
        recipe = load_recipe(name)
        used = {*recipe.train_heads, *recipe.validation_heads}
        assert not used & {"training_seg_19", "training_seg_20"}, name
        assert not set(recipe.train_heads) & set(recipe.validation_heads), name


def test_recipe_errors_name_the_key(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\ntrain_heads = []\nvalidation_heads = []\nlerning_rate = 1\n[[stages]]\nsteps = 1\n')
    with pytest.raises(InputError, match="unknown key lerning_rate"):
        load_recipe(str(path))
    path.write_text('name = "x"\n[[stages]]\nsteps = 1\nsize = 50\n')
    with pytest.raises(InputError, match="multiple of 16"):
        load_recipe(str(path))
    path.write_text("name = ")
    with pytest.raises(InputError, match="not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(InputError, match="no shipped recipe 'none'"):
        load_recipe("none")


def test_exported_model_runs_alike_in_both_runtimes(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step()
    run.save()
    target = export_model(run.checkpoint_folder, TINY, tmp_path / "own.safetensors", {"note": "test"})
    card = json.loads(target.with_suffix(".json").read_text())
    assert card["steps"] == 1
    assert card["sha256"] == find_model(str(target)).sha256
    session = open_session(str(target), "cpu", 1)
    assert isinstance(session.backend, OpenVINOBackend)
    reference = Session(session.model, TorchBackend(session.model, "cpu", 1))
    image = np.random.default_rng(0).random((32, 48, 32), np.float32)
    for made, expected in zip(session.predict(image, 0.1), reference.predict(image, 0.1), strict=True):
        assert np.abs(made - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_graph_of_other_weights_is_not_used(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train_step()
    run.save()
    target = export_model(run.checkpoint_folder, TINY, tmp_path / "own.safetensors", {})
    run.train_step()
    run.save()
    other = export_model(run.checkpoint_folder, TINY, tmp_path / "other.safetensors", {})
    target.write_bytes(other.read_bytes())  # the user replaces the weights but not the graph
    assert isinstance(open_session(str(target), "cpu", 1).backend, TorchBackend)


def test_training_imports_on_a_bare_gpu_machine() -> None:
    """Torch, numpy and safetensors must do: no image or CPU runtime library is loaded before it is used."""
    code = (
        "import sys, neuralprep.training.loop, neuralprep.synthesis.atlas\n"
        "print(*[m for m in ('nibabel', 'scipy', 'isal', 'h5py', 'openvino', 'matplotlib') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(neuralprep.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == []
