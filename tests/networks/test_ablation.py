"""The four variants: what each may and may not do."""

from __future__ import annotations

import pytest
import torch

from neuralprep.networks.ablation import VARIANTS, AblationConfig, AblationNet, resampled
from neuralprep.networks.npp import FRAME_CENTER_MM, CompactNPP

SMALL = {"widths": (8, 8, 16), "blocks": 1}


def network(variant: str) -> AblationNet:
    """A network that has left its black start."""
    torch.manual_seed(0)
    net = AblationNet(AblationConfig(variant, **SMALL)).eval()  # type: ignore[arg-type]
    head = net.field_head if variant == "npp" else net.image_head
    torch.nn.init.normal_(head.weight, std=0.2)
    torch.nn.init.constant_(head.bias, 0.3)
    return net


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_starts_black_and_can_leave_it(variant: str) -> None:
    torch.manual_seed(0)
    net = AblationNet(AblationConfig(variant, **SMALL))  # type: ignore[arg-type]
    out = net(torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1)).warped
    assert not out.any()
    out.sum().backward()
    head = net.field_head if variant == "npp" else net.image_head
    assert head.weight.grad.abs().min() > 0


def test_variants_share_their_trunk() -> None:
    names = [set(network(variant).state_dict()) for variant in VARIANTS]
    trunk = set.intersection(*names)
    assert {name.split(".")[0] for name in trunk} == {"stem", "encoder", "mixer", "decoder"}
    extra = [{name.split(".")[0] for name in found - trunk} for found in names]
    transformer = {"coordinate_head", "trust_head"}
    assert extra == [{"hypernetwork", "field_head"} | transformer, {"image_head"}, {"image_head"} | transformer,
                     {"image_head"} | transformer]
    shipped, ours = CompactNPP().state_dict(), AblationNet(AblationConfig("unet-stn")).state_dict()
    shared = {name.split(".")[0] for name in ours if name in shipped and ours[name].shape == shipped[name].shape}
    assert shared == {name.split(".")[0] for name in trunk} | {"coordinate_head"}
    with pytest.raises(ValueError, match="variant 'gan' is unknown"):
        AblationConfig("gan")


def test_npp_multiplies_and_cannot_draw() -> None:
    net = network("npp")
    torch.nn.init.constant_(net.trust_head.bias, -20)  # no voxel is trusted: the pose is the identity
    x = torch.rand(1, 1, 32, 32, 32)
    x[..., :16] = 0
    with torch.no_grad():
        out = net(x, torch.zeros(1, 1))
        assert out.multiplier.shape == (1, 1, 16, 16, 16)
        assert not out.warped[..., :15].any()  # nothing comes out where nothing went in
        fine = torch.nn.functional.interpolate(out.multiplier, scale_factor=2.0, mode="trilinear")
        pose, _ = net.pose(*net.encode(x))
        assert torch.allclose(pose, torch.eye(3, 4), atol=1e-4)
        assert torch.allclose(out.warped, resampled(fine * x, pose), atol=1e-5)
        assert network("unet")(x, torch.zeros(1, 1)).warped[..., :15].any()


def test_what_is_drawn_is_what_the_transformer_resamples() -> None:
    x = torch.rand(1, 1, 32, 32, 32)
    for variant in ("npp", "unet-stn", "umirgpit"):
        net = network(variant)
        for head in (net.coordinate_head, net.trust_head):
            torch.nn.init.normal_(head.weight, std=0.05)
        with torch.no_grad():
            out = net(x, torch.zeros(1, 1))
        assert not torch.allclose(out.drawn, out.warped), variant
        assert torch.allclose(resampled(out.drawn, out.pose), out.warped), variant


def test_only_npp_listens_to_lambda() -> None:
    x = torch.rand(1, 1, 32, 32, 32)
    for variant in VARIANTS:
        net = network(variant)
        if variant == "npp":
            torch.nn.init.normal_(net.hypernetwork.last.weight, std=0.3)
        with torch.no_grad():
            same = torch.equal(net(x, torch.zeros(1, 1)).warped, net(x, torch.ones(1, 1)).warped)
        assert same == (variant != "npp"), variant


def test_orders_of_umirgpit_differ_and_both_reach_the_pose() -> None:
    net = network("umirgpit")
    heads = [net.coordinate_head, net.trust_head]
    for head in heads:
        torch.nn.init.normal_(head.weight, std=0.05)
    x = torch.rand(1, 1, 32, 32, 32)
    outputs = [net(x, torch.zeros(1, 1), order).warped for order in (False, True)]
    assert not torch.allclose(*outputs)
    for out in outputs:
        net.zero_grad()
        out.square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for head in heads for p in head.parameters())


class Says(torch.nn.Module):
    """A head that says the same of every image."""

    def __init__(self, said: torch.Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.said.expand(len(x), *self.said.shape)


def test_pose_is_the_affine_that_the_voxels_say() -> None:
    """Array axes in what the head says, x y z in the transformer's matrix, and from the template to the input."""
    net = network("unet-stn")
    turn = torch.eye(3) + torch.tensor([[0.1, 0.2, -0.1], [-0.15, 0.05, 0.1], [0.0, 0.1, -0.2]])
    shift = torch.tensor([0.1, -0.05, 0.2])
    line = (2 * torch.arange(16) + 1) / 16 - 1
    here = torch.stack(torch.meshgrid(line, line, line, indexing="ij"))
    there = torch.einsum("ij,jabc->iabc", turn, here) + shift[:, None, None, None]
    millimetres = 96 * there + torch.tensor(FRAME_CENTER_MM).view(3, 1, 1, 1)
    trust = torch.full((1, 16, 16, 16), 10.0)
    trust[:, 0] = -10.0  # these voxels are wrong and know it
    millimetres[:, 0] += torch.tensor([60.0, -40.0, 10.0])[:, None, None]
    net.coordinate_head, net.trust_head = Says(millimetres / 50), Says(trust)  # type: ignore[assignment]
    with torch.no_grad():
        theta, places = net.pose(*net.encode(torch.rand(2, 1, 64, 64, 64)))
    points = torch.rand(20, 3) - 0.5
    template = points @ turn.T + shift
    back = torch.cat([template.flip(1), torch.ones(20, 1)], 1) @ theta[1].T
    assert torch.allclose(back.flip(1), points, atol=1e-4)  # the identity is believed a little, by exp(-10)
    middle = torch.tensor([1, 1, 1]) / 16  # of a block next to the middle
    assert torch.allclose(places[0, :, 8, 8, 8], turn @ middle + shift, atol=1e-6)


def test_transformer_starts_near_the_identity_and_pulls_back() -> None:
    x = torch.rand(1, 1, 8, 8, 8)
    eye = torch.eye(3, 4)[None]
    assert torch.allclose(resampled(x, eye), x, atol=1e-6)
    shifted = eye.clone()
    shifted[0, 2, 3] = 2 / 8  # one voxel along the first array axis, which grid_sample counts last
    assert torch.allclose(resampled(x, shifted)[:, :, :-1], x[:, :, 1:], atol=1e-5)
