"""The shipped network in both runtimes, and how a session is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError, WeightsError
from neuralprep.inference.session import OpenVINOBackend, Session, TorchBackend, open_session
from neuralprep.weights.registry import find_model, shipped


def head_like(shape: tuple[int, int, int] = (64, 64, 64)) -> np.ndarray:
    """A bright ball in a dark shell with texture: enough structure for every layer to work."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    image = np.where(r < 0.6, 0.7 + 0.1 * np.sin(9 * x) * np.cos(7 * y), np.where(r < 0.75, 0.1, 0.5 * (r < 0.85)))
    return image.astype(np.float32)


def test_shipped_model_runs_alike_in_openvino_and_torch() -> None:
    session = open_session("npp", "cpu", 2)
    assert isinstance(session.backend, OpenVINOBackend)
    reference = Session(session.model, TorchBackend(session.model, "cpu", 2))
    made, expected = (s.predict(head_like(), 0.1) for s in (session, reference))
    for name, a, b in zip(made._fields, made, expected, strict=True):
        assert np.abs(a - b).max() < 1e-3 * max(1.0, np.abs(b).max()), name


def test_a_few_shapes_stay_compiled_and_each_gets_its_own_answer() -> None:
    session = open_session("npp", "cpu", 1)
    assert isinstance(session.backend, OpenVINOBackend)
    shapes = [(32, 32, 32), (48, 32, 32), (32, 48, 32), (32, 32, 48), (48, 48, 32), (64, 32, 32)]
    first = {shape: session.predict(head_like(shape), 0.1) for shape in shapes}
    for shape in reversed(shapes):
        again = session.predict(head_like(shape), 0.1)
        assert all(np.array_equal(a, b) for a, b in zip(again, first[shape], strict=True))
    assert len(session.backend._compiled) <= 4


def test_every_shipped_model_has_a_card_that_fits_its_weights() -> None:
    assert "npp" in shipped()
    models = [find_model(name) for name in shipped()]
    models += [other for model in models for other in (model.close, model.fine) if other is not None]
    for model in models:
        name = model.name
        assert model.graph_matches(), name
        assert {"recipe_digest", "steps", "training_seconds", "device", "limits", "scores"} <= set(model.card), name
        assert not {"training_seg_19", "training_seg_20"} & set(model.card["train_heads"])
        assert model.weights.stat().st_size < 20e6


def test_lambda_must_be_positive() -> None:
    with pytest.raises(InputError, match="lambda is 0"):
        open_session("npp", "cpu", 1).predict(head_like((32, 32, 32)), 0.0)


def test_unknown_models_and_devices_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no shipped model 'none'; shipped are .*npp"):
        open_session("none", "cpu")
    with pytest.raises(WeightsError, match="no such weights file"):
        open_session(str(tmp_path / "x.safetensors"), "cpu")
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        open_session("npp", "tpu")


def test_an_absent_gpu_is_an_error_not_a_silent_cpu_run() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="'cuda' is not available"):
        open_session("npp", "cuda")
