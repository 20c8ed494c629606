"""The four variants: what each may and may not do."""

from __future__ import annotations

import pytest
import torch

from neuralprep.networks.ablation import VARIANTS, AblationConfig, AblationNet, resampled

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
    assert extra == [{"hypernetwork", "field_head", "pose_head"}, {"image_head"}, {"image_head", "pose_head"},
                     {"image_head", "pose_head"}]
    with pytest.raises(ValueError, match="variant 'gan' is unknown"):
        AblationConfig("gan")


def test_npp_multiplies_and_cannot_draw() -> None:
    net = network("npp")
    torch.nn.init.zeros_(net.pose_head[2].weight)  # identity pose
    x = torch.rand(1, 1, 32, 32, 32)
    x[..., :16] = 0
    with torch.no_grad():
        out = net(x, torch.zeros(1, 1))
        assert out.multiplier.shape == (1, 1, 16, 16, 16)
        assert not out.warped[..., :15].any()  # nothing comes out where nothing went in
        fine = torch.nn.functional.interpolate(out.multiplier, scale_factor=2.0, mode="trilinear")
        assert torch.allclose(out.warped, fine * x, atol=1e-5)
        assert network("unet")(x, torch.zeros(1, 1)).warped[..., :15].any()


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
    torch.nn.init.normal_(net.pose_head[2].weight, std=0.05)
    x = torch.rand(1, 1, 32, 32, 32)
    outputs = [net(x, torch.zeros(1, 1), order).warped for order in (False, True)]
    assert not torch.allclose(*outputs)
    for out in outputs:
        net.zero_grad()
        out.square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.pose_head.parameters())


def test_transformer_starts_near_the_identity_and_pulls_back() -> None:
    x = torch.rand(1, 1, 8, 8, 8)
    eye = torch.eye(3, 4)[None]
    assert torch.allclose(resampled(x, eye), x, atol=1e-6)
    shifted = eye.clone()
    shifted[0, 2, 3] = 2 / 8  # one voxel along the first array axis, which grid_sample counts last
    assert torch.allclose(resampled(x, shifted)[:, :, :-1], x[:, :, 1:], atol=1e-5)
