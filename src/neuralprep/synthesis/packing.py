"""From a folder of label maps to one atlas file: classes, distances and the pose of each head in the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from neuralprep.errors import InputError
from neuralprep.registration.labels import affine_from_labels, central_csf, label_targets
from neuralprep.synthesis.atlas import Head, pack_label_map, save_atlas
from neuralprep.synthesis.label_table import DEFAULT, check_labels, freesurfer_numbers
from neuralprep.templates import load_template

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage


def pack_folder(folder: Path, atlas: Path, table: Mapping[int, int] = DEFAULT) -> Iterator[tuple[str, float]]:
    """Pack every ``*.nii.gz``/``*.nii``/``*.mgz`` label map of ``folder`` into ``atlas``.

    ``table`` gives the class index of every label number.

    Yields
    ------
    tuple
        Name and template score of each map as it is done; the file is written after the last.

    Raises
    ------
    InputError
        No label maps in the folder, or a label that the table does not have.
    """
    paths = sorted(p for p in folder.glob("*") if p.name.endswith((".nii.gz", ".nii", ".mgz")))
    if not paths:
        raise InputError(f"{folder}: no label maps (.nii.gz, .nii, .mgz) in this folder")
    import nibabel as nib
    import numpy as np

    # All maps are checked before the first is fitted: nobody wants to wait for the next unknown label.
    check_labels(((path, np.asarray(cast("SpatialImage", nib.load(path)).dataobj)) for path in paths), table)
    template = load_template()
    grid = template.gm.grid
    fractions = [template.gm.data, template.wm.data, central_csf(template.csf.data, grid.affine)]
    targets = label_targets(fractions, grid.affine, template.brain_mask.data != 0)
    heads: list[Head] = []
    for path in paths:
        image = cast("SpatialImage", nib.load(path))
        numbers = freesurfer_numbers(np.asarray(image.dataobj).astype(np.int32), table)
        matrix, score = affine_from_labels(numbers, np.asarray(image.affine), targets)
        heads.append(pack_label_map(path, matrix, table))
        yield heads[-1].name, score
    save_atlas(heads, atlas)
