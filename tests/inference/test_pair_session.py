"""A pair network in both runtimes: the shipped one where it must be right, random weights where any must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from groupwise.heads import rendered
from neuralprep import load
from neuralprep.alignment import AlignSettings, align_views, view
from neuralprep.errors import WeightsError
from neuralprep.evaluation.overlap import dice_by_label
from neuralprep.inference.pair_session import PairSession, open_pair_session
from neuralprep.inference.session import OpenVINOBackend, TorchBackend, open_session
from neuralprep.networks.loading import load_any
from neuralprep.resample import resample
from neuralprep.volume import Volume
from pair_weights import random_pair


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> PairSession:
    return open_pair_session(str(random_pair(tmp_path_factory.mktemp("pair"))), "cpu", 1)


@pytest.fixture(scope="module")
def shipped() -> PairSession:
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
    shipped: PairSession, shape: tuple[int, int, int]
) -> None:
    assert isinstance(shipped.backend, OpenVINOBackend)
    reference = PairSession(shipped.model, TorchBackend(shipped.model, "cpu", 1))
    first, second = brains(shape)
    made = shipped.predict(first, second, 0.1)
    assert made.shape == (3, *(n // 2 for n in shape))
    largest = np.abs(made).max()
    assert largest > 0.1
    plain = load_any(shipped.model.weights)[1].eval()
    with torch.no_grad():
        images = [torch.from_numpy(one)[None, None] for one in (first, second)]
        told = plain(*images, torch.full((1, 1), -1.0))[0].numpy()
    # channels last, the backend's order, the network's usual norm would be wrong by 1e-3 of the largest
    assert np.abs(reference.predict(first, second, 0.1) - told).max() < 2e-5 * largest
    # OpenVINO's norm: 1e-4 with AVX-512, 3e-4 with AVX2
    assert np.abs(told - made).max() < 1e-3 * largest
    assert np.abs(made + shipped.predict(second, first, 0.1)).max() < 1e-4 * largest
    assert np.abs(shipped.predict(first, first, 0.1)).max() < 1e-4 * largest


def test_stiffness_beyond_what_was_trained_is_taken_as_the_end(session: PairSession) -> None:
    first, second = brains((96, 96, 96))
    np.testing.assert_array_equal(session.predict(first, second, 0.0), session.predict(first, second, 0.001))
    assert np.abs(session.predict(first, second, 0.1) - session.predict(first, second, 1.0)).max() > 1e-3


def test_another_network_is_refused(session: PairSession) -> None:
    with pytest.raises(WeightsError, match=r"layout 'npp-compact-1' is not 'pair-1'"):
        open_pair_session("npp")
    with pytest.raises(WeightsError, match="'pair-1' cannot be run on a scan"):
        open_session(str(session.model.weights), "cpu", 1)


def structures(labels: Volume) -> Volume:
    """Left and right alike."""
    other = {41: 2, 42: 3, 43: 4, 49: 10, 50: 11, 53: 17, 46: 7, 47: 8}
    return labels.with_data(np.vectorize(lambda n: other.get(n, n))(labels.data.astype(int)).astype(np.float32))


def mean_overlap(carried: Volume, truth: Volume, wanted: set[int]) -> float:
    each = dice_by_label(np.rint(carried.data).astype(int), np.rint(truth.data).astype(int))
    return float(np.mean([each[label] for label in wanted]))


def gain(shipped: PairSession, images: list[Volume], labels: list[Volume], wanted: set[int]) -> float:
    """What the network alone adds to the overlap of labels after the affine."""
    looks = open_session("npp", "cpu", 1)
    seen = [view(looks, image) for image in images]
    scores = []
    for settings, network in ((AlignSettings(), None), (AlignSettings("svf", steps=0), shipped)):
        found = align_views(seen[1], seen[0], settings, network).fixed_from_moving
        scores.append(mean_overlap(resample(labels[1], labels[0].grid, found, order=0), labels[0], wanted))
    return scores[1] - scores[0]


def test_the_shipped_network_fits_unseen_heads_better_than_their_affine(
    shipped: PairSession, shared_data: Path
) -> None:
    """Label maps 19 and 20, which no network was trained on, drawn with noise of their own."""
    maps = [load(shared_data / f"labels/synthseg_training/training_seg_{n}.nii.gz", checks=False) for n in (19, 20)]
    images = [rendered(one, k, "T1w") for k, one in enumerate(maps)]
    assert gain(shipped, images, [structures(one) for one in maps], {2, 3, 4, 7, 8, 10, 11, 16, 17}) > 0.02


def test_the_shipped_network_fits_real_brains_better_than_their_affine(
    shipped: PairSession, shared_data: Path
) -> None:
    """Manual labels of two OASIS brains; the network has never seen a real image."""
    folder = shared_data / "labels" / "malf_oasis"
    names = ("1000", "1006")
    images = [load(folder / f"{name}_SS.nii.gz") for name in names]
    labels = [load(folder / f"{name}_glm.nii.gz", checks=False) for name in names]
    wanted = set(np.unique(labels[0].data).astype(int).tolist()) - {0}
    assert gain(shipped, images, labels, wanted) > 0.03
