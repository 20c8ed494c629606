"""Starting from trained weights: the same network, a wider one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuralprep.errors import WeightsError
from neuralprep.networks.ablation import AblationConfig
from neuralprep.networks.loading import NPP_LAYOUT, load_network, save_network
from neuralprep.networks.npp import FRAME_CENTER_MM, NPPConfig
from neuralprep.training.initial import initialise
from neuralprep.training.tasks import AblationTask, NPPTask
from neuralprep.weights.registry import find_model

NARROW = NPPConfig(widths=(4, 8, 12, 16), field_widths=(4, 4, 8), blocks=1)
WIDE = NPPConfig(widths=(8, 12, 20, 16), field_widths=(4, 4, 8), blocks=1)


@pytest.fixture
def narrow(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """A network whose every tensor says something, and its file."""
    torch.manual_seed(3)
    network = NPPTask(network=NARROW).build().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.half().float()  # what the file can hold
    path = tmp_path / "narrow.safetensors"
    save_network(network.state_dict(), NARROW.as_dict(), path, NPP_LAYOUT)
    return network, path


def test_a_wider_network_begins_as_the_narrower_one(narrow: tuple[torch.nn.Module, Path]) -> None:
    network, path = narrow
    task = NPPTask(network=WIDE)
    wide = task.build().eval()
    initialise(wide, task, str(path))
    image, exponent = torch.rand(2, 1, 32, 48, 32), torch.tensor([[-1.0], [0.5]])
    with torch.no_grad():
        for before, after in zip(network(image, exponent), wide(image, exponent), strict=True):
            torch.testing.assert_close(after, before, atol=1e-4 * before.abs().max().item(), rtol=0)


def test_what_is_new_in_a_wider_network_can_learn(narrow: tuple[torch.nn.Module, Path]) -> None:
    """The old outputs ignore the new channels at first, but their weights have a slope, and the new ones differ."""
    _, path = narrow
    task = NPPTask(network=WIDE)
    wide = task.build()
    initialise(wide, task, str(path))
    output = wide(torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1))
    sum(part.square().mean() for part in output).backward()
    for layer, heard in ((wide.decoder[-1].convs[0][0], 0), (wide.distance_head, 1), (wide.coordinate_head, 0)):
        old = NARROW.widths[0] if layer is not wide.coordinate_head else NARROW.widths[1]
        listening = layer.weight.movedim(heard, 0)[: old if layer.out_channels > 3 else None]
        slope = layer.weight.grad.movedim(heard, 0)[: len(listening)]
        assert not listening[:, old:].any()
        assert slope[:, old:].abs().amax(tuple(range(2, slope.dim()))).min() > 0
    new = wide.stem.weight[NARROW.widths[0] :].flatten(1)
    assert torch.corrcoef(new).fill_diagonal_(0).abs().max() < 0.9


@pytest.mark.parametrize("config", [
    NPPConfig(widths=(4, 8, 8, 16), field_widths=(4, 4, 8), blocks=1),  # a narrower level
    NPPConfig(widths=(4, 8, 12, 32), field_widths=(4, 4, 8), blocks=1),  # a wider mixer: not a convolution
    NPPConfig(widths=(4, 8, 12, 16), field_widths=(4, 8, 8), blocks=1),  # the hypernetwork's outputs are in pairs
])
def test_sizes_that_cannot_grow_are_refused(narrow: tuple[torch.nn.Module, Path], config: NPPConfig) -> None:
    task = NPPTask(network=config)
    with pytest.raises(WeightsError, match="wrong shape"):
        initialise(task.build(), task, str(narrow[1]))


def test_an_ablation_begins_with_the_places_of_the_shipped_network() -> None:
    task = AblationTask(network=AblationConfig("unet-stn"))
    torch.manual_seed(0)
    ablation = task.build().eval()
    initialise(ablation, task, "npp")
    image = torch.rand(1, 1, 64, 64, 64)  # the recipe's cube: 192 mm, whose half the places are told in
    with torch.no_grad():
        output = ablation(image, torch.zeros(1, 1))
        expected = load_network(find_model("npp").weights).eval()(image, torch.zeros(1, 1)).coordinates
    millimetres = 96 * output.places + torch.tensor(FRAME_CENTER_MM).view(3, 1, 1, 1)
    torch.testing.assert_close(millimetres, expected, atol=1e-3, rtol=0)
    assert not output.warped.any()  # what draws knows nothing yet
