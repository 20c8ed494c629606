"""The published NPP layout: keys, counts, and the forward pass against a plain functional re-statement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from neuralprep.errors import WeightsError
from neuralprep.grid import Grid
from neuralprep.networks.released import (
    MNI305_GRID,
    RELEASED_PARAMETERS,
    ReleasedNPP,
    load_released,
    theta_to_world,
)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {}

    def block(name: str, inputs: int, outputs: int) -> None:
        for index, channels in (("1", inputs), ("2", outputs)):
            shapes[f"{name}.conv{index}.weight"] = (outputs, channels, 3, 3, 3)
            shapes[f"{name}.conv{index}.bias"] = (outputs,)
            shapes[f"{name}.bn{index}.weight"] = (outputs,)
            shapes[f"{name}.bn{index}.bias"] = (outputs,)

    for level, (inputs, outputs) in enumerate(
        [(1, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    ):
        block(f"conv{level}_0", inputs, outputs)
    for level, (inputs, outputs) in enumerate([(48, 16), (96, 32), (192, 64), (384, 128), (768, 256)]):
        block(f"conv{level}_1", inputs, outputs)
    shapes["final.weight"], shapes["final.bias"] = (1, 16, 1, 1, 1), (1,)
    for index in range(1, 5):
        shapes[f"LN{index}.weight"] = shapes[f"LN{index}.bias"] = (512,)
    for index in (1, 2):
        shapes[f"attention{index}.to_qkv.weight"] = (1536, 512)
        shapes[f"attention{index}.to_out.0.weight"] = (512, 512)
        shapes[f"attention{index}.to_out.0.bias"] = (512,)
        for layer in (0, 3):
            shapes[f"mlp{index}.net.{layer}.weight"] = (512, 512)
            shapes[f"mlp{index}.net.{layer}.bias"] = (512,)
    shapes["head.0.weight"], shapes["head.2.weight"] = (256, 512), (12, 256)
    for layer, (inputs, outputs) in {0: (1, 512), 2: (512, 2048), 4: (2048, 992)}.items():
        shapes[f"head2.{layer}.weight"], shapes[f"head2.{layer}.bias"] = (outputs, inputs), (outputs,)
    return shapes


def random_tensors(seed: int) -> dict[str, Tensor]:
    """A published-shaped file with random content of a size that keeps activations tame."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in published_shapes().items():
        scale = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.3
        tensors[name] = torch.randn(shape, generator=generator) * scale
        if (".bn" in name or name.startswith("LN")) and name.endswith("weight"):
            tensors[name] += 1
    return tensors


def plain_forward(w: dict[str, Tensor], x: Tensor, dial: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The forward pass in bare functions, from the published description."""

    def norm(y: Tensor, name: str) -> Tensor:
        mean = y.mean((2, 3, 4), keepdim=True)
        spread = ((y - mean) ** 2).mean((2, 3, 4), keepdim=True)
        y = (y - mean) / torch.sqrt(spread + 1e-5)
        return y * w[f"{name}.weight"].view(1, -1, 1, 1, 1) + w[f"{name}.bias"].view(1, -1, 1, 1, 1)

    def block(y: Tensor, name: str, stride: int) -> Tensor:
        for index, step in ((1, stride), (2, 1)):
            weight, bias = w[f"{name}.conv{index}.weight"], w[f"{name}.conv{index}.bias"]
            y = norm(F.conv3d(y, weight, bias, stride=step, padding=1), f"{name}.bn{index}")
            y = torch.where(y > 0, y, 0.01 * y)
        return y

    def layer_norm(y: Tensor, name: str) -> Tensor:
        return F.layer_norm(y, (512,), w[f"{name}.weight"], w[f"{name}.bias"])

    def attend(y: Tensor, name: str) -> Tensor:
        qkv = y @ w[f"{name}.to_qkv.weight"].T
        out = []
        for head in range(8):
            q, k, v = (qkv[..., i * 512 + head * 64 : i * 512 + head * 64 + 64] for i in range(3))
            out.append(torch.softmax(q @ k.transpose(1, 2) * 64**-0.5, -1) @ v)
        return F.linear(torch.cat(out, -1), w[f"{name}.to_out.0.weight"], w[f"{name}.to_out.0.bias"])

    def feed(y: Tensor, name: str) -> Tensor:
        y = F.gelu(F.linear(y, w[f"{name}.net.0.weight"], w[f"{name}.net.0.bias"]))
        return F.linear(y, w[f"{name}.net.3.weight"], w[f"{name}.net.3.bias"])

    half = [size // 2 for size in x.shape[2:]]
    y = F.interpolate(x, half, mode="trilinear", align_corners=False)
    skips = []
    for level in range(6):
        y = block(y, f"conv{level}_0", 1 if level == 0 else 2)
        skips.append(y)
    tokens = torch.stack([y[:, :, i, j, k] for i, j, k in np.ndindex(*y.shape[2:])], 1)
    tokens = attend(layer_norm(tokens, "LN1"), "attention1") + tokens
    tokens = feed(layer_norm(tokens, "LN2"), "mlp1") + tokens
    tokens = attend(layer_norm(tokens, "LN3"), "attention2") + tokens
    tokens = feed(layer_norm(tokens, "LN4"), "mlp2") + tokens
    pooled = tokens.mean(1)
    theta = torch.tanh(F.relu(pooled @ w["head.0.weight"].T) @ w["head.2.weight"].T).reshape(1, 3, 4)
    theta = theta + torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    code = torch.tensor([[dial]], dtype=x.dtype)
    for layer in (0, 2, 4):
        code = F.linear(code, w[f"head2.{layer}.weight"], w[f"head2.{layer}.bias"])
        code = F.relu(code) if layer < 4 else code
    bounds = np.cumsum([0, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256])
    y = tokens.transpose(1, 2).reshape(y.shape)
    for level in (4, 3, 2, 1, 0):
        size = [2 * s for s in y.shape[2:]]
        y = F.interpolate(y, size, mode="trilinear", align_corners=True)
        y = block(torch.cat([skips[level], y], 1), f"conv{level}_1", 1)
        beta = code[:, bounds[2 * level] : bounds[2 * level + 1]]
        alpha = code[:, bounds[2 * level + 1] : bounds[2 * level + 2]]
        y = y * alpha.reshape(1, -1, 1, 1, 1) + beta.reshape(1, -1, 1, 1, 1)
    chi = F.conv3d(y, w["final.weight"], w["final.bias"])
    full = F.interpolate(chi, x.shape[2:], mode="trilinear", align_corners=False)
    return chi, full, 255 * x * full, theta


def test_published_keys_and_count() -> None:
    network = ReleasedNPP()
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == published_shapes()
    assert sum(p.numel() for p in network.parameters()) == RELEASED_PARAMETERS == 29_957_601


@pytest.mark.parametrize("wrapping", ["bare", "checkpoint"])
def test_loaded_file_gives_the_plain_forward_pass(tmp_path: Path, wrapping: str) -> None:
    tensors = random_tensors(1)
    path = tmp_path / "npp_v1.pth"
    if wrapping == "bare":
        torch.save(tensors, path)
    else:
        wrapped = {f"module.model.{name}": value for name, value in tensors.items()}
        torch.save({"state_dict": wrapped, "epoch": 60}, path)
    network = load_released(path).double()  # in single precision, random weights leave four digits
    x = torch.rand((1, 1, 64, 128, 64), generator=torch.Generator().manual_seed(2)).double()
    with torch.inference_mode():
        got = network(x, -1.0)
        expected = plain_forward({name: value.double() for name, value in tensors.items()}, x, -1.0)
    for name, value, truth in zip(got._fields, got, expected, strict=True):
        assert value.shape == truth.shape, name
        assert float((value - truth).abs().max()) <= 1e-9 * max(1.0, float(truth.abs().max())), name


def test_lambda_changes_the_field_but_not_the_affine(tmp_path: Path) -> None:
    path = tmp_path / "npp_v1.pth"
    torch.save(random_tensors(3), path)
    network = load_released(path)
    x = torch.rand((1, 1, 64, 64, 128), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        sharp, smooth = network(x, -3.0), network(x, 1.0)
    assert torch.equal(sharp.theta, smooth.theta)
    assert float((sharp.chi - smooth.chi).abs().max()) > 1e-3


def test_odd_input_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 64"):
        ReleasedNPP()(torch.zeros(1, 1, 64, 64, 96))


def test_unfit_files_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(WeightsError, match="no such weights file"):
        load_released(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"w\.pth"):
        load_released(path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="not a table"):
        load_released(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(WeightsError, match="no tensors"):
        load_released(path)
    torch.save({"weight": Path("/")}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_released(path)
    tensors = random_tensors(5)
    del tensors["final.bias"]
    tensors["surplus"] = torch.zeros(1)
    tensors["LN1.bias"] = torch.zeros(3)
    torch.save(tensors, path)
    faults = r"missing: final\.bias; unknown: surplus; wrong shape: LN1\.bias \(3,\)"
    with pytest.raises(WeightsError, match=faults):
        load_released(path)


def test_theta_in_millimetres_samples_what_grid_sample_samples() -> None:
    generator = np.random.default_rng(6)
    shape = (24, 20, 28)
    smooth = ndimage.gaussian_filter(generator.standard_normal(shape), 2).astype(np.float32)
    theta = torch.eye(3, 4)[None] + 0.08 * torch.from_numpy(generator.standard_normal((1, 3, 4))).float()
    sampling = F.affine_grid(theta, [1, 1, *shape], align_corners=False)
    expected = F.grid_sample(torch.from_numpy(smooth)[None, None], sampling, align_corners=False)[
        0, 0
    ].numpy()
    scan = Grid(shape, np.array([[0, 0, 2.0, -9], [-1.5, 0.1, 0, 30], [0, 1, 0, -7], [0, 0, 0, 1.0]]))
    template = Grid(shape, np.array([[-1.0, 0, 0, 12], [0, 0, 1, -14], [0, -1, 0, 10], [0, 0, 0, 1]]))
    voxels = np.indices(shape).reshape(3, -1).T.astype(float)
    points = theta_to_world(theta, scan, template).apply(template.voxel_to_world(voxels))
    inside = scan.world_to_voxel(points)
    got = ndimage.map_coordinates(smooth, inside.T, order=1, mode="constant").reshape(shape)
    core = ((inside >= 0) & (inside <= np.array(shape) - 1)).all(1).reshape(shape)
    assert core.mean() > 0.3
    np.testing.assert_allclose(got[core], expected[core], atol=2e-5)


def test_identity_theta_joins_the_centres() -> None:
    scan = Grid(
        (256, 256, 256), MNI305_GRID.affine + np.array([[0, 0, 0, 5.0], [0] * 4, [0, 0, 0, -3], [0] * 4])
    )
    affine = theta_to_world(torch.eye(3, 4), scan)
    np.testing.assert_allclose(affine.apply(np.zeros((1, 3))), [[5, 0, -3]], atol=1e-9)
    with pytest.raises(ValueError, match="one shape"):
        theta_to_world(torch.eye(3, 4), Grid((64, 64, 64), np.eye(4)))
