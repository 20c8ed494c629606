"""Real series of six makers against an oracle that uses only position, orientation and stored pixels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates

from dicom.phantom import pixel_places
from neuralprep.dicom.convert import convert
from neuralprep.dicom.layout import lay_out
from neuralprep.dicom.search import find
from neuralprep.dicom.stacks import stacks_of
from neuralprep.dicom.tags import read_instance
from neuralprep.errors import InputError

RAS = np.array([-1, -1, 1])
CLASSIC = ("dicom_prisma_T1_HFS", "dicom_prisma_T1_HFDL", "dicom_ge_signa_PD")
#: every series of the shared data that is no anatomy of a head -> why; all others are converted
REFUSED = {
    "failing_slicecount_001": "only 2 slices", "failing_sliceorientation_001": "only 2 slices in this direction",
    "ge_anatomical_001": "only 4 slices", "generic_compressed_j2k_001": "only 4 slices",
    "generic_compressed_jpeg_001": "only 4 slices", "generic_compressed_rle_001": "only 4 slices",
    "hitachi_anatomical_001": "only 4 slices", "philips_anatomical_001": "only 4 slices",
    "philips_enhanced_anatomical_001": "covers only 10 mm", "siemens_anatomical_001": "only 4 slices",
    "siemens_multiframe_anatomical_001": "covers only 7 mm",
}  # fmt: skip
SHAPES = {
    "dicom_ge_ct_gantrytilt": (512, 611, 55), "dicom_ge_signa_PD": (256, 256, 19),
    "dicom_prisma_T1_HFDL": (256, 256, 35), "dicom_prisma_T1_HFS": (256, 256, 35),
    "dicom_xa30_enhanced_T1": (128, 128, 96), "hyperfine_anatomical_001": (112, 138, 8),
}  # fmt: skip
MINI = ("ge_anatomical_001", "siemens_anatomical_001", "hitachi_anatomical_001", "generic_compressed_rle_001",
        "philips_anatomical_001", "failing_slicecount_001")


def converted(folder: Path, tmp_path: Path) -> tuple[np.ndarray, np.ndarray, nib.Nifti1Image]:
    """Values, affine and image of the one stack of a folder, whatever it shows."""
    instances = [read_instance(path) for path in sorted(folder.iterdir())]
    groups, _ = stacks_of([instance for instance in instances if instance is not None])
    (stack,) = [stack for stacks in groups for stack in stacks]
    layout = lay_out(stack)
    assert not layout.fault
    target = tmp_path / "made.nii"
    convert(stack.files, layout, target)
    image = nib.load(target)
    return np.asarray(image.dataobj, dtype=float), image.affine, image


def in_image(affine: np.ndarray, places_lps: np.ndarray) -> np.ndarray:
    """Voxel coordinates of LPS points."""
    return nib.affines.apply_affine(np.linalg.inv(affine), places_lps * RAS)


@pytest.mark.parametrize("name", [*CLASSIC, *(f"dicom_vendor_mini/{name}" for name in MINI)])
def test_every_pixel_lies_where_its_tags_say(shared_data: Path, tmp_path: Path, name: str) -> None:
    values, affine, _ = converted(shared_data / "dicom" / name, tmp_path)
    files = sorted((shared_data / "dicom" / name).iterdir())
    for path in files[:: max(1, len(files) // 6)]:
        tags = pydicom.dcmread(path)
        places = pixel_places(tags.ImagePositionPatient, tags.ImageOrientationPatient, tags.PixelSpacing,
                              (tags.Rows, tags.Columns))  # fmt: skip
        voxels = in_image(affine, places)
        index = np.rint(voxels).astype(int)
        assert np.abs(voxels - index).max() < 0.1  # tags are rounded to 0.1 mm by some makers
        found = values[tuple(np.moveaxis(index, -1, 0))]
        stored = tags.pixel_array.astype(float) * float(tags.get("RescaleSlope", 1)) + float(
            tags.get("RescaleIntercept", 0))  # fmt: skip
        if name.endswith("philips_anatomical_001"):  # dcm2niix undoes the display scale of this maker
            assert np.corrcoef(found.ravel(), stored.ravel())[0, 1] > 1 - 1e-9
        else:
            np.testing.assert_allclose(found, stored, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["hyperfine_anatomical_001", "philips_enhanced_anatomical_001", "siemens_multiframe_anatomical_001"]
)
def test_enhanced_files_of_three_makers(shared_data: Path, tmp_path: Path, name: str) -> None:
    folder = shared_data / "dicom" / "dicom_vendor_mini" / name
    values, affine, _ = converted(folder, tmp_path)
    check_enhanced(next(folder.iterdir()), values, affine, scaled=name.startswith("philips"))


def check_enhanced(path: Path, values: np.ndarray, affine: np.ndarray, scaled: bool = False) -> None:
    tags = pydicom.dcmread(path)
    pixels = tags.pixel_array
    for number in range(0, len(pixels), max(1, len(pixels) // 8)):
        group = tags.PerFrameFunctionalGroupsSequence[number]
        both = [group, *tags.get("SharedFunctionalGroupsSequence", [])]
        plane = next(g.PlaneOrientationSequence[0] for g in both if "PlaneOrientationSequence" in g)
        measures = next(g.PixelMeasuresSequence[0] for g in both if "PixelMeasuresSequence" in g)
        places = pixel_places(group.PlanePositionSequence[0].ImagePositionPatient, plane.ImageOrientationPatient,
                              measures.PixelSpacing, (tags.Rows, tags.Columns))  # fmt: skip
        voxels = in_image(affine, places)
        index = np.rint(voxels).astype(int)
        assert np.abs(voxels - index).max() < 0.1
        found = values[tuple(np.moveaxis(index, -1, 0))]
        if scaled:
            assert np.corrcoef(found.ravel(), pixels[number].ravel())[0, 1] > 1 - 1e-9
        else:
            np.testing.assert_array_equal(found, pixels[number])


@pytest.mark.parametrize(
    ("series", "head"),
    [
        ("dicom_prisma_T1_HFS", "rorden_prisma_T1fl2d_HFS"), ("dicom_prisma_T1_HFDL", "rorden_prisma_T1fl2d_HFDL"),
        ("dicom_xa30_enhanced_T1", "xa30_prisma_T1w_2mm"),
    ],
)  # fmt: skip
def test_the_same_head_as_the_nifti_of_the_data_set(shared_data: Path, tmp_path: Path, series: str, head: str) -> None:
    (found,) = find(shared_data / "dicom" / series).series
    found.convert(tmp_path / "a.nii")
    made, known = nib.load(tmp_path / "a.nii"), nib.load(shared_data / "heads" / f"{head}.nii.gz")
    corners = np.array(np.meshgrid(*[(0, 3, n - 1) for n in known.shape], indexing="ij")).reshape(3, -1).T
    index = nib.affines.apply_affine(np.linalg.inv(made.affine) @ known.affine, corners)
    assert np.abs(index - np.rint(index)).max() < 0.02
    whole = np.array(np.meshgrid(*[np.arange(0, n, 3) for n in known.shape], indexing="ij")).reshape(3, -1).T
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(made.affine) @ known.affine, whole)).astype(int)
    np.testing.assert_array_equal(made.get_fdata()[tuple(index.T)], known.get_fdata()[tuple(whole.T)])


def test_enhanced_head(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom" / "dicom_xa30_enhanced_T1"
    values, affine, _ = converted(folder, tmp_path)
    check_enhanced(next(folder.iterdir()), values, affine)


def test_three_compressions_of_one_image_give_one_result(shared_data: Path, tmp_path: Path) -> None:
    made = {}
    for kind in ("rle", "jpeg", "j2k"):
        (tmp_path / kind).mkdir()
        values, affine, _ = converted(shared_data / "dicom/dicom_vendor_mini" / f"generic_compressed_{kind}_001",
                                      tmp_path / kind)  # fmt: skip
        made[kind] = (values, affine)
    for kind in ("jpeg", "j2k"):
        np.testing.assert_array_equal(made[kind][0], made["rle"][0])
        np.testing.assert_allclose(made[kind][1], made["rle"][1])


def test_a_leaning_ct_with_two_slice_distances_keeps_its_places(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom" / "dicom_ge_ct_gantrytilt"
    (series,) = find(folder).series
    notes = series.convert(tmp_path / "ct.nii")
    assert "gantry tilt of 18.5 degrees" in notes[0]
    assert "1.08 to 7.00 mm apart" in notes[1]
    image = nib.load(tmp_path / "ct.nii")
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    values = np.asarray(image.dataobj, dtype=np.float32)
    step = float(np.linalg.norm(image.affine[:3, 2]))
    for number in (1, 7, 14, 15, 22, 28):
        tags = pydicom.dcmread(folder / f"{number:02d}.dcm")
        stored = tags.pixel_array[::3, ::3].astype(float) + float(tags.RescaleIntercept)
        places = pixel_places(tags.ImagePositionPatient, tags.ImageOrientationPatient, tags.PixelSpacing, (512, 512))
        voxels = in_image(image.affine, places[::3, ::3])
        assert voxels[..., 2].std() < 1e-3  # the slice is a plane of the new box's direction
        found = map_coordinates(values, np.moveaxis(voxels, -1, 0), order=1, mode="nearest")
        off = abs(voxels[0, 0, 2] - np.rint(voxels[0, 0, 2])) * step
        inside = (stored > -200) & (stored < 200)
        # soft tissue comes back at its own place; where the slice lies between two of the box it is smoother
        assert np.corrcoef(found[inside], stored[inside])[0, 1] > (0.95 if off < 0.3 else 0.85)
        moved = map_coordinates(values, np.moveaxis(voxels + np.array([0, 6, 0]), -1, 0), order=1, mode="nearest")
        assert np.abs(moved - stored).mean() > 3 * np.abs(found - stored).mean()


def test_every_series_is_converted_or_refused_with_the_reason(shared_data: Path, tmp_path: Path) -> None:
    """As `neuralprep run FOLDER` takes them; a series that is added to the data must be put into one of the tables."""
    top = shared_data / "dicom"
    mini = top / "dicom_vendor_mini"
    folders = [path for path in (*top.iterdir(), *mini.iterdir()) if path != mini]
    assert {path.name for path in folders} == {*REFUSED, *SHAPES}
    for folder in folders:
        if folder.name in REFUSED:
            with pytest.raises(InputError) as caught:
                find(folder)
            said = str(caught.value)
            assert said.startswith(f"{folder}: holds no anatomical series of a head"), said
            assert REFUSED[folder.name] in said
            assert "dcm2niix" in said  # the way out
        else:
            (series,) = find(folder).series
            series.convert(tmp_path / "made.nii")
            assert nib.load(tmp_path / "made.nii").shape == SHAPES[folder.name]
            (tmp_path / "made.nii").unlink()
