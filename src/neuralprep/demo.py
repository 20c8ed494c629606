"""A demonstration head: the real anatomy of the MNI152 average brain inside a schematic head.

The brain is the packaged template; everything around it (fluid, dura, the three layers of the skull, scalp, eyes,
airways, neck) is drawn from distances to the brain and to the surface of the head, with intensities of a T1-weighted
image. The head is then tilted, shifted and scaled, multiplied by a receive field, and given Rician noise, so the
mask and the affine are known exactly. It shows that an installation works. It is no evidence of accuracy on
people: for that see the tables in ``benchmarks/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from neuralprep.bids.derivatives import BY_OUTPUT, ScanName
from neuralprep.grid import Grid
from neuralprep.resample import resample
from neuralprep.transform import Affine
from neuralprep.volume import Volume, load, save

if TYPE_CHECKING:
    from neuralprep.templates import Template

FILE_NAME = "demo_T1w.nii.gz"

_CANVAS_MM = 2.0
_CANVAS_LOW, _CANVAS_HIGH = (-102.0, -136.0, -176.0), (102.0, 120.0, 108.0)
_SCAN_SHAPE = (256, 240, 192)
_WHITE_MATTER = 620.0  # stored value
_NOISE = 0.02  # of white matter
_FLUID_MM = 2.0  # between the brain and the dura, at the vault

#: intensities relative to white matter
_AIR, _SKIN, _FAT, _MUSCLE, _FLUID, _DURA, _BONE, _MARROW = 0.01, 0.45, 1.25, 0.47, 0.16, 0.38, 0.06, 0.85
_VITREOUS, _LENS, _CORD, _MUCOSA = 0.17, 0.4, 0.85, 0.6


@dataclass(frozen=True, eq=False)
class DemoHead:
    """A rendered head and what is known about it.

    Parameters
    ----------
    path : Path
        The scan on disk.
    mask : Volume
        True brain mask on the grid of the scan.
    template_from_scan : Affine
        True affine, template mm -> scan mm.
    """

    path: Path
    mask: Volume
    template_from_scan: Affine


@dataclass(frozen=True)
class DemoScores:
    """How far a result is from the truth.

    Parameters
    ----------
    mask_dice : float
        Overlap of the brain masks.
    affine_error_mm : float
        Mean distance of brain points carried by the two affines.
    """

    mask_dice: float
    affine_error_mm: float


def write_demo_head(out_dir: Path, seed: int = 0) -> DemoHead:
    """Render the head and save it as ``demo_T1w.nii.gz``.

    Parameters
    ----------
    out_dir : Path
        An existing folder.
    seed : int
        Of pose, receive field, tissue texture and noise.
    """
    from neuralprep.templates import load_template

    template = load_template("MNI152NLin2009aSym")
    rng = np.random.default_rng(seed)
    truth = random_pose(rng)
    grid = Grid.centered(_SCAN_SHAPE, 1.0, truth.apply(np.array([[0.0, -8.0, -22.0]]))[0], codes="PSR")
    image, mask = render(template, grid, truth, rng)
    path = out_dir / FILE_NAME
    save(image, path, dtype="int16", space="native", description="neuralprep demo head")
    return DemoHead(path, mask, truth)


def random_pose(rng: np.random.Generator) -> Affine:
    """A head smaller than the template, turned by about 12 degrees and shifted: template mm -> scan mm.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the axis, shift, scale and shear.
    """
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = np.radians(rng.uniform(10.0, 14.0))
    cross = np.cross(np.eye(3), -axis)
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    shape = np.diag(rng.uniform((0.90, 0.93, 0.90), (0.96, 0.99, 0.97)))
    shape[np.triu_indices(3, 1)] = rng.uniform(-0.02, 0.02, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ shape
    matrix[:3, 3] = rng.uniform(-15.0, 15.0, 3)
    return Affine(matrix)


def render(
    template: Template, grid: Grid, template_from_scan: Affine, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Draw the head on the grid of a scan.

    Parameters
    ----------
    template : Template
        Average brain and its mask.
    grid : Grid
        Of the scan.
    template_from_scan : Affine
        Template mm -> scan mm.
    rng : numpy.random.Generator
        Source of texture, receive field and noise.

    Returns
    -------
    image : Volume
        T1-weighted head, white matter about 620.
    mask : Volume
        Inside of the skull, uint8.
    """
    scan_to_template = template_from_scan.inverse()
    fields = [resample(field, grid, scan_to_template, threads=2) for field in _canvas(template, rng)]
    brain, inside, from_brain, depth, texture = (field.data for field in fields)
    image = np.empty(grid.shape, dtype=np.float32)
    mask = np.empty(grid.shape, dtype=np.uint8)
    matrix = scan_to_template.matrix @ grid.affine
    for start in range(0, grid.shape[0], 32):
        part = slice(start, min(start + 32, grid.shape[0]))
        points = _coordinates(matrix, part, grid.shape)
        image[part] = _paint(points, from_brain[part], depth[part]) * texture[part]
        shells = _shell_coordinate(from_brain[part], points[2])
        mask[part] = ((inside[part] > 0.5) | (shells < _FLUID_MM)) & (depth[part] > 0)
    image = inside * brain + (1 - inside) * image
    image = ndimage.gaussian_filter(image, 0.45)  # point spread of the scanner
    image *= _receive_field(grid.shape, rng)
    noise = rng.normal(0.0, _NOISE, (2, *grid.shape)).astype(np.float32)
    image = np.hypot(image + noise[0], noise[1])
    return Volume(np.rint(image * _WHITE_MATTER), grid), Volume(mask, grid)


def _canvas(template: Template, rng: np.random.Generator) -> list[Volume]:
    """Smooth fields in template space: brain, mask, distance from the brain, depth below the skin, texture."""
    shape = tuple(round((high - low) / _CANVAS_MM) for low, high in zip(_CANVAS_LOW, _CANVAS_HIGH, strict=True))
    affine = np.diag([_CANVAS_MM] * 3 + [1.0])
    affine[:3, 3] = _CANVAS_LOW
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    inside = resample(template.brain_mask, grid).data.astype(np.float32)
    brain = resample(template.t1, grid).data.astype(np.float32)
    brain /= np.percentile(brain[inside > 0.5], 90)  # bright white matter
    solid = ndimage.binary_closing(inside > 0.5, iterations=4)
    from_brain = _CANVAS_MM * (
        ndimage.distance_transform_edt(~solid) - ndimage.distance_transform_edt(solid)
    ).astype(np.float32)
    from_brain = ndimage.gaussian_filter(from_brain, 2.0)
    thickness = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 9.0)
    from_brain *= 1 + 0.15 * thickness / thickness.std() * (from_brain > 0)
    points = _coordinates(affine, slice(0, shape[0]), grid.shape)
    head = _envelope(points, from_brain)
    depth = _CANVAS_MM * (
        ndimage.distance_transform_edt(head) - ndimage.distance_transform_edt(~head)
    ).astype(np.float32)
    texture = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 1.5)
    texture = 1 + 0.07 * texture / texture.std()
    return [Volume(field.astype(np.float32), grid) for field in (brain, inside, from_brain, depth, texture)]


def _coordinates(matrix: np.ndarray, part: slice, shape: tuple[int, int, int]) -> np.ndarray:
    """Template coordinates (3, X, Y, Z) in mm of a slab of voxels."""
    index = np.ogrid[part, 0 : shape[1], 0 : shape[2]]
    rows = [sum(matrix[r, c] * index[c] for c in range(3)) + matrix[r, 3] for r in range(3)]
    return np.stack(rows).astype(np.float32)


def _ellipsoid(points: np.ndarray, center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Normalised radius of points: below 1 inside of the ellipsoid."""
    return np.sqrt(sum(((points[i] - center[i]) / radii[i]) ** 2 for i in range(3)))


def _paired(points: np.ndarray) -> np.ndarray:
    """Points with |x|: one drawing serves both sides."""
    return np.stack([np.abs(points[0]), points[1], points[2]])


def _envelope(points: np.ndarray, from_brain: np.ndarray) -> np.ndarray:
    """Solid head: cranium, face, nose, jaw, ears and neck, smoothed together."""
    x, y, z = points
    neck_y = -22.0 - 0.12 * (z + 60.0)
    neck = (np.hypot(x / 60.0, (y - neck_y) / 62.0) < 1) & (z < -40)
    shoulders = (np.hypot(x / (60.0 + np.clip(-150.0 - z, 0, None) * 1.5), (y - neck_y) / 66.0) < 1) & (z < -150)
    solid = (
        (from_brain < 14.5)
        | (_ellipsoid(points, (0, 38, -58), (66, 60, 62)) < 1)
        | (_ellipsoid(points, (0, 46, -98), (50, 50, 34)) < 1)
        | (_ellipsoid(points, (0, 98, -58), (14, 18, 20)) < 1)
        | (_ellipsoid(_paired(points), (78, -18, -42), (9, 15, 26)) < 1)
        | neck
        | shoulders
    )
    return ndimage.gaussian_filter(solid.astype(np.float32), 2.0) > 0.5


def _paint(points: np.ndarray, from_brain: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Intensities of everything that is not brain; later strokes cover earlier ones."""
    _, y, z = points
    image = np.full(depth.shape, _MUSCLE, dtype=np.float32)
    upper = z > -18 + 0.35 * y  # above the line from brow to neck the scalp lies on bone, with little muscle
    image[upper & (depth < 7)] = _FAT
    image[(depth < np.where(upper, 7, 5)) & (depth >= 1.8)] = _FAT
    image[depth < 1.8] = _SKIN
    _paint_face(image, points, depth)
    _paint_skull(image, from_brain, z)
    _paint_neck(image, points)
    image[depth <= 0] = _AIR
    return image


def _paint_skull(image: np.ndarray, from_brain: np.ndarray, z: np.ndarray) -> None:
    """Fluid, dura and the three layers of the skull; thinner at the base than at the vault."""
    at = _shell_coordinate(from_brain, z)
    low = -np.inf
    for thickness, value in ((_FLUID_MM, _FLUID), (0.8, _DURA), (1.4, _BONE), (3.0, _MARROW), (1.6, _BONE)):
        high = max(low, 0.0) + thickness
        image[(at >= low) & (at < high)] = value
        low = high


def _shell_coordinate(from_brain: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance from the brain in which the shells have one thickness everywhere: they are thinner at the base."""
    return from_brain / np.clip((z + 75.0) / 60.0, 0.35, 1.0)


def _paint_face(image: np.ndarray, points: np.ndarray, depth: np.ndarray) -> None:
    """Eyes in orbital fat, sinuses, nose and throat, tongue, jaw."""
    paired = _paired(points)
    x, y, z = points
    orbit = _ellipsoid(paired, (31, 56, -40), (18, 26, 17))
    image[orbit < 1] = _FAT
    image[_ellipsoid(paired, (25, 45, -40), (3.5, 22, 3.0)) < 1] = _MUSCLE  # optic nerve
    eye = _ellipsoid(paired, (32, 66, -40), (12.5, 12.5, 12.5))
    image[eye < 1.12] = _DURA  # sclera
    image[eye < 1] = _VITREOUS
    image[_ellipsoid(paired, (32, 75, -40), (4.5, 2.2, 4.5)) < 1] = _LENS
    image[_ellipsoid(points, (0, 56, -102), (24, 28, 18)) < 1] = _MUCOSA  # tongue
    jaw = np.abs(_ellipsoid(points, (0, 30, -104), (44, 56, 40)) - 1)
    front = (y > 10) & (z < -96) & (depth > 5)
    image[(jaw < 0.10) & front] = _BONE
    image[(jaw < 0.05) & front] = _MARROW
    for center, radii in (
        ((27, 58, -70), (11, 13, 14)),  # maxillary sinus
        ((8, 55, -46), (6, 14, 9)),  # ethmoid cells
        ((5, 62, -66), (4, 26, 12)),  # nasal cavity
        ((10, 72, -18), (9, 3, 6)),  # frontal sinus
        ((60, -18, -44), (14, 3, 3)),  # ear canal
    ):
        cavity = _ellipsoid(paired, center, radii)
        image[(cavity < 1.2) & (cavity >= 1)] = _MUCOSA
        image[cavity < 1] = _AIR
    throat = np.hypot(x / 8.0, (y - 14.0) / 5.0)
    image[(throat < 1) & (z < -58)] = _AIR


def _paint_neck(image: np.ndarray, points: np.ndarray) -> None:
    """Spinal cord in its fluid, vertebrae with discs, and the great vessels."""
    x, y, z = points
    below = z < -66
    cord_y = -42.0 - 0.05 * (z + 66.0)
    canal = np.hypot(x, y - cord_y)
    body = np.hypot(x / 17.0, (y - cord_y - 22.0) / 11.0)
    arch = (canal >= 9) & (canal < 15) & (y < cord_y + 6)
    disc = np.mod(z, 17.0) < 4.5
    image[below & arch & ~disc] = _BONE
    image[below & (body < 1.12)] = _BONE
    image[below & (body < 1) & ~disc] = 0.7 * _MARROW
    image[below & (body < 1) & disc] = _DURA
    image[below & (canal < 9)] = _FLUID
    image[below & (canal < 5.5)] = _CORD
    image[below & (np.hypot(np.abs(x) - 30, y - cord_y - 18) < 4)] = 0.3  # flowing blood


def _receive_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth positive field (quadratic in the exponent), about +-35 % over the head, mean 1."""
    u, v, w = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    u, v, w = u[:, None, None], v[None, :, None], w[None, None, :]
    terms = (u, v, w, u * u, v * v, w * w, u * v, v * w, u * w)
    exponent = np.zeros(shape, dtype=np.float32)
    for term in terms:
        exponent += rng.uniform(-0.25, 0.25) * term
    field = np.exp(exponent)
    return field / field.mean(dtype=np.float64).astype(np.float32)


def compare(head: DemoHead, folder: Path) -> DemoScores:
    """Compare the result of a run with what is known about the head.

    Parameters
    ----------
    head : DemoHead
        The truth.
    folder : Path
        Scan folder of the run.
    """
    from neuralprep.formats.text import read_matrix

    scan = ScanName.of(folder.name)
    space = "MNI152NLin2009aSym"
    found = load(folder / f"{scan.stem(BY_OUTPUT['brain_mask'], space)}.nii.gz", checks=False).data > 0
    true = head.mask.data > 0
    dice = 2.0 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))
    estimate = read_matrix(folder / f"{scan.stem(BY_OUTPUT['template_from_scan'], space)}.txt")
    voxels = np.argwhere(true)[::997]
    points = head.template_from_scan.inverse().apply(head.mask.grid.voxel_to_world(voxels))
    return DemoScores(float(dice), estimate.distance(head.template_from_scan, points))
