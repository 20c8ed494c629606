"""PUMBA's network and its post-processing."""

from __future__ import annotations

import numpy as np
import torch

from neuralprep.networks.unet import PUMBA_PARAMETERS, PumbaUNet, pumba_mask


def test_published_size_and_tensor_names() -> None:
    network = PumbaUNet()
    assert sum(p.numel() for p in network.parameters()) == PUMBA_PARAMETERS == 5_896_947
    names = set(network.state_dict())
    expected = {f"{part}_blocks.{k}.{layer}.{kind}" for part in ("enc", "dec") for k in range(5)
                for layer in ("conv1", "conv2", "gn") for kind in ("weight", "bias")}
    expected |= {f"{layer}.{kind}" for layer in ("bn_conv1", "bn_conv2", "final_conv") for kind in ("weight", "bias")}
    assert names == expected
    shapes = [tuple(level.conv1.weight.shape[:2]) for level in network.dec_blocks]
    assert shapes == [(128, 384), (64, 192), (32, 96), (16, 48), (8, 24)]  # skip and upsampled features together


def test_every_level_sees_the_image_and_the_answer_is_per_voxel() -> None:
    torch.manual_seed(0)
    network = PumbaUNet((8, 8, 8, 8, 8, 8)).eval()
    x = torch.rand(1, 1, 32, 64, 32, requires_grad=True)
    out = network(x)
    assert out.shape == (1, 3, 32, 64, 32)
    out[0, :, 16, 32, 16].sum().backward()
    reached = (x.grad[0, 0] != 0).nonzero()
    assert (reached.max(0).values - reached.min(0).values).tolist() == [31, 63, 31]


def test_mask_keeps_the_main_component_and_its_own_boundary() -> None:
    probabilities = np.zeros((3, 40, 40, 40), np.float32)
    probabilities[0, 10:20, 10:20, 10:20] = 0.9  # the brain
    probabilities[0, 30:33, 30:33, 30:33] = 0.9  # an island
    probabilities[1, 9, 10:20, 10:20] = 0.8  # boundary of the brain, one voxel away
    probabilities[1, 7, 10:20, 10:20] = 0.8  # three voxels away: not part of it
    probabilities[1, 8, 8, 8] = 0.8  # reached by lines along all three axes in turn
    probabilities[1, 29, 30:33, 30:33] = 0.8  # boundary of the island
    mask = pumba_mask(probabilities)
    assert mask[10:20, 10:20, 10:20].all()
    assert mask[9, 10:20, 10:20].all()
    assert mask[8, 8, 8]
    assert mask.sum() == 1000 + 100 + 1
    assert not pumba_mask(np.zeros((3, 8, 8, 8), np.float32)).any()
