"""Against the intensity-normalization package (Reinhold), where it is installed; it is no dependency."""

from __future__ import annotations

import numpy as np
import pytest

from neuralprep.normalization.landmarks import SCALE, fit_landmarks
from neuralprep.normalization.methods import normalize
from normalization.brains import brain

peer = pytest.importorskip("intensity_normalization", reason="the peer package intensity-normalization is not here")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    image, mask = brain("t1", 0.03, 0.1)
    return image.data[::2, ::2, ::2], mask.data[::2, ::2, ::2]


def theirs(normalizer, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return normalizer.fit_transform(peer.create_image(image), peer.create_image(mask)).get_data()[mask > 0]


def test_z_score_is_the_same(pair) -> None:
    ours = normalize(pair[0], "zscore", pair[1]).image[pair[1] > 0]
    assert np.abs(ours - theirs(peer.ZScoreNormalizer(), *pair)).max() < 1e-4


def test_fuzzy_c_means_is_the_same_up_to_its_tails_and_its_early_stop(pair) -> None:
    ours = normalize(pair[0], "fcm", pair[1]).image[pair[1] > 0]
    assert ours / theirs(peer.FCMNormalizer(), *pair) == pytest.approx(1, rel=5e-3)


def test_white_stripe_has_the_same_centre(pair) -> None:
    """Its bandwidth differs, so the two modes lie up to a grid step of theirs (1/80 of the range) apart."""
    image, mask = pair
    ours = normalize(image, "whitestripe", mask).measures
    other = peer.WhiteStripeNormalizer()
    other.fit(peer.create_image(image), peer.create_image(mask))
    assert ours["mean"] == pytest.approx(other._mean, rel=0.02)
    assert ours["standard_deviation"] == pytest.approx(other._std, rel=0.3)


def test_nyul_is_the_same(pair) -> None:
    image, mask = pair
    others = [image, 2.5 * image**1.1, 40 + 0.7 * image**0.9]
    others = [np.where(mask > 0, other, 0).astype(np.float32) for other in others]
    scale = fit_landmarks([(other, mask) for other in others])
    normalizer = peer.NyulNormalizer(output_min_value=SCALE[0], output_max_value=SCALE[1])
    wrapped = [peer.create_image(other) for other in others], [peer.create_image(mask)] * 3
    normalizer.fit_population(*wrapped)
    assert normalizer.standard_scale == pytest.approx(np.array(scale.standard), abs=1e-4)
    for other in others:
        ours = normalize(other, "nyul", mask, landmarks=scale).image[mask > 0]
        done = normalizer.transform(peer.create_image(other), peer.create_image(mask)).get_data()[mask > 0]
        assert np.abs(ours - done).max() < 1e-3
