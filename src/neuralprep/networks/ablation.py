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
to the input's. Unlike the paper's 12 numbers from globally pooled features, which have lost position, every voxel of
the decoder's last level but one says where in the template it lies and how far to trust it, and the affine is fitted to
that in closed form, as in the shipped network (whose head for places has the same name and shape here, so that either
can start from the other). What is believed before any voxel is trusted is the identity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralprep.networks.layers import Hypernetwork, modulate
from neuralprep.networks.npp import COORDINATE_SCALE_MM, FRAME_CENTER_MM, Trunk, fit_affine

_PERCENT = 100.0  # half an edge of the cube, in the unit of the fit, which is conditioned for this size
_TRUST_SCALE = 10.0  # largest logit of a weight: air must be known as such before any fit is good
_HALF_MM = 96.0  # half an edge of the recipe's cube: what the shipped head for places says is in mm
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
    drawn
        (N, 1, X, Y, Z) the stripped and normalised image before the spatial transformer, in the input's own frame;
        the same as `warped` where nothing is resampled after drawing.
    multiplier
        (N, 1, X/2, Y/2, Z/2) the field chi of ``npp``; empty for the others.
    pose
        (N, 3, 4) the spatial transformer's matrices; empty for ``unet``.
    places
        (N, 3, X/4, Y/4, Z/4) where blocks of four voxels are said to lie: the template frame's coordinates along its
        array axes, -1 to 1; empty for ``unet``.
    """

    warped: Tensor
    drawn: Tensor
    multiplier: Tensor
    pose: Tensor
    places: Tensor


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
            self.coordinate_head = nn.Conv3d(w[1], 3, 1)  # where each voxel lies in the template
            self.trust_head = nn.Conv3d(w[1], 1, 1)  # the logit of its weight, against that of the identity
            for head in (self.coordinate_head, self.trust_head):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)  # type: ignore[arg-type]

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
        if self.variant == "unet":
            drawn = self._image(features, bottom)
            return AblationOutput(drawn, drawn, nothing, nothing, nothing)
        pose, places = self.pose(features, bottom)
        if self.variant == "npp":
            z = bottom
            for step, (level, pair) in enumerate(zip(self.decoder, self.hypernetwork(log10_lambda), strict=True)):
                z = modulate(level(z, features[-2 - step]), pair)
            field = self.field_head(z).float()
            drawn = F.interpolate(field, scale_factor=2.0, mode="trilinear", align_corners=False) * x
            return AblationOutput(resampled(drawn, pose), drawn, field, pose, places)
        if register_first:
            drawn = self._image(*self.encode(resampled(x, pose)))
            return AblationOutput(drawn, drawn, nothing, pose, places)
        drawn = self._image(features, bottom)
        return AblationOutput(resampled(drawn, pose), drawn, nothing, pose, places)

    def _image(self, features: list[Tensor], bottom: Tensor) -> Tensor:
        image: Tensor = self.image_head(self.decode(features, bottom)[-1]).float()
        return image

    def pose(self, features: list[Tensor], bottom: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices from normalised template coordinates to the input's, in the order of `affine_grid`; and places."""
        z = bottom
        for step, level in enumerate(list(self.decoder)[:-1]):  # whatever lambda says: the pose does not move with it
            z = level(z, features[-2 - step])
        size = z.shape[-1]
        edge = _PERCENT * 2 / size
        line = edge * (torch.arange(size, device=z.device) - (size - 1) / 2)
        nowhere = torch.stack(torch.meshgrid(line, line, line, indexing="ij"))
        said = COORDINATE_SCALE_MM * self.coordinate_head(z).float()
        places = _PERCENT / _HALF_MM * (said - said.new_tensor(FRAME_CENTER_MM).view(3, 1, 1, 1))
        # Each voxel is two observations: what it says, by its trust, and that it lies where it is, by one.
        trust = (_TRUST_SCALE * self.trust_head(z).float().tanh()).exp()
        fitted = fit_affine((trust * places + nowhere) / (trust + 1), trust + 1, edge)
        matrix, shift = fitted[:, :, :3], fitted[:, :, 3:] / _PERCENT
        inverse = torch.linalg.inv(matrix)
        # Array axes (first, second, third) are what grid_sample calls z, y, x.
        return torch.cat([inverse.flip(1, 2), -(inverse @ shift).flip(1)], 2), places / _PERCENT


def resampled(images: Tensor, theta: Tensor) -> Tensor:
    """Images carried onto the template frame by the spatial transformer's matrices; zero beyond the edge."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)
