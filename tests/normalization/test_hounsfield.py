"""Whether a CT is in Hounsfield units: what a user's CT may have been through, and images that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.evaluation.ct import hounsfield_from_cormack
from neuralprep.grid import Grid
from neuralprep.normalization.windows import apply_window
from neuralprep.volume import Volume, load
from normalization.brains import brain, head_ct

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def cormack(hu: np.ndarray) -> np.ndarray:
    """Clinical Toolbox for SPM: 200 HU from 900 above air are stretched elevenfold."""
    above = np.maximum(hu, -1000) + 1000
    return above + 10 * np.clip(above - 900, 0, 200)


def eight_bit(hu: np.ndarray) -> np.ndarray:
    return np.rint(np.clip((hu + 100) / 300, 0, 1) * 255)


RIGHT: dict[str, Change] = {
    "as it is": lambda hu, inside: hu,
    "stripped to -1000": lambda hu, inside: np.where(inside, hu, -1000),
    "stripped to 0": lambda hu, inside: np.where(inside, hu, 0),
    "stripped to -3024": lambda hu, inside: np.where(inside, hu, -3024),
    "not whole numbers": lambda hu, inside: hu + np.float32(0.37),
    "padded": lambda hu, inside: np.where(np.arange(hu.shape[0])[:, None, None] < 6, -2000, hu),
}
WRONG: dict[str, tuple[Change, str]] = {
    "intercept lost": (lambda hu, inside: np.maximum(hu + 1024, 0), "about 1024 too high"),
    "intercept lost, stripped": (lambda hu, inside: np.where(inside, hu + 1024, 0), "about 1024 too high"),
    "Cormack": (lambda hu, inside: cormack(hu), "Cormack"),
    "Cormack, stripped": (lambda hu, inside: np.where(inside, cormack(hu), 0), "Cormack"),
    "8-bit": (lambda hu, inside: eight_bit(hu), "8-bit"),
    "clipped": (lambda hu, inside: np.maximum(hu, 0), "clipped at 0"),
    "slope 2": (lambda hu, inside: hu * 2, "instead of -1000|where 12 to 75 HU"),
    "slope 1/2": (lambda hu, inside: hu / 2, "instead of -1000|where -110 to 300 HU"),
    "slope 10": (lambda hu, inside: hu * 10, "instead of -1000|median of the brain"),
    "slope 10, stripped": (lambda hu, inside: np.where(inside, hu * 10, 0), "median of the brain"),
    "slope 1/1000": (lambda hu, inside: hu / 1000, "small range"),
    "windowed": (lambda hu, inside: np.clip(hu / 80, 0, 1), "small range"),
}


def ct(change: Change) -> tuple[Volume, Volume]:
    scan, mask = head_ct()
    return scan.with_data(change(scan.data, mask.data > 0).astype(np.float32)), mask


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", RIGHT)
def test_hounsfield_units_pass(name: str, masked: bool) -> None:
    scan, mask = ct(RIGHT[name])
    measures = apply_window(scan, "brain", mask if masked else None).measures
    assert measures["within_share"] > (0.9 if masked else 0.05)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_other_scales_are_refused(name: str, masked: bool) -> None:
    change, message = WRONG[name]
    scan, mask = ct(change)
    with pytest.raises(InputError, match=f"does not look like Hounsfield units: .*({message}).* Seen: .*--force"):
        apply_window(scan, "brain", mask if masked else None)
    assert apply_window(scan, "brain", mask if masked else None, checks=False).image.data.max() <= 1


def test_what_is_not_finite_outside_of_the_mask_does_not_matter() -> None:
    scan, mask = ct(RIGHT["stripped to 0"])
    holes = np.where(mask.data > 0, scan.data, np.nan).astype(np.float32)
    done = apply_window(holes, "brain", mask.data, equalize=True, fill=-1).image
    assert np.array_equal(done, apply_window(scan.data, "brain", mask.data, equalize=True, fill=-1).image)


def test_units_of_other_windows_are_not_checked() -> None:
    scan, mask = ct(WRONG["Cormack"][0])
    assert apply_window(scan, "1000,3000", mask).measures["within_share"] > 0.9


@pytest.mark.parametrize("contrast", ["t1", "t2"])
def test_an_mr_image_is_no_ct(contrast: str) -> None:
    scan, mask = brain(contrast)  # type: ignore[arg-type]
    for given in (mask, None):
        with pytest.raises(InputError, match=r"[iI]s it a CT|if it is a CT"):
            apply_window(scan, "brain", given)


def test_what_was_seen_is_said() -> None:
    scan, mask = ct(WRONG["intercept lost"][0])
    path = Path("P7_ct.nii.gz")
    named = Volume(scan.data, scan.grid, path)
    with pytest.raises(InputError, match=r"^P7_ct.nii.gz: .* Seen: whole numbers from 2 to 1943, median inside 1054\."):
        apply_window(named, "cta", mask)


def test_real_ct(shared_data: Path) -> None:
    full = load(shared_data / "ct" / "ge_hispeed_head_CT.nii.gz")
    assert apply_window(full, "brain").measures["above_share"] > 0.05
    scan = Volume(full.data[::3, ::3], Grid.centered(full.data[::3, ::3].shape, (2.93, 2.93, 2.62)))
    for name, (change, message) in WRONG.items():
        if "stripped" not in name:
            wrong = scan.with_data(change(scan.data, scan.data > -200).astype(np.float32))
            with pytest.raises(InputError, match=f"{message}|where -110 to 300 HU"):
                apply_window(wrong, "brain")


def test_the_mean_ct_of_older_adults_is_in_cormack_units(shared_data: Path) -> None:
    scan = load(shared_data / "templates" / "scct_2mm.nii.gz")
    mask = load(shared_data / "templates" / "scct_stripped_2mm.nii.gz")
    with pytest.raises(InputError, match="Cormack"):
        apply_window(scan, "brain", mask)
    back = scan.with_data(hounsfield_from_cormack(scan.data))
    measures = apply_window(back, "cta", mask).measures
    assert 45 < measures["median"] < 65
    assert np.abs(cormack(back.data.astype(float)) - scan.data).max() < 0.01  # the test's own scale is the toolbox's


def test_no_real_mr_head_passes_for_a_ct(shared_data: Path) -> None:
    heads = ["IXI012-HH-1211_T1w_2mm", "bisweb_sag_T1w_2mm", "xa30_prisma_T1w_2mm", "openms_p01_s1_FLAIR", "rorden_PDw"]
    for name in heads:
        with pytest.raises(InputError, match="Hounsfield"):
            apply_window(load(shared_data / "heads" / f"{name}.nii.gz"), "brain")
