"""A pair network in both runtimes; its weights are random, because none is shipped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.errors import WeightsError
from neuralprep.inference.pair_session import PairSession, open_pair_session
from neuralprep.inference.session import OpenVINOBackend, TorchBackend, open_session
from pair_weights import random_pair


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> PairSession:
    return open_pair_session(str(random_pair(tmp_path_factory.mktemp("pair"))), "cpu", 1)


def brains(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two ellipsoids of different size and texture."""
    rng = np.random.default_rng(0)
    made = []
    for size in (0.7, 0.62):
        radius = np.sqrt(sum(x**2 for x in np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")))
        texture = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
        made.append(np.where(radius < size, 0.6 + texture, 0).clip(0, 1).astype(np.float32))
    return made[0], made[1]


@pytest.mark.parametrize("shape", [(96, 96, 96), (96, 112, 96)])
def test_both_runtimes_agree_and_exchanged_brains_change_the_sign(
    session: PairSession, shape: tuple[int, int, int]
) -> None:
    assert isinstance(session.backend, OpenVINOBackend)
    reference = PairSession(session.model, TorchBackend(session.model, "cpu", 1))
    first, second = brains(shape)
    made = session.predict(first, second, 0.1)
    assert made.shape == (3, *(n // 2 for n in shape))
    largest = np.abs(made).max()
    assert largest > 0.1
    assert np.abs(made - reference.predict(first, second, 0.1)).max() < 2e-3 * largest
    assert np.abs(made + session.predict(second, first, 0.1)).max() < 1e-4 * largest
    assert np.abs(session.predict(first, first, 0.1)).max() < 1e-4 * largest


def test_stiffness_beyond_what_was_trained_is_taken_as_the_end(session: PairSession) -> None:
    first, second = brains((96, 96, 96))
    np.testing.assert_array_equal(session.predict(first, second, 0.0), session.predict(first, second, 0.001))
    assert np.abs(session.predict(first, second, 0.1) - session.predict(first, second, 1.0)).max() > 1e-3


def test_another_network_is_refused(session: PairSession) -> None:
    with pytest.raises(WeightsError, match=r"layout 'npp-compact-1' is not 'pair-1'"):
        open_pair_session("npp")
    with pytest.raises(WeightsError, match="'pair-1' cannot be run on a scan"):
        open_session(str(session.model.weights), "cpu", 1)
