"""Learning to register: the truth of groups, the loss at known answers, and that the network learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralprep.errors import InputError
from neuralprep.networks.pair import STRUCTURES, PairConfig
from neuralprep.synthesis.classes import INDEX
from neuralprep.synthesis.phantom import phantom_head
from neuralprep.synthesis.sample import DeviceHead
from neuralprep.synthesis.sampler import SamplerSettings
from neuralprep.synthesis.spatial import Pose
from neuralprep.training import brains
from neuralprep.training.batch import Batch
from neuralprep.training.data import Pool, make_batch
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.pair_losses import (
    at_points,
    meet,
    membrane_energy,
    misplaced,
    one_hot,
    overlaps,
    share_entropy,
    shares_of,
    soft_knee,
)
from neuralprep.training.recipe import Recipe, Stage, load_recipe
from neuralprep.training.tasks import PairTask, StripTask

HEAD = phantom_head(spacing_mm=5.0)
STAGE = Stage(steps=100, size=32, spacing_mm=6.0, batch=1)
CLEAR = SamplerSettings(look_weights=(("T1w", 1.0),), warp_mm=8.0, bias=0.0, coils=0.0, thick=0.0, noise=0.0, cut=0.0,
                        stripped=1.0, defaced=0.0, blob=0.0, lesions=0.0, atrophy=0.0, backdrop=0.0, motion=0.0,
                        ghost=0.0, spikes=0.0, wrap=0.0, gibbs=0.0, slices=0.0, gamma=0.0, blur=0.0)


def recipe(**changes: object) -> Recipe:
    base = Recipe("tiny", (STAGE,), ("phantom",), (), generator="brains", warmup_steps=5, learning_rate=4e-3,
                  task=PairTask(network=PairConfig((8, 8, 16, 16), 1, (8, 8, 16, 16))), sampler=CLEAR)
    return replace(base, **changes)  # type: ignore[arg-type]


def group(one_head: bool, spacing_mm: float = 6.0, warp_mm: float = 8.0) -> Batch:
    """The first group whose images show, or do not show, one head."""
    device = torch.device("cpu")
    pool = Pool(device, (DeviceHead.load(HEAD, device),), generator="brains")
    stage = replace(STAGE, spacing_mm=spacing_mm)
    chosen = recipe(sampler=replace(CLEAR, warp_mm=warp_mm))
    batches = (make_batch(pool, chosen, stage, (5, k)) for k in range(40))
    return next(batch for batch in batches if bool(batch.truth.has_pose[0]) == one_head)


@pytest.mark.parametrize("seed", range(5))
def test_a_pose_onto_other_axes_is_their_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose = Pose(tuple(rng.uniform(-170, 170, 3)), tuple(rng.uniform(0.7, 1.3, 3)), tuple(rng.uniform(-0.2, 0.2, 3)),
                mirror=bool(seed % 2))  # type: ignore[arg-type]
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ np.diag(rng.uniform(0.8, 1.2, 3))
    onto = pose.onto(axes)
    np.testing.assert_allclose(onto.matrix(), axes @ pose.matrix(), atol=1e-12)
    assert onto.mirror == (np.linalg.det(axes @ pose.matrix()) < 0)


def test_brains_of_a_group_stand_as_the_template_does() -> None:
    batch = group(one_head=False)
    for matrix in batch.truth.affine.double().numpy():
        turn = matrix[:3, :3] / np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
        turn[0] *= np.sign(turn[0, 0])  # mirrored ones are seen in a mirrored template
        assert np.degrees(np.abs(turn - np.eye(3)).max()) < 20
    head_is_gone = batch.image[(~batch.truth.brain())]
    assert head_is_gone.count_nonzero() < 0.02 * head_is_gone.numel()


def test_one_head_says_where_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal coordinates are equal anatomy: the map they define carries one image's classes onto the other's."""
    monkeypatch.setattr(brains, "LEFT_OVER_DEG", 5.0)
    monkeypatch.setattr(brains, "LEFT_OVER_MM", 5.0)
    batch = group(one_head=True, spacing_mm=4.0, warp_mm=0.0)  # without a warp the coordinates are affine
    truth = batch.truth
    n = truth.classes.shape[-1]
    index = truth.brain()[0, 0].nonzero().T.float()
    centred = 4.0 * (index - (n - 1) / 2)
    first, second = truth.affine[0], truth.affine[1]
    there = torch.linalg.solve(second[:3, :3], first[:3, :3] @ centred + first[:3, 3:] - second[:3, 3:])
    index_there = there / 4.0 + (n - 1) / 2
    first_map, second_map = one_hot(truth.classes[:2]).split(1)
    own = at_points(first_map, index[None])
    overlap = []
    for share in (-1.0, 0.0, 1.0):  # of the way: the wrong direction, none, the right one
        carried = at_points(second_map, (index + share * (index_there - index))[None])
        overlap.append((2 * (carried * own).sum() / (carried.sum() + own.sum())).item())
    assert overlap[2] > 0.85
    assert overlap[2] > overlap[1] + 0.01 > overlap[0] + 0.03, overlap


def test_a_steady_velocity_moves_both_images_half_the_way() -> None:
    velocity = torch.zeros(3, 16, 16, 16)
    velocity[1] = 1.5  # voxels of the coarse grid: 3 of the image's
    brain = torch.zeros(32, 32, 32, dtype=torch.bool)
    brain[8:24, 8:24, 8:24] = True
    meeting = meet(velocity[None], brain[None], torch.Generator().manual_seed(0))
    torch.testing.assert_close((meeting.moving - meeting.middle)[:, 1], torch.full_like(meeting.middle[:, 1], 1.5))
    torch.testing.assert_close(meeting.fixed - meeting.middle, -(meeting.moving - meeting.middle), atol=1e-5, rtol=0)
    assert membrane_energy(velocity[None]).item() == 0


def test_the_loss_knows_the_right_answer() -> None:
    """An image shifted by known voxels: the velocity that undoes it fits; none is worse, its inverse worst."""
    batch = group(one_head=True)
    classes, coordinates = batch.truth.classes[:1], batch.truth.coordinates[:1]
    moved = torch.roll(classes, 2, 1)
    shifted = coordinates - (batch.truth.affine[0, :3, 0] * 6.0 * 2).view(1, 3, 1, 1, 1)
    brain = batch.truth.brain()[:1, 0]
    brain[:, :4] = brain[:, -4:] = False
    scores = {}
    for voxels in (-1.0, 0.0, 1.0):  # of the coarse grid
        velocity = torch.zeros(1, 3, 16, 16, 16)
        velocity[:, 0] = voxels
        meeting = meet(velocity, brain, torch.Generator().manual_seed(0))
        scores[voxels] = (overlaps(meeting, one_hot(classes), one_hot(moved)).mean().item(),
                          soft_knee(misplaced(meeting, coordinates, shifted)).item())
    assert scores[1.0][0] > 0.95 > scores[0.0][0] + 0.1
    assert scores[0.0][0] > scores[-1.0][0]
    assert scores[1.0][1] < 0.35 * scores[0.0][1]
    assert scores[0.0][1] < scores[-1.0][1]


def test_shares_count_blocks_and_their_entropy_is_least_at_themselves() -> None:
    classes = group(one_head=False).truth.classes
    shares = shares_of(one_hot(classes))
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    white = (classes == INDEX["cerebral_wm"]).sum((1, 2, 3))
    torch.testing.assert_close(8 * shares[:, STRUCTURES.index("cerebral_wm")].sum((1, 2, 3)), white.float())
    brain = torch.ones(len(classes), 1, *classes.shape[1:], dtype=torch.bool)
    exact = share_entropy(shares.clamp(min=1e-9).log(), shares, brain).item()
    assert exact == pytest.approx(0, abs=1e-5)
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        other = (shares + 0.1 * torch.rand(shares.shape, generator=rng)).clamp(min=1e-9)
        assert share_entropy(other.log(), shares, brain).item() > exact + 1e-3


def test_the_network_learns_to_register(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run = Trainer(recipe(), [HEAD], [], TrainOptions(tmp_path, "cpu"))
    for _ in range(100):
        run.train_step()
    seen = [make_batch(run.pool, run.recipe, STAGE, (77, k)) for k in range(8)]
    rows = [row for batch in seen for row in run.recipe.task.scores(run.model, batch)]
    kinds = ("dice", "one_head")
    gain = np.mean([row[f"{kind}_after"] - row[f"{kind}_before"] for row in rows for kind in kinds
                    if f"{kind}_after" in row])
    assert gain > 0.02
    nearer = [row["mm_before"] - row["mm_after"] for row in rows if "mm_before" in row]
    assert nearer
    assert np.mean(nearer) > 0


def test_recipes_that_cannot_work_are_refused() -> None:
    assert load_recipe("pair").task.name == "pair"
    with pytest.raises(InputError, match="belong together"):
        recipe(task=StripTask())
    with pytest.raises(InputError, match="belong together"):
        recipe(generator="heads")
    with pytest.raises(InputError, match="label maps only"):
        recipe(shapes=0.5)
