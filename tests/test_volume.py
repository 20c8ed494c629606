from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import GeometryError, InputError
from neuralprep.files import atomic_path
from neuralprep.grid import Grid
from neuralprep.volume import Volume, from_array, from_nibabel, load, save
from samples import affine_matrix, moving_grid, smooth_volume
from test_grid import ALL_CODES

SUFFIXES = [".nii", ".nii.gz", ".mgh", ".mgz"]
DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def head(shape: tuple[int, int, int] = (44, 42, 21)) -> Volume:
    """Image large enough to pass for a scan: oblique, left-handed, 1.1 x 1.2 x 2.1 mm."""
    data = np.random.default_rng(0).integers(0, 100, shape).astype(np.float32)
    return from_array(data, affine_matrix((0.2, -0.1, 0.3), (-1.1, 1.2, 2.1), (20, -30, 10)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", None])
def test_written_files_read_back_and_agree_with_nibabel(tmp_path: Path, suffix: str, dtype: str | None) -> None:
    path = tmp_path / f"scan{suffix}"
    head().save(path, dtype=dtype)
    content = path.read_bytes()
    content = gzip.decompress(content) if suffix in (".nii.gz", ".mgz") else content
    image = (nib.MGHImage if "mg" in suffix else nib.Nifti1Image).from_bytes(content)
    assert image.get_data_dtype().newbyteorder("=") == np.dtype(dtype or "float32")
    np.testing.assert_array_equal(np.asarray(image.dataobj), head().data)
    np.testing.assert_allclose(image.affine, head().grid.affine, atol=1e-4)
    volume = load(path)
    np.testing.assert_array_equal(volume.data, head().data)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.f_contiguous
    assert volume.grid.same_as(head().grid)
    assert volume.source == path
    assert volume.notes == ()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["nifti1", "nifti2", "pair"])
def test_every_type_and_byte_order_reads_as_in_nibabel(tmp_path: Path, dtype: str, order: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    data = (rng.random((43, 42, 41)) * 100).astype(order + dtype)
    make = {"nifti1": nib.Nifti1Image, "nifti2": nib.Nifti2Image, "pair": nib.Nifti1Pair}[kind]
    header = make.header_class(endianness=order)
    header.set_data_dtype(dtype)
    image = make(data, affine_matrix((0.1, 0.2, 0.3), (1, 1, 1.2), (1, 2, 3)), header)
    path = tmp_path / ("scan.img" if kind == "pair" else "scan.nii.gz")
    nib.save(image, path)
    volume = load(path)
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    assert volume.grid.same_as(Grid(data.shape, image.affine), 1e-3)
    np.testing.assert_array_equal(from_nibabel(image).data, volume.data)
    if kind == "pair":
        np.testing.assert_array_equal(load(path.with_suffix(".hdr")).data, volume.data)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_scaled_integers_read_as_in_nibabel(tmp_path: Path, dtype: str) -> None:
    image = nib.Nifti1Image(head().data.astype(dtype), head().grid.affine)
    image.header.set_slope_inter(0.25, -7)
    path = tmp_path / "scan.nii.gz"
    raw = head().data.astype(dtype)
    nib.save(image, path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = np.array([0.25, -7], "<f4").tobytes()
    content[352:] = raw.tobytes(order="F")
    path.write_bytes(gzip.compress(bytes(content)))
    np.testing.assert_allclose(load(path).data, nib.load(path).get_fdata(), rtol=1e-6)


def test_header_rules_of_written_nifti(tmp_path: Path) -> None:
    for space, code in (("native", 1), ("template", 4), ("other", 2)):
        save(head(), tmp_path / "a.nii.gz", space=space, description="x" * 100)
        header = nib.load(tmp_path / "a.nii.gz").header
        assert int(header["qform_code"]) == int(header["sform_code"]) == code
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-3)
        assert header.get_xyzt_units()[0] == "mm"
        assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[112:120] == np.array([1, 0], "<f4").tobytes()
        assert header["descrip"].item().decode() == "x" * 79
        nib.Nifti1Image(head().data, None, header)  # nibabel finds nothing to complain about
    with pytest.raises(InputError, match="space"):
        save(head(), tmp_path / "a.nii.gz", space="mni")


def test_sheared_axes_have_no_qform(tmp_path: Path) -> None:
    matrix = head().grid.affine.copy()
    matrix[:3, 2] += 0.4 * matrix[:3, 0]
    volume = from_array(head().data, matrix)
    volume.save(tmp_path / "tilted.nii.gz")
    assert int(nib.load(tmp_path / "tilted.nii.gz").header["qform_code"]) == 0
    back = load(tmp_path / "tilted.nii.gz")
    assert back.grid.same_as(volume.grid)
    assert "right angle" in back.notes[0]


@pytest.mark.parametrize("codes", ALL_CODES)
def test_all_axis_orders_are_written_and_read_with_qform_and_sform_alike(tmp_path: Path, codes: str) -> None:
    volume = head().oriented(codes)
    volume.save(tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(image.header.get_qform(), image.header.get_sform(), atol=1e-3)
    back = load(tmp_path / "a.nii")
    assert back.grid.axis_codes == codes
    np.testing.assert_array_equal(back.oriented(head().grid.axis_codes).data, head().data)


def test_natural_types(tmp_path: Path) -> None:
    expected = {"uint8": "uint8", "bool": "uint8", "int64": "int16", "int32": "int16", "float64": "float32"}
    for dtype, stored in expected.items():
        save(head().with_data((head().data > 50).astype(dtype)), tmp_path / "a.nii")
        assert nib.load(tmp_path / "a.nii").get_data_dtype() == stored
    save(head().with_data(head().data.astype(np.int64) * 1000), tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").get_data_dtype() == np.int32


def test_real_values_are_rounded_for_integer_types_and_never_wrap(tmp_path: Path) -> None:
    save(head().with_data(head().data + np.float32(0.6)), tmp_path / "a.nii", dtype="uint8")
    np.testing.assert_array_equal(load(tmp_path / "a.nii").data, head().data + 1)
    for data in (head().data * 3, head().data - 5, np.where(head().data > 5, np.nan, head().data)):
        with pytest.raises(InputError, match=r"b\.nii"):
            save(head().with_data(data), tmp_path / "b.nii", dtype="uint8")
    assert not (tmp_path / "b.nii").exists()


def test_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        head().save(tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_memory_order_does_not_matter_and_blocks_are_one_gzip_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuralprep.volume._BLOCK", 10000)
    for order in "CF":
        save(head().with_data(np.asarray(head().data, order=order)), tmp_path / f"{order}.nii.gz")
    assert (tmp_path / "C.nii.gz").read_bytes() == (tmp_path / "F.nii.gz").read_bytes()
    expander = zlib.decompressobj(31)
    content = expander.decompress((tmp_path / "C.nii.gz").read_bytes())
    assert expander.eof
    assert expander.unused_data == b""
    assert len(content) == 352 + head().data.nbytes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    head().save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neuralprep.volume._block", lambda *_: fail)
    with pytest.raises(InputError, match="No space left"):
        head().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_removes_the_temporary_file_on_any_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.a\.nii"):
        head().save(tmp_path / "absent" / "a.nii")
    with pytest.raises(InputError, match="ending"):
        head().save(tmp_path / "a.nrrd")
    with pytest.raises(InputError, match="MGH"):
        head().save(tmp_path / "a.mgz", dtype="float64")


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("x" * 240 + ".nii.gz", "kopf ä ö 头.nii.gz", "SCAN.NII.GZ"):
        head().save(tmp_path / name)
        np.testing.assert_array_equal(load(str(tmp_path / name)).data, head().data)


def test_methods_keep_world_positions() -> None:
    volume = smooth_volume()
    spot = np.unravel_index(int(np.argmax(volume.data)), volume.data.shape)
    world = volume.grid.voxel_to_world(spot)
    start = [max(0, n - 3) for n in spot]
    around = volume.cropped(start, [min(a + 6, n) for a, n in zip(start, volume.data.shape, strict=True)])
    for other in (volume.oriented("SPL"), volume.padded((1, 2, 3), (4, 5, 6)), around):
        found = np.unravel_index(int(np.argmax(other.data)), other.data.shape)
        np.testing.assert_allclose(other.grid.voxel_to_world(found), world, atol=1e-9)
    assert volume.oriented(volume.grid.axis_codes).data.shape == volume.data.shape
    assert (volume.padded((1, 0, 0), (0, 0, 0), fill=9).data[0] == 9).all()


def test_volumes_are_immutable_and_checked() -> None:
    volume = smooth_volume()
    with pytest.raises(ValueError, match="read-only"):
        volume.data[0, 0, 0] = 1
    original = np.zeros((3, 3, 3))
    from_array(original, np.eye(4))
    original[0, 0, 0] = 1  # the caller's own array stays writable
    with pytest.raises(GeometryError, match="does not fit"):
        Volume(np.zeros((3, 3, 3)), moving_grid())
    with pytest.raises(GeometryError, match="real numbers"):
        from_array(np.zeros((3, 3, 3), complex), np.eye(4))
    with pytest.raises(GeometryError, match="3-D"):
        from_array(np.zeros((3, 3)), np.eye(4))


def test_frames_of_nibabel_images() -> None:
    frames = np.stack([head().data, head().data * 3], axis=-1)
    image = nib.Nifti1Image(frames, head().grid.affine)
    np.testing.assert_array_equal(from_nibabel(image, 1).data, head().data * 3)
    np.testing.assert_allclose(from_nibabel(image, "mean").data, head().data * 2)
    for frame in (None, 2, -1):
        with pytest.raises(InputError, match="frame"):
            from_nibabel(image, frame)
    with pytest.raises(InputError, match="slice"):
        from_nibabel(nib.Nifti1Image(np.zeros((44, 44)), np.eye(4)))


def test_simpleitk_and_we_place_an_image_alike(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    head().save(tmp_path / "a.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    for voxel in ((0, 0, 0), (43, 0, 7), (5, 41, 20)):
        there = np.array(image.TransformIndexToPhysicalPoint(voxel)) * (-1, -1, 1)
        np.testing.assert_allclose(there, head().grid.voxel_to_world(voxel), atol=1e-3)


def test_real_scans_read_as_in_nibabel(shared_data: Path) -> None:
    names = ("heads/rorden_prisma_T1fl2d_HFS", "heads/xa30_prisma_T1w_2mm", "heads/tcga_fg6692_T1w",
             "heads/bisweb_sag_T1w_2mm", "ct/ge_hispeed_head_CT")
    for name in names:
        path = shared_data / f"{name}.nii.gz"
        image = nib.load(path)
        volume = load(path)
        np.testing.assert_allclose(volume.data, np.squeeze(image.get_fdata(dtype=np.float32)))
        np.testing.assert_array_equal(volume.grid.affine, image.affine)
        assert volume.grid.axis_codes == "".join(nib.aff2axcodes(image.affine))
