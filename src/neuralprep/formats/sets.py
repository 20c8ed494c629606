"""One transform in every format that carries it, under one stem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuralprep.formats import afni, fsl, itk, itk_hdf5, lta, text, velocities, x5
from neuralprep.grid import Grid
from neuralprep.transform import Affine, Displacement, Transform

AFFINE_ENDINGS = ("txt", "mat", "fsl.mat", "lta")
WARP_ENDINGS = ("nii.gz", "h5")
ALSO_ENDINGS = {"x5": "x5", "afni": "aff12.1D"}
"""Formats that are written on request and need nitransforms."""
_FIELD_MM = 2.0  # the velocities' own grid: a finer displacement field would only be larger


def check_also(also: Sequence[str]) -> None:
    """Refuse formats that cannot be written here, before the work.

    Raises
    ------
    InputError
        nitransforms is not installed.
    """
    if also:
        afni.nitransforms_io(", ".join(also))


def write_affine_set(
    folder: Path, stem: str, affine: Affine, fixed: Grid, moving: Grid, also: Sequence[str] = ()
) -> list[Path]:
    """Write ``stem`` as plain 4x4 text, ITK .mat, FSL .fsl.mat and FreeSurfer .lta.

    Parameters
    ----------
    folder, stem
        Where, and the name without ending.
    affine : Affine
        Pull-back, fixed mm -> moving mm.
    fixed, moving : Grid
        Of the two images: FSL and LTA files hold them.
    also : sequence of str
        Further formats: keys of `ALSO_ENDINGS`.

    Returns
    -------
    list of Path
    """
    paths = [folder / f"{stem}.{ending}" for ending in AFFINE_ENDINGS]
    text.write_matrix(paths[0], affine)
    itk.write_affine(paths[1], affine)
    fsl.write_mat(paths[2], affine, fixed, moving)
    lta.write_lta(paths[3], affine, fixed, moving)
    for kind in also:
        paths.append(folder / f"{stem}.{ALSO_ENDINGS[kind]}")
        if kind == "x5":
            x5.write_x5(paths[-1], affine, fixed)
        else:
            afni.write_aff12(paths[-1], affine, fixed, moving)
    return paths


def warp_grid(grid: Grid) -> Grid:
    """The grid on which a warp of images on `grid` is written: 2 mm along the world's axes.

    It holds the other one whole, whose axes may be skew, which ITK cannot store, and whose slices may be thick.
    """
    return Grid.around(grid.corners(), _FIELD_MM, max(grid.spacing))


def write_warp_set(folder: Path, stem: str, field: Displacement) -> list[Path]:
    """Write ``stem`` as a displacement field (ITK, intent 1007) and as a composite .h5."""
    paths = [folder / f"{stem}.{ending}" for ending in WARP_ENDINGS]
    itk.write_field(paths[0], field)
    itk_hdf5.write_composite(paths[1], field)
    return paths


def write_velocity_file(folder: Path, stem: str, transform: Transform) -> list[Path]:
    """Write a velocity and its affines as ``<stem>_mode-image_desc-velocity_xfm.nii.gz`` with its JSON."""
    return velocities.write_velocity(folder / f"{stem}_mode-image_{velocities.ENDING}", transform)
