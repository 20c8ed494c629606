"""Reference brain masks of two published peers, deepbet and MindGrab, on each head's own grid.

Measures nothing itself: it makes the masks that the other benchmarks score against, once, and keeps them as
``CACHE/<peer>/<head>.nii.gz`` (uint8). A mask that is there already is not made again. Times go to
``CACHE/<peer>/times.tsv``.

deepbet (MIT) comes from PyPI with its weights. MindGrab is our layout with the published tensors: conformed
as its own tool does (256^3, 1 mm, LIA, trilinear, 8-bit FreeSurfer scaling), quantile-normalised, largest
component, back to the native grid. Its norms see the air around the head, so the full cube is always run.
OpenVINO in float32 takes a third of PyTorch's time; their masks have a Dice of 0.9997 with each other.

    python benchmarks/peers.py --mindgrab ../shared/data/weights/mindgrab/model.pth
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import CACHE, SHARED, find_heads, stem
from scipy import ndimage

SIDE = 256
LIA = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Columns: world direction of the voxel axes (left, inferior, anterior)."""
FIRST = (
    "studyforrest_sub02_T1w",
    "uih770_A_T1w_1mm",
    "rorden_T1w_0p88",
    "bisweb_sag_T1w_2mm",
    "xa30_prisma_T1w_2mm",
)

MaskMaker = Callable[[Path, Path], None]


def main_heads_first(folder: Path) -> list[Path]:
    """The heads of a folder, the five full 3-D T1w ones first."""
    order = {name: i for i, name in enumerate(FIRST)}
    return sorted(find_heads(folder), key=lambda p: (order.get(stem(p), len(FIRST)), p.name))


def conform_affine(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Voxel-to-world matrix of the 256^3 1 mm LIA cube around a scan.

    FreeSurfer puts voxel 128 of the cube on voxel ``shape / 2`` of the scan (an index, not the centre of the
    field of view); so does this.
    """
    center = affine[:3, :3] @ (np.asarray(shape[:3]) / 2) + affine[:3, 3]
    result = np.eye(4)
    result[:3, :3] = LIA
    result[:3, 3] = center - LIA @ np.full(3, SIDE / 2)
    return result


def scale_to_uint8(data: np.ndarray) -> np.ndarray:
    """FreeSurfer's robust 8-bit scaling: the top 0.1 % of the non-zero voxels saturate."""
    low, high = float(data.min()), float(data.max())
    if high <= low:
        return np.zeros(data.shape, np.uint8)
    counts, edges = np.histogram(data, bins=1000, range=(low, high))
    nonzero = np.count_nonzero(np.abs(data) >= 1e-15)
    above = np.cumsum(counts[::-1])[::-1]
    keep = np.flatnonzero(above >= 0.001 * nonzero)
    top = edges[keep[-1] + 1] if keep.size else high
    return np.clip(np.rint((data - low) * (255 / (top - low))), 0, 255).astype(np.uint8)


def conform(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scan on the 256^3 1 mm LIA cube: (uint8 array, voxel-to-world matrix of the cube)."""
    cube = conform_affine(data.shape, affine)
    step = np.linalg.inv(affine) @ cube
    moved = ndimage.affine_transform(
        data.astype(np.float32), step[:3, :3], step[:3, 3], (SIDE,) * 3, order=1, cval=float(data.min())
    )
    return scale_to_uint8(moved), cube


def quantile_normalize(data: np.ndarray) -> np.ndarray:
    """Scale the 2nd and 98th percentiles to 0 and 1 and clip, as MindGrab's own tool does."""
    values = data.astype(np.float32)
    low, high = np.quantile(values, (0.02, 0.98))
    return np.clip((values - low) / (high - low + 1e-3), 0, 1).astype(np.float32)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected component of a boolean array."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found: np.ndarray = labels == sizes.argmax()
    return found


def mindgrab(weights: Path, threads: int) -> MaskMaker:
    """Make a function (scan path, mask path) that strips with MindGrab through OpenVINO in float32."""
    import nibabel as nib
    import openvino
    import torch

    from neuralprep.networks.meshnet import load_mindgrab

    example = torch.zeros(1, 1, 32, 32, 32)
    model = openvino.convert_model(load_mindgrab(weights), example_input=example)
    model.reshape([1, 1, SIDE, SIDE, SIDE])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", options)

    def strip(scan: Path, target: Path) -> None:
        image = nib.load(scan)
        data = np.nan_to_num(np.asanyarray(image.dataobj, dtype=np.float32))
        cube, cube_affine = conform(data, image.affine)
        logits = compiled(quantile_normalize(cube)[None, None])[0]
        brain = largest_component(logits[0, 1] > logits[0, 0])
        step = np.linalg.inv(cube_affine) @ image.affine
        native = ndimage.affine_transform(brain.astype(np.float32), step[:3, :3], step[:3, 3], data.shape, order=1)
        save_mask(native >= 0.5, image.affine, target)

    return strip


def deepbet(threads: int) -> MaskMaker:
    """Make a function (scan path, mask path) that strips with deepbet on the CPU, its defaults otherwise."""
    import nibabel as nib
    import torch
    from deepbet import run_bet

    torch.set_num_threads(threads)

    def strip(scan: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "mask.nii.gz"
            run_bet([str(scan)], mask_paths=[str(made)], no_gpu=True, skip_broken=False)
            image = nib.load(made)
            save_mask(np.asanyarray(image.dataobj) > 0.5, image.affine, target)

    return strip


def save_mask(mask: np.ndarray, affine: np.ndarray, target: Path) -> None:
    """Write a uint8 mask under a temporary name, then move it into place."""
    import nibabel as nib

    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{os.getpid()}.{target.name}")
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), unfinished)
    unfinished.replace(target)


def make_masks(name: str, maker: MaskMaker, heads: list[Path], cache: Path) -> None:
    """Make the masks that are not in the cache, one after the other, and note their times."""
    for scan in heads:
        target = cache / name / f"{stem(scan)}.nii.gz"
        if target.is_file():
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        maker(scan, target)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        with (cache / name / "times.tsv").open("a") as file:
            file.write(f"{stem(scan)}\t{wall:.1f}\t{cpu:.1f}\n")
        print(f"{name} {stem(scan)}: {wall:.1f} s wall, {cpu:.1f} s CPU", flush=True)


def main() -> None:
    """Parse the command line and make the masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where masks are kept")
    parser.add_argument("--peers", nargs="+", choices=("deepbet", "mindgrab"), default=["deepbet", "mindgrab"])
    parser.add_argument("--mindgrab", type=Path, help="published model.pth; needed for that peer")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    heads = main_heads_first(options.heads)
    if not heads:
        parser.error(f"no .nii.gz files in {options.heads}")
    for name in options.peers:
        if name == "mindgrab" and options.mindgrab is None:
            parser.error("--peers mindgrab needs --mindgrab FILE (the published model.pth)")
        maker = mindgrab(options.mindgrab, options.threads) if name == "mindgrab" else deepbet(options.threads)
        make_masks(name, maker, heads, options.cache)


if __name__ == "__main__":
    main()
