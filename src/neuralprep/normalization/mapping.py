"""Intensity mappings of straight pieces: what every method but the windows finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Mapping:
    """Source intensities and what they become, straight in between; the end pieces go on for ever.

    Attributes
    ----------
    source
        (k,) float64, strictly ascending, at least two.
    target
        (k,) float64.
    measures
        What the method estimated, by name.
    clipped
        Whether results stay between the first and the last target.
    """

    source: NDArray[np.float64]
    target: NDArray[np.float64]
    measures: dict[str, float]
    clipped: bool = False

    @classmethod
    def linear(cls, zero: float, unit: float, measures: dict[str, float], *, scale: float = 1.0,
               clipped: bool = False) -> Mapping:
        """``(x - zero) / unit * scale``, with a positive ``unit``."""
        ends = np.array([zero, zero + unit], np.float64)
        return cls(ends, np.array([0.0, scale]), measures, clipped)

    def __call__(self, data: NDArray) -> NDArray[np.float32]:
        """Mapped values, float32, of the shape of ``data``."""
        values = data.astype(np.float64)
        slopes = np.diff(self.target) / np.diff(self.source)
        if self.source.size == 2:
            out = self.target[0] + (values - self.source[0]) * slopes[0]
        else:
            out = np.interp(values, self.source, self.target)
            if not self.clipped:
                out += np.minimum(values - self.source[0], 0) * slopes[0]
                out += np.maximum(values - self.source[-1], 0) * slopes[-1]
        if self.clipped:
            out = out.clip(self.target[0], self.target[-1])
        return out.astype(np.float32)
