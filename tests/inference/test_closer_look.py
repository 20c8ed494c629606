"""A model with a network of its own for the closer look."""

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

OUTWARD_MM = 3.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network, and for the closer look the same with both surfaces 3 mm further out."""
    folder = tmp_path_factory.mktemp("model")
    source = find_model("npp").weights
    shutil.copy(source, folder / "own.safetensors")
    _, config, state = read_weights(source)
    state["distance_head.bias"] = state["distance_head.bias"] - OUTWARD_MM / 10
    save_network(state, config, folder / "own_close.safetensors", NPP_LAYOUT)
    return folder / "own.safetensors"


@pytest.fixture(scope="module")
def session(model: Path) -> Session:
    return open_session(str(model), "cpu", 1)


def test_only_the_closer_look_is_taken_with_it(session: Session, tmp_path: Path) -> None:
    alone = Session(session.model, session.backend)
    scan = load(write_demo_head(tmp_path).path)
    first, second = find_brain(session, scan, 0.1)
    same, without = find_brain(alone, scan, 0.1)
    assert first.apart is None
    assert np.array_equal(first.prediction.distances, same.prediction.distances)
    change = second.prediction.distances - without.prediction.distances
    assert change == pytest.approx(-OUTWARD_MM, abs=0.02)
    assert np.array_equal(second.prediction.coordinates, without.prediction.coordinates)
    assert second.apart == pytest.approx(without.apart, abs=0.02)


def test_both_networks_decide_whether_a_scan_is_done_again(model: Path, tmp_path: Path) -> None:
    alone = tmp_path / "own.safetensors"
    shutil.copy(model, alone)
    assert find_model(str(alone)).digest == find_model(str(alone)).sha256 == find_model(str(model)).sha256
    assert find_model(str(model)).digest != find_model(str(alone)).digest


def test_a_network_of_another_kind_beside_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "own.safetensors")
    _, config, state = read_weights(model)
    save_network(state, config, tmp_path / "own_close.safetensors", STRIP_LAYOUT)
    with pytest.raises(WeightsError, match=r"own_close\.safetensors: layout 'strip-1' is not 'npp-compact-1'"):
        open_session(str(tmp_path / "own.safetensors"), "cpu", 1)


def test_the_network_of_the_closer_look_is_no_model_of_its_own() -> None:
    assert not [name for name in shipped() if "close" in name]
