"""The network that predicts the velocity between two brains, ready to run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuralprep.inference.session import Array, Backend, open_backend
from neuralprep.weights.registry import PAIR_LAYOUT, ModelFiles, find_model

_LEAST_STIFFNESS, _MOST_STIFFNESS = 1e-3, 10.0  # what the network has seen


@dataclass(frozen=True, eq=False)
class PairSession:
    """A pair network. Make one with :func:`open_pair_session` and reuse it."""

    model: ModelFiles
    backend: Backend

    def predict(self, fixed: Array, moving: Array, stiffness: float) -> Array:
        """Velocity between two brains.

        Parameters
        ----------
        fixed, moving : (X, Y, Z) float32
            Brains on one upright 2 mm grid, axes multiples of 16, in [0, 1], zero outside, affinely aligned.
        stiffness : float
            0.1 is the standard.

        Returns
        -------
        (3, X/2, Y/2, Z/2) float32
            In voxels of its own grid, whose centres lie between those of two voxels of the images. exp(v / 2) leads
            from the middle to the moving image, exp(-v / 2) to the fixed one; exchanging the images changes its sign.
        """
        within = np.clip(stiffness, _LEAST_STIFFNESS, _MOST_STIFFNESS)
        images = [np.ascontiguousarray(image, np.float32)[None, None] for image in (fixed, moving)]
        return self.backend(*images, np.full((1, 1), np.log10(within), np.float32))[0][0]


def open_pair_session(model: str, device: str = "auto", threads: int | None = None) -> PairSession:
    """Load a pair network on a device; arguments as of :func:`neuralprep.inference.session.open_session`.

    Raises
    ------
    InputError
        Unknown or absent device.
    WeightsError
        Missing or unfit weights, or of another layout.
    """
    files = find_model(model)
    files.must_be(PAIR_LAYOUT)
    return PairSession(files, open_backend(files, device, threads))
