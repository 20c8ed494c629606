"""neuralprep: from a raw head scan to an analysis-ready brain.

Public names are imported on first use, so that ``import neuralprep`` costs a few
milliseconds and never loads PyTorch.

>>> import neuralprep
>>> result = neuralprep.preprocess("scan.nii.gz")          # doctest: +SKIP
>>> neuralprep.save(result.outputs["brain_mask"], "mask.nii.gz", dtype="uint8")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neuralprep.api import preprocess
    from neuralprep.errors import GeometryError, InputError, NeuralprepError, WeightsError
    from neuralprep.grid import Grid
    from neuralprep.pipeline import Preprocessor, Result, Settings
    from neuralprep.templates import load_template
    from neuralprep.transform import Affine, Chain, Displacement
    from neuralprep.volume import Volume, load, save

#: public name -> module that defines it
_HOME = {
    "preprocess": "api",
    "GeometryError": "errors",
    "InputError": "errors",
    "NeuralprepError": "errors",
    "WeightsError": "errors",
    "Grid": "grid",
    "Preprocessor": "pipeline",
    "Result": "pipeline",
    "Settings": "pipeline",
    "load_template": "templates",
    "Affine": "transform",
    "Chain": "transform",
    "Displacement": "transform",
    "Volume": "volume",
    "load": "volume",
    "save": "volume",
}

__all__ = [
    "Affine",
    "Chain",
    "Displacement",
    "GeometryError",
    "Grid",
    "InputError",
    "NeuralprepError",
    "Preprocessor",
    "Result",
    "Settings",
    "Volume",
    "WeightsError",
    "__version__",
    "load",
    "load_template",
    "preprocess",
    "save",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'neuralprep' has no attribute {name!r}")
    value: object = getattr(import_module(f"neuralprep.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for tab completion."""
    return sorted(set(__all__) | set(globals()))
