"""MeshNet family; its 15-channel member is MindGrab, a contrast-agnostic brain extractor.

Source: Fani et al., "MindGrab for BrainChop", arXiv 2506.11860; layer list of the published tensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from neuralprep.networks.published import fill_network, read_tensors, strip_prefixes

MINDGRAB_DILATIONS: tuple[int, ...] = (16, 8, 4, 2, 1) * 5
MINDGRAB_CHANNELS = 15
MINDGRAB_PARAMETERS = 146_237
_NOISE = 0.02
"""Standard deviation of what is added to a new block that hands its input on."""
MINDGRAB_SIDE = 256
"""Edge of the conformed cube in voxels of 1 mm; the norms see all of it, so always fill the same cube."""


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per channel over the whole volume, always computed in float32.

    The same as ``GroupNorm(groups=channels, affine=False)``. Half precision overflows in the variance
    once activations pass 256, and activations of this network do.

    Parameters
    ----------
    eps
        Added to the variance.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (N, C, X, Y, Z), keeping its dtype."""
        return nn.functional.instance_norm(x.float(), eps=self.eps).to(x.dtype)


class MeshNet(nn.Module):
    """Stack of dilated 3x3x3 convolutions at full resolution: no pooling, no skips.

    Every block is convolution (padding = dilation, no bias), instance norm, GELU; a 1x1x1 convolution
    with bias ends it. Drawn anew, every block but the first hands its input on, with a little noise: 25 layers
    without skips hardly learn otherwise (after Zagoruyko and Komodakis, "DiracNets", arXiv 1706.00388). The
    state-dict keys are those of the published file: ``model.{i}.0.weight`` for block ``i``, then
    ``model.{n}.weight`` and ``model.{n}.bias``. The defaults are MindGrab (146,237 parameters).

    Parameters
    ----------
    channels
        Width of every block.
    dilations
        Dilation of each block, in order; descending runs let each filter suppress the gridding
        of the one before it.
    in_channels, classes
        Channels of the input and of the output logits.
    """

    def __init__(
        self,
        channels: int = MINDGRAB_CHANNELS,
        dilations: Sequence[int] = MINDGRAB_DILATIONS,
        in_channels: int = 1,
        classes: int = 2,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for dilation in dilations:
            conv = nn.Conv3d(width, channels, 3, padding=dilation, dilation=dilation, bias=False)
            if width == channels:
                _hands_on(conv)
            layers.append(nn.Sequential(conv, InstanceNorm(), nn.GELU()))
            width = channels
        layers.append(nn.Conv3d(width, classes, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits.

        Parameters
        ----------
        x
            (N, in_channels, X, Y, Z). For MindGrab: a 256^3 volume of 1 mm voxels in LIA order, scaled
            by its 2nd and 98th percentiles to [0, 1]. ``channels_last_3d`` memory is about 5x faster on CPU.

        Returns
        -------
        Tensor
            (N, classes, X, Y, Z); class 1 is the brain.
        """
        logits: Tensor = self.model(x)
        return logits


def _hands_on(conv: nn.Conv3d) -> None:
    """Make the identity of a convolution, with noise in every weight."""
    nn.init.dirac_(conv.weight)
    with torch.no_grad():
        conv.weight.add_(torch.randn_like(conv.weight), alpha=_NOISE)


def load_mindgrab(path: str | Path) -> MeshNet:
    """Build MindGrab and fill it with published tensors.

    Parameters
    ----------
    path
        The published ``model.pth``; read as plain tensors, no code in it is run.

    Returns
    -------
    MeshNet
        In evaluation mode, on the CPU, float32, ``channels_last_3d``.

    Raises
    ------
    WeightsError
        If the file is missing, is not a file of tensors, or does not fit MindGrab.
    """
    network = MeshNet()
    tensors = strip_prefixes(read_tensors(path), list(network.state_dict()), ("module.",))
    fill_network(network, tensors, path, "MindGrab (15 channels, 25 blocks)")
    return network.eval().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def scaled_dilations(spacing_mm: float) -> tuple[int, ...]:
    """MindGrab's dilations for a grid of another spacing: as many mm apart as at 1 mm, but at least one voxel.

    Most filters then read the image at the places that they have learnt, so that the published tensors work at 2 mm
    (with an eighth of the products). With their own dilations they would see a head of half the size, and do not.
    """
    return tuple(max(1, round(dilation / spacing_mm)) for dilation in MINDGRAB_DILATIONS)


def convert_mindgrab(source: str | Path, target: Path, spacing_mm: float = 1.0) -> None:
    """Write published tensors as a weights file of this package, in float32 as they are.

    Parameters
    ----------
    source
        The published ``model.pth``.
    target
        ``.safetensors`` file to write or replace; a card with the size of the cube lies beside it.
    spacing_mm
        Voxel size of the 256 mm cube that the network will see; its dilations follow (:func:`scaled_dilations`).

    Raises
    ------
    WeightsError
        As :func:`load_mindgrab`.
    """
    from neuralprep.files import atomic_path, write_atomic  # needs libraries that a training machine may lack
    from neuralprep.networks.loading import MESHNET_LAYOUT  # which imports this module

    state = {name: value.contiguous() for name, value in load_mindgrab(source).state_dict().items()}
    config = {"channels": MINDGRAB_CHANNELS, "dilations": scaled_dilations(spacing_mm)}
    card = {"size": round(MINDGRAB_SIDE / spacing_mm), "spacing_mm": spacing_mm}
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card) + "\n"
    write_atomic(target.with_suffix(".json"), [text.encode])  # first: weights without it would see another cube
    with atomic_path(target) as temporary:
        save_file(state, temporary, metadata={"layout": MESHNET_LAYOUT, "config": json.dumps(config)})
        temporary.chmod(0o644)  # safetensors writes files that only their owner can read


def brain_logit(network: MeshNet, x: Tensor) -> Tensor:
    """Logit of class 1 against class 0, with two activations in memory instead of four.

    The same arithmetic as ``network(x)``, but the norms and GELUs overwrite their input, channel by channel, and the
    last convolution computes one difference instead of two logits.

    Parameters
    ----------
    network
        Of two classes.
    x
        (1, in_channels, X, Y, Z) float32.

    Returns
    -------
    Tensor
        (X, Y, Z) float32.
    """
    *blocks, last = network.model
    assert isinstance(last, nn.Conv3d)
    assert last.bias is not None
    with torch.inference_mode():
        for block in blocks:
            assert isinstance(block, nn.Sequential)
            x = block[0](x)
            for channel in x[0]:
                variance, mean = torch.var_mean(channel, correction=0)
                channel.sub_(mean).mul_(torch.rsqrt(variance + block[1].eps))  # type: ignore[operator]
                torch.ops.aten.gelu_(channel)
        weight = last.weight[1:2] - last.weight[0:1]
        return nn.functional.conv3d(x, weight, last.bias[1:2] - last.bias[0:1])[0, 0]
