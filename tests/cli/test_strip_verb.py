"""The strip verb: its flags, what it refuses, and real heads to a folder and to named files."""

from __future__ import annotations

import resource
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neuralprep.cli import build_parser, main
from neuralprep.cli.strip import conflict, is_single, settings_from
from neuralprep.engine.record import quality_path, read_quality, read_status
from neuralprep.engine.single import strip_file
from neuralprep.errors import InputError, WeightsError
from neuralprep.evaluation.overlap import dice
from neuralprep.pipeline import Preprocessor, Settings
from neuralprep.volume import Volume, load, save

EXPECTED = Path(__file__).parent.parent / "expected"
HEAD = "heads/xa30_prisma_T1w_2mm.nii.gz"


def parse(*arguments: str):
    return build_parser().parse_args(["strip", *arguments])


def test_every_flag_reaches_the_settings() -> None:
    args = parse("in.nii", "out", "--border", "-2.5", "--no-csf", "--fill", "min", "--threads", "3", "--device", "cpu",
                 "--outputs", "image, mask,icv,distance,uncertainty", "--frame", "each", "--model", "npp")  # fmt: skip
    assert conflict(args) == ""
    s = settings_from(args)
    assert (s.strip, s.normalize, s.register, s.quick) == (True, False, False, True)
    assert (s.border_mm, s.no_csf, s.fill, s.threads, s.device) == (-2.5, True, "min", 3, "cpu")
    assert s.outputs == ("brain_image", "nocsf_mask", "brain_mask", "nocsf_distance", "uncertainty")
    assert args.frame == "each"
    plain = settings_from(parse("in.nii", "out"))
    assert plain.outputs == ("brain_image", "brain_mask")
    single = settings_from(parse("in.nii", "b.nii.gz", "--mask-out", "m.nii", "--uncertainty-out", "u.nii"))
    assert single.outputs == ("brain_image", "brain_mask", "uncertainty")


@pytest.mark.parametrize(
    "arguments",
    [["--outputs", "brain"], ["--outputs", ","], ["--frame", "all"], ["--frame", "-1"], ["--fill", "none"],
     ["--border", "x"], ["--jobs", "0"], ["--mask-out"], ["--lambda", "1"]],
)  # fmt: skip
def test_values_that_are_none_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("in.nii", "out", *arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out", "--mask-out", "m.nii"], "--mask-out goes with a file as OUT"),
        (["out", "--uncertainty-out", "m.nii"], "--uncertainty-out goes with a file as OUT"),
        (["out", "--fill", "min", "--outputs", "mask"], "--fill has no effect without the output 'image'"),
        (["out", "--keep-label", "gone.nii"], "no such file"),
        (["b.nii.gz", "--outputs", "mask"], "--outputs has no effect when OUT is a file"),
        (["b.nii.gz", "--jobs", "2"], "--jobs has no effect when OUT is a file"),
        (["b.nii.gz", "--overwrite"], "--overwrite has no effect when OUT is a file"),
        (["b.nii.gz", "--no-report"], "--no-report has no effect when OUT is a file"),
        (["b.nii.gz"], "INPUT must be one image"),
    ],
)
def test_flags_without_effect_are_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in conflict(parse("in.nii", *arguments))
    with pytest.raises(SystemExit) as stop:
        main(["strip", str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out.nii").mkdir()
    assert not is_single(parse("in.nii", str(tmp_path / "out.nii")))


def test_what_a_mask_network_cannot_do_is_said_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_data: Path,
    published_mindgrab: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert main(["strip", str(shared_data / HEAD), str(out), "--model", "mindgrab"]) == 2
    assert "neuralprep weights get mindgrab" in capsys.readouterr().err
    assert not out.exists()
    assert main(["weights", "get", "mindgrab", "--from", str(published_mindgrab)]) == 0
    capsys.readouterr()
    for flags, message in (
        (["--no-csf"], "knows one surface"),
        (["--outputs", "uncertainty"], "uncertainty cannot be made by the model mindgrab"),
        (["--outputs", "nocsf"], "nocsf_mask cannot be made by the model mindgrab"),
    ):
        assert main(["strip", str(shared_data / HEAD), str(out), "--model", "mindgrab", *flags]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="only strips"):
        Preprocessor(Settings(model="mindgrab"))
    with pytest.raises(WeightsError, match="no such weights file"):
        settings_from(parse("in.nii", "out", "--model", "x.safetensors"))


def test_names_of_options_are_not_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--mask`` is a mask to use in other verbs; here it would be short for a file that is written."""
    own = tmp_path / "mine.nii.gz"
    own.write_bytes(b"hours of work")
    with pytest.raises(SystemExit) as stopped:
        main(["strip", "scan.nii.gz", str(tmp_path / "brain.nii.gz"), "--mask", str(own)])
    assert stopped.value.code == 2
    assert "strip takes no --mask" in capsys.readouterr().err
    assert own.read_bytes() == b"hours of work"


@pytest.mark.parametrize("flag", ["OUT", "--mask-out"])
def test_the_label_to_keep_is_not_replaced(
    tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scan.nii.gz", "lesion.nii.gz"):  # damaged: the work has not begun
        Path(name).write_bytes(b"no image")
    Path("link.nii.gz").symlink_to("lesion.nii.gz")
    files = ["link.nii.gz"] if flag == "OUT" else ["brain.nii.gz", flag, "link.nii.gz"]
    assert main(["strip", "scan.nii.gz", *files, "--keep-label", "lesion.nii.gz"]) == 2
    assert "link.nii.gz: is the input itself (lesion.nii.gz)" in capsys.readouterr().err
    assert Path("lesion.nii.gz").read_bytes() == b"no image"
    assert Path("link.nii.gz").is_symlink()


@pytest.fixture(scope="module")
def out(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strip")
    (folder / "scan.nii.gz").symlink_to(shared_data / HEAD)
    names = "image,mask,icv,nocsf,distance,uncertainty"
    assert main(["strip", "-q", str(folder / "scan.nii.gz"), str(folder / "out"), "--outputs", names]) == 0
    return folder / "out"


def test_a_folder_gets_what_its_listing_says(out: Path) -> None:
    listing = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert listing == (EXPECTED / "strip_scan.txt").read_text().splitlines()
    content = read_quality(quality_path(out, "scan"))
    assert content is not None
    assert content["settings"]["quick"]
    assert {"agreement", "mirror_agreement", "residual_mm", "icv_ml"} <= set(content["measures"])
    assert "registration_score" not in content["measures"]  # the looks agree: the template was not asked
    assert [row["status"] for row in read_status(out)] == ["ok"]


def test_images_agree_with_each_other(out: Path, shared_data: Path) -> None:
    def read(name: str) -> np.ndarray:
        return np.asanyarray(nib.load(out / "scan" / f"scan_desc-{name}.nii.gz").dataobj)

    scan, mask = nib.load(shared_data / HEAD), read("brain_mask") > 0
    assert np.array_equal(read("brain_image"), np.where(mask, np.asanyarray(scan.dataobj), 0))
    assert nib.load(out / "scan" / "scan_desc-brain_image.nii.gz").get_data_dtype() == scan.get_data_dtype()
    assert np.array_equal(read("brain_distance") <= 0, mask)
    assert not ((read("nocsf_mask") > 0) & ~mask).any()
    doubt = read("uncertainty_map")
    assert doubt.min() >= 0
    assert doubt[np.abs(read("brain_distance")) < 2].mean() > 4 * doubt[read("brain_distance") < -12].mean()


@pytest.mark.parametrize("name", ["bisweb_sag_T1w_2mm", "openms_p01_s1_FLAIR"])
def test_stripping_what_is_stripped_loses_nothing(shared_data: Path, tmp_path: Path, name: str) -> None:
    paths = [shared_data / "heads" / f"{name}.nii.gz", tmp_path / "once.nii.gz", tmp_path / "twice.nii.gz"]
    for before, after in pairwise(paths):
        assert main(["strip", str(before), str(after), "--threads", "1"]) == 0
    once, twice = (load(path, checks=False).data for path in paths[1:])
    lost = (once != 0) & (twice == 0)
    assert np.count_nonzero(lost) <= 1e-3 * np.count_nonzero(once)
    assert np.array_equal(twice[~lost], once[~lost])


def test_quick_and_whole_runs_cut_the_same_brain(out: Path, shared_data: Path) -> None:
    whole = Preprocessor(Settings(normalize=False, outputs=("brain_mask", "template_from_scan")))
    mask = whole.run(load(shared_data / HEAD)).outputs["brain_mask"]
    made = nib.load(out / "scan" / "scan_desc-brain_mask.nii.gz")
    assert np.array_equal(np.asanyarray(made.dataobj) > 0, mask.data > 0)


def test_one_scan_to_named_files(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: Path
                                 ) -> None:
    brain, mask, distance = (tmp_path / f"{name}.nii.gz" for name in ("brain", "mask", "distance"))
    brain.write_bytes(b"an older file")
    command = ["strip", str(shared_data / HEAD), str(brain), "--mask-out", str(mask), "--distance-out", str(distance)]
    assert main([*command, "--fill", "-7"]) == 0
    assert "xa30_prisma_T1w_2mm ok" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brain.nii.gz", "distance.nii.gz", "mask.nii.gz"]
    inside = np.asanyarray(nib.load(mask).dataobj) > 0
    scan = nib.load(shared_data / HEAD)
    assert np.array_equal(np.asanyarray(nib.load(brain).dataobj), np.where(inside, np.asanyarray(scan.dataobj), -7))
    assert nib.load(brain).header.binaryblock == scan.header.binaryblock
    assert np.array_equal(nib.load(distance).get_fdata() <= 0, inside)
    with_folder = nib.load(out / "scan" / "scan_desc-brain_mask.nii.gz")
    assert np.array_equal(np.asanyarray(with_folder.dataobj) > 0, inside)
    assert main(["strip", str(shared_data / HEAD), str(shared_data / HEAD)]) == 2  # never over the scan itself
    assert "is the input itself" in capsys.readouterr().err
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    assert main(["strip", str(bad), str(tmp_path / "b.nii.gz")]) == 1
    assert "bad.nii.gz failed" in capsys.readouterr().err


def test_the_border_moves_the_surface_that_strips(shared_data: Path, tmp_path: Path) -> None:
    def strip(**settings) -> dict[str, Volume]:
        names = ("brain_mask", "nocsf_mask", "brain_distance", "nocsf_distance")
        chosen = Settings(normalize=False, register=False, quick=True, outputs=names, **settings)
        return Preprocessor(chosen).run(load(shared_data / HEAD)).outputs

    skull, tissue, wide = strip(border_mm=3.0), strip(no_csf=True, border_mm=3.0), strip(no_csf=True, border_mm=12.0)
    plain = strip()
    assert np.array_equal(skull["nocsf_mask"].data, plain["nocsf_mask"].data)
    assert skull["brain_mask"].data.sum() > 1.1 * plain["brain_mask"].data.sum()
    assert tissue["nocsf_mask"].data.sum() > 1.1 * plain["nocsf_mask"].data.sum()
    for made, border in ((tissue, 3.0), (wide, 12.0)):
        assert np.array_equal(made["nocsf_distance"].data <= border, made["nocsf_mask"].data > 0)
        assert not (made["nocsf_mask"].data > made["brain_mask"].data).any()


def test_each_frame_of_a_series_is_stripped(shared_data: Path, tmp_path: Path) -> None:
    head = nib.load(shared_data / HEAD)
    values = np.asanyarray(head.dataobj).astype(np.int16)
    series = np.stack([values, np.roll(values, 3, axis=1)], axis=3)
    image = nib.Nifti1Image(series, head.affine)
    image.header["pixdim"][4] = 1.5
    nib.save(image, tmp_path / "bold.nii.gz")
    brain, mask = tmp_path / "brain.nii.gz", tmp_path / "mask.nii.gz"
    assert main(["strip", str(tmp_path / "bold.nii.gz"), str(brain)]) == 1  # which frame is not said
    assert main(["strip", str(tmp_path / "bold.nii.gz"), str(brain), "--mask-out", str(mask), "--frame", "each"]) == 0
    masks = np.asanyarray(nib.load(mask).dataobj) > 0
    assert np.array_equal(np.asanyarray(nib.load(brain).dataobj), np.where(masks, series, 0))
    assert nib.load(brain).header["pixdim"][4] == 1.5
    assert dice(np.roll(masks[..., 0], 3, axis=1), masks[..., 1]) > 0.98


def test_a_lesion_across_the_surface_is_kept(shared_data: Path, tmp_path: Path) -> None:
    scan = load(shared_data / HEAD)
    plain = Preprocessor(Settings(normalize=False, register=False, quick=True, outputs=("brain_mask",))).run(scan)
    rim = np.argwhere(plain.outputs["brain_mask"].data)
    where = scan.grid.voxel_to_world(rim[rim[:, 2].argmax()])  # the top of the brain
    fine = load(shared_data / HEAD).grid.with_spacing(1.1)
    points = fine.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, fine.shape), indexing="ij"), -1))
    label = tmp_path / "lesion.nii.gz"
    save(Volume((np.linalg.norm(points - where, axis=-1) < 9).astype(np.uint8), fine), label)
    settings = Settings(normalize=False, register=False, quick=True)
    for border in (0.0, 2.0):
        names = {"brain_mask": tmp_path / "m.nii.gz", "brain_distance": tmp_path / "d.nii.gz"}
        chosen = Settings(normalize=False, register=False, quick=True, border_mm=border)
        record = strip_file(shared_data / HEAD, names, chosen, keep=label)
        mask, distance = (nib.load(path).get_fdata() for path in names.values())
        assert record.measures["kept_voxels"] > 100
        lesion = np.linalg.norm(scan.grid.voxel_to_world(np.argwhere(mask == 0)) - where, axis=-1)
        assert lesion.min() > 8.5  # nothing of the ball is outside
        assert np.array_equal(distance <= border, mask > 0)
    assert settings.keep is None


@pytest.mark.slow
def test_a_large_head_costs_little(shared_data: Path, tmp_path: Path) -> None:
    settings = Settings(normalize=False, register=False, quick=True, threads=1, outputs=("brain_image", "brain_mask"))
    preprocessor = Preprocessor(settings)
    head = load(shared_data / "heads" / "uih770_A_T1w_1mm.nii.gz")
    scan = head.padded((48, 13, 0), (48, 13, 0))
    assert scan.grid.shape == (256, 256, 256)
    preprocessor.run(scan)  # the runtime compiles the network at the first scan
    before = resource.getrusage(resource.RUSAGE_SELF)
    preprocessor.run(scan)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 6  # 2 on a machine of its own


def test_a_network_of_distances_alone_strips_too(shared_data: Path, tmp_path: Path, out: Path) -> None:
    from neuralprep.networks.loading import STRIP_LAYOUT, load_network, save_network
    from neuralprep.networks.npp import DistanceNet, StripConfig
    from neuralprep.weights.registry import find_model

    whole = load_network(find_model("npp").weights)
    config = StripConfig(whole.config.widths, whole.config.blocks)
    names = set(DistanceNet(config).state_dict())
    weights = tmp_path / "mine.safetensors"
    part = {name: value for name, value in whole.state_dict().items() if name in names}
    save_network(part, config.as_dict(), weights, STRIP_LAYOUT)
    made = strip_file(shared_data / HEAD, {"brain_mask": tmp_path / "m.nii.gz"},
                      settings_from(parse("in.nii", "out", "--model", str(weights))))  # fmt: skip
    assert made.status == "ok"
    reference = np.asanyarray(nib.load(out / "scan" / "scan_desc-brain_mask.nii.gz").dataobj)
    assert dice(np.asanyarray(nib.load(tmp_path / "m.nii.gz").dataobj) > 0, reference > 0) > 0.97
    with pytest.raises(InputError, match="only strips"):
        Preprocessor(Settings(model=str(weights)))
