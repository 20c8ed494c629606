"""The viewer's page: the library is found in the installed package, and the volumes in it are the scan's."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.report import viewer
from neuralprep.report.viewer import Layer, niivue, viewer_page, write_viewer
from neuralprep.volume import Volume
from report.sample_result import EVIL, make_result
from report.test_scan_page import Page
from samples import moving_grid


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A widget that carries a stand-in for the library, in the way the real one does."""
    code = "var a=1;" + "x" * 600_000 + ";class Niivue{}export{A as B,Niivue,C};"
    path = tmp_path / "widget.js"
    path.write_text(f'var o="short",e="{quote(code, safe="")}",f;export{{f as default}}')
    monkeypatch.setattr(viewer, "_widget", lambda: path)
    niivue.cache_clear()
    yield path
    niivue.cache_clear()


def _unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def _head(grid: Grid) -> list[Layer]:
    result = make_result(grid)
    outputs = {name: output for name, output in result.outputs.items() if isinstance(output, Volume)}
    return [Layer("Scan", "image", result.scan), Layer("Normalised", "image", outputs["preproc"]),
            Layer("brain mask", "mask", outputs["brain_mask"])]


def test_the_installed_library_is_found() -> None:
    if not viewer.available():
        pytest.skip("ipyniivue is not installed (extra viewer)")
    niivue.cache_clear()
    code = _unpacked(niivue()).decode()
    assert "export{" in code[-2000:]
    assert "import(" not in code[:2000]
    assert len(code) > 1_000_000


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "_PACKAGE", "no_such_package")
    niivue.cache_clear()
    assert not viewer.available()
    with pytest.raises(InputError, match=r"neuralprep\[viewer\]"):
        viewer_page("scan", _head(Grid.centered((20, 22, 18), 10.0)))


def test_an_unknown_release_is_an_error_and_not_a_broken_page(bundle: Path) -> None:
    assert _unpacked(niivue()).decode().endswith("export{A as B,Niivue,C};")
    bundle.write_text(bundle.read_text().replace("Niivue", "Other"))
    niivue.cache_clear()
    with pytest.raises(InputError, match="carries no NiiVue module"):
        niivue()


@pytest.mark.parametrize("kind", ["straight", "oblique"])
def test_volumes_of_the_page_are_those_of_the_scan(tmp_path: Path, bundle: Path, kind: str) -> None:
    straight = Grid.centered((48, 52, 44), (4.0, 4.0, 4.2), (3, -8, 12))
    grid = straight
    if kind == "oblique":
        turned = moving_grid().affine.copy()
        turned[:3, :3] *= 4.0 / np.linalg.norm(turned[:3, :3], axis=0)
        grid = Grid((50, 54, 50), turned)
    layers = _head(grid)
    page = write_viewer(tmp_path, "sub-01_T1w", layers)
    assert page.name == "sub-01_viewer.html"
    parsed = Page(page)
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    names = [attributes.get("data-name") or attributes.get("id") or "code" for attributes in scripts]
    texts = dict(zip(names, parsed.inside["script"], strict=True))
    header = _unpacked(texts["header"])
    images = {}
    for layer in layers:
        image = nib.Nifti1Image.from_stream(io.BytesIO(header + _unpacked(texts[layer.name])))
        images[layer.name] = (np.asarray(image.dataobj), image.affine)
    data, affine = images["brain mask"]
    np.testing.assert_allclose(np.abs(np.diag(affine)[:3]), 1.5)
    assert set(np.unique(data)) == {0, 1}
    mask = layers[2].volume
    assert data.sum() * 1.5**3 == pytest.approx(np.count_nonzero(mask.data) * mask.grid.voxel_volume, rel=0.02)
    middle = nib.affines.apply_affine(affine, np.argwhere(data).mean(0))
    np.testing.assert_allclose(middle, grid.center, atol=1.0)
    scan, _ = images["Scan"]
    assert scan.max() == 254
    bright = data.astype(bool)
    assert scan[bright].mean() > 4 * scan[~bright].mean()


def test_masks_alone_and_evil_names(bundle: Path) -> None:
    layers = _head(Grid.centered((20, 22, 18), 10.0))
    with pytest.raises(InputError, match="no image to show"):
        viewer_page("scan", layers[2:])
    text = viewer_page(EVIL, [Layer(EVIL, "image", layers[0].volume)])
    assert EVIL not in text
    assert "https:" not in text.partition("library")[0]
