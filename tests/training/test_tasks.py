"""Tasks: losses at known answers, conventions of the published networks, and that each one learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from neuralprep.networks.ablation import AblationConfig, resampled
from neuralprep.networks.loading import load_any
from neuralprep.networks.meshnet import MINDGRAB_PARAMETERS, load_mindgrab, scaled_dilations
from neuralprep.networks.npp import FRAME_CENTER_MM, StripConfig, coordinate_weights
from neuralprep.networks.pair import PairConfig
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.synthesis.sample import DeviceHead
from neuralprep.training.batch import Batch, Truth
from neuralprep.training.data import Pool, make_batch
from neuralprep.training.export import export_model
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.recipe import Recipe, Stage, load_recipe, shipped_recipes
from neuralprep.training.smoke import QUIET_SAMPLER
from neuralprep.training.tasks import TASKS, AblationTask, MindGrabTask, PairTask, PumbaTask, StripTask, Task, ablation
from neuralprep.training.tasks.ablation import finished, places_error, pose_error
from neuralprep.training.tasks.mindgrab import MeshNetConfig, from_lia, mindgrab_input, to_lia
from neuralprep.training.tasks.pumba import PumbaConfig, pumba_classes

HEAD = phantom_head(spacing_mm=5.0)
STAGE = Stage(steps=40, size=32, spacing_mm=6.0, batch=2)
RNG = np.random.default_rng(0)


def recipe(task: Task, **changes: object) -> Recipe:
    base = Recipe("tiny", (STAGE,), ("phantom",), (), warmup_steps=5, learning_rate=3e-3, task=task,
                  sampler=QUIET_SAMPLER)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def batch() -> Batch:
    pool = Pool(torch.device("cpu"), (DeviceHead.load(HEAD, torch.device("cpu")),))
    return make_batch(pool, recipe(StripTask()), STAGE, (3, 0))


@pytest.mark.parametrize(("task", "drop"), [
    (StripTask(network=StripConfig((8, 16, 16), 1)), 0.8),
    (MindGrabTask(network=MeshNetConfig(8, (4, 2, 1))), 0.8),
    (AblationTask(network=AblationConfig("npp", (8, 16, 16), 1)), 0.9),
    (AblationTask(network=AblationConfig("unet", (8, 16, 16), 1)), 0.9),
    (AblationTask(network=AblationConfig("unet-stn", (8, 16, 16), 1)), 0.9),
    (AblationTask(network=AblationConfig("umirgpit", (8, 16, 16), 1)), 0.9),
], ids=lambda value: f"{value.name}-{getattr(value.network, 'variant', '')}" if isinstance(value, Task) else None)
def test_every_task_learns(tmp_path: Path, task: Task, drop: float) -> None:
    torch.set_num_threads(1)
    run = Trainer(recipe(task), [HEAD], [], TrainOptions(tmp_path, "cpu"))
    # of the ablation the likeness: the weight of its field's variation is drawn anew for each step
    judged = "ssim" if isinstance(task, AblationTask) else "total"
    losses = [run.train_step()[judged].item() for _ in range(28)]
    assert np.mean(losses[-6:]) < drop * np.mean(losses[:4])
    run.ema.values = run.model.state_dict()
    run.validation_pool = run.pool
    scores = run.validate(2)
    assert scores
    assert all(np.isfinite(value) for value in scores.values())


def test_pumba_learns_from_its_own_generator(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task = PumbaTask(network=PumbaConfig((8, 8, 8, 8, 8, 8)))
    own = recipe(task, generator="pumba", train_heads=(), stages=(replace(STAGE, batch=1),))
    run = Trainer(own, [], [], TrainOptions(tmp_path, "cpu"))
    losses = [run.train_step()["total"].item() for _ in range(14)]
    assert np.mean(losses[-4:]) < np.mean(losses[:3]) - 0.06
    assert set(run.validate(1)) == {"dice_eroded", "dice_boundary", "dice_icv"}


def perfect(answer: Tensor) -> object:
    """A network that gives one answer."""
    return lambda *inputs: answer


def test_strip_knows_its_perfect_answer(batch: Batch) -> None:
    total, terms = StripTask().loss(perfect(batch.truth.distances), batch, RNG)
    assert total < 1e-3
    assert set(terms) == {"distance", "dice"}
    (first, _) = StripTask().scores(perfect(batch.truth.distances), batch)
    assert first == {"dice_tissue": 1.0, "dice_icv": 1.0}


def test_mindgrab_knows_its_perfect_answer_and_its_size(batch: Batch) -> None:
    task = MindGrabTask()
    assert sum(p.numel() for p in task.build().parameters()) == MINDGRAB_PARAMETERS == 146_237
    share = to_lia(batch.truth.brain_share()).clamp(1e-6, 1 - 1e-6)
    logits = torch.cat([torch.log(1 - share), torch.log(share)], 1)
    total, _ = task.loss(perfect(logits), batch, RNG)
    assert total < 1e-3
    assert all(row["dice_icv"] == 1 for row in task.scores(perfect(logits), batch))
    wrong, _ = task.loss(perfect(-logits), batch, RNG)
    assert wrong > 10
    blurred, _ = task.loss(perfect(F.avg_pool3d(logits, 3, 1, 1)), batch, RNG)
    hard, _ = task.loss(perfect(20 * logits), batch, RNG)
    assert min(blurred, hard) > 1e-2  # neither a softer nor a harder border than the true one


def test_mindgrab_sees_what_the_published_network_sees() -> None:
    # A ramp to the right, one to the front and one upwards, in RAS order.
    x, y, z = torch.meshgrid(*(torch.linspace(0, 1, 20),) * 3, indexing="ij")
    for ramp, axis, sign in ((x, 2, -1), (z, 3, -1), (y, 4, 1)):  # left, inferior, anterior
        seen = mindgrab_input(ramp[None, None])
        assert (seen.diff(dim=axis).mean() * sign) > 0
        others = [k for k in (2, 3, 4) if k != axis]
        assert all(seen.diff(dim=k).abs().max() < 1e-6 for k in others)
    noise = torch.rand(1, 1, 20, 20, 20) ** 2
    assert torch.equal(from_lia(to_lia(noise[..., 2:])), noise[..., 2:])
    scaled = mindgrab_input(noise)
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert (scaled == 0).float().mean().item() == pytest.approx(0.02, abs=0.015)


def test_published_mindgrab_starts_the_task(tmp_path: Path) -> None:
    published = tmp_path / "model.pth"
    source = MindGrabTask().build()
    torch.save(source.state_dict(), published)
    run = Trainer(recipe(MindGrabTask()), [HEAD], [], TrainOptions(tmp_path / "run", "cpu", init=str(published)))
    expected = load_mindgrab(published).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())


def test_pumba_classes_are_the_published_ones() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((20, 22, 18)), 3)
    mask = noise > 0
    cube = np.ones((3, 3, 3), bool)
    # A voxel on a boundary of any kind ("thick"): neighbours of both kinds within the 26-neighbourhood.
    grown, shrunk = ndimage.binary_dilation(mask, cube), ndimage.binary_erosion(mask, cube, border_value=1)
    eroded, boundary = pumba_classes(torch.from_numpy(mask)[None, None])[0].numpy() > 0
    assert np.array_equal(boundary, grown & ~shrunk)
    assert np.array_equal(eroded, mask & ~boundary)


def test_pumba_loss_is_one_minus_both_dices(batch: Batch) -> None:
    task = PumbaTask()
    classes = pumba_classes(batch.truth.brain())
    answer = torch.cat([classes, 1 - classes.sum(1, keepdim=True)], 1)
    total, _ = task.loss(perfect(60 * answer), batch, RNG)
    assert total.item() == pytest.approx(-1.0, abs=1e-3)
    nothing = torch.zeros_like(answer)
    nothing[:, 2] = 60
    total, _ = task.loss(perfect(nothing), batch, RNG)
    assert total.item() == pytest.approx(1.0, abs=0.01)
    assert all(row["dice_icv"] == 1 for row in task.scores(perfect(answer), batch))


def test_reconstruction_is_best_for_the_finished_image(batch: Batch) -> None:
    wanted = finished(batch.truth)
    assert wanted.shape == batch.image.shape
    assert wanted.max() <= 1
    empty = wanted.new_zeros(0)
    pose = true_pose(batch.truth)
    for variant, known in (("unet", empty), ("unet-stn", pose)):
        task = AblationTask(network=AblationConfig(variant))
        places = true_places(batch.truth) if variant != "unet" else empty
        total, terms = task.loss(lambda *inputs, told=(known, places): (wanted, wanted, empty, *told), batch, RNG)
        assert total.item() == pytest.approx(0, abs=1e-5)
        assert ({"pose", "places"} <= set(terms)) == (variant != "unet")
    task = AblationTask(network=AblationConfig("npp"))
    field = torch.rand(2, 1, 16, 16, 16)
    output = wanted, wanted, field, pose, true_places(batch.truth)
    _, terms = task.loss(lambda *inputs: output, batch, np.random.default_rng(1))
    lam = 10 ** np.random.default_rng(1).uniform(-3, 1)
    slope = sum(field.diff(dim=axis).abs().mean().item() for axis in (2, 3, 4))
    assert terms["tv"].item() == pytest.approx(lam * slope * 2 / 12, rel=1e-4)  # the field's spacing is 12 mm
    (row, _) = task.scores(lambda *inputs: output, batch)
    assert row["ssim"] == pytest.approx(1, abs=1e-5)
    assert row["psnr"] > 90


def true_pose(truth: Truth) -> torch.Tensor:
    """Matrices of a spatial transformer that fetches the finished image from where the true affine says."""
    half = truth.spacing_mm * 16
    frame = np.diag([half, half, half, 1.0])
    frame[:3, 3] = FRAME_CENTER_MM
    order = np.eye(4)[[2, 1, 0, 3]]
    matrices = [order @ np.diag([1 / half] * 3 + [1]) @ np.linalg.inv(affine.double().numpy()) @ frame @ order
                for affine in truth.affine]
    return torch.tensor(np.stack(matrices)[:, :3], dtype=torch.float32)


def true_places(truth: Truth) -> torch.Tensor:
    """Coordinates of blocks of four voxels in the template's frame, -1 to 1."""
    return (truth.coordinates - torch.tensor(FRAME_CENTER_MM).view(3, 1, 1, 1)) / (truth.spacing_mm * 16)


def test_error_of_places_is_in_millimetres_of_the_brain(batch: Batch) -> None:
    truth, places = batch.truth, true_places(batch.truth)
    # blocks lie where the true affine carries their middles
    line = 4 * truth.spacing_mm * (torch.arange(8) - 3.5)
    middles = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).double()
    for k, affine in enumerate(truth.affine.double()):
        expected = middles @ affine[:3, :3].T + affine[:3, 3]
        inside = coordinate_weights(truth.distances)[k, 0] > 0.9
        away = (truth.coordinates[k].movedim(0, -1) - expected).norm(dim=-1)[inside]
        assert away.mean() < 8  # the rest is what no affine explains
    assert places_error(places, truth).item() == pytest.approx(0, abs=1e-4)
    moved = places.clone()
    moved[:, 0] += 5 / (16 * truth.spacing_mm)
    share = 1 - 1 / (coordinate_weights(truth.distances).sum().item() + 1)
    assert places_error(moved, truth).item() == pytest.approx((5 - 1) * share, rel=0.02)  # less half of the smooth part
    air = coordinate_weights(truth.distances) < 1e-6
    assert air.float().mean() > 0.1
    assert places_error(places + air, truth).item() < 0.01


def test_error_of_a_pose_is_in_millimetres(batch: Batch) -> None:
    truth, pose = batch.truth, true_pose(batch.truth)
    clean = truth.clean[:, None].clamp(max=1) * truth.brain()
    # the frame's edges aside, where one rule pads with zeros and the other does not
    torch.testing.assert_close(resampled(clean, pose)[..., 2:-2, 2:-2, 2:-2],
                               finished(truth)[..., 2:-2, 2:-2, 2:-2], atol=0.02, rtol=0)
    assert pose_error(pose, truth).item() == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(ablation.true_pose(truth), pose, atol=1e-5, rtol=0)
    pose[:, 1, 3] += 2 / 32  # one voxel
    assert pose_error(pose, truth).item() == pytest.approx(6, abs=1e-3)
    pose[1, 1, 3] -= 2 / 32
    assert pose_error(pose, truth).item() == pytest.approx(3, abs=1e-3)


def test_brain_lands_in_the_middle_of_the_template_frame(batch: Batch) -> None:
    weight = finished(batch.truth)[:, 0]
    axis = torch.arange(32.0) - 15.5
    for k, dims in enumerate(((2, 3), (1, 3), (1, 2))):
        middle = (weight.sum(dims) * axis).sum(1) / weight.sum((1, 2, 3))
        assert middle.abs().max() * 6 < 25, k  # mm


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"npp"}))
def test_exports_say_what_they_are_and_load_again(tmp_path: Path, name: str) -> None:
    small = {"strip": StripTask(network=StripConfig((8, 8, 16), 1)), "pumba": PumbaTask(PumbaConfig((8,) * 6)),
             "mindgrab": MindGrabTask(MeshNetConfig(4, (2, 1))),
             "pair": PairTask(PairConfig((4, 4, 8, 8))),
             "ablation": AblationTask(AblationConfig("unet-stn", (8, 8, 16), 1))}[name]
    own = replace(recipe(StripTask()), task=small, generator="brains" if name == "pair" else "heads")
    run = Trainer(own, [HEAD], [], TrainOptions(tmp_path, "cpu"))
    run.save()
    with_graph = name in ("mindgrab", "ablation")  # once where it can be written, once where it cannot
    target = export_model(run.checkpoint_folder, own, tmp_path / "own.safetensors", {}, graph=with_graph)
    card = json.loads(target.with_suffix(".json").read_text())
    assert (card["task"], card["layout"], card["spacing_mm"]) == (name, small.layout, 6.0)
    layout, loaded = load_any(target)
    assert layout == small.layout
    inputs = small.example()
    with torch.no_grad():
        first, second = run.averaged()(*inputs), loaded.eval()(*inputs)
    for a, b in zip(*(out if isinstance(out, tuple) else (out,) for out in (first, second)), strict=True):
        assert a.numel() == 0 or (a - b).abs().max() < 0.02 * a.abs().max() + 1e-3
    # A spatial transformer in three dimensions is more than the graph format can say.
    assert target.with_suffix(".xml").exists() == (name == "mindgrab")


def test_every_shipped_recipe_is_for_a_task_that_exists() -> None:
    recipes = {name: load_recipe(name) for name in shipped_recipes()}
    assert {r.task.name for r in recipes.values()} == set(TASKS)
    for name in ("mindgrab", "mindgrab-2mm", "mindgrab-4mm"):  # each can start from the one before it
        task, (stage,) = recipes[name].task, recipes[name].stages
        assert isinstance(task, MindGrabTask)
        assert sum(p.numel() for p in task.build().parameters()) == MINDGRAB_PARAMETERS
        assert task.network.dilations == scaled_dilations(stage.spacing_mm)
        assert stage.size * stage.spacing_mm == 256
    published = recipes["pumba"]
    assert (published.generator, published.learning_rate, published.stages[0].batch) == ("pumba", 1e-4, 1)
    assert sum(p.numel() for p in published.task.build().parameters()) == 5_896_947
    assert recipes["shapes"].shapes == 1.0
    assert not recipes["shapes"].train_heads


def test_shares_of_shapes_are_drawn_and_have_no_pose() -> None:
    head = DeviceHead.load(HEAD, torch.device("cpu"))
    pool = Pool(torch.device("cpu"), (head,), shapes=0.5)
    tiny = replace(QUIET_SAMPLER, shape=(16, 16, 16), spacing_mm=12.0)
    flags = [pool.draw(np.random.default_rng(k), tiny).has_pose for k in range(6)]
    assert 1 <= sum(flags) <= 5
    assert all(Pool(torch.device("cpu"), (head,)).draw(np.random.default_rng(k), tiny).has_pose for k in range(3))
