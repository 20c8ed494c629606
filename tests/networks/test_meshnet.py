"""MindGrab: size, order of operations, and the published tensors on a real head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuralprep.errors import WeightsError
from neuralprep.networks.loading import load_any
from neuralprep.networks.meshnet import (
    MINDGRAB_DILATIONS,
    MINDGRAB_PARAMETERS,
    InstanceNorm,
    MeshNet,
    brain_logit,
    convert_mindgrab,
    load_mindgrab,
    scaled_dilations,
)


def test_parameter_counts_of_the_family() -> None:
    published = {
        5: 16_347,
        8: 41_706,
        10: 65_092,
        15: MINDGRAB_PARAMETERS,
        16: 166_354,
        21: 286_379,
        30: 584_072,
    }
    for channels, count in published.items():
        assert sum(p.numel() for p in MeshNet(channels).parameters()) == count


def test_keys_are_the_published_ones() -> None:
    keys = [f"model.{i}.0.weight" for i in range(25)] + ["model.25.weight", "model.25.bias"]
    assert list(MeshNet().state_dict()) == keys


def test_forward_equals_a_plain_restatement() -> None:
    torch.manual_seed(0)
    network = MeshNet()
    tensors = network.state_dict()
    x = torch.rand(1, 1, 20, 24, 18)
    y = x.double()
    for index, dilation in enumerate(MINDGRAB_DILATIONS):
        weight = tensors[f"model.{index}.0.weight"].double()
        y = F.conv3d(y, weight, padding=dilation, dilation=dilation)
        y = (y - y.mean((2, 3, 4), keepdim=True)) / (
            y.var((2, 3, 4), correction=0, keepdim=True) + 1e-5
        ).sqrt()
        y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
    expected = F.conv3d(y, tensors["model.25.weight"].double(), tensors["model.25.bias"].double())
    with torch.inference_mode():
        got = network(x)
    assert got.shape == (1, 2, 20, 24, 18)
    torch.testing.assert_close(got.double(), expected, atol=1e-3, rtol=1e-3)


def test_the_image_reaches_the_end_of_a_new_network() -> None:
    """Share of the image's variance that the last features explain; with PyTorch's own weights nothing is left."""
    torch.manual_seed(0)
    network = MeshNet()
    image = F.avg_pool3d(torch.rand(1, 1, 26, 26, 26), 3, 1)
    wanted = image.flatten().double()

    def explained() -> float:
        with torch.no_grad():
            features = network.model[:-1](image)[0].flatten(1).double().T
        design = torch.cat([features, torch.ones(len(features), 1)], 1)
        rest = wanted - design @ torch.linalg.lstsq(design, wanted[:, None]).solution[:, 0]
        return 1 - float(rest.var() / wanted.var())

    ours = explained()
    for block in network.model[1:-1]:
        block[0].reset_parameters()
    assert ours > 0.03 > 5 * explained()


def test_norm_is_computed_in_float32() -> None:
    x = (900 * torch.randn(1, 2, 8, 8, 8)).half()
    got = InstanceNorm()(x)
    assert got.dtype == torch.float16
    assert torch.isfinite(got).all()
    assert abs(float(got.float().std()) - 1) < 0.01


def test_published_tensors_find_the_brain(shared_data: Path, published_mindgrab: Path) -> None:
    nib = pytest.importorskip("nibabel")
    network = load_mindgrab(published_mindgrab)
    assert sum(p.numel() for p in network.parameters()) == MINDGRAB_PARAMETERS
    image = nib.load(shared_data / "heads" / "xa30_prisma_T1w_2mm.nii.gz")
    data = np.asanyarray(image.dataobj, dtype=np.float32)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    lia = np.flip(data.transpose(0, 2, 1), (0, 1))[12:84, 12:108, 24:120]
    low, high = np.quantile(lia, (0.02, 0.98))
    x = torch.from_numpy(np.clip((lia - low) / (high - low), 0, 1).astype(np.float32))[None, None]
    with torch.inference_mode():
        logits = network(x.contiguous(memory_format=torch.channels_last_3d))[0]
    brain = logits[1] > logits[0]
    # the 2 mm head is half the size the network knows, so only the gross answer is asked for
    assert 0.05 < float(brain.float().mean()) < 0.6
    center = np.array(np.nonzero(brain.numpy())).mean(1) / np.array(brain.shape)
    assert np.all(np.abs(center - [0.5, 0.45, 0.5]) < 0.2)


def test_published_tensors_bit_for_bit_against_a_restatement(published_mindgrab: Path) -> None:
    network = load_mindgrab(published_mindgrab)
    tensors = torch.load(published_mindgrab, map_location="cpu", weights_only=True)
    x = torch.rand(1, 1, 24, 20, 28, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        got = network(x)
        for block in range(5):
            for step, dilation in enumerate((16, 8, 4, 2, 1)):
                kernel = tensors[f"model.{5 * block + step}.0.weight"].contiguous(memory_format=torch.channels_last_3d)
                x = F.conv3d(x, kernel, None, stride=1, padding=dilation, dilation=dilation)
                x = F.gelu(F.instance_norm(x, eps=1e-5))
        expected = F.conv3d(x, tensors["model.25.weight"], tensors["model.25.bias"])
    assert torch.equal(got, expected)


def test_frugal_forward_is_the_difference_of_the_logits(published_mindgrab: Path) -> None:
    network = load_mindgrab(published_mindgrab)
    x = torch.rand(1, 1, 24, 20, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(x)[0]
        got = brain_logit(network, x)
    assert float((got - (logits[1] - logits[0])).abs().max()) < 1e-3 * float(got.std())


def test_conversion_keeps_every_bit(published_mindgrab: Path, tmp_path: Path) -> None:
    target = tmp_path / "deeper" / "mindgrab.safetensors"
    convert_mindgrab(published_mindgrab, target)
    layout, network = load_any(target)
    assert layout == "meshnet-1"
    assert isinstance(network, MeshNet)
    expected = load_mindgrab(published_mindgrab).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_coarser_grid_has_the_same_taps_in_millimetres(published_mindgrab: Path, tmp_path: Path) -> None:
    """A filter of dilation 2 on every second voxel of a finer image is the filter of dilation 4 there."""
    assert scaled_dilations(1.0) == MINDGRAB_DILATIONS
    assert scaled_dilations(2.0)[:5] == (8, 4, 2, 1, 1)
    assert scaled_dilations(4.0)[:5] == (4, 2, 1, 1, 1)
    x, weight = torch.rand(1, 1, 33, 33, 33), torch.rand(1, 1, 3, 3, 3)
    for fine, coarse in zip(MINDGRAB_DILATIONS[:4], scaled_dilations(2.0)[:4], strict=True):
        expected = F.conv3d(x, weight, padding=fine, dilation=fine)[..., ::2, ::2, ::2]
        got = F.conv3d(x[..., ::2, ::2, ::2], weight, padding=coarse, dilation=coarse)
        torch.testing.assert_close(got, expected)
    target = tmp_path / "coarse.safetensors"
    convert_mindgrab(published_mindgrab, target, 2.0)
    assert json.loads(target.with_suffix(".json").read_text()) == {"size": 128, "spacing_mm": 2.0}
    network = load_any(target)[1]
    assert [block[0].dilation[0] for block in network.model[:5]] == [8, 4, 2, 1, 1]
    expected_tensors = load_mindgrab(published_mindgrab).state_dict()
    assert all(torch.equal(value, expected_tensors[name]) for name, value in network.state_dict().items())


def test_unfit_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(MeshNet(16).state_dict(), path)
    with pytest.raises(WeightsError, match="MindGrab"):
        load_mindgrab(path)
