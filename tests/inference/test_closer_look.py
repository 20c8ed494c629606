"""A model with networks of its own for the closer look."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from neuralprep import load
from neuralprep.demo import write_demo_head
from neuralprep.errors import WeightsError
from neuralprep.inference.session import Session, open_session
from neuralprep.networks.loading import NPP_LAYOUT, STRIP_LAYOUT, read_weights, save_network
from neuralprep.stages.look import find_brain
from neuralprep.weights.registry import find_model, shipped

OUTWARD_MM = {"close": 3.0, "fine": 5.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network, and for closer looks the same with both surfaces some millimetres further out."""
    folder = tmp_path_factory.mktemp("model")
    source = find_model("npp").weights
    shutil.copy(source, folder / "own.safetensors")
    for name, outward in OUTWARD_MM.items():
        _, config, state = read_weights(source)
        state["distance_head.bias"] = state["distance_head.bias"] - outward / 10
        save_network(state, config, folder / f"own_{name}.safetensors", NPP_LAYOUT)
    return folder / "own.safetensors"


@pytest.fixture(scope="module")
def session(model: Path) -> Session:
    return open_session(str(model), "cpu", 1)


@pytest.mark.parametrize("kind", ["close", "fine"])
def test_only_the_closer_look_is_taken_with_them(session: Session, tmp_path: Path, kind: str) -> None:
    """Masks come from the fine one; what alignment sees, which is not mirrored, from the quick one."""
    alone = Session(session.model, session.backend)
    scan = load(write_demo_head(tmp_path).path)
    first, second = find_brain(session, scan, 0.1, mirrored=kind == "fine")
    same, without = find_brain(alone, scan, 0.1, mirrored=kind == "fine")
    assert first.apart is None
    assert np.array_equal(first.prediction.distances, same.prediction.distances)
    change = second.prediction.distances - without.prediction.distances
    assert change == pytest.approx(-OUTWARD_MM[kind], abs=0.02)
    assert np.array_equal(second.prediction.coordinates, without.prediction.coordinates)
    if kind == "fine":
        assert second.apart == pytest.approx(without.apart, abs=0.02)


def test_without_a_fine_network_the_quick_one_does_it_all(model: Path, tmp_path: Path) -> None:
    for ending in ("", "_close"):
        shutil.copy(model.with_name(f"own{ending}.safetensors"), tmp_path)
    files = find_model(str(tmp_path / "own.safetensors"))
    assert files.fine is files.close
    session = open_session(str(files.weights), "cpu", 1)
    assert session.finer is session.closer is not None


def test_networks_that_a_mask_meets_decide_whether_a_scan_is_done_again(model: Path, tmp_path: Path) -> None:
    def digest(*endings: str) -> str:
        folder = tmp_path / "+".join(("own", *endings))
        folder.mkdir()
        for ending in ("", *endings):
            shutil.copy(model.with_name(f"own{ending}.safetensors"), folder)
        return find_model(str(folder / "own.safetensors")).digest

    alone, close, fine, both = digest(), digest("_close"), digest("_fine"), digest("_close", "_fine")
    assert alone == find_model(str(model)).sha256
    assert len({alone, close, fine}) == 3
    assert both == fine


def test_a_network_of_another_kind_beside_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "own.safetensors")
    _, config, state = read_weights(model)
    save_network(state, config, tmp_path / "own_close.safetensors", STRIP_LAYOUT)
    with pytest.raises(WeightsError, match=r"own_close\.safetensors: layout 'strip-1' is not 'npp-compact-1'"):
        open_session(str(tmp_path / "own.safetensors"), "cpu", 1)


def test_the_network_of_the_closer_look_is_no_model_of_its_own() -> None:
    assert not [name for name in shipped() if "close" in name or "fine" in name]
