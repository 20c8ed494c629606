"""The velocity between two brains, predicted in one pass and symmetric by construction.

First every image is read by itself: the shares of eleven structures in blocks of two voxels, whatever its contrast.
Then the two maps of structures go through one network in both orders, and the velocity is half the difference of what
it says: exchanging the images changes its sign and nothing else. The network that bends never sees intensities, so
what it learns of one contrast holds for all. After SYMNet (Mok and Chung, CVPR 2020) for the symmetric stationary
velocity, EasyReg (Iglesias, Scientific Reports 13 (2023) 6657) for segmenting first and for the antisymmetric average,
and SynthMorph (Hoffmann et al., IEEE TMI 41 (2022) 543) for training on rendered label maps with the stiffness as an
input.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.layers import ConvBlock, Hypernetwork, UpBlock, modulate
from neuralprep.networks.npp import Trunk

PAIR_MULTIPLE = 16
"""Every axis of the images must be a multiple of this."""
RING = 3
"""Images of a group when only `fixed` is given: each one's moving image is the next, the last one's the first."""
STRUCTURES = ("cerebral_wm", "cerebral_gm", "thalamus", "striatum", "pallidum", "hippocampus", "cerebellar_wm",
              "cerebellar_gm", "brainstem", "ventricle", "csf")
"""What is told apart; one more channel holds the rest."""
_FIRST_SCALE = 1e-2  # of the heads' initial weights: training starts near the identity


@dataclass(frozen=True)
class PairConfig:
    """Widths of the levels.

    ``widths`` and ``blocks`` are those of the network that reads an image (as in
    :class:`neuralprep.networks.npp.StripConfig`), ``bend_widths`` of the one that bends; the first level of both is on
    half of the images' grid.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = 2
    bend_widths: tuple[int, ...] = (16, 32, 48, 64)

    def as_dict(self) -> dict[str, object]:
        """JSON-ready copy."""
        return asdict(self)


class PairOutput(NamedTuple):
    """What training sees: velocities (N, 3, X/2, Y/2, Z/2) and logits of the structures (N, 12, X/2, Y/2, Z/2)."""

    velocity: Tensor
    logits: Tensor


class Bend(nn.Module):
    """Velocity from two maps of shares (N, 12, x, y, z), the velocity's grid; axes multiples of 8."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        w, channels = widths, len(STRUCTURES) + 1
        self.encoder = nn.ModuleList([ConvBlock(2 * channels, w[0])])
        for before, after in pairwise(w):
            self.encoder.append(nn.Sequential(ConvBlock(before, after, stride=2), ConvBlock(after, after)))
        finer = list(reversed(range(len(w) - 1)))
        self.decoder = nn.ModuleList(UpBlock(w[k + 1], w[k], w[k], convs=1 if k == 0 else 2) for k in finer)
        heads = [nn.Conv3d(w[k], 3, 3, padding=1, bias=False) for k in finer]  # a shift would cancel out
        for head in heads:
            head.weight.data.mul_(_FIRST_SCALE)
        self.heads = nn.ModuleList(heads)
        self.hypernetwork = Hypernetwork(tuple(w[k] for k in finer))

    def forward(self, fixed: Tensor, moving: Tensor, log10_stiffness: Tensor) -> Tensor:
        """Velocity (N, 3, x, y, z) in voxels of its grid; ``log10_stiffness`` is (N, 1)."""
        z = torch.cat([torch.cat([fixed, moving], 1), torch.cat([moving, fixed], 1)])
        features = []
        for level in self.encoder:
            z = level(z)
            features.append(z)
        pairs = self.hypernetwork(torch.cat([log10_stiffness, log10_stiffness]))
        out: Tensor | None = None
        for step, (level, head, pair) in enumerate(zip(self.decoder, self.heads, pairs, strict=True)):
            z = modulate(level(z, features[-2 - step]), pair)
            part = head(z).float()
            if out is not None:  # in voxels of its level; twice as many on a grid twice as fine
                part = part + 2 * F.interpolate(out, scale_factor=2.0, mode="trilinear", align_corners=False)
            out = part
        assert out is not None
        there, back = out.chunk(2)
        return 0.5 * (there - back)


class PairNet(Trunk):
    """Stationary velocity between two brains on one grid.

    Images are (N, 1, X, Y, Z) in [0, 1], zero outside the brain, axes multiples of 16, upright (axes right, anterior,
    superior) and affinely aligned. What reads them has the trunk of the default network and can start from it.
    """

    def __init__(self, config: PairConfig | None = None) -> None:
        config = config or PairConfig()
        super().__init__(config.widths, config.blocks)
        self.config = config
        self.structure_head = nn.Conv3d(config.widths[0], len(STRUCTURES) + 1, 1)
        self.bend = Bend(config.bend_widths)

    def structures(self, images: Tensor) -> Tensor:
        """Logits (N, 12, X/2, Y/2, Z/2) of the shares of :data:`STRUCTURES` and of the rest, the last."""
        return self.structure_head(self.decode(*self.encode(images))[-1])

    def forward(
        self, fixed: Tensor, moving: Tensor | None, log10_stiffness: Tensor, shown: Tensor | None = None
    ) -> Tensor | PairOutput:
        """Velocity (N, 3, X/2, Y/2, Z/2) in voxels of its own grid per unit time, components along the axes.

        exp(v / 2) leads from the middle to the moving image, exp(-v / 2) to the fixed one. Without `moving` the images
        are groups of :data:`RING`, each read once, and the answer is a :class:`PairOutput`. `shown` (N, 12, X/2, Y/2,
        Z/2) then replaces what was read, where it is not negative. The velocity teaches nothing to what reads.
        """
        if moving is None:
            logits = self.structures(fixed)
            shares = logits.detach().float().softmax(1)
            if shown is not None:
                shares = torch.where(shown < 0, shares, shown)
            others = shares.unflatten(0, (-1, RING)).roll(-1, 1).flatten(0, 1)
            return PairOutput(self.bend(shares, others, log10_stiffness), logits)
        first, second = self.structures(torch.cat([fixed, moving])).float().softmax(1).chunk(2)
        return self.bend(first, second, log10_stiffness)
