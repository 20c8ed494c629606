"""Pack where the structures of the brain lie in a standard space, the prior of the bias refinement.

    python tools/make_structures.py ATLAS [output.npz]

Source: the label maps 01 to 16 (training) of the SynthSeg repository (Apache-2.0), packed together with their affines
to the template by ``neuralprep train --pack``. Written: for every structure, the share of the maps in which a point of
the space belongs to it, 8 bits, every fourth voxel. Two runs give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from make_templates import write_npz
from scipy import ndimage

from neuralprep.synthesis.atlas import load_atlas
from neuralprep.synthesis.classes import INDEX
from neuralprep.templates import space_grid
from neuralprep.templates.registry import SPACES, STRUCTURES_MM

SPACE = "MNI152NLin2009aSym"
MAPS = tuple(f"training_seg_{number:02d}" for number in range(1, 17))
MEMBERS = {
    "cerebral_gm": ("cerebral_gm", "brain_vessel"),
    "cerebral_wm": ("cerebral_wm", "wm_lesion"),
    **{name: (name,) for name in ("thalamus", "striatum", "pallidum", "hippocampus", "cerebellar_gm", "cerebellar_wm",
                                  "brainstem", "csf", "ventricle")},
}
BLUR_MM = 1.5
DEFAULT_OUTPUT = Path(__file__).parents[1] / "src/neuralprep/templates" / SPACES[SPACE].structures


def shares(atlas: Path) -> np.ndarray:
    """(K, X, Y, Z) share of the maps in which a point of the space belongs to each structure."""
    grid = space_grid(SPACE, STRUCTURES_MM)
    total = np.zeros((len(MEMBERS), *grid.shape))
    for head in load_atlas(atlas, MAPS):
        matrix = np.linalg.inv(head.template_from_world @ head.affine) @ grid.affine
        for k, members in enumerate(MEMBERS.values()):
            mask = np.isin(head.labels, [INDEX[name] for name in members]).astype(np.float32)
            blurred = ndimage.gaussian_filter(mask, BLUR_MM)
            total[k] += ndimage.affine_transform(blurred, matrix[:3, :3], matrix[:3, 3], grid.shape, order=1)
    return total / len(MAPS)


def main() -> None:
    """Make the file."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    output = Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_OUTPUT
    packed = np.rint(255 * shares(Path(sys.argv[1]))).astype(np.uint8)
    write_npz(output, {"names": np.array(list(MEMBERS)), "shares": packed})
    print(f"{output}: {len(MEMBERS)} structures, {output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
