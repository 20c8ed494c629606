from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import GeometryError, InputError
from neuralprep.formats import read_transform
from neuralprep.formats.itk import read_affine, read_field, write_affine, write_field
from neuralprep.formats.itk_hdf5 import read_composite, write_composite
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.transform import Affine, Chain, Displacement, Transform
from samples import fixed_grid, points, pull_back, sitk_affine, sitk_points, sitk_resample, smooth_field, smooth_volume

sitk = pytest.importorskip("SimpleITK")

AFFINE_ENDINGS = [".mat", ".txt", ".tfm", ".h5"]
CENTER = (12.5, -7.0, 31.0)


def distance(mine: Transform, theirs: object) -> float:
    """Largest distance (mm) between the images of points under our transform and SimpleITK's."""
    return float(np.abs(mine.apply(points()) - sitk_points(theirs, points())).max())


@pytest.mark.parametrize("ending", AFFINE_ENDINGS)
def test_affine_round_trip_is_exact(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a b{ending}"
    write_affine(path, pull_back())
    np.testing.assert_allclose(read_affine(path).matrix, pull_back().matrix, atol=1e-15)
    np.testing.assert_allclose(read_transform(path).apply(points()), pull_back().apply(points()), atol=1e-12)


@pytest.mark.parametrize("ending", AFFINE_ENDINGS)
def test_simpleitk_reads_our_affines(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_affine(path, pull_back())
    theirs = sitk.ReadTransform(str(path))
    assert distance(pull_back(), theirs) < 1e-9
    want = sitk_resample(smooth_volume(), fixed_grid(), theirs)
    np.testing.assert_allclose(resample(smooth_volume(), fixed_grid(), pull_back()).data, want, atol=1e-3)


@pytest.mark.parametrize("ending", AFFINE_ENDINGS)
def test_we_read_simpleitk_affines_with_a_centre(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    theirs = sitk_affine(pull_back(), CENTER)
    sitk.WriteTransform(theirs, str(path))
    assert distance(read_affine(path), theirs) < 1e-6
    assert distance(read_affine(path), sitk_affine(pull_back())) < 1e-6


def euler(zyx: bool) -> object:
    transform = sitk.Euler3DTransform(CENTER, 0.2, -0.4, 0.7, (3, -4, 5))
    transform.SetComputeZYX(zyx)
    return transform


def similarity() -> object:
    transform = sitk.Similarity3DTransform()
    transform.SetCenter(CENTER)
    transform.SetRotation((0.3, 0.5, -0.8), 0.6)
    transform.SetTranslation((1, 2, 3))
    transform.SetScale(1.2)
    return transform


LINEAR = {
    "euler": lambda: euler(False), "euler-zyx": lambda: euler(True), "similarity": similarity,
    "versor": lambda: sitk.VersorRigid3DTransform((0.3, 0.5, -0.8), 0.6, (1, 2, 3), CENTER),
    "translation": lambda: sitk.TranslationTransform(3, (1.0, -2, 3)),
}


@pytest.mark.parametrize("ending", AFFINE_ENDINGS)
@pytest.mark.parametrize("name", LINEAR)
def test_other_linear_kinds(tmp_path: Path, ending: str, name: str) -> None:
    path = tmp_path / f"a{ending}"
    theirs = LINEAR[name]()
    try:
        sitk.WriteTransform(theirs, str(path))
    except RuntimeError:
        pytest.skip("SimpleITK does not write this kind in this format")
    assert distance(read_affine(path), theirs) < 1e-6


def test_text_composites_apply_last_to_first(tmp_path: Path) -> None:
    theirs = sitk.CompositeTransform([sitk_affine(pull_back(), CENTER), LINEAR["euler"]()])
    for name in ("a.tfm", "a.txt", "a.h5"):
        sitk.WriteTransform(theirs, str(tmp_path / name))
        assert distance(read_affine(tmp_path / name), theirs) < 1e-6


def test_single_precision_and_big_endian_matlab_files(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    theirs = sitk_affine(pull_back(), CENTER)
    for order, kind, code in (("<", 10, "f4"), (">", 1010, "f4"), (">", 1000, "f8")):
        content = b""
        for name, values in (("AffineTransform_float_3_3", theirs.GetParameters()), ("fixed", CENTER)):
            title = name.encode() + b"\0"
            content += struct.pack(f"{order}5i", kind, len(values), 1, 0, len(title)) + title
            content += np.array(values).astype(order + code).tobytes()
        path.write_bytes(content)
        assert distance(read_affine(path), theirs) < 1e-4


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_fields_round_trip_and_read_the_same_in_simpleitk(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"1Warp{ending}"
    field = smooth_field()
    write_field(path, field)
    back = read_field(path)
    np.testing.assert_array_equal(back.vectors, field.vectors)
    assert back.grid.same_as(field.grid, 1e-4)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    assert distance(field, theirs) < 1e-3
    want = sitk_resample(smooth_volume(), fixed_grid(), theirs)
    got = resample(smooth_volume(), fixed_grid(), field).data
    assert (np.abs(got - want) > 1e-2).mean() < 2e-4
    assert isinstance(read_transform(path), Displacement)


def test_field_header_is_what_ants_writes(tmp_path: Path) -> None:
    import nibabel as nib

    write_field(tmp_path / "w.nii.gz", smooth_field())
    image = nib.load(tmp_path / "w.nii.gz")
    assert image.shape == (*smooth_field().grid.shape, 1, 3)
    assert int(image.header["intent_code"]) == 1007
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"


def test_we_read_fields_written_by_simpleitk_and_intent_1006(tmp_path: Path) -> None:
    import nibabel as nib

    field = smooth_field()
    write_field(tmp_path / "w.nii", field)
    image = sitk.ReadImage(str(tmp_path / "w.nii"), sitk.sitkVectorFloat64)
    sitk.WriteImage(image, str(tmp_path / "theirs.nii.gz"))
    np.testing.assert_allclose(read_field(tmp_path / "theirs.nii.gz").vectors, field.vectors, atol=1e-6)
    ras = nib.Nifti1Image(field.vectors[:, :, :, None], field.grid.affine)
    ras.header["intent_code"] = 1006
    nib.save(ras, tmp_path / "ras.nii.gz")
    np.testing.assert_array_equal(read_field(tmp_path / "ras.nii.gz").vectors, field.vectors)


CHAINS = {
    "warp-then-affine": lambda: Chain([smooth_field(), pull_back()]),
    "affine-then-warp": lambda: Chain([pull_back(), smooth_field()]),
    "three": lambda: Chain([pull_back(), smooth_field(), pull_back().inverse()]),
    "warp": smooth_field,
    "affine": pull_back,
}


@pytest.mark.parametrize("name", CHAINS)
def test_composites(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.h5"
    transform = CHAINS[name]()
    write_composite(path, transform)
    theirs = sitk.ReadTransform(str(path))
    assert distance(transform, theirs) < 1e-3
    back = read_composite(path)
    assert np.abs(back.apply(points()) - transform.apply(points())).max() < 1e-5
    sitk.WriteTransform(theirs, str(tmp_path / "theirs.h5"))
    again = read_composite(tmp_path / "theirs.h5")
    assert np.abs(again.apply(points()) - transform.apply(points())).max() < 1e-5


def test_old_misspelt_data_sets_are_read(tmp_path: Path) -> None:
    import h5py

    write_composite(tmp_path / "c.h5", CHAINS["three"]())
    with h5py.File(tmp_path / "c.h5", "a") as file:
        for group in list(file["TransformGroup"].values())[1:]:
            group.move("TransformParameters", "TranformParameters")
            group.move("TransformFixedParameters", "TranformFixedParameters")
    back = read_composite(tmp_path / "c.h5")
    assert np.abs(back.apply(points()) - CHAINS["three"]().apply(points())).max() < 1e-5


def test_the_sign_of_a_shift_to_the_right(tmp_path: Path) -> None:
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    for name in ("s.mat", "s.tfm", "s.h5"):
        write_affine(tmp_path / name, Affine(shift))
        theirs = sitk.ReadTransform(str(tmp_path / name))
        np.testing.assert_allclose(theirs.TransformPoint((0.0, 0, 0)), (-10, -20, 30))


def test_nitransforms_reads_our_files(tmp_path: Path) -> None:
    nitransforms = pytest.importorskip("nitransforms")
    for name in ("a.tfm", "a.mat"):
        write_affine(tmp_path / name, pull_back())
        theirs = nitransforms.linear.load(tmp_path / name, fmt="itk")
        assert np.abs(theirs.map(points()) - pull_back().apply(points())).max() < 1e-5
    write_field(tmp_path / "w.nii.gz", smooth_field())
    image = nitransforms.io.itk.ITKDisplacementsField.from_filename(tmp_path / "w.nii.gz")
    np.testing.assert_allclose(np.squeeze(image.get_fdata()), smooth_field().vectors, atol=1e-6)


def test_we_read_nitransforms_files(tmp_path: Path) -> None:
    nitransforms = pytest.importorskip("nitransforms")
    theirs = nitransforms.linear.Affine(pull_back().matrix)
    for name in ("a.tfm", "a.mat"):
        theirs.to_filename(tmp_path / name, fmt="itk")
        assert np.abs(read_affine(tmp_path / name).apply(points()) - pull_back().apply(points())).max() < 1e-3


GOOD = "#Insight Transform File V1.0\n#Transform 0\nTransform: {}\nParameters: {}\nFixedParameters: {}\n"
IDENTITY = "1 0 0 0 1 0 0 0 1 0 0 0"
BAD_TEXT = {
    "short": GOOD.format("AffineTransform_double_3_3", "1 0 0", "0 0 0"),
    "words": GOOD.format("AffineTransform_double_3_3", IDENTITY.replace("1", "one"), "0 0 0"),
    "nan": GOOD.format("AffineTransform_double_3_3", IDENTITY.replace("1", "nan"), "0 0 0"),
    "2d": GOOD.format("AffineTransform_double_2_2", "1 0 0 1 0 0", "0 0"),
    "bspline": GOOD.format("BSplineTransform_double_3_3", IDENTITY, "0 0 0"),
    "none": "#Insight Transform File V1.0\n",
    "header-only": "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n",
    "centre": GOOD.format("AffineTransform_double_3_3", IDENTITY, "0 0"),
    "two": GOOD.format("AffineTransform_double_3_3", IDENTITY, "0 0 0") * 2,
    "singular": GOOD.format("AffineTransform_double_3_3", "0 0 0 0 0 0 0 0 0 0 0 0", "0 0 0"),
    "empty": "", "prose": "hello", "binary": "\0\1\2",
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_malformed_affines_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.tfm"
    path.write_text(BAD_TEXT[name])
    with pytest.raises((InputError, GeometryError), match=r"bad\.tfm"):
        read_affine(path)


def test_every_truncation_of_a_matlab_file_is_refused(tmp_path: Path) -> None:
    write_affine(tmp_path / "good.mat", pull_back())
    content = (tmp_path / "good.mat").read_bytes()
    bad = tmp_path / "bad.mat"
    for length in range(len(content)):
        bad.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"bad\.mat"):
            read_affine(bad)


def test_malformed_hdf5_is_refused_by_name(tmp_path: Path) -> None:
    import h5py

    good, bad = tmp_path / "good.h5", tmp_path / "bad.h5"
    write_composite(good, CHAINS["three"]())
    content = good.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 10):
        bad.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"bad\.h5"):
            read_composite(bad)
    edits = {
        "TransformGroup/1/TransformParameters": np.zeros(5), "TransformGroup/2/TransformFixedParameters": np.zeros(18),
        "TransformGroup/2/TransformParameters": np.zeros(7), "TransformGroup/1/TransformFixedParameters": [b"a"],
        "TransformGroup/1/TransformType": np.zeros(2), "TransformGroup": np.zeros(1),
    }
    for name, value in edits.items():
        bad.write_bytes(content)
        with h5py.File(bad, "a") as file:
            del file[name]
            file[name] = value
        with pytest.raises((InputError, GeometryError), match=r"bad\.h5"):
            read_composite(bad)
        with h5py.File(bad, "a") as file:
            del file[name]
        with pytest.raises((InputError, GeometryError), match=r"bad\.h5"):
            read_composite(bad)


def test_wrong_kinds_are_refused(tmp_path: Path) -> None:
    write_composite(tmp_path / "warp.h5", smooth_field())
    with pytest.raises(InputError, match=r"warp\.h5.*warp"):
        read_affine(tmp_path / "warp.h5")
    with pytest.raises(InputError, match="ending"):
        write_affine(tmp_path / "a.xyz", pull_back())
    with pytest.raises(InputError, match=r"\.nii"):
        write_field(tmp_path / "w.h5", smooth_field())
    smooth_volume().save(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match=r"scan\.nii\.gz"):
        read_field(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="no such file"):
        read_affine(tmp_path / "absent.mat")
    with pytest.raises(InputError, match=r"absent\.h5: no such file"):
        read_composite(tmp_path / "absent.h5")


def test_fields_with_the_wrong_intent_or_not_finite_are_refused(tmp_path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(smooth_field().vectors[:, :, :, None], smooth_field().grid.affine)
    nib.save(image, tmp_path / "w.nii.gz")
    with pytest.raises(InputError, match="intent"):
        read_field(tmp_path / "w.nii.gz")
    broken = np.full((10, 10, 10, 1, 3), np.nan, np.float32)
    image = nib.Nifti1Image(broken, np.eye(4))
    image.header["intent_code"] = 1007
    nib.save(image, tmp_path / "n.nii.gz")
    with pytest.raises(InputError, match=r"n\.nii\.gz.*finite"):
        read_field(tmp_path / "n.nii.gz")


def test_what_itk_cannot_store_is_refused(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    field = Displacement(np.zeros((5, 5, 5, 3), np.float32), Grid((5, 5, 5), sheared))
    for write in (lambda: write_field(tmp_path / "w.nii", field), lambda: write_composite(tmp_path / "w.h5", field)):
        with pytest.raises(InputError, match="sheared"):
            write()

    class Other:
        def apply(self, at: np.ndarray) -> np.ndarray:
            return at

        def inverse(self) -> Other:
            return self

    with pytest.raises(GeometryError, match="to_displacement"):
        write_composite(tmp_path / "o.h5", Other())
    assert list(tmp_path.iterdir()) == []
