"""The shipped pair network in both runtimes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.errors import WeightsError
from neuralprep.inference.pair_session import PairSession, open_pair_session
from neuralprep.inference.session import OpenVINOBackend, TorchBackend


@pytest.fixture(scope="module")
def session() -> PairSession:
    return open_pair_session("pair", "cpu", 1)


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
    assert np.abs(made).max() > 0.1
    assert np.abs(made - reference.predict(first, second, 0.1)).max() < 2e-3
    assert np.abs(made + session.predict(second, first, 0.1)).max() < 1e-4
    assert np.abs(session.predict(first, first, 0.1)).max() < 1e-4


def test_a_stiffer_prediction_bends_less(session: PairSession) -> None:
    first, second = brains((96, 96, 96))
    slopes = [np.square(np.diff(session.predict(first, second, s), axis=1)).mean() for s in (0.001, 0.1, 10.0)]
    assert slopes[0] > slopes[1] > slopes[2]
    np.testing.assert_array_equal(session.predict(first, second, 0.0), session.predict(first, second, 0.001))


def test_another_network_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"layout 'npp-compact-1' is not 'pair-1'"):
        open_pair_session("npp")
