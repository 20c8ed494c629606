"""Peers behind one interface: executables that are put on PATH here, and libraries where they are installed."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.peer import PeerError
from neuralprep.evaluation.peer_commands import COMMANDS, Command, CommandPeer
from neuralprep.evaluation.peers import AntsAffine, AntsN4, SimpleItkN4, all_peers, choose
from neuralprep.grid import Grid
from neuralprep.volume import Volume, load, save

PutOnPath = Callable[[str, str], None]
SHAPE = (24, 20, 22)
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -18], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def head() -> Volume:
    position = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"), -1)
    radius = np.linalg.norm(position, axis=-1)
    tissue = np.where(radius < 0.8, 100.0, 0) + np.where(radius < 0.4, 60.0, 0)
    noise = np.random.default_rng(0).normal(0, 2, SHAPE)
    return Volume((tissue + noise * (tissue > 0)).astype(np.float32), Grid(SHAPE, AFFINE))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    save(head(), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PutOnPath:
    """Put an executable on PATH whose body is Python with numpy and nibabel."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def put(name: str, body: str) -> None:
        script = folder / name
        script.write_text(f"#!{sys.executable}\nimport sys\nimport nibabel as nib\nimport numpy as np\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)

    return put


def temporary_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("np-peer-*"))


#: where each tool's command line names the scan, and the file that it is expected to make
_WHERE = {
    "bet": ("1", "sys.argv[2] + '_mask.nii.gz'"),
    "mri_synthstrip": ("2", "sys.argv[4]"),
    "mri_watershed": ("1", "sys.argv[2]"),
    "robex": ("1", "sys.argv[3]"),
    "hd-bet": ("2", "sys.argv[4].replace('.nii.gz', '_bet.nii.gz')"),
}


@pytest.mark.parametrize("name", sorted(_WHERE))
def test_commands_are_called_as_they_expect(name: str, scan: Path, on_path: PutOnPath, tmp_path: Path) -> None:
    index, made = _WHERE[name]
    on_path(COMMANDS[name].executable, f"""
image = nib.load(sys.argv[{index}])
assert '-m' in sys.argv or {name!r} not in ('bet', 'mri_synthstrip')
nib.save(nib.Nifti1Image((image.get_fdata() > 50).astype('f4'), image.affine), {made})
""")
    before = temporary_folders()
    peer = CommandPeer(COMMANDS[name], threads=1, timeout_s=60)
    assert peer.missing() is None
    result = peer.run(scan, tmp_path / "masks" / "scan.nii.gz")
    mask, image = load(result.path, checks=False), load(scan)
    np.testing.assert_array_equal(mask.data, image.data > 50)
    assert mask.grid.same_as(image.grid)
    assert result.seconds > 0
    assert result.cpu_seconds > 0
    assert temporary_folders() == before


def test_fast_gets_the_scan_within_the_mask(scan: Path, on_path: PutOnPath, tmp_path: Path) -> None:
    image = load(scan)
    save(image.with_data(image.data > 130), tmp_path / "mask.nii.gz")
    on_path("fast", """
image = nib.load(sys.argv[-1])
out = sys.argv[sys.argv.index('-o') + 1]
nib.save(nib.Nifti1Image(image.get_fdata() * 2, image.affine), out + '_restore.nii.gz')
""")
    peer = CommandPeer(COMMANDS["fast"], timeout_s=60)
    made = load(peer.run(scan, tmp_path / "out.nii.gz", mask=tmp_path / "mask.nii.gz").path, checks=False)
    np.testing.assert_allclose(made.data, np.where(image.data > 130, 2 * image.data, 0), rtol=1e-6)


def test_an_output_with_turned_axes_is_put_right(scan: Path, on_path: PutOnPath, tmp_path: Path) -> None:
    on_path("bet", """
image = nib.as_closest_canonical(nib.load(sys.argv[1]))
nib.save(nib.Nifti1Image((image.get_fdata() > 50).astype('u1'), image.affine), sys.argv[2] + '_mask.nii.gz')
""")
    made = CommandPeer(COMMANDS["bet"], timeout_s=60).run(scan, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(load(made.path, checks=False).data, load(scan).data > 50)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('no licence file'); sys.exit(3)", "exit code 3.*no licence file"),
        ("pass", "made no out_mask.nii.gz"),
        ("open(sys.argv[2] + '_mask.nii.gz', 'w').close()", "made no out_mask.nii.gz"),
        ("nib.save(nib.Nifti1Image(np.zeros((24, 20, 22), 'u1'), nib.load(sys.argv[1]).affine), "
         "sys.argv[2] + '_mask.nii.gz')", "empty"),
        ("nib.save(nib.Nifti1Image(np.ones((9, 9, 9), 'u1'), np.eye(4)), sys.argv[2] + '_mask.nii.gz')",
         "not on the scan's grid"),
    ],
)
def test_failures_say_what_happened(
    body: str, words: str, scan: Path, on_path: PutOnPath, tmp_path: Path
) -> None:
    on_path("bet", body)
    before = temporary_folders()
    with pytest.raises(PeerError, match=f"(?s)bet: .*{words}"):
        CommandPeer(COMMANDS["bet"], timeout_s=60).run(scan, tmp_path / "mask.nii.gz")
    assert not (tmp_path / "mask.nii.gz").exists()
    assert temporary_folders() == before


def test_a_command_that_hangs_is_ended_with_its_children(
    scan: Path, on_path: PutOnPath, tmp_path: Path
) -> None:
    marker = tmp_path / "alive"
    on_path("bet", f"""
import os, time
if os.fork() == 0:
    time.sleep(4)
    open({str(marker)!r}, 'w').close()
    os._exit(0)
time.sleep(600)
""")
    start = time.perf_counter()
    with pytest.raises(PeerError, match="not done after 2 s"):
        CommandPeer(COMMANDS["bet"], timeout_s=2).run(scan, tmp_path / "mask.nii.gz")
    assert time.perf_counter() - start < 60
    time.sleep(4.5)
    assert not marker.exists()


def test_what_is_absent_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scan: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    peers = all_peers(mindgrab=tmp_path / "nothing.pth")
    able, reasons = choose(peers, "strip")
    assert {"bet", "hd-bet", "mri_synthstrip", "mri_watershed", "robex", "mindgrab"} <= set(reasons)
    assert "PATH" in reasons["bet"]
    assert "nothing.pth" in reasons["mindgrab"]
    assert not {peer.name for peer in able} & set(reasons)
    with pytest.raises(InputError, match="PATH"):
        choose(peers, "strip", ["bet"])
    with pytest.raises(InputError, match="no peer is called nobody"):
        choose(peers, "strip", ["nobody"])
    absent = CommandPeer(Command("x", "strip", "no-such-tool", (), ("out.nii.gz",)))
    with pytest.raises(PeerError, match="no-such-tool"):
        absent.run(scan, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("kind", [SimpleItkN4, AntsN4])
def test_n4_flattens_a_bias_field(kind: type, tmp_path: Path) -> None:
    peer = kind(1)
    if peer.missing():
        pytest.skip(peer.missing())
    grid = Grid((40, 40, 40), np.diag([4.0, 4, 4, 1]))
    position = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"), -1)
    inside = np.linalg.norm(position, axis=-1) < 0.8
    clean = inside * np.random.default_rng(1).normal(100, 4, inside.shape)
    field = np.exp(0.5 * position[..., 0])
    scan = Volume((clean * field).astype(np.float32), grid)
    save(scan, tmp_path / "scan.nii.gz")
    save(scan.with_data(inside), tmp_path / "mask.nii.gz")
    made = peer.run(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", mask=tmp_path / "mask.nii.gz")
    corrected = load(made.path, checks=False).data[inside]
    assert corrected.std() / corrected.mean() < 0.4 * scan.data[inside].std() / scan.data[inside].mean()


def test_ants_affine_finds_a_shift(tmp_path: Path) -> None:
    peer = AntsAffine(1)
    if peer.missing():
        pytest.skip(peer.missing())
    from neuralprep.formats.itk import read_affine

    image = head()
    shift = np.eye(4)
    shift[:3, 3] = 6, -4, 3
    moved = Volume(image.data, Grid(SHAPE, shift @ AFFINE))
    save(image, tmp_path / "template.nii.gz")
    save(moved, tmp_path / "scan.nii.gz")
    made = peer.run(tmp_path / "scan.nii.gz", tmp_path / "fit.mat", template=tmp_path / "template.nii.gz")
    found = read_affine(made.path).apply([[0.0, 0.0, 30.0]])
    np.testing.assert_allclose(found, [[6.0, -4, 33]], atol=1.5)
    with pytest.raises(PeerError, match="template"):
        peer.run(tmp_path / "scan.nii.gz", tmp_path / "fit2.mat")


@pytest.mark.slow
def test_deepbet_strips_a_real_head(shared_data: Path, tmp_path: Path) -> None:
    scan = shared_data / "heads" / "xa30_prisma_T1w_2mm.nii.gz"
    able, _ = choose(all_peers(), "strip")
    peer = next((p for p in able if p.name == "deepbet"), None)
    if peer is None or not scan.is_file():
        pytest.skip("deepbet or the head is not here")
    made = load(peer.run(scan, tmp_path / "mask.nii.gz").path, checks=False)
    assert 1000 < made.data.sum() * made.grid.voxel_volume / 1000 < 2000
