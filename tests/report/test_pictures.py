"""Pictures: the PNG is one, and a head drawn from any axis order, oblique or with thick slices looks the same."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from scipy import ndimage

from neuralprep.grid import Grid
from neuralprep.report import figures, png
from neuralprep.report.png import Picture
from neuralprep.report.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Cuts,
    Frame,
    Plane,
    contour,
    cut,
    frame_around,
    mask_box,
    window,
)
from neuralprep.volume import Volume
from samples import moving_grid

CENTRE = np.array([10.0, -20.0, 30.0])
SEMI_AXES = np.array([50.0, 70.0, 40.0])
FRAME = Frame(CENTRE - 90.0, CENTRE + 90.0, 1.5)


def _ball(grid: Grid) -> Volume:
    """Ellipsoid with a bright spot at its right, front, upper side; linear at its surface, so that 0.5 lies there."""
    points = grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)) - CENTRE
    body = np.clip(4 * (1 - np.linalg.norm(points / SEMI_AXES, axis=-1)) + 0.5, 0, 1)
    spot = np.linalg.norm(points - (24, 34, 16), axis=-1) < 8
    return Volume((body + spot).astype(np.float32), grid)


def _pixels(picture: Picture) -> np.ndarray:
    return picture.palette[picture.index].astype(float)


def test_png_is_read_back_by_another_decoder() -> None:
    image = pytest.importorskip("matplotlib.image")
    rng = np.random.default_rng(0)
    picture = Picture(rng.integers(0, 256, (37, 53), dtype=np.uint8), png.slice_palette())
    read = image.imread(io.BytesIO(picture.png()), format="png")
    np.testing.assert_allclose(read[..., :3] * 255, _pixels(picture), atol=0.5)


def test_a_noisy_picture_loses_greys_but_no_lines() -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(png.GREY_FIRST, png.GREY_LAST + 1, (300, 300), dtype=np.uint8)
    png.draw_line(index, np.eye(300), 0)
    picture = Picture(index, png.slice_palette())
    assert len(picture.small_png(0.7)) <= 0.7 * index.size < len(picture.png())
    image = pytest.importorskip("matplotlib.image")
    read = image.imread(io.BytesIO(picture.small_png(0.7)), format="png")[..., :3] * 255
    np.testing.assert_allclose(np.diagonal(read).T, np.diagonal(_pixels(picture)).T, atol=0.5)
    np.testing.assert_allclose(read, _pixels(picture), atol=17)


@pytest.mark.parametrize("plane", [AXIAL, CORONAL, SAGITTAL], ids=["axial", "coronal", "sagittal"])
def test_right_is_right_and_up_is_up(plane: Plane) -> None:
    where = CENTRE[plane.through] + np.array([24.0, 34.0, 16.0])[plane.through]
    tile = cut(_ball(Grid.centered((70, 90, 60), 2.0, CENTRE)), FRAME, plane, np.array([where]))[0]
    row, column = np.unravel_index(np.nanargmax(tile), tile.shape)
    assert column > tile.shape[1] / 2, "right and front lie on the right"
    assert row < tile.shape[0] / 2, "front and top lie above"


@pytest.mark.parametrize("plane", [AXIAL, CORONAL, SAGITTAL], ids=["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("kind", ["LPI", "SAR", "thick", "oblique"])
def test_every_storage_gives_the_same_picture(plane: Plane, kind: str) -> None:
    plain = _ball(Grid.centered((70, 90, 60), 2.0, CENTRE))
    if kind == "thick":
        other = _ball(Grid.centered((70, 90, 40), (2.0, 2.0, 3.0), CENTRE))
    elif kind == "oblique":
        cos, sin = np.cos(0.4), np.sin(0.4)
        turn = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        to_centre = np.eye(4)
        to_centre[:3, 3] = CENTRE
        straight = Grid.centered((95, 95, 60), 2.0)
        other = _ball(Grid(straight.shape, to_centre @ turn @ straight.affine))
    else:
        other = plain.oriented(kind)
    positions = CENTRE[plane.through] + np.array([-14.0, 0.0, 18.0])
    expected, found = (cut(volume, FRAME, plane, positions, fill=0.0) for volume in (plain, other))
    # the sharp bright spot may fall on other samples; the body may not move
    assert np.mean(np.abs(expected - found) > 0.15) < 0.003


def test_a_millimetre_has_one_length_and_the_contour_lies_on_the_surface() -> None:
    volume = _ball(Grid.centered((70, 90, 20), (2.0, 2.0, 6.0), CENTRE))
    field = cut(volume, FRAME, CORONAL, CENTRE[1:2], fill=0.0)
    rows, columns = np.nonzero(contour(field)[0] > 0.5)
    width, height = np.ptp(columns) * FRAME.pixel, np.ptp(rows) * FRAME.pixel
    assert width == pytest.approx(2 * SEMI_AXES[0], abs=4)
    assert height == pytest.approx(2 * SEMI_AXES[2], abs=4)


def test_what_the_image_does_not_cover_is_marked() -> None:
    volume = _ball(Grid.centered((30, 90, 60), 2.0, CENTRE))
    tile = png.grey(cut(volume, FRAME, AXIAL, CENTRE[2:3]), 0, 1)[0]
    assert (tile[:, 0] == png.OUTSIDE).all()
    assert tile[tile.shape[0] // 2, tile.shape[1] // 2] == png.GREY_LAST


def test_the_frame_of_a_tiny_mask_still_shows_the_head() -> None:
    volume = _ball(Grid.centered((100, 120, 100), 2.0, CENTRE))
    dot = np.zeros(volume.data.shape, np.uint8)
    dot[48:52, 58:62, 48:52] = 1
    frame = frame_around(volume.with_data(dot), 200)
    assert (frame.high - frame.low > 170).all()
    empty = mask_box(volume.with_data(np.zeros_like(dot)))
    np.testing.assert_allclose(empty[1] - empty[0], np.array(volume.data.shape) * 2.0)


def test_window_follows_the_brain_in_ct_and_in_mr() -> None:
    rng = np.random.default_rng(1)
    inside = np.zeros((60, 60), bool)
    inside[20:40, 20:40] = True
    ct = np.where(inside, rng.normal(32, 6, inside.shape), -1000.0)
    low, high = window(ct, inside)
    assert -60 < low < 10 < 40 < high < 70
    mr = np.where(inside, rng.normal(500, 80, inside.shape), 5.0)
    low, high = window(mr, inside)
    assert low <= 5
    assert 600 < high < 900
    assert window(np.full((4, 4), np.nan), np.zeros((4, 4), bool)) == (0.0, 1.0)
    low, high = window(np.ones((20, 20)), np.ones((20, 20), bool))
    assert high > low


def test_sampling_agrees_with_an_independent_one() -> None:
    rng = np.random.default_rng(3)
    positions = CENTRE[2] + np.array([-22.0, -3.0, 31.5])
    for grid in (Grid.centered((40, 46, 30), (4.1, 3.7, 5.3), CENTRE), moving_grid_around(CENTRE)):
        data = rng.random(grid.shape).astype(np.float32)
        for plane in (AXIAL, CORONAL, SAGITTAL):
            where = positions - CENTRE[2] + CENTRE[plane.through]
            found = cut(Volume(data, grid), FRAME, plane, where)
            rows, columns = FRAME.size(plane)
            down, right = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
            for tile, mm in zip(found, where, strict=True):
                world = np.empty((*down.shape, 3))
                world[..., plane.through] = mm
                world[..., plane.up] = FRAME.high[plane.up] - down * FRAME.pixel
                world[..., plane.right] = FRAME.low[plane.right] + right * FRAME.pixel
                place = grid.world_to_voxel(world)
                inside = ((place > -0.49) & (place < np.array(grid.shape) - 0.51)).all(axis=-1)
                expected = ndimage.map_coordinates(data, np.moveaxis(place, -1, 0), order=1, mode="nearest")
                assert inside.sum() > 500
                np.testing.assert_allclose(tile[inside], expected[inside], atol=1e-4)
                beyond = ((place < -0.51) | (place > np.array(grid.shape) - 0.49)).any(axis=-1)
                assert np.isnan(tile[beyond]).all()


def moving_grid_around(centre: np.ndarray) -> Grid:
    """Oblique, anisotropic and left-handed, at a place."""
    grid = moving_grid()
    affine = grid.affine.copy()
    affine[:3, :3] *= 3.0
    affine[:3, 3] += centre - Grid(grid.shape, affine).center
    return Grid(grid.shape, affine)


def test_one_look_up_serves_every_volume_of_a_grid() -> None:
    grid = moving_grid_around(CENTRE)
    rng = np.random.default_rng(4)
    first, second = rng.random((2, *grid.shape)).astype(np.float32)
    positions = CENTRE[1] + np.array([-30.0, -5.0, 20.0, 40.0])
    cuts = Cuts(grid, FRAME, CORONAL, positions)
    for data in (first, second, np.asfortranarray(first), (second > 0.5).astype(np.uint8), first[::-1]):
        np.testing.assert_allclose(cuts.sample(data), cut(Volume(np.ascontiguousarray(data, np.float32), grid), FRAME,
                                                          CORONAL, positions), atol=1e-6)
    np.testing.assert_array_equal(cuts.only((2, 0)).sample(first), cuts.sample(first)[[2, 0]])


def _polygons(path: str) -> list[np.ndarray]:
    """Corners of an SVG path of relative lines, in pixels."""
    polygons = []
    for part in path.strip("z").split("z"):
        numbers = np.array(re.findall(r"-?\d+", part), float).reshape(-1, 2)
        polygons.append(np.cumsum(numbers, axis=0) / 4)
    return polygons


def _area(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 1.5, 5.0)], ids=str)
def test_outlines_enclose_what_the_mask_does(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(180 / step) for step in spacing)
    ball = _ball(Grid.centered(shape, spacing, CENTRE))
    mask = ball.with_data((ball.data > 0.5).astype(np.uint8))
    view = figures.native_view(mask, (3, 3, 3))
    paths = figures.outline_paths([mask], view)
    places = [(plane, mm) for plane, where in zip(view.planes, view.positions, strict=True) for mm in where]
    assert len(paths) == len(places) == 9
    for (plane, mm), (path,) in zip(places, paths, strict=True):
        (corners,) = _polygons(path)
        depth = (mm - CENTRE[plane.through]) / SEMI_AXES[plane.through]
        size = SEMI_AXES * np.sqrt(1 - depth**2)
        expected = np.pi * size[plane.right] * size[plane.up]
        assert _area(corners) * view.frame.pixel**2 == pytest.approx(expected, rel=0.05)
        upper_left = np.array([view.frame.low[plane.right], -view.frame.high[plane.up]])
        middle = upper_left + corners.mean(0) * view.frame.pixel
        np.testing.assert_allclose(middle, (CENTRE[plane.right], -CENTRE[plane.up]), atol=2.5)


def test_an_outline_that_leaves_the_frame_is_closed_at_its_rim() -> None:
    grid = Grid.centered((40, 40, 40), 4.0)
    full = Volume(np.ones(grid.shape, np.uint8), grid)
    view = figures.native_view(full)
    ((path,), *_) = figures.outline_paths([full], view)
    (corners,) = _polygons(path)
    assert _area(corners) * view.frame.pixel**2 == pytest.approx(160**2, rel=0.03)
    empty = full.with_data(np.zeros_like(full.data))
    assert all(path == "" for (path,) in figures.outline_paths([empty], view))


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 1.1), (0.02, np.exp(0.02 * 62))])
def test_the_scale_of_the_multiplier(strength: float, expected: float) -> None:
    ball = _ball(Grid.centered((70, 90, 60), 2.0, CENTRE))
    mask = ball.with_data((ball.data > 0.5).astype(np.uint8))
    across = ball.grid.voxel_to_world(np.stack(np.meshgrid(*map(np.arange, ball.grid.shape), indexing="ij"), axis=-1))
    gain = 3 * np.exp(strength * (across[..., 1] - CENTRE[1]))
    field = ball.with_data(np.where(mask.data > 0, gain, 0).astype(np.float32))
    view = figures.native_view(mask)
    tiles, reach = figures.field_tiles(field, view)
    assert reach == pytest.approx(expected, rel=0.08)
    sides = np.concatenate([tile.picture.index.ravel() for tile in tiles])
    inside = sides[sides != png.OUTSIDE]
    assert np.median(inside) == pytest.approx(2 + 125, abs=6), "white is the median"
    if not strength:  # the border of the mask, where the field falls to zero, is no part of it
        assert np.ptp(inside.astype(int)) <= 1
    else:
        front_is_red = tiles[2].picture.index
        rows = np.nonzero((front_is_red != png.OUTSIDE).any(axis=1))[0]
        assert front_is_red[rows[0] + 8].max() > 200
        assert front_is_red[rows[-1] - 8][front_is_red[rows[-1] - 8] != png.OUTSIDE].min() < 60


def test_parts_of_a_view_show_the_same_slices() -> None:
    volume = _ball(Grid.centered((60, 70, 50), 3.0, CENTRE))
    mask = volume.with_data((volume.data > 0.5).astype(np.uint8))
    view = figures.native_view(mask)
    whole = figures.grey_tiles(volume, view)
    some = figures.grey_tiles(volume, figures.part_of(view, ((1, 2, 3), (1, 3), (1,))))
    for number, tile in zip((1, 2, 3, 6, 8, 11), some, strict=True):
        assert tile.position == whole[number].position
        assert tile.picture.index.shape == whole[number].picture.index.shape
        assert np.corrcoef(tile.picture.index.ravel(), whole[number].picture.index.ravel())[0, 1] > 0.999


def test_histogram_does_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(2)
    grid = Grid.centered((40, 40, 40), 4.0)
    scan = Volume(rng.gamma(9, 10, grid.shape).astype(np.float32), grid)
    mask = Volume(np.ones(grid.shape, np.uint8), grid)
    curve = figures.histogram(scan, mask)
    assert curve is not None
    assert curve.sum() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(figures.histogram(scan.with_data(scan.data / 128), mask), curve, atol=1e-3)
    assert figures.histogram(scan.with_data(np.zeros(grid.shape, np.float32)), mask) is None


def test_histograms_of_whole_numbers_are_no_combs() -> None:
    rng = np.random.default_rng(5)
    grid = Grid.centered((48, 48, 48), 4.0)
    mask = Volume(np.ones(grid.shape, np.uint8), grid)
    values = rng.normal(50, 12, grid.shape).clip(0)
    smooth, whole = (figures.histogram(Volume(v.astype(np.float32), grid), mask) for v in (values, values.round()))
    assert smooth is not None
    assert whole is not None
    assert np.abs(whole - smooth).max() < 0.12 * smooth.max()
