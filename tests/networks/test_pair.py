"""The pair network: what must hold for any weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuralprep.errors import WeightsError
from neuralprep.networks.loading import PAIR_LAYOUT, load_any, save_network
from neuralprep.networks.pair import PairConfig, PairNet
from neuralprep.training.initial import initialise
from neuralprep.training.tasks import PairTask
from neuralprep.weights.registry import find_model

WIDTHS = PairConfig((8, 8, 16, 16), 1, (8, 8, 16, 16))
STIFFNESS = torch.full((3, 1), -1.0)


@pytest.fixture(scope="module")
def network() -> PairNet:
    """Random weights, also where training starts from zero, so that every part has a say."""
    torch.manual_seed(0)
    made = PairNet(WIDTHS).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.nn.functional.interpolate(torch.rand(3, 1, 8, 12, 8), scale_factor=4.0, mode="trilinear")


@torch.no_grad()
def test_exchanged_images_change_the_sign_and_nothing_else(network: PairNet, images: torch.Tensor) -> None:
    there, back = network(images, images.flip(0), STIFFNESS), network(images.flip(0), images, STIFFNESS)
    assert there.shape == (3, 3, 16, 24, 16)
    assert there[0].abs().max() > 1e-2
    torch.testing.assert_close(there, -back, atol=1e-5 * there.abs().max().item(), rtol=0)


@torch.no_grad()
def test_equal_images_stay_where_they_are(network: PairNet, images: torch.Tensor) -> None:
    largest = network(images, images.flip(0), STIFFNESS).abs().max()
    assert network(images, images, STIFFNESS).abs().max() < 1e-5 * largest


@torch.no_grad()
def test_a_ring_is_its_pairs(network: PairNet, images: torch.Tensor) -> None:
    ring = network(images, None, STIFFNESS).velocity
    pairs = network(images, images[[1, 2, 0]], STIFFNESS)
    torch.testing.assert_close(ring, pairs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_structures_that_are_shown_replace_those_that_are_read(network: PairNet, images: torch.Tensor) -> None:
    """Only where they are not negative; what was read is answered all the same."""
    read = network(images, None, STIFFNESS)
    shares = read.logits.softmax(1)
    nothing = torch.full_like(shares, -1.0)
    again = network(images, None, STIFFNESS, nothing)
    torch.testing.assert_close(again.velocity, read.velocity, atol=0, rtol=0)
    own = network(images.flip(2), None, STIFFNESS, shares)
    torch.testing.assert_close(own.velocity, read.velocity, atol=1e-5, rtol=1e-5)
    assert (own.logits - read.logits).abs().max() > 1e-2


def test_the_velocity_teaches_nothing_to_what_reads(network: PairNet, images: torch.Tensor) -> None:
    network.zero_grad()
    network(images, None, STIFFNESS).velocity.square().sum().backward()
    assert network.structure_head.weight.grad is None
    assert network.bend.heads[0].weight.grad.abs().max() > 0  # type: ignore[union-attr]
    network.zero_grad()


def test_reading_starts_from_the_shipped_network() -> None:
    task = PairTask()
    network, fresh = task.build(), task.build()
    begun = {name: value.clone() for name, value in network.state_dict().items()}
    initialise(network, task, "npp")
    with torch.no_grad():
        image = torch.rand(1, 1, 32, 32, 32)
        shipped = load_any(find_model("npp").weights)[1]
        ours = network.decode(*network.encode(image))[-1]
        torch.testing.assert_close(ours, shipped.decode(*shipped.encode(image))[-1])
    for name, value in network.state_dict().items():
        anew = name.startswith(task.begins_anew)
        assert torch.equal(value, begun[name]) == anew or torch.equal(value, fresh.state_dict()[name]), name
    with pytest.raises(WeightsError, match="missing"):
        initialise(PairTask(network=PairConfig(blocks=3)).build(), task, "npp")


@torch.no_grad()
def test_the_stiffness_is_heard(network: PairNet, images: torch.Tensor) -> None:
    soft, hard = (network(images, images.flip(0), torch.full((3, 1), s))[0] for s in (-3.0, 1.0))
    assert (soft - hard).abs().max() > 1e-3


def test_weights_survive_their_file(network: PairNet, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "pair.safetensors"
    save_network(network.state_dict(), WIDTHS.as_dict(), path, PAIR_LAYOUT)
    layout, again = load_any(path)
    assert layout == PAIR_LAYOUT
    with torch.no_grad():
        before, after = (one(images, images.flip(0), STIFFNESS) for one in (network, again.eval()))
    torch.testing.assert_close(before, after, atol=0.02 * before.abs().max().item(), rtol=0)  # float16
