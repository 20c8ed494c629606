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


def read_transform(path: str | PathLike[str]) -> Transform:
    """Read a transform file of any kind that explains itself, told apart by its content.

    ITK affine (.mat, .txt, .tfm), ITK composite (.h5), displacement field (.nii, .nii.gz), LTA, plain 4x4. (An FSL
    matrix needs both images' grids: use `neuralprep.formats.fsl.read_mat`. It looks like a plain 4x4; only a name
    ending in .fsl.mat tells them apart, and is refused here.)

    Raises
    ------
    InputError, GeometryError
        Unreadable or malformed, naming the file.
    """
    from neuralprep.formats import itk, itk_hdf5, lta, text

    path = Path(path)
    name = path.name.lower()
    if name.endswith(".fsl.mat"):
        raise InputError(f"{path}: is an FSL matrix, which means nothing without both images; give another format")
    with open_source(path) as source:
        start = source.read(512)
    if name.endswith((".nii", ".nii.gz")):
        return itk.read_field(path)
    if start.startswith(_HDF5):
        return itk_hdf5.read_composite(path)
    if start.startswith(_ITK_TEXT) or (name.endswith(".mat") and b"\0" in start):
        return itk.read_affine(path)
    if name.endswith(".lta") or b"nxforms" in start:
        return lta.read_lta(path)
    return text.read_matrix(path)
