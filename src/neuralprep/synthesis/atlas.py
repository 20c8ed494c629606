"""The compact atlas file: every label map as class indices with its signed distances and its pose in the template.

A 256-cubed label map becomes uint8 class indices cropped to the head (1 mm, RAS), two signed distance maps (2 mm,
int8) and two 4x4 matrices, so that twenty heads fit in some 20 MiB and training needs neither NIfTI files nor a
distance transform.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from neuralprep.box import box_or_all
from neuralprep.distance import signed_distance
from neuralprep.errors import InputError
from neuralprep.synthesis import classes

DISTANCE_STEP_MM = 0.2
"""Quantisation of the stored int8 signed distances; the range is +-25.4 mm."""


@dataclass(frozen=True, eq=False)
class Head:
    """One whole-head label map.

    Parameters
    ----------
    name
        Name of the source map.
    labels
        (X, Y, Z) uint8 class indices (:data:`neuralprep.synthesis.classes.CLASSES`), 1 mm, RAS axes; the outermost
        layer is air.
    affine
        (4, 4) voxel index of ``labels`` -> world mm.
    distances
        (2, x, y, z) int8, signed distance to the brain-tissue and to the inner-skull (ICV) surface in units of
        ``DISTANCE_STEP_MM``, negative inside, on a 2 mm grid.
    distance_affine
        (4, 4) voxel index of ``distances`` -> world mm.
    template_from_world
        (4, 4) affine carrying world mm points of this map to template mm points.
    """

    name: str
    labels: np.ndarray
    affine: np.ndarray
    distances: np.ndarray
    distance_affine: np.ndarray
    template_from_world: np.ndarray


_FIELDS = ("labels", "affine", "distances", "distance_affine", "template_from_world")


def save_atlas(heads: list[Head], path: Path) -> None:
    """Write ``heads`` to one compressed ``.npz`` file."""
    arrays = {f"{head.name}/{field}": getattr(head, field) for head in heads for field in _FIELDS}
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_atlas(path: Path, names: tuple[str, ...] | None = None) -> list[Head]:
    """Read heads from a file written by :func:`save_atlas`.

    Raises
    ------
    InputError
        The file is missing, damaged or not an atlas, or lacks one of ``names``.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such atlas file; make one with 'neuralprep train "
                         f"--pack LABEL_FOLDER --atlas {path}'")
    try:
        with path.open("rb") as stream:
            return _heads_of(path, stream, names)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a neuralprep atlas, or damaged ({error}); make it again with 'neuralprep train "
                         f"--pack LABEL_FOLDER --atlas {path}'") from error


def _heads_of(path: Path, stream: BinaryIO, names: tuple[str, ...] | None) -> list[Head]:
    stored = np.load(stream, allow_pickle=False)
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: one array, not a neuralprep atlas")
    with stored:
        present = sorted({key.rpartition("/")[0] for key in stored.files})
        if not present or any(f"{name}/{field}" not in stored.files for name in present for field in _FIELDS):
            raise InputError(f"{path}: not a neuralprep atlas (arrays {', '.join(_FIELDS)} per head are expected)")
        wanted = list(names) if names is not None else present
        missing = sorted(set(wanted) - set(present))
        if missing:
            raise InputError(f"{path}: the atlas has no head {', '.join(missing)}; it has {', '.join(present)}")
        return [Head(name, *(stored[f"{name}/{field}"] for field in _FIELDS)) for name in wanted]


def pack_label_map(
    path: Path,
    template_from_world: np.ndarray,
    table: Mapping[int, int] = classes.FREESURFER,
) -> Head:
    """Turn one label map file into a :class:`Head`; maps of another voxel size are resampled to 1 mm (nearest).

    Raises
    ------
    InputError
        The map holds a number that ``table`` does not know, or no brain.
    """
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(path))
    numbers = np.asarray(image.dataobj).astype(np.int32)
    found = np.unique(numbers)
    unknown = [int(n) for n in found if int(n) not in table]
    if unknown:
        raise InputError(f"{path}: label numbers {unknown} are not in the label table; add them to it")
    lookup = np.zeros(int(found.max()) + 1, np.uint8)
    for number in found:
        lookup[number] = table[int(number)]
    labels, grid_affine = _at_one_mm(lookup[numbers], np.asarray(image.affine, float))
    tissue = np.isin(labels, classes.indices(classes.BRAIN_TISSUE))
    if tissue.sum() < 100_000:
        raise InputError(f"{path}: fewer than 100 ml of brain tissue in the label map; is the label table right?")
    labels = _without_specks(labels, tissue)
    labels, affine = _cropped(labels, grid_affine)
    distances, distance_affine = _distances(labels, affine)
    name = path.name.split(".")[0]
    return Head(name, labels, affine, distances, distance_affine, np.asarray(template_from_world, float))


def _at_one_mm(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes on a 1 mm grid along the world axes; untouched if they are already."""
    from neuralprep.grid import Grid
    from neuralprep.resample import resample
    from neuralprep.volume import Volume

    if np.abs(affine[:3, :3] - np.eye(3)).max() < 0.02:
        return labels, affine
    volume = Volume(labels, Grid(labels.shape, affine))
    corners = volume.grid.corners()
    x, y, z = (int(np.ceil(length)) + 3 for length in np.ptp(corners, axis=0))
    grid = Grid.centered((x, y, z), 1.0, volume.grid.center)
    return resample(volume, grid, order=0).data, grid.affine


def _without_specks(labels: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Turn fluid that is not connected to the brain (a known defect of the maps) into soft tissue or air."""
    from scipy import ndimage

    fluid = labels == classes.INDEX["csf"]
    components, _ = ndimage.label(fluid | tissue)
    main = np.bincount(components[tissue]).argmax()
    specks = fluid & (components != main)
    out = labels.copy()
    head = ndimage.uniform_filter((labels > 0).astype(np.float32), 5) > 0.5
    out[specks & head] = classes.INDEX["soft_tissue"]
    out[specks & ~head] = classes.INDEX["air"]
    return out


def _cropped(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop to the head and surround it by one layer of air, so that clamped look-ups outside give air."""
    box = box_or_all(labels > 0)
    cropped = np.pad(labels[box], 1)
    moved = np.array(affine, float)
    moved[:3, 3] += moved[:3, :3] @ [edge.start - 1 for edge in box]
    return np.ascontiguousarray(cropped), moved


def brain_masks(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brain-tissue mask and inner-skull (ICV) mask of a 1 mm class map.

    The tissue mask is tissue and ventricles, closed by 2 mm and filled. The ICV mask adds the fluid around it down
    to 3 mm below the lowest brainstem voxel (the spinal canal is not brain), closed by 3 mm and filled.
    """
    from scipy import ndimage

    core = np.isin(labels, classes.indices((*classes.BRAIN_TISSUE, "ventricle")))
    tissue = _closed(core, 2)
    fluid = labels == classes.INDEX["csf"]
    stem = np.argwhere(labels == classes.INDEX["brainstem"])
    lowest = int(stem[:, 2].min()) if len(stem) else int(np.argwhere(core)[:, 2].min())
    fluid[:, :, : max(lowest - 3, 0)] = False
    cavity = _closed(tissue | fluid, 3)
    components, _ = ndimage.label(cavity)
    cavity = components == np.bincount(components[tissue]).argmax()
    return tissue, cavity


def _closed(mask: np.ndarray, radius_vox: int) -> np.ndarray:
    from scipy import ndimage

    pad = radius_vox + 2
    padded = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~padded) <= radius_vox
    closed = ndimage.distance_transform_edt(grown) > radius_vox
    filled = ndimage.binary_fill_holes(closed | padded)
    return filled[pad:-pad, pad:-pad, pad:-pad]


def _distances(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances to both surfaces, averaged over 2 mm blocks and quantised to int8."""
    from neuralprep.grid import Grid

    x, y, z = (n - n % 2 for n in labels.shape)
    maps = []
    for mask in brain_masks(labels):
        signed = signed_distance(mask)[:x, :y, :z]
        maps.append(signed.reshape(x // 2, 2, y // 2, 2, z // 2, 2).mean((1, 3, 5)))
    coarse = Grid((x, y, z), affine).blocks(2).affine
    return np.clip(np.rint(np.stack(maps) / DISTANCE_STEP_MM), -127, 127).astype(np.int8), coarse
