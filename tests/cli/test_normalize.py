"""The verb normalize from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import build_parser, main
from neuralprep.cli.normalize import conflict
from neuralprep.normalization.landmarks import Landmarks
from neuralprep.normalization.methods import normalize
from neuralprep.normalization.windows import apply_window
from neuralprep.volume import Volume, load, save
from normalization.brains import brain, head_ct, white_matter


def parse(*arguments: str):
    return build_parser().parse_args(["normalize", "in.nii", "out", *arguments])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two T1w brains of one anatomy, with masks in a folder."""
    for number, scale in enumerate((1.0, 3.0), start=1):
        image, mask = brain("t1", 0.03, 0.1, seed=number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        save(image.with_data(image.data * np.float32(scale)), tmp_path / f"sub-0{number}_T1w.nii.gz")
        save(mask, tmp_path / "masks" / f"sub-0{number}_T1w_mask.nii.gz")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "zscore", "--equalize"], "--equalize has no effect with --method zscore"),
        (["--preset", "isles24", "--equalize"], "--equalize has no effect with --preset isles24"),
        (["--method", "zscore", "--contrast", "t1"], "--contrast has no effect with --method zscore"),
        (["--window", "brain", "--contrast", "t1"], "--contrast has no effect with --window"),
        (["--method", "fcm", "--contrast", "t1", "--wm-mask", "."], "--contrast has no effect with --wm-mask"),
        (["--method", "kde", "--wm-mask", "."], "--wm-mask has no effect with --method kde"),
        (["--method", "kde", "--percentiles", "1,99"], "--percentiles has no effect with --method kde"),
        (["--method", "kde", "--landmarks", "."], "--landmarks has no effect with --method kde"),
        (["--window", "cta", "--fit"], "--fit has no effect with --window"),
        (["--preset", "isles24", "--background", "0"], "--background has no effect with --preset isles24"),
        (["--window", "cta", "--background", "0", "--mask", "."], "--background has no effect with --mask"),
        (["--method", "nyul", "--fit", "--fill", "0"], "--fill has no effect with --fit"),
        (["--preset", "isles24", "--fill", "keep"], "--fill keep has no effect with --preset isles24"),
        (["--preset", "isles24", "--frame", "0"], "--frame has no effect with --preset isles24"),
        (["--method", "nyul"], "--method nyul needs --landmarks FILE, or --fit"),
        (["--method", "zscore", "--mask", "no.nii"], "--mask no.nii: no such file or folder"),
        (["--method", "zscore", "--mask", ".", "--fill", "keep"], ""),
        (["--window", "cta", "--background", "0", "--equalize", "--force"], ""),
        (["--method", "nyul", "--fit"], ""),
    ],
)
def test_flags_that_cannot_take_effect_are_named(arguments: list[str], message: str) -> None:
    found = conflict(parse(*arguments))
    assert found.startswith(message) if message else found == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--method", "minmax"], ["--window", "cta", "--method", "zscore"], ["--preset", "isles22"],
        ["--method", "percentile", "--percentiles", "99,1"], ["--method", "percentile", "--percentiles", "5"],
        ["--method", "kde", "--contrast", "dwi"], ["--method", "zscore", "--fill", "min"],
        ["--method", "nyul", "--fit", "--landmarks", "x"], ["--window", "cta", "--background", "air"],
    ],
)  # fmt: skip
def test_values_out_of_range_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2


def test_a_folder_of_images_with_masks(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scans / "out"
    arguments = ["--method", "wm110", "--mask", str(scans / "masks")]
    assert main(["normalize", *map(str, sorted(scans.glob("*.nii.gz"))), str(out), *arguments]) == 0
    names = sorted(p.name for p in out.iterdir())
    assert names == [f"sub-0{k}_desc-wm110_T1w.{end}" for k in (1, 2) for end in ("json", "nii.gz")]
    for number in (1, 2):
        source = load(scans / f"sub-0{number}_T1w.nii.gz")
        mask = load(scans / "masks" / f"sub-0{number}_T1w_mask.nii.gz")
        image = nib.load(out / f"sub-0{number}_desc-wm110_T1w.nii.gz")
        assert image.get_data_dtype() == np.float32
        assert np.allclose(image.affine, nib.load(scans / f"sub-0{number}_T1w.nii.gz").affine)
        assert image.get_fdata()[white_matter()].mean() == pytest.approx(110, rel=0.06)
        assert np.array_equal(image.get_fdata(dtype=np.float32), normalize(source, "wm110", mask).image.data)
        record = json.loads((out / f"sub-0{number}_desc-wm110_T1w.json").read_text())
        assert (record["Method"], record["Contrast"]) == ("wm110", "t1")
        assert record["Mask"] == f"sub-0{number}_T1w_mask.nii.gz"
        assert record["Measures"]["white_matter"] == pytest.approx(900 * (1, 3)[number - 1], rel=0.06)
    assert "2 scans: 2 ok" in capsys.readouterr().out


def test_one_image_to_one_file(scans: Path) -> None:
    source, target = scans / "sub-01_T1w.nii.gz", scans / "deep" / "z.nii.gz"
    assert main(["normalize", str(source), str(target), "--method", "zscore", "--fill", "-9", "-q"]) == 0
    data = nib.load(target).get_fdata()
    stripped = load(source).data == 0
    assert (data[stripped] == -9).all()
    assert (data[~stripped].mean(), data[~stripped].std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert json.loads((scans / "deep" / "z.json").read_text())["ValueOutside"] == -9


def test_landmarks_are_fitted_and_applied(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(p) for p in sorted(scans.glob("*.nii.gz"))]
    scale = scans / "cohort.json"
    assert main(["normalize", *images, str(scale), "--method", "nyul", "--fit", "--mask", str(scans / "masks")]) == 0
    assert Landmarks.load(scale).images == 2
    assert main(["normalize", *images, str(scans / "out"), "--method", "nyul", "--landmarks", str(scale)]) == 0
    first, second = (load(scans / "out" / f"sub-0{k}_desc-nyul_T1w.nii.gz").data for k in (1, 2))
    assert np.abs(first - second)[white_matter()].mean() < 5  # one brain, other noise and three times the scale
    (scans / "sub-03_T1w.nii.gz").write_bytes(b"no image")
    again = [*images, str(scans / "sub-03_T1w.nii.gz"), str(scans / "b.json")]
    assert main(["normalize", *again, "--method", "nyul", "--fit"]) == 1
    assert not (scans / "b.json").exists()
    assert "not written, because an image could not be used" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["normalize", *images, str(scans / "out"), "--method", "nyul", "--fit"])


def test_one_bad_image_does_not_stop_the_others(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "sub-00_T1w.nii.gz").write_bytes(b"no image")
    (scans / "masks" / "sub-02_T1w_mask.nii.gz").unlink()
    arguments = ["--method", "zscore", "--mask", str(scans / "masks")]
    images = [str(p) for p in sorted(scans.glob("sub*.nii.gz"))]
    assert main(["normalize", *images, str(scans / "out"), *arguments]) == 1
    assert sorted(p.name for p in (scans / "out").glob("*.nii.gz")) == ["sub-01_desc-zscore_T1w.nii.gz"]
    told = capsys.readouterr().out
    assert "3 scans: 1 ok, 0 check, 2 failed" in told
    assert "has no mask for sub-02_T1w" in told


def test_windows_of_a_ct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, mask = head_ct()
    save(scan, tmp_path / "head_ct.nii.gz")
    save(mask, tmp_path / "mask.nii.gz")
    run = ["normalize", str(tmp_path / "head_ct.nii.gz"), str(tmp_path)]
    assert main([*run, "--window", "stroke", "--equalize", "--mask", str(tmp_path / "mask.nii.gz"), "-q"]) == 0
    found = load(tmp_path / "head_desc-strokewindowequalized_ct.nii.gz")
    stored = load(tmp_path / "head_ct.nii.gz")
    assert np.array_equal(found.data, apply_window(stored, "stroke", mask.data, equalize=True).image.data)
    record = json.loads((tmp_path / "head_desc-strokewindowequalized_ct.json").read_text())
    assert (record["Window"]["Low"], record["Window"]["High"], record["Equalized"]) == (20, 60, True)
    assert main([*run, "--window=-100,200", "--fill", "keep", "-q", "--background", "-1100"]) == 1
    assert "only 0.00% of the voxels have the background value -1100" in capsys.readouterr().err
    assert main([*run, "--window=-100,200", "--fill", "keep", "-q", "--background", "-1100", "--force"]) == 0
    assert (tmp_path / "head_desc-customwindow_ct.nii.gz").is_file()
    wrong = scan.with_data(np.maximum(scan.data + 1024, 0))
    save(wrong, tmp_path / "head_ct.nii.gz")
    assert main([*run, "--window", "brain", "-q"]) == 1
    assert "head_ct.nii.gz: does not look like Hounsfield units" in capsys.readouterr().err
    assert main([*run, "--window", "brain", "-q", "--force"]) == 0
    assert main([*run, "--window", "lung", "-q"]) == 2
    assert "window 'lung' is unknown; give cta, cbf" in capsys.readouterr().err


def test_the_contrast_is_told_by_the_name_or_asked_for(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, mask = brain("t2", 0.03)
    save(image, scans / "a_T2w.nii.gz")
    save(image, scans / "scan7.nii.gz")
    assert main(["normalize", str(scans / "a_T2w.nii.gz"), str(scans / "a.nii"), "--method", "kde", "-q"]) == 0
    assert load(scans / "a.nii").data[white_matter()].mean() == pytest.approx(1, rel=0.07)
    run = ["normalize", str(scans / "scan7.nii.gz"), str(scans / "b.nii"), "--method", "kde", "-q"]
    assert main(run) == 1
    assert "its name does not tell its contrast" in capsys.readouterr().err
    assert main([*run, "--contrast", "t2"]) == 0
    assert np.array_equal(load(scans / "a.nii").data, load(scans / "b.nii").data)
    white = Volume(white_matter().astype(np.uint8), image.grid)
    save(white, scans / "wm.nii.gz")
    given = ["--method", "wm110", "--wm-mask", str(scans / "wm.nii.gz"), "-q"]
    assert main(["normalize", str(scans / "scan7.nii.gz"), str(scans / "c.nii"), *given]) == 0
    assert load(scans / "c.nii").data[white_matter()].mean() == pytest.approx(110, rel=1e-5)
    assert mask.grid.same_as(image.grid)


def test_an_image_never_replaces_itself(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = scans / "sub-01_T1w.nii.gz"
    before = source.read_bytes()
    assert main(["normalize", str(source), str(source), "--method", "zscore"]) == 1
    assert "is the input itself" in capsys.readouterr().out
    assert source.read_bytes() == before
    (scans / "link.nii.gz").symlink_to(source)
    assert main(["normalize", str(source), str(scans / "link.nii.gz"), "--method", "zscore"]) == 1
    assert (scans / "link.nii.gz").is_symlink()
    with pytest.raises(SystemExit):  # two images into one file
        main(["normalize", str(source), str(scans / "sub-02_T1w.nii.gz"), str(scans / "x.nii"), "--method", "zscore"])


def test_the_record_of_an_image_is_not_replaced(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scanner settings lie beside an image as its .json; another ending of the output must not cost them."""
    source, record = scans / "sub-01_T1w.nii.gz", scans / "sub-01_T1w.json"
    record.write_text('{"EchoTime": 0.003}')
    assert main(["normalize", str(source), str(scans / "sub-01_T1w.nii"), "--method", "zscore"]) == 1
    assert "sub-01_T1w.json: is the input itself" in capsys.readouterr().out
    assert record.read_text() == '{"EchoTime": 0.003}'
    assert not (scans / "sub-01_T1w.nii").exists()


def test_masks_and_landmarks_are_not_replaced(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor by the record, which is written beside the image with the ending .json."""
    source, mask = str(scans / "sub-01_T1w.nii.gz"), scans / "masks" / "sub-01_T1w_mask.nii.gz"
    scale = scans / "cohort.json"
    both = [source, str(scans / "sub-02_T1w.nii.gz")]
    assert main(["normalize", *both, str(scale), "--method", "nyul", "--fit", "-q"]) == 0
    white = scans / "white.nii.gz"
    white.write_bytes(mask.read_bytes())
    for kept, out, more in (
        (mask, mask, ["--method", "zscore", "--mask", str(mask)]),
        (mask, mask, ["--method", "zscore", "--mask", str(scans / "masks")]),
        (white, white, ["--method", "wm110", "--wm-mask", str(white)]),
        (scale, scans / "cohort.nii.gz", ["--method", "nyul", "--landmarks", str(scale)]),
    ):
        before = kept.read_bytes()
        assert main(["normalize", source, str(out), *more]) == 1
        assert f"{kept.name}: is the input itself" in capsys.readouterr().out
        assert kept.read_bytes() == before
        assert out == kept or not out.exists()


def test_cases_go_on_after_one_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, mask = head_ct()
    rng = np.random.default_rng(0)
    maps = {name: rng.gamma(2, high / 8, scan.data.shape).astype(np.float32)
            for name, high in (("cbf", 35), ("cbv", 10), ("mtt", 20), ("tmax", 7))}  # fmt: skip
    (tmp_path / "masks").mkdir()
    for case in ("sub-1", "sub-2", "sub-3"):
        (tmp_path / "set" / case).mkdir(parents=True)
        save(mask, tmp_path / "masks" / f"{case}.nii.gz")
        save(scan, tmp_path / "set" / case / "cta.nii.gz")
        for name, values in maps.items():
            if (case, name) != ("sub-2", "tmax"):
                save(scan.with_data(values), tmp_path / "set" / case / f"{name}.nii.gz")
    out = tmp_path / "out"
    run = ["normalize", str(tmp_path / "set"), str(out), "--preset", "isles24"]
    assert main([*run, "--mask", str(tmp_path / "masks")]) == 1
    told = capsys.readouterr().out
    assert "3 scans: 2 ok, 0 check, 1 failed" in told
    assert "channel tmax is missing" in told
    assert sorted(p.name for p in out.glob("*.nii.gz")) == [f"sub-{c}_{k:04d}.nii.gz" for c in (1, 3) for k in range(5)]
    rows = (out / "cases.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["case", "cbf", "cbv", "mtt", "tmax", "cta", "label"]
    assert [row.split("\t")[0] for row in rows[1:]] == ["sub-1", "sub-3"]
    with pytest.raises(SystemExit):  # one mask for three heads
        main([*run, "--mask", str(tmp_path / "masks" / "sub-1.nii.gz")])
    one = ["normalize", str(tmp_path / "set" / "sub-1"), str(out), "--preset", "isles24", "-q"]
    assert main([*one, "--mask", str(tmp_path / "masks" / "sub-1.nii.gz")]) == 0
    assert (out / "cases.tsv").read_text().splitlines() == rows  # cases of earlier calls stay in the table
