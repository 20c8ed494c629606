"""Recipes, exact resume, fine-tuning, several processes, export, and that training learns."""

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
from neuralprep.networks.loading import load_network
from neuralprep.networks.npp import NPPConfig, StripConfig
from neuralprep.synthesis.atlas import save_atlas
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.training import checkpoint
from neuralprep.training.checkpoint import EMA, load_pieces
from neuralprep.training.data import make_batch
from neuralprep.training.export import export_model
from neuralprep.training.loop import Trainer, TrainOptions, learning_rate
from neuralprep.training.recipe import Recipe, Stage, load_recipe, shipped_recipes
from neuralprep.training.smoke import SMOKE_RECIPE, run_smoke
from neuralprep.training.tasks import NPPTask, StripTask
from neuralprep.weights.registry import find_model

TINY = replace(SMOKE_RECIPE, stages=(Stage(steps=4, size=16, spacing_mm=12.0, batch=2),
                                     Stage(steps=4, size=32, spacing_mm=6.0, batch=1)))
HEAD = phantom_head(spacing_mm=6.0)


def trainer(folder: Path, recipe: Recipe = TINY) -> Trainer:
    return Trainer(recipe, [HEAD], [HEAD], TrainOptions(folder, "cpu", log_every=1))


def test_smoke_training_learns(tmp_path: Path) -> None:
    first, last = run_smoke(tmp_path, 5.0, "cpu", steps=40)
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


def test_large_checkpoints_come_in_small_files_and_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    whole.train_step()
    whole.save()
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 20_000)
    pieces.train_step()
    pieces.save()
    folder = pieces.checkpoint_folder
    assert len(list(folder.glob("ema-*.safetensors"))) > 2
    largest = 4 * max(p.numel() for p in pieces.model.parameters())
    assert max(path.stat().st_size for path in folder.iterdir()) < max(largest, 20_000) + 4_000
    for stem in ("model", "ema", "exp_avg", "exp_avg_sq"):
        one, many = load_pieces(whole.checkpoint_folder, stem), load_pieces(folder, stem)
        assert one.keys() == many.keys()
        assert all(torch.equal(one[name], many[name]) for name in one), stem
    straight, resumed = whole.train_step(), trainer(tmp_path / "b").train_step()
    assert straight["total"] == resumed["total"]
    for path in folder.glob("ema*"):
        path.unlink()
    with pytest.raises(WeightsError, match=r"no ema\.safetensors"):
        trainer(tmp_path / "b")


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
    assert isinstance(TINY.task, NPPTask)
    other = replace(TINY, task=replace(TINY.task, network=replace(TINY.task.network, widths=(8, 16, 32))))
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


def test_average_without_a_ramp_keeps_its_start() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    with_ramp, without = EMA(layer, 0.9), EMA(layer, 0.9, ramp=False)
    layer.weight.data.fill_(2.0)
    for ema in (with_ramp, without):
        ema.update(layer, 0)
    assert with_ramp.values["weight"].item() == pytest.approx(1.9)
    assert without.values["weight"].item() == pytest.approx(1.1)


def exported(folder: Path) -> Path:
    """Weights of a short run of the tiny recipe."""
    run = trainer(folder)
    run.train_step()
    run.save()
    return export_model(run.checkpoint_folder, TINY, folder / "own.safetensors", {}, graph=False)


def test_fine_tuning_starts_from_the_weights_and_their_average(tmp_path: Path) -> None:
    weights = exported(tmp_path / "first")
    options = TrainOptions(tmp_path / "tuned", "cpu", init=str(weights))
    tuned = Trainer(replace(TINY, seed=5), [HEAD], [], options)
    start = {name: value.half() for name, value in load_pieces(tmp_path / "first" / "checkpoint", "ema").items()}
    for values in (tuned.model.state_dict(), tuned.ema.values):
        assert all(torch.equal(value.half(), start[name]) for name, value in values.items())
    tuned.train_step()
    tuned.save()
    # The average has hardly moved: the ramp of a fresh run would have left nine tenths of it behind.
    moved, jumped = (
        sum((values[name] - start[name].float()).abs().sum().item() for name in start)
        for values in (tuned.ema.values, tuned.model.state_dict())
    )
    assert 0 < moved < 0.01 * jumped
    again = Trainer(replace(TINY, seed=5), [HEAD], [], options)  # the same command goes on
    assert again.step == 1
    assert not again.ema.ramp
    without = Trainer(replace(TINY, seed=5), [HEAD], [], TrainOptions(tmp_path / "tuned", "cpu"))
    assert not without.ema.ramp


def test_fine_tuning_refuses_what_it_would_not_use(tmp_path: Path) -> None:
    weights = str(exported(tmp_path / "first"))
    with pytest.raises(InputError, match="did not start from"):
        Trainer(TINY, [HEAD], [], TrainOptions(tmp_path / "first", "cpu", init=weights))
    with pytest.raises(WeightsError, match="does not fit the network of this recipe"):
        Trainer(TINY, [HEAD], [], TrainOptions(tmp_path / "new", "cpu", init="npp"))
    with pytest.raises(WeightsError, match="no shipped model 'nothing'"):
        Trainer(TINY, [HEAD], [], TrainOptions(tmp_path / "new", "cpu", init="nothing"))


def test_stripping_starts_from_the_default_network(tmp_path: Path) -> None:
    widths = NPPConfig()
    strip = replace(TINY, task=StripTask(network=StripConfig(widths.widths, widths.blocks)))
    run = Trainer(strip, [HEAD], [], TrainOptions(tmp_path, "cpu", init="npp"))
    shipped = load_network(find_model("npp").weights).state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in run.model.state_dict().items())
    backwards = replace(TINY, task=NPPTask(network=widths))
    run.save()
    path = export_model(run.checkpoint_folder, strip, tmp_path / "strip.safetensors", {}, graph=False)
    with pytest.raises(WeightsError, match="layout 'strip-1' cannot start the task npp"):
        Trainer(backwards, [HEAD], [], TrainOptions(tmp_path / "new", "cpu", init=str(path)))


def test_a_stage_may_have_a_box(tmp_path: Path) -> None:
    """The head stays where its pose puts it, whatever the box around it."""
    still = replace(TINY.sampler, shift_mm=0, tilt_deg=0, wide_tilt=0, any_rotation=0, warp_mm=0, infant=0, animal=0,
                    scale=(0.9, 0.9), stripped=0, cut=0, wrap=0, blob=0, atrophy=0)  # fmt: skip
    run = trainer(tmp_path, replace(TINY, sampler=still))
    middles = []
    for shape in ((32, 32, 32), (32, 48, 32), (48, 32, 64)):
        stage = Stage(steps=1, spacing_mm=6.0, batch=1, shape=shape)
        distances = make_batch(run.pool, run.recipe, stage, (3, 0)).truth.distances
        assert distances.shape[2:] == shape
        inside = torch.nonzero(distances[0, 1] < 0).float()
        middles.append(6.0 * (inside.mean(0) - (torch.tensor(shape) - 1) / 2))
    assert all(torch.allclose(middle, middles[0], atol=0.5) for middle in middles)


def test_sizes_that_the_network_cannot_halve_are_refused(tmp_path: Path) -> None:
    text = (
        'train_heads = ["a"]\nvalidation_heads = []\nname = "x"\n[[stages]]\nsteps = 1\nshape = [96, 104, 96]\n'
    )
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(InputError, match="sizes must be multiples of 16"):
        load_recipe(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text(text.replace("104", "112"))
    assert load_recipe(str(tmp_path / "own.toml")).stages[0].at(0) == ((96, 112, 96), 2)


TEAM_SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from training.test_training import HEAD, TINY
from neuralprep.training.data import make_batch
from neuralprep.training.distributed import leave_team
from neuralprep.training.loop import Trainer, TrainOptions
torch.set_num_threads(1)
out = Path(sys.argv[1])
run = Trainer(TINY, [HEAD], [], TrainOptions(out / "run", "cpu", log_every=1))
for _ in range(2):
    run.train_step()
run.save()
batch = make_batch(run.pool, TINY, TINY.stages[0], (TINY.seed, 0), run.team.rank)
state = {"weights": run.model.state_dict(), "ema": run.ema.values, "image": batch.image, "size": run.team.size}
torch.save(state, out / f"rank{run.team.rank}.pt")
run.train()
torch.save(run.model.state_dict(), out / f"end{run.team.rank}.pt")
leave_team()
"""


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    script = tmp_path / "team.py"
    script.write_text(TEAM_SCRIPT)
    root = Path(neuralprep.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
               str(tmp_path), str(Path(__file__).parent.parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{k}.pt", weights_only=True) for k in range(2))
    assert first["size"] == 2
    assert not torch.equal(first["image"], second["image"])  # each has its own samples
    for kind in ("weights", "ema"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), name
    ends = [torch.load(tmp_path / f"end{k}.pt", weights_only=True) for k in range(2)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    # Only the first writes, and what it writes resumes in one process.
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [3, 4, 5, 6, 7, 8]
    assert lines[0]["processes"] == 2
    assert trainer(tmp_path / "run").step == 8
    # Together they see what one process with twice the batch sees.
    alone = Trainer(replace(TINY, stages=(replace(TINY.stages[0], batch=4),)), [HEAD], [], TrainOptions(tmp_path / "b"))
    joint = make_batch(alone.pool, alone.recipe, alone.recipe.stages[0], (TINY.seed, 0))
    assert torch.equal(joint.image, torch.cat([first["image"], second["image"]]))


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
    with pytest.raises(InputError, match="multiples of 16"):
        load_recipe(str(path))
    path.write_text("name = ")
    with pytest.raises(InputError, match="not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(InputError, match="no shipped recipe 'none'"):
        load_recipe("none")
    stage = "[[stages]]\nsteps = 1\n"
    for text, message in (
        ('task = "sing"\n', "task 'sing' is unknown; choose one of npp, strip"),
        ('task = "strip"\n[network]\nfield_widths = [8]\n', r"\[network\]: unknown key field_widths"),
        ('task = "mindgrab"\n[loss]\ndice = 1.0\n', "task 'mindgrab' has no settings of this kind"),
        ('task = "ablation"\n[network]\nvariant = "x"\n', "variant 'x' is unknown"),
        ("shapes = 0.7\nreal = 0.7\n", "must lie between 0 and 1"),
        ('generator = "pumba"\nshapes = 0.5\n', "makes every example itself"),
        ('generator = "magic"\n', "generator 'magic' is unknown"),
    ):
        path.write_text(f'name = "x"\n{text}{stage}')
        with pytest.raises(InputError, match=message):
            load_recipe(str(path))


def test_digest_follows_every_setting() -> None:
    recipe = load_recipe("ablation")
    digests = {recipe.digest(), recipe.with_variant("unet").digest(), replace(recipe, shapes=0.1).digest(),
               replace(recipe, task=StripTask()).digest(), load_recipe("strip").digest()}
    assert len(digests) == 5
    with pytest.raises(InputError, match="has no variants"):
        load_recipe("npp").with_variant("unet")


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
    other = export_model(run.checkpoint_folder, TINY, tmp_path / "other.safetensors", {}, graph=False)
    target.write_bytes(other.read_bytes())  # the user replaces the weights but not the graph
    assert isinstance(open_session(str(target), "cpu", 1).backend, TorchBackend)


BARE_SCRIPT = """
import sys
for name in ("nibabel", "scipy", "isal", "h5py", "openvino", "matplotlib", "nilearn", "tqdm", "jinja2", "SimpleITK"):
    sys.modules[name] = None  # importing it fails as if it were not installed
from pathlib import Path
from dataclasses import replace
import numpy as np
from neuralprep.synthesis.atlas import load_atlas
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.recipe import Stage, load_recipe
heads = load_atlas(Path(sys.argv[1]))
small = (Stage(steps=1, size=32, spacing_mm=6.0, batch=1),)
for name in sys.argv[3:]:
    recipe = replace(load_recipe(name), stages=small)
    recipe = replace(recipe, shapes=0.5 if recipe.train_heads else recipe.shapes)
    run = Trainer(recipe, heads if recipe.train_heads else [], heads if recipe.train_heads else [],
                  TrainOptions(Path(sys.argv[2]) / name, "cpu"))
    run.train_step()
    run.validate(1)
    run.save()
    print(name, run.step)
"""


def test_training_runs_on_a_bare_gpu_machine(tmp_path: Path) -> None:
    """Torch, numpy and safetensors must do: every task trains, validates and saves without any other library."""
    save_atlas([HEAD], tmp_path / "atlas.npz")
    names = ["npp", "shapes", "mindgrab-4mm", "pumba"]
    environment = {**os.environ, "PYTHONPATH": str(Path(neuralprep.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BARE_SCRIPT, str(tmp_path / "atlas.npz"), str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:-1] == [f"{name} 1" for name in names]
