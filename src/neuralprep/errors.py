"""Exceptions raised by the package.

Every message names the file (or object), the fault and what to do about it, because the message is
all a user of a batch sees of it: it is copied into the status table.
"""

from __future__ import annotations


class NeuralprepError(Exception):
    """Base of all errors that the package raises on purpose."""


class InputError(NeuralprepError):
    """A file or an option given by the user cannot be used."""


class GeometryError(NeuralprepError):
    """An affine, grid or transform is not usable (singular, not finite, wrong shape)."""


class WeightsError(NeuralprepError):
    """Network weights are missing, damaged or do not fit the network."""
