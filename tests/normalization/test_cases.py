"""Cases of several channels: finding them, one grid, one mask, and files that nnU-Net takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.normalization.cases import (
    Stripper,
    case_folders,
    case_name,
    distinct_cases,
    find_case,
    normalize_case,
    write_table,
)
from neuralprep.normalization.catalog import PRESETS, WINDOWS
from neuralprep.normalization.windows import apply_window
from neuralprep.volume import Volume, load, save
from normalization.brains import head_ct

ISLES = PRESETS["isles24"]
NUMBERED = ("cbf", "cbv", "mtt", "tmax", "cta")


def channels() -> tuple[dict[str, Volume], Volume]:
    """Five channels of one head and its brain mask; a third of the perfusion maps' brain is exactly zero."""
    ct, mask = head_ct()
    inside = mask.data > 0
    rng = np.random.default_rng(4)
    made = {"cta": ct.with_data(np.where(inside & (rng.random(ct.data.shape) < 0.05), 80, ct.data))}
    for name in NUMBERED[:4]:
        values = ndimage.gaussian_filter(rng.random(ct.data.shape), 1.5)
        values = (values - values.min()) / np.ptp(values) * 1.2 * WINDOWS[name].high
        values[:, :, :24] = 0  # perfusion covers a slab
        made[name] = ct.with_data(np.where(inside, values, 0).astype(np.float32))
    return made, mask


def write_case(folder: Path, pattern: str = "{}.nii.gz", leave_out: tuple[str, ...] = ()) -> Volume:
    """Write the channels with names of a pattern; gives the mask."""
    made, mask = channels()
    for name, volume in made.items():
        if name not in leave_out:
            path = folder / pattern.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(volume, path)
    return mask


def no_stripper(scan: Volume) -> tuple[Volume, tuple[str, ...]]:
    raise AssertionError("a mask was given")


def run(folder: Path, out: Path, mask: Path | None, stripper=no_stripper, **changes):
    out.mkdir(exist_ok=True)
    return normalize_case(find_case(folder, ISLES), ISLES, out, stripper, mask=mask, **changes)


@pytest.mark.parametrize(
    "pattern",
    ["{}.nii.gz", "P7_{}.nii.gz", "sub-stroke0001_ses-01_space-ncct_{}.nii.gz", "perfusion-maps/X-{}.nii", "a.{}.mgz"],
)
def test_channels_are_found_by_the_end_of_their_names(tmp_path: Path, pattern: str) -> None:
    write_case(tmp_path / "P7", pattern)
    (tmp_path / "P7" / "._cbf.nii.gz").write_bytes(b"what a Mac leaves behind")
    case = find_case(tmp_path / "P7", ISLES)
    assert tuple(case.channels) == NUMBERED
    assert {name: path for name, path in case.channels.items() if path.name != Path(pattern.format(name)).name} == {}
    assert (case.name, case.reference, case.label) == ("P7", None, None)


def test_upper_case_names_are_found(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "tmax.nii.gz").rename(tmp_path / "case_TMAX.nii.gz")
    assert find_case(tmp_path, ISLES).channels["tmax"].name == "case_TMAX.nii.gz"


def test_the_tree_of_isles24_is_understood(tmp_path: Path) -> None:
    """Registered channels and lesion in derivatives, non-contrast CT and unregistered images in raw_data."""
    subject = "sub-stroke0003"
    folder = tmp_path / "train" / "derivatives" / subject
    write_case(folder / "ses-01" / "perfusion-maps", f"{subject}_ses-01_space-ncct_{{}}.nii.gz", leave_out=("cta",))
    cta = f"{subject}_ses-01_space-ncct_cta.nii.gz"
    made, mask = channels()
    save(made["cta"], folder / "ses-01" / cta)
    (folder / "ses-02").mkdir()
    save(mask, folder / "ses-02" / f"{subject}_ses-02_lesion-msk.nii.gz")
    raw = tmp_path / "train" / "raw_data" / subject / "ses-01"
    raw.mkdir(parents=True)
    for name in ("ncct", "cta", "tmax"):
        save(head_ct()[0], raw / f"{subject}_ses-01_{name}.nii.gz")
    assert case_folders([tmp_path / "train"]) == [folder]
    case = find_case(folder, ISLES)
    assert case.reference == raw / f"{subject}_ses-01_ncct.nii.gz"
    assert case.label is not None
    assert case.label.name.endswith("lesion-msk.nii.gz")
    # everything in one folder: the registered one of two is taken
    save(head_ct()[0], folder / "ses-01" / f"{subject}_ses-01_cta.nii.gz")
    assert find_case(folder, ISLES).channels["cta"].name == cta


def test_what_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    write_case(tmp_path / "a", "a_{}.nii.gz", leave_out=("tmax", "mtt"))
    with pytest.raises(InputError, match=r"channel mtt, tmax is missing. .*_mtt.nii.gz; found a_cbf.nii.gz, a_cbv"):
        find_case(tmp_path / "a", ISLES)
    write_case(tmp_path / "b", "b_{}.nii.gz")
    write_case(tmp_path / "b" / "old", "{}.nii.gz", leave_out=("cta",))
    with pytest.raises(InputError, match=r"several files could be the channel cbf: b_cbf.nii.gz, old/cbf.nii.gz"):
        find_case(tmp_path / "b", ISLES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no image at all"):
        find_case(tmp_path / "empty", ISLES)
    with pytest.raises(InputError, match="is no folder"):
        find_case(tmp_path / "b" / "b_cta.nii.gz", ISLES)


def test_every_channel_is_windowed_and_equalised_in_one_mask(tmp_path: Path) -> None:
    exposure = pytest.importorskip("skimage.exposure")
    made, mask = channels()
    write_case(tmp_path / "P7")
    save(mask, tmp_path / "mask.nii.gz")
    result = run(tmp_path / "P7", tmp_path / "out", tmp_path / "mask.nii.gz", fill=-1)
    assert [p.name for p in result.files] == [f"P7_{k:04d}.nii.gz" for k in range(5)]
    inside = mask.data > 0
    for name, path in zip(NUMBERED, result.files, strict=True):
        window, found = WINDOWS[name], load(path)
        scaled = np.clip((made[name].data - np.float32(window.low)) / np.float32(window.high - window.low), 0, 1)
        expected = exposure.equalize_hist(scaled, mask=inside)
        assert np.abs(found.data[inside] - expected[inside]).max() < 1e-6, name
        assert (found.data[~inside] == -1).all()
        assert np.array_equal(found.grid.affine, load(result.files[0]).grid.affine)
        if name != "cta":
            assert (found.data[inside & (made[name].data == 0)] > 0).all()  # brain without perfusion is brain
            assert result.measures[name]["zero_share"] > 0.1
    listing = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert listing == ["P7.json", *(f"P7_{k:04d}.nii.gz" for k in range(5)), "masks/P7.nii.gz"]
    record = json.loads((tmp_path / "out" / "P7.json").read_text())
    assert [c["Channel"] for c in record["Channels"]] == list(NUMBERED)
    assert record["Channels"][4]["Window"] == [0, 90]
    assert record["Mask"] == "mask.nii.gz"


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    mask = write_case(tmp_path / "P7")
    save(mask, tmp_path / "mask.nii.gz")
    moved = load(tmp_path / "P7" / "mtt.nii.gz")
    affine = moved.grid.affine.copy()
    affine[2, 3] += 2
    save(Volume(moved.data, Grid(moved.grid.shape, affine)), tmp_path / "P7" / "mtt.nii.gz")
    with pytest.raises(InputError, match=r"mtt.nii.gz: its grid .* is not that of .*cbf.nii.gz.*register"):
        run(tmp_path / "P7", tmp_path / "out", tmp_path / "mask.nii.gz")
    assert not list((tmp_path / "out").iterdir())


def test_a_channel_in_other_units_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    mask = write_case(tmp_path / "P7")
    save(mask, tmp_path / "mask.nii.gz")
    cta = load(tmp_path / "P7" / "cta.nii.gz")
    save(cta.with_data(np.maximum(cta.data + 1024, 0)), tmp_path / "P7" / "cta.nii.gz")
    with pytest.raises(InputError, match=r"cta.nii.gz: does not look like Hounsfield units.*about 1024"):
        run(tmp_path / "P7", tmp_path / "out", tmp_path / "mask.nii.gz")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(InputError, match=r"cta.nii.gz: does not look like Hounsfield units"):
        run(tmp_path / "P7", tmp_path / "out", None)  # before the network sees it
    assert len(run(tmp_path / "P7", tmp_path / "out", tmp_path / "mask.nii.gz", checks=False).files) == 5


def test_masks_come_from_a_folder_by_the_name_of_the_case(tmp_path: Path) -> None:
    mask = write_case(tmp_path / "P7")
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"masks: has no mask for P7. Expected P7.nii.gz or P7_mask.nii.gz"):
        run(tmp_path / "P7", tmp_path / "out", tmp_path / "masks")
    save(mask, tmp_path / "masks" / "P7_mask.nii.gz")
    assert run(tmp_path / "P7", tmp_path / "out", tmp_path / "masks").reasons == ()


def test_the_mask_is_made_from_the_non_contrast_ct_if_it_is_on_the_grid(tmp_path: Path) -> None:
    mask = write_case(tmp_path / "P7")
    scan = head_ct()[0]
    seen: list[str] = []

    def stripper(given: Volume) -> tuple[Volume, tuple[str, ...]]:
        seen.append(given.source.name if given.source else "")
        return mask, ("it looks odd",)

    run(tmp_path / "P7", tmp_path / "out", None, stripper)
    save(scan, tmp_path / "P7" / "ncct.nii.gz")
    result = run(tmp_path / "P7", tmp_path / "out", None, stripper)
    coarse = Volume(scan.data[::2, ::2, ::2], Grid.centered((32, 36, 30), 8.0))
    save(coarse, tmp_path / "P7" / "ncct.nii.gz")
    run(tmp_path / "P7", tmp_path / "out", None, stripper)
    assert seen == ["cta.nii.gz", "ncct.nii.gz", "cta.nii.gz"]
    assert result.reasons == ("brain mask: it looks odd",)
    assert json.loads((tmp_path / "out" / "P7.json").read_text())["Mask"] == "made from cta.nii.gz"


def test_a_real_ct_is_stripped_windowed_and_equalised(shared_data: Path, tmp_path: Path) -> None:
    """The whole path with the shipped network: head CT -> brain mask -> window -> equalisation."""
    ct = load(shared_data / "ct" / "ge_hispeed_head_CT.nii.gz")
    save(ct, tmp_path / "ct.nii.gz")
    mask, _ = Stripper()(ct)
    inside = mask.data > 0
    size_ml = inside.sum() * ct.grid.voxel_volume / 1000
    assert 1200 < size_ml < 1900
    done = apply_window(ct, "brain", mask, equalize=True)
    assert 25 < done.measures["median"] < 40  # HU of a brain with its fluid
    assert done.measures["within_share"] > 0.85
    shares = np.histogram(done.image.data[inside], 10, (0, 1))[0] / inside.sum()
    # An equalised histogram is flat up to one grey value, which cannot be divided: a CT has whole numbers.
    one_value = np.unique(done.image.data[inside], return_counts=True)[1][:-1].max() / inside.sum()
    assert one_value < 0.06
    assert shares == pytest.approx(0.1, abs=one_value)
    assert not done.image.data[~inside].any()


def test_names_of_cases(tmp_path: Path) -> None:
    for name in ("sub-01", "sub-02"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set" / "notes").mkdir()
    assert [p.name for p in case_folders([tmp_path / "set"])] == ["sub-01", "sub-02"]
    assert case_folders([tmp_path / "set" / "sub-01"]) == [tmp_path / "set" / "sub-01"]
    assert case_name(tmp_path / "set" / "sub-01" / "ses-1") == "sub-01_ses-1"
    assert case_name(tmp_path / "a case, odd") == "a-case-odd"
    with pytest.raises(InputError, match="its case would be called sub-01, as that of"):
        distinct_cases([tmp_path / "set" / "sub-01", tmp_path / "other" / "sub-01"])


def test_the_table_is_what_the_export_to_nnunet_reads(tmp_path: Path) -> None:
    from neuralprep.export.cases import read_table

    mask = write_case(tmp_path / "P7")
    save(mask, tmp_path / "mask.nii.gz")
    save(mask, tmp_path / "P7" / "lesion.nii.gz")
    run(tmp_path / "P7", tmp_path / "out", tmp_path / "mask.nii.gz")
    write_table(ISLES, tmp_path / "out")
    found = read_table(tmp_path / "out" / "cases.tsv")
    assert found.channels == NUMBERED
    assert [c.name for c in found.cases] == ["P7"]
    assert all(path.is_file() for path in found.cases[0].channels.values())
    assert found.cases[0].label == tmp_path / "P7" / "lesion.nii.gz"
