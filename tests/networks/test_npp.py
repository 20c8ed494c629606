"""The compact network and its closed-form affine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neuralprep.errors import WeightsError
from neuralprep.networks.layers import Hypernetwork
from neuralprep.networks.loading import STRIP_LAYOUT, load_any, load_network, save_network
from neuralprep.networks.npp import CompactNPP, DistanceNet, NPPConfig, StripConfig, fit_affine
from neuralprep.weights.registry import find_model

SMALL = NPPConfig(widths=(8, 8, 16), field_widths=(8, 8), blocks=1)


@pytest.fixture(scope="module")
def network() -> CompactNPP:
    torch.manual_seed(0)
    return CompactNPP(SMALL).eval()


def test_output_shapes_on_a_box_that_is_not_a_cube(network: CompactNPP) -> None:
    out = network(torch.rand(2, 1, 32, 48, 16), torch.zeros(2, 1))
    assert out.distances.shape == (2, 2, 32, 48, 16)
    assert out.coordinates.shape == (2, 3, 8, 12, 4)
    assert out.log_gain.shape == out.mask_logit.shape == out.multiplier().shape == (2, 1, 16, 24, 8)
    assert (out.multiplier() > 0).all()


def test_lambda_moves_the_field_and_nothing_else(network: CompactNPP) -> None:
    # Give the zero-initialised hypernetwork something to say.
    torch.nn.init.normal_(network.hypernetwork.last.weight, std=0.2)
    x = torch.rand(1, 1, 32, 32, 32)
    smooth, rough = network(x, torch.ones(1, 1)), network(x, -3 * torch.ones(1, 1))
    assert torch.equal(smooth.distances, rough.distances)
    assert torch.equal(smooth.coordinates, rough.coordinates)
    assert not torch.allclose(smooth.log_gain, rough.log_gain, atol=1e-3)


def test_hypernetwork_starts_as_the_identity_and_modulates_every_level() -> None:
    hyper = Hypernetwork((4, 6, 8))
    for (scale, shift), width in zip(hyper(torch.tensor([[0.7]])), (4, 6, 8), strict=True):
        assert torch.equal(scale, torch.ones(1, width, 1, 1, 1))
        assert torch.equal(shift, torch.zeros(1, width, 1, 1, 1))
    hyper.last.bias.data = torch.arange(36.0)
    seen = torch.cat([torch.cat([a.flatten() - 1, b.flatten()]) for a, b in hyper(torch.zeros(1, 1))])
    assert sorted(seen.tolist()) == list(range(36))  # every output is used exactly once


def test_shift_of_the_input_shifts_the_distances(network: CompactNPP) -> None:
    # Away from the edges the network must not know where on the grid it is (stride of the coarsest level: 8 voxels).
    x = torch.zeros(1, 1, 64, 64, 64)
    x[..., 20:36, 24:40, 20:36] = torch.rand(16, 16, 16)
    with torch.no_grad():
        here, there = (network(image, torch.zeros(1, 1)).distances for image in (x, x.roll(8, 2)))
    moved = here.roll(8, 2)[..., 24:48, 20:44, 16:40]
    assert (there[..., 24:48, 20:44, 16:40] - moved).abs().max() < 0.05 * moved.abs().max()


@pytest.mark.parametrize("seed", range(3))
def test_fit_recovers_an_exact_affine_and_ignores_unweighted_voxels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(3) + 0.3 * torch.randn(3, 3, generator=generator)
    shift = 30 * torch.randn(3, generator=generator)
    axes = [8.0 * (torch.arange(n) - (n - 1) / 2) for n in (12, 14, 10)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    target = torch.einsum("ij,jxyz->ixyz", matrix, grid) + shift.view(3, 1, 1, 1)
    weights = torch.ones(1, 1, 12, 14, 10)
    weights[..., :3] = 0
    target[..., :3] += 100
    fitted = fit_affine(target[None], weights, 8.0)[0]
    assert fitted[:, :3].numpy() == pytest.approx(matrix.numpy(), abs=2e-3)
    assert fitted[:, 3].numpy() == pytest.approx(shift.numpy(), abs=0.05)


def test_weights_round_trip_in_half_precision(network: CompactNPP, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_network(network.state_dict(), network.config.as_dict(), path)
    loaded = load_network(path).eval()
    assert loaded.config == SMALL
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        a, b = network(x, torch.zeros(1, 1)), loaded(x, torch.zeros(1, 1))
    scale = a.distances.abs().max().item()
    assert (a.distances - b.distances).abs().max().item() < 0.02 * scale
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters()) + 20_000


def test_unfit_weights_are_refused_with_the_reason(network: CompactNPP, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not a safetensors file")
    with pytest.raises(WeightsError, match=r"garbage\.safetensors: cannot be read"):
        load_network(garbage)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(3)}, foreign, metadata={"layout": "else"})
    with pytest.raises(WeightsError, match="layout 'else'"):
        load_network(foreign)
    broken = tmp_path / "broken.safetensors"
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("stem")}
    save_network(state, network.config.as_dict(), broken)
    with pytest.raises(WeightsError, match="do not fit"):
        load_network(broken)


def test_the_stripping_part_alone_gives_the_same_distances(network: CompactNPP) -> None:
    part = DistanceNet(StripConfig(SMALL.widths, SMALL.blocks)).eval()
    names = set(part.state_dict())
    part.load_state_dict({name: value for name, value in network.state_dict().items() if name in names})
    x = torch.rand(1, 1, 32, 16, 32)
    with torch.no_grad():
        assert torch.equal(part(x), network(x, torch.zeros(1, 1)).distances)


def test_weights_of_another_layout_load_as_what_they_are(tmp_path: Path) -> None:
    config = StripConfig((8, 8, 16), 1)
    part = DistanceNet(config)
    path = tmp_path / "strip.safetensors"
    save_network(part.state_dict(), config.as_dict(), path, STRIP_LAYOUT)
    layout, loaded = load_any(path)
    assert layout == STRIP_LAYOUT
    assert isinstance(loaded, DistanceNet)
    with pytest.raises(WeightsError, match=r"strip-1.*does not\s+normalise"):
        load_network(path)


def test_shipped_weights_still_load() -> None:
    path = find_model("npp").weights
    assert load_network(path).config == NPPConfig()


def test_default_network_is_small() -> None:
    count = sum(np.prod(p.shape) for p in CompactNPP().parameters())
    assert count < 2e6
