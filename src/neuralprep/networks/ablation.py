"""The networks that NPP was compared with, on one shared trunk, so that only the idea differs.

He, Wang and Sabuncu (MICCAI 2023) ask whether the multiplier field matters and compare four uses of one network:

``npp``
    a multiplier field chi on the half grid, times the image, resampled by a spatial transformer; lambda modulates the
    decoder;
``unet``
    the finished image (stripped, normalised, in template space) comes straight out of the network;
``unet-stn``
    the network draws the stripped and normalised image, the spatial transformer resamples it;
``umirgpit``
    as ``unet-stn``, trained in alternating order: translate then register, register then translate
    (after Arar et al., CVPR 2020).

The template frame is a cube of the input's shape and spacing; the spatial transformer maps its normalised coordinates
to the input's (12 numbers from pooled bottleneck features, tanh, plus identity), as in the paper.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.layers import Hypernetwork, modulate
from neuralprep.networks.npp import Trunk

VARIANTS = ("npp", "unet", "unet-stn", "umirgpit")


@dataclass(frozen=True)
class AblationConfig:
    """Which use of the network, and its size."""

    variant: str = "npp"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = 2

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant '{self.variant}' is unknown; choose one of {', '.join(VARIANTS)}")

    def as_dict(self) -> dict[str, object]:
        """JSON-ready copy."""
        return asdict(self)


class AblationOutput(NamedTuple):
    """Outputs for an input (N, 1, X, Y, Z).

    Attributes
    ----------
    warped
        (N, 1, X, Y, Z) the finished image in the template frame.
    multiplier
        (N, 1, X/2, Y/2, Z/2) the field chi of ``npp``; empty for the others.
    """

    warped: Tensor
    multiplier: Tensor


class AblationNet(Trunk):
    """One of :data:`VARIANTS`; input (N, 1, X, Y, Z) in [0, 1], axes multiples of 16."""

    def __init__(self, config: AblationConfig | None = None) -> None:
        config = config or AblationConfig()
        super().__init__(config.widths, config.blocks)
        w = config.widths
        self.variant = config.variant
        if self.variant == "npp":
            self.hypernetwork = Hypernetwork(tuple(reversed(w[:-1])))
            self.field_head = nn.Conv3d(w[0], 1, 1)
        else:
            # Sub-voxel head: an image needs the full grid, a smooth field does not.
            self.image_head = nn.ConvTranspose3d(w[0], 1, 4, stride=2, padding=1)
        last = self.field_head if self.variant == "npp" else self.image_head
        # Black at first: the likeness punishes noise around the head so hard that the brain would be given up with it.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        if self.variant != "unet":
            half = w[-1] // 2
            self.pose_head = nn.Sequential(
                nn.Linear(w[-1], half, bias=False), nn.ReLU(), nn.Linear(half, 12, bias=False), nn.Tanh()
            )

    def forward(self, x: Tensor, log10_lambda: Tensor, register_first: bool = False) -> AblationOutput:
        """One pass.

        Parameters
        ----------
        x
            Images.
        log10_lambda
            (N, 1); only ``npp`` listens to it.
        register_first
            ``umirgpit`` only: resample the input, then translate it.
        """
        features, bottom = self.encode(x)
        nothing = x.new_zeros(0)
        if self.variant == "npp":
            z = bottom
            for step, (level, pair) in enumerate(zip(self.decoder, self.hypernetwork(log10_lambda), strict=True)):
                z = modulate(level(z, features[-2 - step]), pair)
            field = self.field_head(z).float()
            fine = F.interpolate(field, scale_factor=2.0, mode="trilinear", align_corners=False)
            return AblationOutput(resampled(fine * x, self.pose(bottom)), field)
        if register_first:
            moved = resampled(x, self.pose(bottom))
            return AblationOutput(self._image(*self.encode(moved)), nothing)
        image = self._image(features, bottom)
        if self.variant != "unet":
            image = resampled(image, self.pose(bottom))
        return AblationOutput(image, nothing)

    def _image(self, features: list[Tensor], bottom: Tensor) -> Tensor:
        image: Tensor = self.image_head(self.decode(features, bottom)[-1]).float()
        return image

    def pose(self, bottom: Tensor) -> Tensor:
        """(N, 3, 4) normalised template coordinates -> normalised input coordinates."""
        numbers = self.pose_head(bottom.mean((2, 3, 4))).float().view(-1, 3, 4)
        return numbers + torch.eye(3, 4, device=numbers.device)


def resampled(images: Tensor, theta: Tensor) -> Tensor:
    """Images carried onto the template frame by the spatial transformer's matrices; zero beyond the edge."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)
