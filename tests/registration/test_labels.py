from __future__ import annotations

import numpy as np
import pytest

from neuralprep.errors import InputError
from neuralprep.grid import Grid
from neuralprep.registration.labels import affine_from_labels, central_csf, label_targets, tissue_fractions
from neuralprep.resample import resample
from neuralprep.templates import load_template
from neuralprep.transform import Affine
from samples import affine_matrix


def targets() -> tuple:
    template = load_template()
    affine = template.gm.grid.affine
    fractions = [template.gm.data, template.wm.data, central_csf(template.csf.data, affine)]
    return label_targets(fractions, affine, template.brain_mask.data != 0)


def test_fractions_of_a_small_map() -> None:
    labels = np.zeros((8, 8, 8), np.int16)
    labels[:4] = 3
    labels[4:6] = 41
    labels[6:, :, :2] = 4
    labels[6:, :, 2:4] = 24
    fractions, affine = tissue_fractions(labels, np.eye(4))
    assert [part.sum() for part in fractions] == [32, 16, 4]
    np.testing.assert_allclose(affine[:3, 3], 0.5)
    np.testing.assert_allclose(np.diag(affine), (2, 2, 2, 1))


def test_pose_of_a_label_map_is_recovered() -> None:
    template = load_template()
    truth = Affine(affine_matrix((0.15, -0.2, 0.1), (0.85, 0.9, 0.95), (6.0, -12.0, 20.0)))
    grid = Grid.centered((180, 190, 200), 1.3, truth.apply(template.gm.grid.center), codes="LIA")
    gm, wm, csf = (
        resample(template.gm.with_data(data), grid, truth.inverse()).data
        for data in (template.gm.data, template.wm.data, central_csf(template.csf.data, template.gm.grid.affine))
    )
    classes = np.argmax(np.stack([np.full_like(gm, 0.3), gm, wm, csf]), axis=0)
    labels = np.array([0, 3, 41, 4], np.int16)[classes]
    matrix, score = affine_from_labels(labels, grid.affine, targets())
    points = template.gm.grid.voxel_to_world(np.argwhere(template.brain_mask.data)[::3000])
    assert Affine(matrix).inverse().distance(truth, points) < 0.5
    assert score > 0.8


def test_central_csf_is_the_ventricles() -> None:
    template = load_template()
    central = central_csf(template.csf.data, template.csf.grid.affine)
    assert 0 < central.sum() < 0.4 * template.csf.data.sum()
    frontal_horn = np.rint(template.csf.grid.world_to_voxel([[8.0, 18.0, 10.0]])[0]).astype(int)
    assert central[tuple(frontal_horn)] > 0.5
    vertex = template.csf.grid.world_to_voxel([[0.0, -20.0, 76.0]])[0].round().astype(int)
    assert central[tuple(vertex)] == 0


@pytest.mark.parametrize(("values", "fault"), [([0, 2], "no grey"), ([0, 3], "no white"), ([-1, 3], "outside")])
def test_other_label_maps_are_refused(values: list[int], fault: str) -> None:
    labels = np.resize(np.array(values), (8, 8, 8))
    with pytest.raises(InputError, match=fault):
        tissue_fractions(labels, np.eye(4))


def test_a_training_map(shared_data) -> None:
    nib = pytest.importorskip("nibabel")
    path = shared_data / "labels" / "synthseg_training" / "training_seg_19.nii.gz"
    if not path.is_file():
        pytest.skip("no label maps here")
    image = nib.load(path)
    matrix, score = affine_from_labels(np.asanyarray(image.dataobj), image.affine, targets())
    assert score > 0.7
    assert 1.0 < np.linalg.det(matrix[:3, :3]) < 1.7  # template brains are larger than people's
