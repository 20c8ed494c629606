"""Foreign file formats for transforms. Their conventions are converted here and nowhere else.

Everything is read to and written from RAS-mm pull-backs (fixed -> moving).
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from neuralprep.errors import InputError
from neuralprep.files import open_source
from neuralprep.transform import Transform

_ITK_TEXT = b"#Insight Transform File"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def needs_grids(path: Path) -> bool:
    """Whether a file, told by its name, means nothing without the grids of both images: FSL's and AFNI's matrices."""
    return path.name.lower().endswith((".fsl.mat", ".aff12.1d"))


def read_transform(path: str | PathLike[str]) -> Transform:
    """Read a transform file of any kind that explains itself, told apart by its content.

    ITK affine (.mat, .txt, .tfm), ITK composite (.h5), displacement field or velocity (.nii, .nii.gz), LTA, X5, plain
    4x4. FSL and AFNI matrices need both images' grids: use `neuralprep.formats.chain.read_chain`. (An FSL matrix looks
    like a plain 4x4; only a name ending in .fsl.mat tells them apart, and is refused here, as is .aff12.1D.)

    Raises
    ------
    InputError, GeometryError
        Unreadable or malformed, naming the file.
    """
    from neuralprep.formats import itk, itk_hdf5, lta, text, velocities, x5

    path = Path(path)
    name = path.name.lower()
    if needs_grids(path):
        raise InputError(f"{path}: an AFNI or FSL matrix means nothing without both images; give another format")
    with open_source(path) as source:
        start = source.read(512)
    if name.endswith((".nii", ".nii.gz")):
        return velocities.read_velocity(path) if velocities.holds_velocity(path) else itk.read_field(path)
    if start.startswith(_HDF5) and name.endswith(".x5"):
        return x5.read_x5(path)
    if start.startswith(_HDF5):
        return itk_hdf5.read_composite(path)
    if start.startswith(_ITK_TEXT) or (name.endswith(".mat") and b"\0" in start):
        return itk.read_affine(path)
    if name.endswith(".lta") or b"nxforms" in start:
        return lta.read_lta(path)
    return text.read_matrix(path)
