"""The velocity between two brains, predicted in one pass and symmetric by construction.

Both images go through one encoder; a decoder reads the features of the two in both orders, and the velocity is half
the difference of what it says: exchanging the images changes its sign and nothing else. After SYMNet (Mok and Chung,
CVPR 2020) for the symmetric stationary velocity, EasyReg (Iglesias, Scientific Reports 13 (2023) 6657) for the
antisymmetric average, and SynthMorph (Hoffmann et al., IEEE TMI 41 (2022) 543) for training on rendered label maps
with the stiffness as an input. Here the encoder is shared, so a group of images is encoded once and any pairs of it are
decoded, and only the decoder runs twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.layers import ConvBlock, Hypernetwork, UpBlock, modulate

PAIR_MULTIPLE = 16
"""Every axis of the images must be a multiple of this."""
RING = 3
"""Images of a group when only `fixed` is given: each one's moving image is the next, the last one's the first."""
_FIRST_SCALE = 1e-2  # of the heads' initial weights: training starts near the identity


@dataclass(frozen=True)
class PairConfig:
    """Widths of the levels, on grids of 1/2, 1/4, 1/8 and 1/16 of the images'."""

    widths: tuple[int, ...] = (16, 32, 48, 64)

    def as_dict(self) -> dict[str, object]:
        """JSON-ready copy."""
        return asdict(self)


class PairNet(nn.Module):
    """Stationary velocity between two brains on one grid.

    Images are (N, 1, X, Y, Z) in [0, 1], zero outside the brain, axes multiples of 16, upright (axes right, anterior,
    superior) and affinely aligned.
    """

    def __init__(self, config: PairConfig | None = None) -> None:
        super().__init__()
        self.config = config or PairConfig()
        w = self.config.widths
        self.stem = nn.Conv3d(1, w[0], 4, stride=2, padding=1)
        self.encoder = nn.ModuleList([nn.Sequential(ConvBlock(w[0], w[0]))])
        for before, after in pairwise(w):
            self.encoder.append(nn.Sequential(ConvBlock(before, after, stride=2), ConvBlock(after, after)))
        self.meet = nn.Sequential(ConvBlock(2 * w[-1], w[-1]), ConvBlock(w[-1], w[-1]))
        finer = list(reversed(range(len(w) - 1)))
        self.decoder = nn.ModuleList(UpBlock(w[k + 1], 2 * w[k], w[k], convs=1 if k == 0 else 2) for k in finer)
        heads = [nn.Conv3d(w[k], 3, 3, padding=1, bias=False) for k in finer]  # a shift would cancel out
        for head in heads:
            head.weight.data.mul_(_FIRST_SCALE)
        self.heads = nn.ModuleList(heads)
        self.hypernetwork = Hypernetwork(tuple(w[k] for k in finer))

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features of every level, fine to coarse, of images (N, 1, X, Y, Z)."""
        features = []
        z = self.stem(images)
        for level in self.encoder:
            z = level(z)
            features.append(z)
        return features

    def velocity(self, fixed: list[Tensor], moving: list[Tensor], log10_stiffness: Tensor) -> Tensor:
        """Velocity (N, 3, X/2, Y/2, Z/2) from the features of both; ``log10_stiffness`` is (N, 1)."""
        both = [torch.cat([torch.cat([f, m], 1), torch.cat([m, f], 1)]) for f, m in zip(fixed, moving, strict=True)]
        pairs = self.hypernetwork(torch.cat([log10_stiffness, log10_stiffness]))
        y = self.meet(both[-1])
        out: Tensor | None = None
        for step, (level, head, pair) in enumerate(zip(self.decoder, self.heads, pairs, strict=True)):
            y = modulate(level(y, both[-2 - step]), pair)
            part = head(y).float()
            if out is not None:  # in voxels of its level; twice as many on a grid twice as fine
                part = part + 2 * F.interpolate(out, scale_factor=2.0, mode="trilinear", align_corners=False)
            out = part
        assert out is not None
        there, back = out.chunk(2)
        return 0.5 * (there - back)

    def forward(self, fixed: Tensor, moving: Tensor | None, log10_stiffness: Tensor) -> Tensor:
        """Velocity (N, 3, X/2, Y/2, Z/2) in voxels of its own grid per unit time, components along the axes.

        exp(v / 2) leads from the middle to the moving image, exp(-v / 2) to the fixed one. Without `moving` the images
        are groups of :data:`RING`, each encoded once.
        """
        if moving is None:
            features = self.encode(fixed)
            others = [f.unflatten(0, (-1, RING)).roll(-1, 1).flatten(0, 1) for f in features]
            return self.velocity(features, others, log10_stiffness)
        count = len(fixed)
        features = self.encode(torch.cat([fixed, moving]))
        return self.velocity([f[:count] for f in features], [f[count:] for f in features], log10_stiffness)
