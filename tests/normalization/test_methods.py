"""The seven methods: known white matter is found, changes of scale do not matter, and bad input is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from neuralprep.errors import InputError
from neuralprep.normalization.catalog import METHODS, Contrast
from neuralprep.normalization.distribution import density, fuzzy_c_means, histogram
from neuralprep.normalization.landmarks import fit_landmarks
from neuralprep.normalization.methods import normalize
from neuralprep.normalization.white_matter import white_matter_mean, white_matter_peak
from neuralprep.volume import Volume, load
from normalization.brains import MEANS, brain, white_matter

AFFINE_INVARIANT = ("zscore", "whitestripe", "nyul", "percentile")
SCALE_INVARIANT = ("fcm", "kde", "wm110")

cached_brain = cache(brain)


@cache
def landmarks():
    return fit_landmarks(cached_brain("t1", 0.02, 0.1, seed) for seed in range(3))


def run(method: str, image, mask, **changes):
    if method == "nyul":
        changes = {"landmarks": landmarks(), **changes}
    return normalize(image, method, mask, **changes)


def inside(image: Volume, mask: Volume) -> np.ndarray:
    return image.data[mask.data > 0].astype(np.float64)


@pytest.mark.parametrize(("contrast", "tolerance"), [("t1", 0.03), ("t2", 0.12), ("flair", 0.06), ("pd", 0.03)])
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_the_peak_of_white_matter_is_found(contrast: Contrast, tolerance: float, noise: float) -> None:
    image, mask = cached_brain(contrast, noise)
    assert white_matter_peak(inside(image, mask), contrast) == pytest.approx(MEANS[contrast][2], rel=tolerance)


def test_the_peak_is_found_where_noise_and_bias_merge_it_with_grey_matter() -> None:
    """Here the plain last peak of the density is none of white matter alone."""
    for noise, bias in ((0.1, 0.0), (0.04, 0.3), (0.08, 0.2)):
        image, mask = brain("t1", noise, bias)
        assert white_matter_peak(inside(image, mask), "t1") == pytest.approx(900, rel=0.1)


@pytest.mark.parametrize(("contrast", "core", "all_of_it"), [("t1", 0.03, 0.07), ("t2", 0.05, 0.15)])
def test_the_mean_of_white_matter_is_found(contrast: Contrast, core: float, all_of_it: float) -> None:
    image, mask = cached_brain(contrast, 0.04, 0.1)
    truth = float(image.data[white_matter()].mean())
    values = inside(image, mask)
    assert white_matter_mean(values, contrast, core=True) == pytest.approx(truth, rel=core)
    assert white_matter_mean(values, contrast) == pytest.approx(truth, rel=all_of_it)  # takes in partial volume


@pytest.mark.parametrize("contrast", ["flair", "pd"])
@pytest.mark.parametrize("method", ["fcm", "wm110"])
def test_clusters_are_refused_where_white_matter_is_none(contrast: Contrast, method: str) -> None:
    image, mask = cached_brain(contrast)
    with pytest.raises(InputError, match=f"clustering a {contrast} image; give a white matter mask"):
        normalize(image, method, mask, contrast=contrast)
    done = normalize(image, method, mask, contrast=contrast, wm_mask=white_matter().astype(np.uint8))
    level = 1 if method == "fcm" else 110
    assert done.image.data[white_matter()].mean() == pytest.approx(level, rel=1e-5)


def test_real_brains_against_their_manual_tissues(shared_data: Path) -> None:
    """OASIS: white matter of the manual labels; the mode is what most of it has."""
    for person in ("1000", "1122"):
        image = load(shared_data / "labels" / "malf_oasis" / f"{person}_SS.nii.gz")
        tissues = load(shared_data / "labels" / "malf_oasis" / f"{person}_tissues.nii.gz", checks=False)
        values, white = image.data[image.data != 0].astype(float), image.data[tissues.data == 3].astype(float)
        found = histogram(white)
        mode = found.nodes[np.argmax(density(white, found).weights)]
        assert white_matter_peak(values, "t1") == pytest.approx(mode, rel=0.01)
        assert white_matter_mean(values, "t1", core=True) == pytest.approx(white.mean(), rel=0.03)
        assert white_matter_mean(values, "t1") == pytest.approx(white.mean(), rel=0.06)


@pytest.mark.parametrize(
    ("method", "location", "spread"),
    [("zscore", 0.0, 1.0), ("percentile", None, None), ("wm110", 110.0, None), ("fcm", 1.0, None), ("kde", 1.0, None),
     ("whitestripe", 0.0, None)],
)  # fmt: skip
def test_results_mean_what_the_catalogue_says(method: str, location: float | None, spread: float | None) -> None:
    image, mask = cached_brain("t1", 0.03, 0.05)
    done = run(method, image, mask, fill=-7)
    values = inside(done.image, mask)
    assert done.image.data.dtype == np.float32
    assert (done.image.data[mask.data == 0] == -7).all()
    if spread is not None:
        assert (values.mean(), values.std()) == (pytest.approx(location, abs=1e-5), pytest.approx(spread, rel=1e-5))
    elif location is not None:
        white = done.image.data[white_matter()]
        close = 0.6 * float(white.std()) if method == "whitestripe" else 0.06 * location
        assert white.mean() == pytest.approx(location, abs=close)
    else:
        low, high = np.percentile(inside(image, mask), (1, 99))
        expected = np.clip((inside(image, mask) - low) / (high - low), 0, 1)
        assert np.abs(values - expected).max() < 1e-6
        assert (values.min(), values.max()) == (0, 1)


def test_the_white_stripe_is_a_tenth_of_the_brain() -> None:
    image, mask = cached_brain("t1", 0.03)
    done = run("whitestripe", image, mask)
    values = inside(done.image, mask)
    measures = done.measures
    place = np.mean(inside(image, mask) < measures["peak"])
    low, high = np.quantile(values, (place - 0.05, min(place + 0.05, 1)))
    stripe = values[(values >= low) & (values <= high)]
    assert stripe.size / values.size == pytest.approx(0.1, abs=0.002)
    assert (stripe.mean(), stripe.std()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, rel=1e-4))


@pytest.mark.parametrize(
    ("method", "factor", "offset"),
    [(method, factor, 0.0) for method in METHODS for factor in (3.7, 0.002)]
    + [(method, *change) for method in AFFINE_INVARIANT for change in ((41.0, 310.0), (1.0, -250.0))],
)
def test_scale_and_offset_of_the_scanner_do_not_matter(method: str, factor: float, offset: float) -> None:
    image, mask = cached_brain("t1", 0.03, 0.1)
    first = run(method, image, mask).image.data
    changed = image.with_data((image.data.astype(float) * factor + offset).astype(np.float32))
    second = run(method, changed, mask).image.data
    scale = float(np.abs(first).max())
    assert np.abs(first - second).max() < 2e-3 * scale


@pytest.mark.parametrize("method", METHODS)
def test_doing_it_twice_changes_nothing_more(method: str) -> None:
    image, mask = cached_brain("t1", 0.03, 0.1)
    once = run(method, image, mask).image
    again = run(method, once, mask).image
    if method == "percentile":  # what was clipped is gone: the percentiles move a little inwards
        assert np.abs(once.data - again.data).max() < 0.02
    else:
        assert np.abs(once.data - again.data).max() < 2e-3 * np.abs(once.data).max()


@pytest.mark.parametrize("method", METHODS)
def test_order_is_kept_and_zeros_inside_are_data(method: str) -> None:
    image, mask = cached_brain("t1", 0.03)
    data = image.data.copy()
    holes = (mask.data > 0) & (np.random.default_rng(0).random(data.shape) < 0.002)
    data[holes] = 0
    done = run(method, image.with_data(data), mask, fill=-99).image.data
    within = mask.data > 0
    order = np.argsort(data[within], kind="stable")
    assert (np.diff(done[within][order]) >= 0).all()
    assert (done[holes] == done[within].min()).all()
    assert done[holes][0] > -99


@pytest.mark.parametrize("method", METHODS)
def test_an_array_gives_an_array_and_the_outside_may_be_kept(method: str) -> None:
    image, mask = cached_brain("t1", 0.03)
    volume = run(method, image, mask).image
    array = run(method, image.data, mask.data).image
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, volume.data)
    kept = run(method, image.data, mask.data, fill=None).image
    assert np.array_equal(kept[mask.data > 0], array[mask.data > 0])
    assert np.unique(kept[mask.data == 0]).size == 1  # zero, mapped
    assert (kept[0, 0, 0] == 0) == (method in (*SCALE_INVARIANT, "percentile"))


@pytest.mark.parametrize("contrast", ["t1", "t2", "flair", "pd"])
def test_voxels_without_signal_do_not_lead_astray(contrast: Contrast) -> None:
    """Dropped slices, bone and vessels in the mask: a high and narrow peak of few voxels near zero."""
    image, mask = cached_brain(contrast, 0.03)
    values = inside(image, mask)
    clean = white_matter_peak(values, contrast)
    void = np.random.default_rng(0)
    values = np.where(void.random(values.size) < 0.04, np.abs(void.normal(0, 3, values.size)), values)
    assert white_matter_peak(values, contrast) == pytest.approx(clean, rel=0.05)
    if contrast in ("t1", "t2"):
        assert white_matter_mean(values, contrast, core=True) == pytest.approx(MEANS[contrast][2], rel=0.07)


@pytest.mark.parametrize("contrast", ["t1", "t2", "flair", "pd"])
def test_few_grey_levels_do_not_lead_astray(contrast: Contrast) -> None:
    """Brains stored with some 30 to 100 levels: each level may be a peak of its own."""
    image, mask = cached_brain(contrast, 0.03)
    white = MEANS[contrast][2]
    for step in (10, 15):
        values = np.rint(inside(image, mask) / step)
        assert white_matter_peak(values, contrast) * step == pytest.approx(white, abs=max(0.5 * step, 0.08 * white))


def test_the_density_is_a_gaussian_kernel_estimate() -> None:
    image, mask = cached_brain("t1", 0.03)
    values = inside(image, mask)[::50]
    found = histogram(values)
    ours = density(values, found).weights / found.step
    quartiles = np.subtract(*np.percentile(values, (75, 25)))
    width = 0.9 * min(values.std(), quartiles / 1.34) * values.size**-0.2
    oracle = stats.gaussian_kde(values, bw_method=width / values.std(ddof=1))(found.nodes)
    assert np.abs(ours - oracle).max() < 0.005 * oracle.max()


def test_fuzzy_c_means_is_at_its_fixed_point() -> None:
    """Necessary conditions of the optimum (Bezdek 1981, theorem 11.1), and a better optimum than nearby centres."""
    image, mask = cached_brain("t1", 0.03)
    values = np.sort(inside(image, mask)[::20])
    weights = np.ones(values.size)
    centres, memberships = fuzzy_c_means(values, weights)

    def cost(at: np.ndarray) -> float:
        distance = (values - at[:, None]) ** 2 + 1e-9
        shares = 1 / distance / (1 / distance).sum(0)
        return float((shares**2 * distance).sum())

    assert memberships.sum(axis=0) == pytest.approx(1)
    assert (memberships**2 @ values) / (memberships**2).sum(axis=1) == pytest.approx(centres, rel=1e-4)
    for step in np.eye(3) * 20:
        assert cost(centres) < min(cost(centres + step), cost(centres - step))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("zs", {}, "method 'zs' is unknown; give zscore"),
        ("kde", {"contrast": "dwi"}, "contrast 'dwi' is unknown; give t1, t2, flair, pd"),
        ("percentile", {"percentiles": (99.0, 1.0)}, "percentiles 99 and 1 are no range"),
        ("percentile", {"percentiles": (0.0, 0.05)}, "are both 1; choose others"),
        ("kde", {"wm_mask": np.ones(3)}, "wm_mask has no effect on method kde"),
        ("nyul", {"landmarks": None}, "needs the landmarks of a cohort"),
    ],
)
def test_options_that_make_no_sense_are_refused(method: str, changes: dict, message: str) -> None:
    image, mask = cached_brain("t1", 0.3)
    with pytest.raises(InputError, match=message):
        run(method, image, mask, **changes)


@pytest.mark.parametrize("method", SCALE_INVARIANT)
def test_images_without_a_zero_are_refused_by_methods_that_scale(method: str) -> None:
    image, mask = cached_brain("t1", 0.03)
    with pytest.raises(InputError, match=r"only images whose background is 0 .* Use zscore or whitestripe"):
        run(method, image.data - 5000, mask.data)


def test_a_few_voxels_are_no_distribution() -> None:
    data = np.arange(64.0).reshape(4, 4, 4)
    with pytest.raises(InputError, match=r"64 voxels between .* are no distribution"):
        normalize(data, "kde", np.ones(data.shape))
