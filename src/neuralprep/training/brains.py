"""Groups of brains as registration meets them: stripped, upright, of the template's size, each of its own contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neuralprep.networks.pair import RING
from neuralprep.synthesis.record import Anatomy
from neuralprep.synthesis.sample import DeviceHead, render
from neuralprep.synthesis.sampler import SamplerSettings, draw_record
from neuralprep.training.batch import Example

LEFT_OVER_SCALE, LEFT_OVER_DEG, LEFT_OVER_MM = 0.008, 0.8, 0.8
"""Standard deviations of what an affine registration leaves over."""
ONE_HEAD = 0.15
"""Share of groups that show one head three times, whose maps between each other are known exactly."""


def draw_group(heads: Sequence[DeviceHead], seed: tuple[int, ...], group: int, settings: SamplerSettings
               ) -> list[Example]:
    """Draw one group of brains that are registered in a ring; ``seed`` and the group's number decide it.

    Every brain has the template's size and pose but for what the group has in common (its middle is not the template)
    and a little of its own (what an affine registration leaves over). Where ``has_pose`` is set, the images show one
    head with nothing grown, shrunk or added, and equal ``coordinates`` are the same place of it.
    """
    rng = np.random.default_rng((*seed, group))
    one_head = bool(rng.random() < ONE_HEAD)
    order = rng.permutation(len(heads))
    mirror = bool(rng.random() < 0.5)
    size, turn, shift = np.exp(rng.uniform(-0.12, 0.12)), rng.uniform(-8, 8, 3), rng.uniform(-6, 6, 3)
    out = []
    for k in range(RING):
        own = np.random.default_rng((*seed, group, k))
        head = heads[order[0 if one_head else k % len(heads)]]
        record = draw_record(head.source.name, own, settings)
        pose = replace(
            record.pose,
            scale=_triple(size * np.exp(own.normal(0, LEFT_OVER_SCALE, 3))),
            rotation_deg=_triple(turn + own.normal(0, LEFT_OVER_DEG, 3)),
            shear=_triple(own.normal(0, LEFT_OVER_SCALE, 3)),
            shift_mm=_triple(shift + own.normal(0, LEFT_OVER_MM, 3)),
            mirror=mirror if one_head else record.pose.mirror,
            muzzle=1.0,
        )
        axes = np.linalg.inv(head.source.template_from_world[:3, :3])
        record = replace(record, pose=pose.onto(axes))
        if one_head:
            record = replace(record, masses=(), anatomy=Anatomy())
        out.append(Example.from_sample(render(record, head, want_fractions=True), has_pose=one_head))
    return out


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = np.asarray(values).tolist()
    return x, y, z
