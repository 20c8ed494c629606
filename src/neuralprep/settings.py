"""What to do with a scan: every choice a user has, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuralprep.errors import InputError

if TYPE_CHECKING:
    from neuralprep.volume import Volume


@dataclass(frozen=True, eq=False)
class Settings:
    """What to do with a scan.

    Parameters
    ----------
    strip, normalize, register
        Switch each of the three tasks. Without ``normalize`` images keep their intensities; without ``strip`` no mask
        is made; without ``register`` nothing is put in template space.
    lam
        Smoothness of the multiplier field (lambda of the paper), 0.001 to 10 is the trained range.
    border_mm
        Move the surface that strips outwards (or inwards, negative) by this much.
    no_csf
        Strip at the brain's surface instead of the inner skull.
    mask
        A brain mask to use instead of the network's, on the scan's grid.
    keep
        A label, on any grid: voxels it marks (above 0) belong to every mask, whatever the network says.
    space, resolution
        Template space and its voxel size in mm (None: 1 mm).
    fill
        Value outside the brain: "zero", "min" (of the image) or a number.
    outputs
        Names of :attr:`Result.outputs` to make; None makes all that the switches allow, apart from those that are
        made on request only.
    device, threads
        Where to run: ``auto``, ``cpu``, ``cuda``, ``mps``; CPU threads (None: all).
    model
        Name of a shipped or fetched network, or a ``.safetensors`` path. Mask networks (MindGrab) only strip.
    quick
        Fit the template only where the network's looks at the head disagree. For stripping alone.
    """

    strip: bool = True
    normalize: bool = True
    register: bool = True
    lam: float = 0.1
    border_mm: float = 0.0
    no_csf: bool = False
    mask: Volume | None = None
    keep: Volume | None = None
    space: str = "MNI152NLin2009aSym"
    resolution: float | None = None
    fill: str | float = "zero"
    outputs: tuple[str, ...] | None = None
    device: str = "auto"
    threads: int | None = None
    model: str = "npp"
    quick: bool = False

    def __post_init__(self) -> None:
        """Refuse values and combinations that cannot take effect."""
        if not 1e-4 <= self.lam <= 100:
            raise InputError(f"lambda is {self.lam}; give a value from 0.0001 to 100 (trained: 0.001 to 10)")
        if not -10 <= self.border_mm <= 15:
            raise InputError(f"the border is {self.border_mm} mm; give -10 to 15 mm")
        if isinstance(self.fill, str) and self.fill not in ("zero", "min"):
            raise InputError(f"fill '{self.fill}' is unknown; give zero, min or a number")
        if not (self.strip or self.normalize or self.register):
            raise InputError("all three tasks are switched off; nothing would be done")
        if not self.strip and (self.border_mm or self.no_csf or self.mask is not None or self.keep is not None):
            raise InputError("border, no_csf, mask and keep have no effect without strip")
        if self.mask is not None and (self.border_mm or self.no_csf):
            raise InputError("a given mask is used as it is: border and no_csf have no effect on it")
        if self.quick and (self.normalize or self.register or not self.strip):
            raise InputError("quick is for stripping alone: switch normalize and register off")
