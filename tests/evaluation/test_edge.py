"""Contact with the stripped edge: against brute force, boxes, spheres and tilted planes of known area."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv

from neuralprep.errors import InputError
from neuralprep.evaluation.cases import Pair
from neuralprep.evaluation.edge import edge_contact, edge_voxels, stripped_mask
from neuralprep.evaluation.edge_cohort import (
    EdgeSettings,
    check_regions,
    edge_shares,
    measure_case,
    measure_cases,
    proportion,
)
from neuralprep.evaluation.labels import parse_regions, read_labels
from neuralprep.grid import Grid
from neuralprep.volume import Volume, save
from samples import affine_matrix

TUMOUR = {"tumour": (1,)}


def positions(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Voxel centres in mm about the middle of the array, not symmetric to it."""
    axes = [(np.arange(n) - n / 2 + 0.23) * s for n, s in zip(shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def brute(labels: np.ndarray, mask: np.ndarray, affine: np.ndarray, border: bool) -> tuple[int, float, np.ndarray]:
    """Contact voxels, face area and sorted distances, voxel by voxel in a padded array."""
    inside = np.pad(mask, 1, constant_values=not border)
    outside = np.argwhere(~inside)
    axes = affine[:3, :3]
    contact, area, distances = 0, 0.0, []
    for index in np.argwhere((labels == 1) & mask) + 1:
        near = [not inside[tuple(index + step)] for step in product((-1, 0, 1), repeat=3)]
        contact += any(near)
        for axis in range(3):
            others = [axes[:, other] for other in range(3) if other != axis]
            face = np.linalg.norm(np.cross(*others))
            area += face * sum(not inside[tuple(index + side * np.eye(3, dtype=int)[axis])] for side in (-1, 1))
        distances.append(np.linalg.norm((outside - index) @ axes.T, axis=1).min())
    return contact, area, np.sort(distances)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), border=st.booleans(), slices=st.floats(0.4, 6))
def test_equals_brute_force_on_oblique_grids(seed: int, border: bool, slices: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(4, 9, 3))
    mask = rng.random(shape) < 0.8
    mask.flat[0], mask.flat[-1] = False, True
    labels = rng.integers(0, 3, shape)
    labels.flat[-1] = 1
    matrix = affine_matrix(tuple(rng.normal(size=3)), (-0.9, 1.2, slices), (3, -40, 7))
    matrix[:3, :3] = matrix[:3, :3] @ (np.eye(3) + np.triu(rng.uniform(-0.15, 0.15, (3, 3)), 1))  # a sheared gantry
    grid = Grid(shape, matrix)
    contact, area, distances = brute(labels, mask, grid.affine, border)
    voxels = edge_voxels(labels, mask, grid, [1], border_is_edge=border)
    found = voxels.compartment("tumour", [1])
    assert found.contact_voxels == contact == voxels.contact_mask([1]).sum()
    assert found.contact_area_mm2 == pytest.approx(area)
    np.testing.assert_allclose(np.sort(voxels.distance[voxels.inside]), distances)
    assert found.voxels == (labels == 1).sum()
    assert found.outside_voxels == ((labels == 1) & ~mask).sum()
    assert found.volume_mm3 == pytest.approx((labels == 1).sum() * abs(np.linalg.det(matrix[:3, :3])))
    assert sum(found.histogram_mm3) == pytest.approx(found.volume_mm3 - found.outside_mm3)


def test_box_against_a_face_is_exact() -> None:
    grid = Grid.centered((30, 24, 20), (0.5, 1.0, 2.5))
    mask = np.zeros(grid.shape, bool)
    mask[2:28, 3:20, 2:18] = True
    labels = np.zeros(grid.shape, int)
    labels[22:28, 8:12, 6:10] = 1  # six layers of 0.5 mm, one face (4 x 1 mm by 4 x 2.5 mm) on the edge
    (box,) = edge_contact(labels, mask, grid, TUMOUR, bins=(0.5, 1.0, 2.0))
    assert box.contact_area_mm2 == pytest.approx(4 * 1.0 * 4 * 2.5)
    assert box.contact_voxels == 16
    assert (box.distance_min_mm, box.distance_max_mm) == (0.5, 3.0)
    layer = 16 * 0.5 * 1.0 * 2.5
    assert box.histogram_mm3 == pytest.approx((layer, layer, 2 * layer, 2 * layer))
    assert box.at_edge
    assert box.outside_mm3 == 0


def test_box_beyond_the_edge_is_counted_as_lost() -> None:
    grid = Grid.centered((20, 20, 20), 1.0)
    mask = np.zeros(grid.shape, bool)
    mask[5:15, 5:15, 5:15] = True
    labels = np.zeros(grid.shape, int)
    labels[12:18, 8:11, 8:11] = 1  # three of six layers outside
    labels[1, 1, 1] = 2
    half, gone = edge_contact(labels, mask, grid, {"half": (1,), "gone": (2,)})
    assert (half.outside_mm3, half.contact_area_mm2, half.contact_voxels) == (27, 9, 9)
    assert gone.at_edge  # nothing of it is left to touch the edge with
    assert gone.contact_voxels == 0
    assert np.isnan(gone.distance_min_mm)


@pytest.mark.parametrize(("radius", "spacing", "tolerance"),
                         [(15, (1, 1, 1), 0.01), (20, (1, 1, 3), 0.01), (22, (0.9, 0.9, 5.5), 0.02)])
def test_sphere_has_three_halves_of_its_area_in_faces(radius: float, spacing: tuple[float, ...],
                                                      tolerance: float) -> None:
    # the faces across an axis cover the sphere's shadow twice: 3 axes x 2 x pi r^2, over 4 pi r^2
    shape = tuple(int(2 * radius / s + 12) for s in spacing)
    ball = np.linalg.norm(positions(shape, spacing), axis=-1) <= radius
    (found,) = edge_contact(ball.astype(int), ball, Grid.centered(shape, spacing), TUMOUR)
    area = 4 * np.pi * radius**2
    assert found.contact_area_mm2 == pytest.approx(1.5 * area, rel=0.03)
    assert found.contact_area_smooth_mm2 == pytest.approx(area, rel=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_disc_on_a_tilted_plane(seed: int) -> None:
    normal = np.random.default_rng(seed).normal(size=3)
    normal /= np.linalg.norm(normal)
    spacing = (1.0, 0.8, 1.5)
    p = positions((60, 75, 40), spacing)
    height = p @ normal
    beside = np.linalg.norm(p - height[..., None] * normal, axis=-1)
    labels = ((beside < 18) & (np.abs(height) < 15)).astype(int)
    (found,) = edge_contact(labels, height <= 0, Grid.centered(height.shape, spacing), TUMOUR)
    assert found.contact_area_smooth_mm2 == pytest.approx(np.pi * 18**2, rel=0.03)
    assert found.contact_area_mm2 == pytest.approx(np.abs(normal).sum() * np.pi * 18**2, rel=0.03)
    assert found.distance_max_mm == pytest.approx(15, abs=1.5)


def test_border_of_the_array_is_no_edge_unless_asked() -> None:
    grid = Grid.centered((12, 12, 12), 1.0)
    mask = np.ones(grid.shape, bool)
    mask[:3] = False
    labels = np.zeros(grid.shape, int)
    labels[10:, 4:8, 4:8] = 1
    (free,) = edge_contact(labels, mask, grid, TUMOUR)
    assert not free.at_edge
    assert free.distance_min_mm == 8
    (cut,) = edge_contact(labels, mask, grid, TUMOUR, border_is_edge=True)
    assert (cut.contact_voxels, cut.contact_area_mm2, cut.distance_min_mm) == (16, 16, 1)


def test_mask_without_an_edge_is_refused() -> None:
    grid, labels = Grid.centered((5, 5, 5), 1.0), np.ones((5, 5, 5), int)
    for mask, state in ((np.zeros((5, 5, 5)), "holds nothing"), (np.ones((5, 5, 5)), "fills the whole array")):
        with pytest.raises(ValueError, match=state):
            edge_contact(labels, mask, grid, TUMOUR)
    assert edge_contact(labels, np.ones((5, 5, 5)), grid, TUMOUR, border_is_edge=True)[0].contact_area_mm2 == 150
    with pytest.raises(ValueError, match="differ"):
        edge_contact(labels, np.ones((5, 5, 4)), grid, TUMOUR)


def test_dark_voxels_within_the_brain_are_brain() -> None:
    image = np.full((9, 9, 9), -1000.0)
    image[2:7, 2:7, 2:7] = 40
    image[4, 4, 4] = -1000  # enclosed
    mask = stripped_mask(image, -1000)
    assert mask.sum() == 125
    assert stripped_mask(image, -1000, count_holes=True).sum() == 124
    image[4, 4, :] = -1000  # a tunnel to the border
    assert stripped_mask(image, -1000).sum() == 120


def test_share_has_the_exact_binomial_interval() -> None:
    # LaBella et al.: 1286 of 1424; bounds from the quantiles of the beta distribution
    share = proportion(1286, 1424)
    assert share.estimate == pytest.approx(0.903, abs=5e-4)
    assert share.low == pytest.approx(betaincinv(1286, 1424 - 1286 + 1, 0.025))
    assert share.high == pytest.approx(betaincinv(1286 + 1, 1424 - 1286, 0.975))
    assert proportion(5, 5).high == 1
    assert proportion(5, 5).low == pytest.approx(0.025 ** (1 / 5))


def write_cohort(folder: Path) -> list[Pair]:
    """Two cases: one touches the edge, one does not and lacks label 2; then one with an empty label map."""
    grid = Grid.centered((24, 20, 18), (1.0, 1.2, 2.0), codes="LPS")
    mask = np.zeros(grid.shape, np.uint8)
    mask[4:20, 4:16, 3:15] = 1
    pairs = []
    for name in ("a", "b", "empty"):
        labels = np.zeros(grid.shape, np.uint8)
        if name == "a":
            labels[15:20, 8:11, 8:11] = 1
            labels[12:15, 8:11, 8:11] = 2
        if name == "b":
            labels[10:13, 8:11, 8:11] = 1
        pair = Pair(name, folder / f"{name}_labels.nii.gz", folder / f"{name}_mask.nii.gz")
        save(Volume(labels, grid), pair.prediction)
        save(Volume(mask, grid), pair.truth)
        pairs.append(pair)
    return pairs


def test_cohort_counts_only_cases_that_have_the_compartment(tmp_path: Path) -> None:
    pairs = write_cohort(tmp_path)
    cases = list(measure_cases(pairs, EdgeSettings(regions={"one": (1,), "two": (2,)})))
    assert [case.name for case in cases] == ["a", "b", "empty"]
    assert "holds no label" in cases[2].fault
    shares = {share.compartment: share for share in edge_shares(cases)}
    assert (shares["one"].cases, shares["one"].at_edge, shares["one"].share.estimate) == (2, 1, 0.5)
    assert (shares["two"].cases, shares["two"].at_edge) == (1, 0)
    check_regions({"one": (1,)}, cases)
    with pytest.raises(InputError, match=r"region none: no label map holds label 7; the labels are 1, 2"):
        check_regions({"none": (7,)}, cases)
    every = {contact.compartment: contact for contact in measure_case(pairs[0], EdgeSettings()).contacts}
    assert every.keys() == {"all", "1", "2"}
    assert every["all"].voxels == every["1"].voxels + every["2"].voxels


def test_faults_of_files_are_named(tmp_path: Path) -> None:
    pair, other, _ = write_cohort(tmp_path)
    grid = read_labels(pair.prediction).grid

    def written(data: np.ndarray, where: Grid = grid) -> Path:
        path = tmp_path / "wrong.nii.gz"
        save(Volume(data, where), path)
        return path

    def fault(labels: Path, reference: Path, **options: object) -> str:
        with pytest.raises(InputError) as error:
            measure_case(Pair("case", labels, reference), EdgeSettings(**options))  # type: ignore[arg-type]
        return str(error.value)

    whole = np.ones(grid.shape, np.uint8)
    shifted = Grid(grid.shape, grid.affine + np.eye(4, k=3) * 2)
    assert "their grids differ" in fault(pair.prediction, written(whole, shifted))
    assert "covers the whole field of view" in fault(pair.prediction, written(whole))
    assert "the brain mask is empty" in fault(pair.prediction, written(whole * 0))
    assert "no whole numbers (0.5)" in fault(written(whole * np.float32(0.5)), pair.truth)
    assert "from -1 to -1" in fault(written(-whole.astype(np.int16)), pair.truth)
    assert "no voxel holds the fill value 0 (its minimum is 1)" in fault(pair.prediction, written(whole), stripped=True)
    ring = np.ones(grid.shape, np.uint8)
    ring[5, 5, 5] = 0
    assert "--count-holes" in fault(pair.prediction, written(ring), stripped=True)
    many = np.arange(ring.size, dtype=np.int16).reshape(ring.shape)
    assert "--regions" in fault(written(many), pair.truth)
    assert measure_case(Pair("b", other.prediction, pair.truth), EdgeSettings(stripped=True, fill="min")).contacts


def test_regions_are_read_from_text() -> None:
    assert parse_regions("WT=1, 2,3; ET = 3;") == {"WT": (1, 2, 3), "ET": (3,)}
    for wrong in ("", "WT", "WT=", "WT=1,x", "WT=0", "=1", "A=1;A=2", "A=1.5"):
        with pytest.raises(InputError, match=r"region|given twice"):
            parse_regions(wrong)
