"""Neural Pre-processing, compact layout: multiplier field, affine and two signed distances in one pass.

After He, Wang and Sabuncu, "Neural Pre-processing: a learning framework for end-to-end brain MRI pre-processing",
MICCAI 2023. Kept from the paper: the multiplier field chi on the half grid that strips and normalises by chi * x, the
hypernetwork on log10(lambda) over the decoder of that field, the transformer at the bottleneck and the affine from the
same features. Changed, with reasons:

* the network works on half of its input grid (strided stem, sub-voxel head), which removes the two dearest layers;
* chi = exp(log gain) * sigmoid(mask logit), so gain and mask are separately supervised and chi stays positive;
* the affine is fitted in closed form to predicted template coordinates (3 channels, mm) instead of 12 numbers squeezed
  out of globally pooled features, which lose position; it is exact for any pose the coordinates follow;
* the distances have a decoder of their own without lambda, so the mask does not move when lambda does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.layers import ConvBlock, Hypernetwork, TransformerBlock, UpBlock, modulate

DISTANCE_SCALE_MM = 10.0
COORDINATE_SCALE_MM = 50.0
FRAME_CENTER_MM = (0.0, -18.0, 10.0)
"""Middle of the cube in template space in which training compares finished images."""
GRID_MULTIPLE = 16
"""Every axis of the input must be a multiple of this."""


@dataclass(frozen=True)
class NPPConfig:
    """Widths of the compact network: encoder levels, the field decoder (fine to coarse), transformer blocks."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    field_widths: tuple[int, ...] = (8, 16, 32)
    blocks: int = 2

    def as_dict(self) -> dict[str, object]:
        """JSON-ready copy."""
        return asdict(self)


class NPPOutput(NamedTuple):
    """Raw outputs for an input of (N, 1, X, Y, Z).

    Attributes
    ----------
    distances
        (N, 2, X, Y, Z) signed distance to the brain-tissue and inner-skull surface, mm, negative inside.
    coordinates
        (N, 3, X/4, Y/4, Z/4) template coordinates of the centres of 4-voxel blocks, mm.
    log_gain
        (N, 1, X/2, Y/2, Z/2) natural logarithm of the smooth gain.
    mask_logit
        (N, 1, X/2, Y/2, Z/2) logit of the brain mask inside the multiplier field.
    """

    distances: Tensor
    coordinates: Tensor
    log_gain: Tensor
    mask_logit: Tensor

    def multiplier(self) -> Tensor:
        """The multiplier field chi, (N, 1, X/2, Y/2, Z/2)."""
        return torch.exp(self.log_gain) * torch.sigmoid(self.mask_logit)


@dataclass(frozen=True)
class StripConfig:
    """Widths of the encoder levels and number of transformer blocks of a :class:`DistanceNet`."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = 2

    def as_dict(self) -> dict[str, object]:
        """JSON-ready copy."""
        return asdict(self)


class Trunk(nn.Module):
    """U-Net on half of its input grid with a token mixer at the bottleneck: what all heads of a network share.

    Input (N, 1, X, Y, Z) in [0, 1], axes multiples of 16.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        w = widths
        # Kernel 4, stride 2 sees every voxel: space-to-depth and the first convolution in one.
        self.stem = nn.Conv3d(1, w[0], 4, stride=2, padding=1)
        self.encoder = nn.ModuleList([nn.Sequential(ConvBlock(w[0], w[0]))])
        for before, after in pairwise(w):
            self.encoder.append(nn.Sequential(ConvBlock(before, after, stride=2), ConvBlock(after, after)))
        self.mixer = nn.Sequential(*(TransformerBlock(w[-1]) for _ in range(blocks)))
        self.decoder = nn.ModuleList(UpBlock(w[k + 1], w[k], w[k]) for k in reversed(range(len(w) - 1)))

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of every level, fine to coarse, and the mixed bottleneck."""
        features = []
        z = self.stem(x)
        for level in self.encoder:
            z = level(z)
            features.append(z)
        return features, self.mixer(z)

    def decode(self, features: list[Tensor], bottom: Tensor) -> list[Tensor]:
        """Features of the decoder's levels, coarse to fine; the last are on the half grid."""
        levels = [bottom]
        for step, level in enumerate(self.decoder):
            levels.append(level(levels[-1], features[-2 - step]))
        return levels[1:]


class DistanceNet(Trunk):
    """The stripping part of the default network alone: two signed distances, no field and no pose.

    Input (N, 1, X, Y, Z) in [0, 1] on a 2 mm grid, axes multiples of 16. The tensors have the same names and shapes
    as in :class:`CompactNPP`, so either can start from the other.
    """

    def __init__(self, config: StripConfig | None = None) -> None:
        config = config or StripConfig()
        super().__init__(config.widths, config.blocks)
        self.distance_head = nn.ConvTranspose3d(config.widths[0], 2, 4, stride=2, padding=1)

    def distances(self, finest: Tensor) -> Tensor:
        """Signed distances (N, 2, X, Y, Z) in mm from the decoder's finest level."""
        return DISTANCE_SCALE_MM * self.distance_head(finest).float()

    def forward(self, x: Tensor) -> Tensor:
        """Signed distances (N, 2, X, Y, Z) to the brain-tissue and the inner-skull surface, mm, negative inside."""
        return self.distances(self.decode(*self.encode(x))[-1])


class CompactNPP(DistanceNet):
    """The default network. Input (N, 1, X, Y, Z) in [0, 1] on a 2 mm grid, axes multiples of 16."""

    def __init__(self, config: NPPConfig | None = None) -> None:
        config = config or NPPConfig()
        super().__init__(StripConfig(config.widths, config.blocks))
        self.config = config
        w, f = config.widths, config.field_widths
        self.coordinate_head = nn.Conv3d(w[1], 3, 1)
        wide = (*f, w[-1])
        self.field_decoder = nn.ModuleList(
            UpBlock(wide[k + 1], w[k], f[k], convs=1) for k in reversed(range(len(f)))
        )
        self.hypernetwork = Hypernetwork(tuple(reversed(f)))
        self.field_head = nn.Conv3d(f[0], 2, 1)

    def forward(self, x: Tensor, log10_lambda: Tensor) -> NPPOutput:  # type: ignore[override]
        """One pass; ``log10_lambda`` is (N, 1)."""
        features, bottom = self.encode(x)
        levels = self.decode(features, bottom)
        coordinates = COORDINATE_SCALE_MM * self.coordinate_head(levels[-2]).float()
        y = bottom
        for step, (level, pair) in enumerate(zip(self.field_decoder, self.hypernetwork(log10_lambda), strict=True)):
            y = modulate(level(y, features[-2 - step]), pair)
        field = self.field_head(y).float()
        return NPPOutput(self.distances(levels[-1]), coordinates, field[:, :1], field[:, 1:])


def fit_affine(coordinates: Tensor, weights: Tensor, spacing_mm: float) -> Tensor:
    """Weighted least-squares affine from grid mm to the predicted template coordinates.

    Parameters
    ----------
    coordinates
        (N, 3, X, Y, Z) template mm.
    weights
        (N, 1, X, Y, Z), not negative.
    spacing_mm
        Distance of the nodes; the grid is centred on the origin, axes RAS.

    Returns
    -------
    Tensor
        (N, 3, 4) matrices template_from_grid, float32.
    """
    shape = coordinates.shape[2:]
    axes = [spacing_mm * (torch.arange(s, device=coordinates.device, dtype=torch.float32) - (s - 1) / 2) for s in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    design = torch.cat([grid / 100, torch.ones_like(grid[:1])])  # scaled for a well-conditioned system
    w = weights.flatten(2).float()
    w = w / w.sum(2, keepdim=True).clamp(min=1e-6)
    gram = torch.einsum("iv,nv,jv->nij", design, w[:, 0], design)
    moment = torch.einsum("ncv,nv,jv->ncj", coordinates.float().flatten(2), w[:, 0], design)
    ridge = 1e-6 * torch.eye(4, device=gram.device)
    solution = torch.linalg.solve(gram + ridge, moment.transpose(1, 2)).transpose(1, 2)
    scale = torch.tensor([0.01, 0.01, 0.01, 1.0], device=solution.device)
    return solution * scale


def coordinate_weights(distances: Tensor) -> Tensor:
    """Weights for :func:`fit_affine`: the soft inner-skull mask, (N, 1, X/4, Y/4, Z/4)."""
    return torch.sigmoid(-F.avg_pool3d(distances[:, 1:], 4) / 2.0)
