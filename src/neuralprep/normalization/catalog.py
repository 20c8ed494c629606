"""What there is to choose from: windows, methods, contrasts and presets. Nothing but data: the help text needs it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from neuralprep.errors import InputError

Contrast = Literal["t1", "t2", "flair", "pd"]
CONTRASTS: tuple[Contrast, ...] = ("t1", "t2", "flair", "pd")


@dataclass(frozen=True)
class Window:
    """A range of intensities that becomes 0 to 1.

    Attributes
    ----------
    name
        Key in :data:`WINDOWS`, or "custom".
    low, high
        Ends of the range, in ``units``.
    units
        "HU" makes it a CT window; "" where nothing is known about the units.
    source
        Where the numbers come from.
    """

    name: str
    low: float
    high: float
    units: str
    source: str

    def __post_init__(self) -> None:
        """Refuse ranges that are empty or not finite."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"window {self.low:g} to {self.high:g} is no range; give LOW,HIGH with LOW below HIGH")

    @property
    def is_ct(self) -> bool:
        """Whether it is meant for Hounsfield units."""
        return self.units == "HU"

    @property
    def text(self) -> str:
        """The range with its units."""
        return f"{self.low:g} to {self.high:g}{' ' if self.units else ''}{self.units}"


_ISLES = "ISLES'24 winner, arXiv 2505.18424"
_DISPLAY = "usual display of head CT"

WINDOWS: MappingProxyType[str, Window] = MappingProxyType({
    window.name: window
    for window in (
        Window("cta", 0, 90, "HU", _ISLES),
        Window("cbf", 0, 35, "ml/100 g/min", _ISLES),
        Window("cbv", 0, 10, "ml/100 g", _ISLES),
        Window("mtt", 0, 20, "s", _ISLES),
        Window("tmax", 0, 7, "s", _ISLES),
        Window("brain", 0, 80, "HU", f"{_DISPLAY}, level 40 width 80"),
        Window("stroke", 20, 60, "HU", f"{_DISPLAY}, level 40 width 40"),
        Window("bone", -800, 2000, "HU", f"{_DISPLAY}, level 600 width 2800"),
    )
})  # fmt: skip


def parse_window(text: str) -> Window:
    """Window of a name in :data:`WINDOWS` or of ``LOW,HIGH``.

    Raises
    ------
    InputError
        Neither a name nor two numbers, or an empty range.
    """
    if text.lower() in WINDOWS:
        return WINDOWS[text.lower()]
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"window {text!r} is unknown; give {', '.join(WINDOWS)} or LOW,HIGH") from None
    return Window("custom", low, high, "", "given by the user")


@dataclass(frozen=True)
class Method:
    """What is to be known of a method before it runs.

    Attributes
    ----------
    takes
        Options that have an effect on it: contrast, wm_mask, percentiles, landmarks.
    result
        What the values of the result mean.
    source
        Paper.
    """

    takes: frozenset[str]
    result: str
    source: str


_SHINOHARA = "Shinohara et al., NeuroImage: Clinical 6:9 (2014)"
_REINHOLD = "Reinhold et al., Proc. SPIE 10949:109493H (2019)"
_NYUL = "Nyul, Udupa and Zhang, IEEE Trans. Med. Imaging 19:143 (2000)"
_DALE = "FreeSurfer's scale; Dale et al., NeuroImage 9:179 (1999)"

METHODS: MappingProxyType[str, Method] = MappingProxyType({
    "zscore": Method(frozenset(), "mean 0 and standard deviation 1 over the brain", "as usual"),
    "whitestripe": Method(frozenset({"contrast"}), "white stripe with mean 0 and standard deviation 1", _SHINOHARA),
    "fcm": Method(frozenset({"contrast", "wm_mask"}), "mean of white matter by fuzzy C-means at 1", _REINHOLD),
    "kde": Method(frozenset({"contrast"}), "peak of white matter in the density at 1", _REINHOLD),
    "nyul": Method(frozenset({"landmarks"}), "standard scale of a cohort, 0 to 100", _NYUL),
    "percentile": Method(frozenset({"percentiles"}), "two percentiles at 0 and 1, clipped", "as usual"),
    "wm110": Method(frozenset({"contrast", "wm_mask"}), "mean of white matter at 110", _DALE),
})  # fmt: skip


def check_contrast(contrast: str) -> None:
    """Refuse a contrast that is not known.

    Raises
    ------
    InputError
        With those that are.
    """
    if contrast not in CONTRASTS:
        raise InputError(f"contrast {contrast!r} is unknown; give {', '.join(CONTRASTS)}")


@dataclass(frozen=True)
class Preset:
    """Channels of a case.

    Attributes
    ----------
    channels
        In the order in which they are numbered: keys of :data:`WINDOWS`, and the last part of the names of their files.
    reference
        Last parts of file names of the CT that the brain mask is made from, if there is one on the channels' grid.
    fallback
        Channel that the mask is made from otherwise.
    """

    channels: tuple[str, ...]
    reference: tuple[str, ...]
    fallback: str


PRESETS: MappingProxyType[str, Preset] = MappingProxyType({
    "isles24": Preset(("cbf", "cbv", "mtt", "tmax", "cta"), ("ncct", "ct"), "cta"),
})  # fmt: skip
