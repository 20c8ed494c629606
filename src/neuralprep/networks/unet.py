"""The U-Net of PUMBA, a brain extractor trained on shapes alone.

Source: Park et al., arXiv 2505.07159 (2025), and its public PyTorch layout, whose tensor names are kept.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PUMBA_WIDTHS = (8, 16, 32, 64, 128, 256)
PUMBA_PARAMETERS = 5_896_947
PUMBA_CLASSES = ("eroded brain", "boundary", "background")


class _Level(nn.Module):
    """Two convolutions with ReLU, then a group norm of eight groups."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, padding=1)
        self.gn = nn.GroupNorm(8, channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, X, Y, Z) -> (N, out, X, Y, Z)."""
        y = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        # In float32: the variance of a half-precision activation overflows.
        return nn.functional.group_norm(y.float(), 8, self.gn.weight, self.gn.bias, self.gn.eps).to(y.dtype)


class PumbaUNet(nn.Module):
    """U-Net of five poolings; widths 8 to 256 give the published 5,896,947 parameters.

    Parameters
    ----------
    widths
        Channels per level, multiples of eight, fine to coarse.
    """

    def __init__(self, widths: tuple[int, ...] = PUMBA_WIDTHS) -> None:
        super().__init__()
        *levels, bottom = widths
        self.enc_blocks = nn.ModuleList(_Level(a, b) for a, b in zip((1, *levels), levels, strict=False))
        self.bn_conv1 = nn.Conv3d(levels[-1], bottom, 3, padding=1)
        self.bn_conv2 = nn.Conv3d(bottom, bottom, 3, padding=1)
        wider = (*levels[1:], bottom)
        self.dec_blocks = nn.ModuleList(_Level(a + b, b) for a, b in reversed(list(zip(wider, levels, strict=True))))
        self.final_conv = nn.Conv3d(levels[0], len(PUMBA_CLASSES), 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):  # as published: He's initialisation
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (N, 3, X, Y, Z) of an image (N, 1, X, Y, Z) whose axes are multiples of 32."""
        skips = []
        for level in self.enc_blocks:
            x = level(x)
            skips.append(x)
            x = nn.functional.max_pool3d(x, 2)
        x = torch.relu(self.bn_conv2(torch.relu(self.bn_conv1(x))))
        for level, skip in zip(self.dec_blocks, reversed(skips), strict=True):
            x = level(torch.cat([skip, nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")], 1))
        return self.final_conv(x)


def pumba_mask(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Brain mask of the three class probabilities, as published.

    The largest component (faces touching) of the eroded brain, grown by lines of five voxels along each axis in turn,
    lends its surroundings to the boundary: what was predicted as boundary inside the grown component joins it.

    Parameters
    ----------
    probabilities
        (3, X, Y, Z), classes in the order of :data:`PUMBA_CLASSES`.

    Returns
    -------
    (X, Y, Z) bool
    """
    from scipy import ndimage

    eroded, boundary = probabilities[0] > 0.5, probabilities[1] > 0.5
    components, count = ndimage.label(eroded)
    if count > 1:
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        eroded = components == sizes.argmax()
    grown = eroded
    for axis in range(3):
        line = np.ones([5 if axis == k else 1 for k in range(3)], bool)
        grown = ndimage.binary_dilation(grown, line)
    return np.asarray(eroded | (grown & boundary))
