"""The published NPP network, layer for layer, so that a user's own ``npp_v1.pth`` loads and runs.

He, Wang, Sabuncu, "Neural Pre-Processing: A Learning Framework for End-to-end Brain MRI Pre-processing",
MICCAI 2023, in the variant whose weights were released: two transformer blocks and 992 hypernetwork outputs
(29,957,601 parameters), where the paper's text says three and 496.

The network expects what it was trained on and nothing else:

* T1-weighted heads only, adult;
* FreeSurfer's conformed cube: 256^3 voxels of 1 mm, array axes running Left, Inferior, Anterior (``LIA``).
  Another axis order gives a plausible-looking but wrong answer without any error;
* intensities scaled as FreeSurfer does to 8 bits (0.1 % of the non-zero voxels saturate) and divided by 255;
* no rotations beyond ordinary head tilt: it was trained without spatial augmentation.

Its affine leads to MNI305 (FreeSurfer's ``talairach.xfm`` space), not to MNI152.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.grid import Grid
from neuralprep.networks.published import fill_network, read_tensors, strip_prefixes
from neuralprep.transform import Affine

RELEASED_PARAMETERS = 29_957_601
WIDTHS: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
"""Channels of the encoder levels; the decoder mirrors all but the last."""
STRIDE = 64
"""Every input edge must be a multiple of this: one halving before the encoder, five in it."""
MNI305_GRID = Grid(
    (256, 256, 256),
    np.array(
        [
            [-1.0, 0.0, 0.0, 128.0],
            [0.0, 0.0, 1.0, -128.0],
            [0.0, -1.0, 0.0, 128.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    ),
)
"""Output cube of the spatial transformer: FreeSurfer's conformed cube around the origin of MNI305."""


class ReleasedOutput(NamedTuple):
    """What one forward pass gives.

    Attributes
    ----------
    chi
        (1, 1, X/2, Y/2, Z/2) multiplier field as predicted, unbounded.
    multiplier
        (1, 1, X, Y, Z) the field on the input's grid.
    normalised
        (1, 1, X, Y, Z) ``255 * x * multiplier``: brain only, white matter near 110.
    theta
        (1, 3, 4) pull-back in ``grid_sample`` coordinates; see `theta_to_world`.
    """

    chi: Tensor
    multiplier: Tensor
    normalised: Tensor
    theta: Tensor


class ConvBlock(nn.Module):
    """Two 3x3x3 convolutions, each with instance norm and LeakyReLU(0.01).

    Parameters
    ----------
    inputs, outputs
        Channels before and after.
    stride
        Of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1)
        self.bn1 = nn.InstanceNorm3d(outputs, affine=True)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.InstanceNorm3d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, X, Y, Z) to (N, outputs, X/stride, Y/stride, Z/stride)."""
        x = F.leaky_relu(self.bn1(self.conv1(x)), 0.01)
        return F.leaky_relu(self.bn2(self.conv2(x)), 0.01)


class Attention(nn.Module):
    """Multi-head self-attention; q, k and v from one matrix without bias.

    Parameters
    ----------
    width
        Token length.
    heads
        Number of heads, each ``width / heads`` wide.
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, tokens, width) to the same shape."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(tokens).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Two linear layers of equal width with GELU between; the gaps in the key numbers are dropouts of 0.

    Parameters
    ----------
    width
        Token length.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Identity(), nn.Linear(width, width), nn.Identity()
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, tokens, width) to the same shape."""
        result: Tensor = self.net(tokens)
        return result


class ReleasedNPP(nn.Module):
    """U-Net with a two-block transformer, a lambda hypernetwork and a spatial-transformer head.

    The state-dict keys and shapes are those of the published file. See the module's text for what the
    input has to look like.
    """

    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[-1]
        self.conv0_0 = ConvBlock(1, WIDTHS[0])
        for level, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
            self.add_module(f"conv{level}_0", ConvBlock(inputs, outputs, stride=2))
        for level, (skip, below) in enumerate(pairwise(WIDTHS)):
            self.add_module(f"conv{level}_1", ConvBlock(skip + below, skip))
        self.final = nn.Conv3d(WIDTHS[0], 1, 1)
        self.LN1 = nn.LayerNorm(width)
        self.LN2 = nn.LayerNorm(width)
        self.LN3 = nn.LayerNorm(width)
        self.LN4 = nn.LayerNorm(width)
        self.attention1 = Attention(width)
        self.attention2 = Attention(width)
        self.mlp1 = FeedForward(width)
        self.mlp2 = FeedForward(width)
        self.head = nn.Sequential(
            nn.Linear(width, 256, bias=False), nn.ReLU(), nn.Linear(256, 12, bias=False), nn.Tanh()
        )
        # scale and bias for each channel of each decoder level
        self.head2 = nn.Sequential(
            nn.Linear(1, 512),
            nn.ReLU(),
            nn.Linear(512, 2048),
            nn.ReLU(),
            nn.Linear(2048, 2 * sum(WIDTHS[:-1])),
        )

    def forward(self, x: Tensor, log10_lambda: float | Tensor = -1.0) -> ReleasedOutput:
        """Predict the multiplier field and the affine.

        Parameters
        ----------
        x
            (1, 1, X, Y, Z) in [0, 1], every edge a multiple of 64; the published weights want
            256^3, 1 mm, LIA.
        log10_lambda
            Smoothness dial, -3 (sharp) to 2 (smooth); the raw exponent is the hypernetwork's input.

        Returns
        -------
        ReleasedOutput

        Raises
        ------
        ValueError
            If an edge is no multiple of 64.
        """
        if any(edge % STRIDE for edge in x.shape[2:]):
            raise ValueError(f"input edges {tuple(x.shape[2:])} must be multiples of {STRIDE}")
        skips, bottom = self._encode(
            F.interpolate(x, scale_factor=0.5, mode="trilinear", align_corners=False)
        )
        tokens = self._attend(bottom.flatten(2).transpose(1, 2))
        bottom = tokens.transpose(1, 2).unflatten(2, bottom.shape[2:])
        chi = self._decode(skips, bottom, log10_lambda)
        multiplier = F.interpolate(chi, size=x.shape[2:], mode="trilinear", align_corners=False)
        theta = self.head(tokens.mean(1)).view(-1, 3, 4) + torch.eye(3, 4, dtype=x.dtype, device=x.device)
        return ReleasedOutput(chi, multiplier, 255 * x * multiplier, theta)

    def _encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        levels = []
        for level in range(len(WIDTHS)):
            x = self.get_submodule(f"conv{level}_0")(x)
            levels.append(x)
        return levels[:-1], x

    def _attend(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention1(self.LN1(tokens))
        tokens = tokens + self.mlp1(self.LN2(tokens))
        tokens = tokens + self.attention2(self.LN3(tokens))
        return tokens + self.mlp2(self.LN4(tokens))

    def _decode(self, skips: list[Tensor], x: Tensor, log10_lambda: float | Tensor) -> Tensor:
        dial = torch.as_tensor(log10_lambda, dtype=x.dtype, device=x.device).reshape(1, 1)
        # per level, shallowest first: all biases, then all scales
        biases_and_scales = self.head2(dial).split(
            [w for width in WIDTHS[:-1] for w in (width, width)], dim=1
        )
        for level in reversed(range(len(skips))):
            x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
            x = self.get_submodule(f"conv{level}_1")(torch.cat([skips[level], x], 1))
            bias, scale = biases_and_scales[2 * level : 2 * level + 2]
            x = x * scale[..., None, None, None] + bias[..., None, None, None]
        chi: Tensor = self.final(x)
        return chi


def load_released(path: str | Path) -> ReleasedNPP:
    """Build the published network and fill it from a file such as ``npp_v1.pth``.

    Parameters
    ----------
    path
        Bare state dict or training checkpoint; names may carry ``module.`` or ``model.`` in front. Read as
        plain tensors, no code in it is run.

    Returns
    -------
    ReleasedNPP
        In evaluation mode, on the CPU, float32.

    Raises
    ------
    WeightsError
        If the file is missing, is not a file of tensors, or does not fit the published layout.
    """
    network = ReleasedNPP()
    names = list(network.state_dict())
    tensors = strip_prefixes(read_tensors(path), names, ("module.", "model.", "_orig_mod."))
    fill_network(network, tensors, path, f"the published NPP layout ({RELEASED_PARAMETERS:,} parameters)")
    return network.eval()


def theta_to_world(theta: Tensor | np.ndarray, grid: Grid, template: Grid = MNI305_GRID) -> Affine:
    """Express the network's affine in millimetres.

    With voxel centre ``c = (N - 1) / 2`` and ``align_corners=False``, a sampling coordinate is
    ``u = 2 (i - c) / N`` in reversed axis order, and ``u_scan = A u_template + t``.

    Parameters
    ----------
    theta
        (3, 4) or (1, 3, 4).
    grid
        Grid of the input tensor.
    template
        Grid the spatial transformer fills; the same shape as `grid`.

    Returns
    -------
    Affine
        Pull-back from template mm to scan mm (``template_from_scan``).

    Raises
    ------
    ValueError
        If the two grids differ in shape.
    """
    if grid.shape != template.shape:
        raise ValueError(f"scan grid {grid.shape} and template grid {template.shape} must have one shape")
    if isinstance(theta, Tensor):
        theta = theta.detach().cpu().numpy()
    sampling = np.eye(4)
    sampling[:3] = np.asarray(theta, np.float64).reshape(3, 4)
    reversal = np.eye(4)
    reversal[:3, :3] = np.eye(3)[::-1]
    from_sampling = np.eye(4)
    from_sampling[:3, :3] = np.diag(np.array(grid.shape) / 2)
    from_sampling[:3, 3] = (np.array(grid.shape) - 1) / 2
    voxels = from_sampling @ reversal @ sampling @ reversal @ np.linalg.inv(from_sampling)
    return Affine(grid.affine @ voxels @ np.linalg.inv(template.affine))
