"""Trilinear values against SciPy's."""

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.trilinear import by_component, trilinear


def places(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """Within the array, on its voxels, and beyond all of its faces."""
    rng = np.random.default_rng(seed)
    size = np.array(shape)[:, None]
    inside = rng.uniform(-0.5, size - 0.5, (3, count))
    return np.concatenate([inside, np.rint(inside), rng.uniform(-3 * size, 4 * size, (3, count))], 1)


@pytest.mark.parametrize("shape", [(7, 9, 11), (1, 9, 11), (7, 1, 11), (7, 9, 1), (1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("order", ["C", "F", "slices first", "strided"])
def test_values_are_those_of_scipy(shape: tuple[int, int, int], order: str) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    stored = {
        "C": arrays,
        "F": [np.asfortranarray(one) for one in arrays],
        "slices first": [np.ascontiguousarray(one.transpose(2, 0, 1)).transpose(1, 2, 0) for one in arrays],
        "strided": [np.repeat(one, 2, axis=1)[:, ::2] for one in arrays],
    }[order]
    where = places(shape, 20_000)  # more than one block
    made = trilinear(stored, where)
    for one, values in zip(arrays, made, strict=True):
        wanted = ndimage.map_coordinates(one, where, output=np.float64, order=1, mode="nearest", prefilter=False)
        np.testing.assert_allclose(values, wanted, atol=2e-6)


def test_arrays_stored_differently_do_not_mix() -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.standard_normal((5, 6, 7)).astype(np.float32) for _ in range(2))
    where = places((5, 6, 7), 100)
    together = trilinear([first, np.asfortranarray(second)], where)
    np.testing.assert_array_equal(together[0], trilinear([first], where)[0])
    np.testing.assert_array_equal(together[1], trilinear([second], where)[0])


def test_double_precision_of_places_is_used() -> None:
    """Single precision of coordinates of some hundred voxels would err by 0.01 here."""
    stripes = np.zeros((400, 2, 2), np.float32)
    stripes[1::2] = 1000
    where = np.stack([np.linspace(300, 399, 9_999), np.full(9_999, 0.25), np.full(9_999, 0.75)])
    wanted = np.interp(where[0], np.arange(400), stripes[:, 0, 0])
    np.testing.assert_allclose(trilinear([stripes], where)[0], wanted, atol=5e-4)


def test_shape_of_the_places_is_kept() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = trilinear([values, -values], np.indices((2, 3, 4)).astype(float))
    np.testing.assert_array_equal(found, np.stack([values, -values]))


def test_components_are_copied_only_when_interleaved() -> None:
    interleaved = np.random.default_rng(3).standard_normal((4, 5, 6, 3)).astype(np.float32)
    planar = by_component(interleaved)
    np.testing.assert_array_equal(planar, interleaved)
    assert not np.shares_memory(planar, interleaved)
    assert planar[..., 1].flags.c_contiguous
    assert by_component(planar) is planar
