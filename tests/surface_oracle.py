"""The public ``surface-distance`` package, made to run with the NumPy and SciPy of today."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest


def oracle(mask: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> SimpleNamespace:
    """Scores of two masks: directed means, robust Hausdorff distance, surface overlaps and Dice at a tolerance."""
    package = pytest.importorskip("surface_distance")
    with warnings.catch_warnings(), mock.patch.object(np, "Inf", np.inf, create=True):
        warnings.simplefilter("ignore")
        found = package.compute_surface_distances(reference.astype(bool), mask.astype(bool), spacing)

    def call(name: str, *arguments: float) -> object:
        with np.errstate(all="ignore"), mock.patch.object(np, "Inf", np.inf, create=True):
            return getattr(package, name)(found, *arguments)

    return SimpleNamespace(
        # the package names the reference first
        means=lambda: call("compute_average_surface_distance")[::-1],  # type: ignore[index]
        hausdorff=lambda percent: call("compute_robust_hausdorff", percent),
        overlaps=lambda tolerance: call("compute_surface_overlap_at_tolerance", tolerance)[::-1],  # type: ignore[index]
        dice=lambda tolerance: call("compute_surface_dice_at_tolerance", tolerance),
    )


def oracle_areas(spacing: tuple[float, float, float]) -> np.ndarray:
    """Area of every 2 x 2 x 2 neighbourhood, by the package's codes: corner (i, j, k) is bit 7 - (4i + 2j + k)."""
    tables = pytest.importorskip("surface_distance.lookup_tables")
    return tables.create_table_neighbour_code_to_surface_area(spacing)
