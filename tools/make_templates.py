"""Pack the templates that ship with the package.

    python tools/make_templates.py [output.npz]

Source: the T1w, grey-matter and white-matter images of MNI152NLin2009aSym (1 mm, brain only) that nilearn bundles.
Written: 8-bit images of every second voxel, after a [1 2 1]/4 blur along each axis, and the brain mask. Two runs give
the same bytes.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import nilearn.datasets
import numpy as np
from scipy import ndimage

SHAPE_1MM = (197, 233, 189)
ORIGIN_1MM = (-98.0, -134.0, -72.0)
DEFAULT_OUTPUT = Path(__file__).parents[1] / "src/neuralprep/templates/MNI152NLin2009aSym.npz"


def source_image(kind: str) -> np.ndarray:
    """One bundled image (t1, gm or wm) as float32 in [0, 1], checked to be on the expected grid."""
    folder = Path(nilearn.datasets.__file__).parent / "data"
    image = nib.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    expected = np.eye(4)
    expected[:3, 3] = ORIGIN_1MM
    if image.shape != SHAPE_1MM or not np.array_equal(image.affine, expected):
        raise SystemExit(f"{kind}: nilearn's bundled template has another grid: {image.shape} {image.affine.tolist()}")
    return np.asarray(image.dataobj, dtype=np.float32) / 255


def brain_mask(t1: np.ndarray, gm: np.ndarray, wm: np.ndarray) -> np.ndarray:
    """Everything the three images call brain, closed by 4 mm and filled: sulci and ventricles are inside."""
    margin = 8
    brain = np.pad((t1 > 0) | (gm + wm > 0.05), margin)
    brain = ndimage.binary_closing(brain, ndimage.generate_binary_structure(3, 1), iterations=4)
    brain = ndimage.binary_fill_holes(brain)
    return brain[margin:-margin, margin:-margin, margin:-margin]


def halve(image: np.ndarray) -> np.ndarray:
    """Every second voxel, after a blur that keeps the dropped ones from aliasing."""
    blurred = image.astype(np.float32)
    for axis in range(3):
        blurred = ndimage.convolve1d(blurred, np.array([0.25, 0.5, 0.25]), axis=axis, mode="nearest")
    return blurred[::2, ::2, ::2]


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Compressed .npz without time stamps."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def main() -> None:
    """Make the file."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUTPUT
    t1, gm, wm = (source_image(kind) for kind in ("t1", "gm", "wm"))
    mask = brain_mask(t1, gm, wm)
    arrays = {
        name: np.rint(255 * halve(image)).astype(np.uint8) for name, image in (("t1", t1), ("gm", gm), ("wm", wm))
    }
    arrays["brain_mask"] = (halve(mask) >= 0.5).astype(np.uint8)
    write_npz(output, arrays)
    print(
        f"{output}: {output.stat().st_size / 1e3:.0f} kB, brain mask {mask.sum() / 1e3:.0f} ml at 1 mm, "
        f"{arrays['brain_mask'].sum() * 8 / 1e3:.0f} ml at 2 mm"
    )


if __name__ == "__main__":
    main()
