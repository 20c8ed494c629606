"""Pose, deformation and frames of the head model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralprep.synthesis.spatial import Pose, integrate, make_frame, random_field

CPU = torch.device("cpu")


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(-180, 180)] * 3), st.tuples(*[st.floats(0.5, 1.4)] * 3))
def test_pose_matrix_has_the_stated_scale(
    rotation: tuple[float, float, float], scale: tuple[float, float, float]
) -> None:
    matrix = Pose(rotation_deg=rotation, scale=scale).matrix()
    # A pull-back shrinks where the head is enlarged; a rotation changes no volume.
    assert np.linalg.det(matrix) == pytest.approx(1 / np.prod(scale), rel=1e-9)
    mirrored = Pose(rotation_deg=rotation, scale=scale, mirror=True).matrix()
    assert np.linalg.det(mirrored) == pytest.approx(-1 / np.prod(scale), rel=1e-9)


def test_pose_puts_the_head_centre_where_it_says() -> None:
    pose = Pose(rotation_deg=(20, -30, 50), shift_mm=(7, -3, 11))
    center = np.array([5.0, -20.0, 8.0])
    assert pose.head_from_sample(center)[:3] @ [7, -3, 11, 1] == pytest.approx(center)


def test_integrated_velocity_is_inverted_by_its_negative() -> None:
    velocity = 3 * random_field((20, 20, 20), (4, 4, 4), 3, CPU, channels=3)
    spacing = 8.0
    forward, backward = integrate(velocity, spacing, 7), integrate(-velocity, spacing, 7)
    index = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * 3, indexing="ij"))
    where = ((index + forward / spacing) * 2 / 19 - 1).flip(0).permute(1, 2, 3, 0)[None]
    carried = torch.nn.functional.grid_sample(backward[None], where, align_corners=True)[0]
    residual = (forward + carried)[:, 4:-4, 4:-4, 4:-4]
    assert residual.norm(dim=0).mean() < 0.1  # mm, against displacements of several mm
    assert forward.norm(dim=0).mean() > 2


def test_frame_without_warp_is_the_grid_itself() -> None:
    frame = make_frame(Pose(), (8, 10, 12), 3.0, np.zeros(3), CPU)
    corner = frame.affine[:3, 3]
    assert frame.warped[:, 0, 0, 0].numpy() == pytest.approx(corner)
    assert frame.warped[:, -1, -1, -1].numpy() == pytest.approx(-corner)
    assert frame.velocity is None


def test_fields_depend_on_the_seed_only() -> None:
    assert torch.equal(random_field((9, 9, 9), (3, 3, 3), 5, CPU), random_field((9, 9, 9), (3, 3, 3), 5, CPU))
    assert not torch.equal(random_field((9, 9, 9), (3, 3, 3), 5, CPU), random_field((9, 9, 9), (3, 3, 3), 6, CPU))
