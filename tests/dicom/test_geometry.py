"""Made-up series: right places and values, or a refusal that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom.phantom import (
    AXIAL,
    OBLIQUE,
    SLICES,
    STEP,
    centred,
    enhanced,
    head,
    normal_of,
    pixel_places,
    ramp,
    write_series,
)
from neuralprep.dicom.search import find
from neuralprep.errors import InputError

RAS = np.array([-1, -1, 1])
EVEN = np.arange(SLICES) * STEP
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def volume_of(folder: Path, tmp_path: Path) -> tuple[nib.Nifti1Image, tuple[str, ...]]:
    (series,) = find(folder).series
    notes = series.convert(tmp_path / "made.nii")
    assert sorted(path.name for path in tmp_path.iterdir() if path != folder) == ["made.nii"]  # no work files
    return nib.load(tmp_path / "made.nii"), notes


def check_linear(image: nib.Nifti1Image, orientation: tuple[float, ...], places: np.ndarray, lean: np.ndarray) -> int:
    """Every voxel that lies within the slices holds the ramp's value at its own place."""
    grid = np.array(np.meshgrid(*map(np.arange, image.shape), indexing="ij")).reshape(3, -1).T
    world = nib.affines.apply_affine(image.affine, grid) * RAS
    row, column, normal = np.array(orientation[:3]), np.array(orientation[3:]), normal_of(orientation)
    depth = (world - places[0]) @ normal
    local = world - places[0] - depth[:, None] * (normal + lean)
    across, down = local @ row, local @ column
    inside = (depth >= -1e-3) & (depth <= (places[-1] - places[0]) @ normal + 1e-3)
    inside &= (across > 0) & (across < 2.5 * 35) & (down > 0) & (down < 2.0 * 39)
    values = np.asarray(image.dataobj, dtype=float).reshape(-1)
    np.testing.assert_allclose(values[inside], ramp(world[inside]), atol=1.1)  # stored values are whole numbers
    return int(inside.sum())


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, SAGITTAL, (-1.0, 0, 0, 0, 1.0, 0)])
@pytest.mark.parametrize("backwards", [False, True])
def test_even_series(tmp_path: Path, orientation: tuple[float, ...], backwards: bool) -> None:
    order = list(range(SLICES))[::-1] if backwards else None
    write_series(tmp_path / "in", orientation=orientation, scene=ramp, order=order)
    image, notes = volume_of(tmp_path / "in", tmp_path)
    assert not notes
    assert sorted(image.shape) == [24, 36, 40]
    assert check_linear(image, orientation, centred(orientation, EVEN), np.zeros(3)) > 25_000


def test_values_are_exact_and_the_marker_is_on_its_side(tmp_path: Path) -> None:
    write_series(tmp_path / "in", orientation=OBLIQUE, ending="")
    image, _ = volume_of(tmp_path / "in", tmp_path)
    values = np.asarray(image.dataobj)
    assert values.dtype == np.int16
    for place in centred(OBLIQUE, EVEN)[[0, 9, -1]]:
        points = pixel_places(place, OBLIQUE)
        index = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), points * RAS)).astype(int)
        np.testing.assert_array_equal(values[tuple(np.moveaxis(index, -1, 0))], np.rint(head(points)))
    centre = nib.affines.apply_affine(np.linalg.inv(image.affine), np.array([18, 8, 6]) * RAS)
    assert values[tuple(np.rint(centre).astype(int))] == 920


def test_hounsfield_units(tmp_path: Path) -> None:
    write_series(tmp_path / "in", modality="CT", scene=lambda points: head(points) - 1000)
    image, _ = volume_of(tmp_path / "in", tmp_path)
    assert np.asarray(image.dataobj).min() == -980
    assert np.asarray(image.dataobj).dtype == np.int16


@pytest.mark.parametrize("lean", [(0, 0.33, 0), (0, -0.2, 0), (0.15, 0.1, 0)])
def test_a_leaning_gantry(tmp_path: Path, lean: tuple[float, ...]) -> None:
    write_series(tmp_path / "in", modality="CT", lean=lean, scene=ramp, GantryDetectorTilt=18)
    image, notes = volume_of(tmp_path / "in", tmp_path)
    assert "gantry tilt" in notes[0]
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert check_linear(image, AXIAL, centred(AXIAL, EVEN, lean), np.array(lean)) > 20_000


@pytest.mark.parametrize("lean", [(0, 0, 0), (0, 0.3, 0)])
def test_a_ct_with_two_slice_distances(tmp_path: Path, lean: tuple[float, ...]) -> None:
    offsets = np.r_[np.arange(10) * 2.5, 22.5 + 1.7 + np.arange(8) * 5.0]
    write_series(tmp_path / "in", modality="CT", offsets=offsets, lean=lean, scene=ramp)
    image, notes = volume_of(tmp_path / "in", tmp_path)
    assert "1.70 to 5.00 mm apart" in notes[-1]
    assert check_linear(image, AXIAL, centred(AXIAL, offsets, lean), np.array(lean)) > 20_000


def test_rounded_positions_are_no_fault(tmp_path: Path) -> None:
    def rounded(tags: object, index: int) -> None:
        tags.ImagePositionPatient = [f"{float(value):.1f}" for value in tags.ImagePositionPatient]  # type: ignore[attr-defined]

    write_series(tmp_path / "in", orientation=OBLIQUE, scene=ramp, edit=rounded)
    image, notes = volume_of(tmp_path / "in", tmp_path)
    assert not notes
    check_linear(image, OBLIQUE, centred(OBLIQUE, EVEN), np.zeros(3))


@pytest.mark.parametrize("gone", [[1], [7], [22], [5, 6], [3, 15], [2, 9, 17], list(range(1, 23, 2))])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_missing_slices_are_never_closed_up(tmp_path: Path, gone: list[int], modality: str) -> None:
    paths = write_series(tmp_path / "in", modality=modality, scene=ramp)
    for number in gone:
        paths[number].unlink()
    (series,) = find(tmp_path / "in").series
    if len(gone) == 11:  # every second one: no gap stands out but the last two
        offsets = np.delete(EVEN, gone)
        if modality == "CT" and not series.fault:
            image, notes = volume_of(tmp_path / "in", tmp_path)
            assert "mm apart" in notes[0]
            check_linear(image, AXIAL, centred(AXIAL, EVEN)[0] + np.outer(offsets, (0, 0, 1)), np.zeros(3))
            return
    with pytest.raises(InputError, match=r"in: series 3: .*(missing|apart)") as caught:
        series.convert(tmp_path / "made.nii")
    assert not (tmp_path / "made.nii").exists()
    if gone in ([7], [5, 6]):
        assert f"{len(gone)} slice" in str(caught.value)


def test_missing_end_slices_leave_the_rest_in_place(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", scene=ramp)
    for number in (0, 1, 23):
        paths[number].unlink()
    image, _ = volume_of(tmp_path / "in", tmp_path)
    assert 21 in image.shape
    check_linear(image, AXIAL, centred(AXIAL, EVEN)[2:23], np.zeros(3))


@pytest.mark.parametrize("thin", [0.5, 1.0])
def test_one_missing_slice_of_a_thin_series(tmp_path: Path, thin: float) -> None:
    paths = write_series(tmp_path / "in", offsets=np.arange(100) * thin)
    paths[50].unlink()
    (series,) = find(tmp_path / "in").series
    assert "1 slice is missing" in series.fault


def shifted(tags: object, index: int) -> None:
    if index == 5:
        place = [float(value) for value in tags.ImagePositionPatient]  # type: ignore[attr-defined]
        tags.ImagePositionPatient = [place[0] + 3, *place[1:]]  # type: ignore[attr-defined]


def without(name: str):
    return lambda tags, index: delattr(tags, name) if index == 4 else None


def changed(name: str, value: object):
    return lambda tags, index: setattr(tags, name, value)


FAULTY = {
    "a slice beside the others": (shifted, "not one volume|apart"),
    "no position in one": (without("ImagePositionPatient"), "do not say where they lie"),
    "orientation not of length one": (changed("ImageOrientationPatient", [2, 0, 0, 0, 1, 0]), "tags are damaged"),
    "orientation not at right angles": (changed("ImageOrientationPatient", [1, 0, 0, 0.7, 0.7, 0]), "tags are damaged"),
    "no spacing": (changed("PixelSpacing", [0, 0]), "tags are damaged"),
    "all at one place": (changed("ImagePositionPatient", [0, 0, 0]), "volumes at the same place"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_geometry_is_refused(tmp_path: Path, name: str) -> None:
    edit, words = FAULTY[name]
    write_series(tmp_path / "in", edit=edit)
    with pytest.raises(InputError, match=words) as caught:  # noqa: PT012
        (series,) = find(tmp_path / "in").series
        series.convert(tmp_path / "made.nii")
    assert str(caught.value).startswith(f"{tmp_path / 'in'}: ")
    assert not (tmp_path / "made.nii").exists()


def test_a_turned_slice_leaves_a_gap(tmp_path: Path) -> None:
    def turned(tags: object, index: int) -> None:
        if index == 11:
            tags.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # type: ignore[attr-defined]

    write_series(tmp_path / "in", edit=turned)
    found = find(tmp_path / "in")
    assert "1 slice is missing" in found.series[0].fault
    assert any("only 1 slice" in text for text in found.messages)


def test_enhanced_file(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "in", scene=ramp, orientation=OBLIQUE)
    for given in (path, path.parent):
        (series,) = find(given).series
        series.convert(tmp_path / "made.nii")
        check_linear(nib.load(tmp_path / "made.nii"), OBLIQUE, centred(OBLIQUE, EVEN), np.zeros(3))


def test_enhanced_file_with_two_times_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 volumes at the same place"):
        find(enhanced(tmp_path / "in", times=2))
