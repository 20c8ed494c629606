"""Packing label maps, and the phantom."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.synthesis.atlas import DISTANCE_STEP_MM, brain_masks, load_atlas, pack_label_map, save_atlas
from neuralprep.synthesis.classes import CLASSES, FREESURFER, INDEX
from neuralprep.synthesis.phantom import phantom_head

NUMBER_OF = {INDEX[name]: number for number, name in ((n, CLASSES[c]) for n, c in FREESURFER.items())}


def write_map(path: Path, labels: np.ndarray, affine: np.ndarray) -> Path:
    numbers = np.vectorize(NUMBER_OF.get)(labels).astype(np.int32)
    nib.save(nib.Nifti1Image(numbers, affine), path)
    return path


def test_atlas_round_trip(tmp_path: Path) -> None:
    head = phantom_head(spacing_mm=4.0)
    save_atlas([head], tmp_path / "atlas.npz")
    (loaded,) = load_atlas(tmp_path / "atlas.npz", ("phantom",))
    for name in ("labels", "affine", "distances", "distance_affine", "template_from_world"):
        assert np.array_equal(getattr(loaded, name), getattr(head, name)), name


def test_atlas_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such atlas"):
        load_atlas(tmp_path / "none.npz")
    save_atlas([phantom_head(spacing_mm=6.0)], tmp_path / "atlas.npz")
    with pytest.raises(InputError, match=r"no head other.*it has phantom"):
        load_atlas(tmp_path / "atlas.npz", ("other",))
    np.savez(tmp_path / "odd.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="not a neuralprep atlas"):
        load_atlas(tmp_path / "odd.npz")
    whole = (tmp_path / "atlas.npz").read_bytes()
    at = len(whole) // 2
    for name, damaged in (("cut", whole[:at]), ("flipped", whole[:at] + bytes(64) + whole[at + 64 :]),
                          ("text", b"labels and affines"), ("empty", b"")):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name}.npz.*neuralprep train --pack"):
            load_atlas(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="one array, not a neuralprep atlas"):
        load_atlas(tmp_path / "one.npy")


def test_packing_keeps_positions_in_any_orientation_and_drops_specks(tmp_path: Path) -> None:
    source = phantom_head(size=0.7, spacing_mm=2.0)
    labels = source.labels.copy()
    speck = (3, 4, 5)  # fluid outside the head
    labels[speck] = INDEX["csf"]
    # The same map with its axes reversed and permuted (as stored by FreeSurfer).
    turned = labels.transpose(0, 2, 1)[::-1, ::-1]
    affine = source.affine[:, [0, 2, 1, 3]].copy()
    for axis in (0, 1):
        affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
        affine[:3, axis] *= -1
    packed = pack_label_map(write_map(tmp_path / "map.nii.gz", turned, affine), np.eye(4))
    eye = np.argwhere(packed.labels == INDEX["eye"]) @ packed.affine[:3, :3].T + packed.affine[:3, 3]
    assert eye[:, 1].mean() == pytest.approx(0.7 * 72, abs=1.5)
    assert eye[:, 2].mean() == pytest.approx(0.7 * -36, abs=1.5)
    # The map had 2 mm voxels: eight times as many of 1 mm, and no speck.
    assert (packed.labels == INDEX["csf"]).sum() == 8 * (source.labels == INDEX["csf"]).sum()
    assert not packed.labels[[0, -1]].any()


def test_packing_refuses_unknown_numbers_and_empty_maps(tmp_path: Path) -> None:
    labels = np.zeros((30, 30, 30), np.int32)
    labels[5:25, 5:25, 5:25] = 999
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "odd.nii.gz")
    with pytest.raises(InputError, match=r"\[999\] are not in the label table"):
        pack_label_map(tmp_path / "odd.nii.gz", np.eye(4))
    labels[labels > 0] = 2
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "small.nii.gz")
    with pytest.raises(InputError, match="100 ml"):
        pack_label_map(tmp_path / "small.nii.gz", np.eye(4))


def test_stored_distances_agree_with_the_masks() -> None:
    head = phantom_head(spacing_mm=2.0)
    for mask, distance in zip(brain_masks(head.labels), head.distances, strict=True):
        assert np.array_equal(distance < 0, mask)
        assert abs(int(distance[mask].max()) * DISTANCE_STEP_MM + 1.0) < 0.3  # half a 2 mm voxel inside
