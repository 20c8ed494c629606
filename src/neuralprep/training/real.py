"""Real images among the synthetic ones: what their masks say about distances is learnt, nothing else.

The table is tab-separated with a header: ``image`` and ``mask`` (inside of the skull), and ``tissue`` (brain without
outer fluid) where it is known; paths are relative to the table. Poses, deformation, bias, slices, noise and cropping
are drawn as for synthetic heads; contrast is the image's own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralprep.errors import InputError
from neuralprep.synthesis import degrade
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, Head
from neuralprep.synthesis.contrast import table_size
from neuralprep.synthesis.record import Record
from neuralprep.synthesis.sample import DeviceHead, intensity_range, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.synthesis.shapes_distance import signed_distance
from neuralprep.training.batch import Example

if TYPE_CHECKING:
    from neuralprep.volume import Volume

STORED_MM = 1.0
"""Images are kept on a grid of this spacing along the world axes."""
_DISTANCE_MM = 1.5
_LIMIT_MM = 20.0
_SMALLEST_ML = 100.0
_WARP_SHARE = 0.4  # a real head is no atlas: it is bent less, because its distances are only carried along


@dataclass(frozen=True, eq=False)
class RealImage:
    """A real image in [0, 1] on a device, and its distances as those of a head without labels.

    Attributes
    ----------
    values
        (X, Y, Z) float16.
    affine
        (4, 4) voxel -> world mm of ``values``.
    head
        Carries the distances; its labels are air.
    has_tissue
        Whether the distance to the tissue is known.
    """

    values: Tensor
    affine: np.ndarray
    head: DeviceHead
    has_tissue: bool

    def draw(self, rng: np.random.Generator, settings: SamplerSettings) -> Example:
        """One augmented view."""
        drawn = draw_record(self.head.source.name, rng, settings)
        pose = replace(drawn.pose, warp_mm=_WARP_SHARE * drawn.pose.warp_mm, muzzle=1.0)
        nothing = (0.0,) * table_size()
        plain = Record(drawn.head, drawn.look, drawn.shape, drawn.spacing_mm, pose=pose, means=nothing,
                       spreads=nothing, subsamples=1)
        geometry = render(plain, self.head)
        image, seen = self._sampled(geometry.frame.coordinates(np.linalg.inv(self.affine)))
        device = image.device
        bias = degrade.bias_field(drawn.shape, drawn.bias_nodes, drawn.bias_strength, drawn.bias_seed, device)
        (image,) = degrade.acquire(drawn, [image * bias])
        inside = degrade.field_of_view(drawn.shape, drawn.cut, device) & (seen > 0.5)
        image = (image * inside).clamp(min=0)
        if drawn.gamma != 1:
            image = image**drawn.gamma
        low, high = intensity_range(image)
        image = ((image - low) / (high - low)).clamp(0, 1)
        return Example.from_distances(image, geometry.distances, inside, drawn.spacing_mm, (self.has_tissue, True))

    def _sampled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Values at voxel indices (3, X, Y, Z) and how much of the field of view is there."""
        size = torch.tensor(self.values.shape, device=index.device).view(3, 1, 1, 1)
        unit = (2 * index / (size - 1) - 1).flip(0).permute(1, 2, 3, 0)[None]
        image = F.grid_sample(self.values[None, None].float(), unit, align_corners=True)[0, 0]
        return image, ((index >= -0.5) & (index <= size - 0.5)).all(0).float()


def load_real_images(table: Path, device: torch.device) -> list[RealImage]:
    """Read the images and masks of a table.

    Raises
    ------
    InputError
        The table, an image or a mask is missing or unusable, or a mask does not lie on its image.
    """
    return [_prepared(image, mask, tissue, device) for image, mask, tissue in _rows(table)]


def _rows(table: Path) -> Iterator[tuple[Path, Path, Path | None]]:
    if not table.is_file():
        raise InputError(f"{table}: no such table of real images; it needs the columns image and mask")
    with table.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        names = reader.fieldnames or ()
        if not {"image", "mask"} <= set(names):
            raise InputError(f"{table}: the tab-separated columns image and mask are needed; found {', '.join(names)}")
        rows = list(reader)
    if not rows:
        raise InputError(f"{table}: lists no images")
    for number, row in enumerate(rows, 2):
        paths = [table.parent / row[name] if row.get(name) else None for name in ("image", "mask", "tissue")]
        if paths[0] is None or paths[1] is None:
            raise InputError(f"{table}, line {number}: image and mask must both be given")
        yield paths[0], paths[1], paths[2]


def _prepared(image: Path, mask: Path, tissue: Path | None, device: torch.device) -> RealImage:
    from neuralprep.grid import Grid
    from neuralprep.resample import resample
    from neuralprep.volume import load

    scan = load(image)
    masks = [_read_mask(path, scan) for path in (tissue or mask, mask)]

    def grid(spacing: float) -> Grid:
        corners = scan.grid.corners()
        x, y, z = (int(np.ceil(length / spacing)) + 1 for length in np.ptp(corners, axis=0))
        return Grid.centered((x, y, z), spacing, scan.grid.center)

    fine, coarse = grid(STORED_MM), grid(_DISTANCE_MM)
    values = torch.from_numpy(np.ascontiguousarray(resample(scan, fine, antialias=True).data)).float()
    low, high = intensity_range(values)
    # Half way between voxels of the mask is where its surface lies, so it is carried as a fraction and cut at a half.
    inside = torch.stack([
        torch.from_numpy(np.ascontiguousarray(resample(m.with_data(m.data.astype(np.float32)), coarse,
                                                       antialias=True).data)) > 0.5 for m in masks
    ])
    distances = signed_distance(inside, _DISTANCE_MM, _LIMIT_MM)
    stored = (distances / DISTANCE_STEP_MM).round_().clamp_(-127, 127).to(torch.int8).numpy()
    head = Head(image.name, np.zeros((4, 4, 4), np.uint8), fine.affine, stored, coarse.affine, np.eye(4))
    values = ((values - low) / (high - low)).clamp_(0, 1).half().to(device)
    return RealImage(values, fine.affine, DeviceHead.load(head, device), tissue is not None)


def _read_mask(path: Path, scan: Volume) -> Volume:
    from neuralprep.volume import load

    mask = load(path)
    if not mask.grid.same_as(scan.grid, tol_mm=0.1):
        raise InputError(f"{path}: the mask does not lie on the grid of its image ({scan.source}); resample it first")
    inside = mask.data > 0
    millilitres = float(inside.sum()) * mask.grid.voxel_volume / 1000
    if millilitres < _SMALLEST_ML:
        raise InputError(f"{path}: the mask holds {millilitres:.0f} ml, too little for a brain; is it the right file?")
    return mask.with_data(inside.astype(np.uint8))
