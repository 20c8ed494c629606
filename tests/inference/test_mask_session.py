"""Mask networks: the graph built from the tensors against PyTorch, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neuralprep.errors import InputError, WeightsError
from neuralprep.inference import mask_session
from neuralprep.inference.mask_session import open_mask_session
from neuralprep.networks import loading
from neuralprep.networks.meshnet import MeshNet, convert_mindgrab, load_mindgrab
from neuralprep.weights.registry import MESHNET_LAYOUT, NPP_LAYOUT, find_model


def weights_file(folder: Path, network: MeshNet, config: dict[str, object], **card: object) -> Path:
    path = folder / "own.safetensors"
    save_file(network.state_dict(), path, metadata={"layout": MESHNET_LAYOUT, "config": json.dumps(config)})
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


@pytest.fixture
def published(published_mindgrab: Path, tmp_path: Path) -> tuple[MeshNet, Path]:
    target = tmp_path / "mindgrab.safetensors"
    convert_mindgrab(published_mindgrab, target)
    target.with_suffix(".json").write_text(json.dumps({"size": 48}))
    return load_mindgrab(published_mindgrab), target


def test_layouts_are_those_that_training_writes() -> None:
    assert (MESHNET_LAYOUT, NPP_LAYOUT) == (loading.MESHNET_LAYOUT, loading.NPP_LAYOUT)


def test_published_network_runs_alike_in_every_runtime(published: tuple[MeshNet, Path]) -> None:
    network, path = published
    x, y, z = np.mgrid[-1:1:48j, -1:1:48j, -1:1:48j]
    r = np.sqrt(x**2 + y**2 + z**2)
    image = np.clip(0.6 * (r < 0.5) + 0.9 * ((r > 0.6) & (r < 0.7)) + 0.1 * np.sin(9 * x + 5 * y), 0, 1)
    image = image.astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image)[None, None])[0].numpy()
    expected = logits[1] - logits[0]
    session = open_mask_session(str(path), "cpu", 1)
    made = session.predict(image)
    assert session.runtime.startswith("openvino")
    limit = 0.02 if session.runtime == "openvino-f32" else 0.2
    # 25 norms in a row magnify rounding, so answers are compared on the scale of their own spread
    assert np.sqrt(np.mean((made - expected) ** 2)) < limit * expected.std()
    assert ((made > 0) == (expected > 0)).mean() > (0.999 if session.runtime == "openvino-f32" else 0.98)
    plain = mask_session._torch(find_model(str(path)), "cpu", 1)[1](image)
    assert np.sqrt(np.mean((plain - expected) ** 2)) < 1e-3 * expected.std()


def test_half_precision_weights_of_our_own_are_read(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = MeshNet(4, (2, 1))
    path = tmp_path / "own.safetensors"
    loading.save_network(network.state_dict(), {"channels": 4, "dilations": (2, 1)}, path, loading.MESHNET_LAYOUT)
    path.with_suffix(".json").write_text(json.dumps({"size": 24, "spacing_mm": 2.0}))
    session = open_mask_session(str(path), "cpu", 1)
    assert (session.side, session.spacing_mm) == (24, 2.0)
    image = np.random.default_rng(0).random((24, 24, 24), np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image)[None, None])[0].numpy()
    assert np.corrcoef(session.predict(image).ravel(), (logits[1] - logits[0]).ravel())[0, 1] > 0.995


def test_unfit_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="layout 'npp-compact-1' is not 'meshnet-1'"):
        open_mask_session("npp", "cpu", 1)
    with pytest.raises(InputError, match="unknown device"):
        open_mask_session("npp", "tpu")
    network = MeshNet(4, (2, 1))
    for config, fault in (
        ({"channels": 5, "dilations": [2, 1]}, "do not fit a MeshNet of 5 channels and 2 blocks"),
        ({"channels": 4, "dilations": [2, 1, 1]}, "do not fit a MeshNet of 4 channels and 3 blocks"),
        ({"channels": 4}, "do not describe a MeshNet"),
    ):
        path = weights_file(tmp_path, network, config, size=16)
        with pytest.raises(WeightsError, match=fault):
            open_mask_session(str(path), "cpu", 1)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        open_mask_session(str(broken), "cpu", 1)
