"""Histogram landmarks: the standard scale, its file, and images that it maps alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.normalization.landmarks import PERCENTILES, Landmarks, fit_landmarks
from neuralprep.normalization.methods import normalize
from normalization.brains import brain


def cohort(count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """One anatomy through scanners of other scale, offset and tone."""
    image, mask = brain("t1", 0.03)
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(count):
        tone = (image.data / 1000.0).clip(0) ** rng.uniform(0.7, 1.4)
        pairs.append((np.where(mask.data > 0, rng.uniform(50, 3000) * tone, 0), mask.data))
    return pairs


def test_the_standard_scale_is_the_mean_of_pulled_percentiles() -> None:
    pairs = cohort()
    found = fit_landmarks(pairs)
    rows = []
    for image, mask in pairs:
        at = np.percentile(image[mask > 0], PERCENTILES)
        rows.append([100 * (v - at[0]) / (at[-1] - at[0]) for v in at])
    assert found.standard == pytest.approx(np.mean(rows, axis=0).tolist(), rel=1e-12)
    assert (found.standard[0], found.standard[-1], found.images) == (0, 100, 4)


def test_percentiles_land_on_the_standard_scale_and_images_become_alike() -> None:
    pairs = cohort()
    scale = fit_landmarks(pairs)
    done = [normalize(image, "nyul", mask, landmarks=scale).image[mask > 0] for image, mask in pairs]
    for values in done:
        assert np.percentile(values, PERCENTILES) == pytest.approx(scale.standard, abs=0.01)
    before = [image[mask > 0] / image[mask > 0].mean() for image, mask in pairs]
    spread = np.std(done, axis=0).mean() / np.mean(done)
    assert spread < 0.15 * np.std(before, axis=0).mean()


def test_beyond_the_last_landmarks_the_end_pieces_go_on() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(500, 100, (30, 30, 30))
    scale = fit_landmarks([(image, np.ones(image.shape)), (2 * image + rng.random(image.shape), np.ones(image.shape))])
    at = np.percentile(image, PERCENTILES)
    out = normalize(image, "nyul", np.ones(image.shape), landmarks=scale).image
    top = scale.standard[-1] + (image.max() - at[-1]) * (scale.standard[-1] - scale.standard[-2]) / (at[-1] - at[-2])
    bottom = scale.standard[0] + (image.min() - at[0]) * (scale.standard[1] - scale.standard[0]) / (at[1] - at[0])
    assert out.max() == pytest.approx(top, rel=1e-5)
    assert out.min() == pytest.approx(bottom, rel=1e-5)


def test_coinciding_percentiles_of_coarse_images_are_joined() -> None:
    scale = fit_landmarks(cohort())
    image, mask = cohort()[0]
    levels = np.floor(image / image.max() * 6)
    done = normalize(levels, "nyul", mask, landmarks=scale).image[mask > 0]
    assert np.isfinite(done).all()
    assert (np.diff([done[levels[mask > 0] == v].mean() for v in np.unique(levels[mask > 0])]) > 0).all()


def test_the_file_gives_back_the_same_scale(tmp_path: Path) -> None:
    scale = fit_landmarks(cohort())
    scale.save(tmp_path / "scale.json")
    assert Landmarks.load(tmp_path / "scale.json") == scale
    content = json.loads((tmp_path / "scale.json").read_text())
    assert content["Percentiles"] == list(PERCENTILES)
    assert list(tmp_path.iterdir()) == [tmp_path / "scale.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "is not JSON"),
        ({"Format": "else"}, "holds no histogram landmarks"),
        ([1, 2], "holds no histogram landmarks"),
        ({"Percentiles": None}, "its landmarks are damaged"),
        ({"StandardScale": [1, 2]}, "are no scale"),
        ({"Percentiles": [99, 50, 1], "StandardScale": [0, 5, 9]}, "are no scale"),
        ({"StandardScale": [float("nan")] * 11}, "are no scale"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "scale.json"
    fit_landmarks(cohort(2)).save(path)
    if isinstance(change, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    else:
        path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(InputError, match=f"^(landmarks|{path}).*{message}"):
        Landmarks.load(path)


def test_what_makes_no_standard_is_refused() -> None:
    image, mask = cohort(1)[0]
    with pytest.raises(InputError, match=r"landmarks of 1 image\(s\) are no standard"):
        fit_landmarks([(image, mask)])
    flat = np.where(np.random.default_rng(0).random(image.shape) < 0.001, 5.0, 3.0)
    with pytest.raises(InputError, match="1st and 99th percentile are both 3"):
        fit_landmarks([(image, mask), (flat, mask)])
    scale = fit_landmarks(cohort(2))
    with pytest.raises(InputError, match="its landmarks all lie at 3"):
        normalize(flat, "nyul", mask, landmarks=scale)
