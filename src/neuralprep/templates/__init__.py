"""Standard spaces and the template images that ship with the package."""

from neuralprep.templates.registry import (
    SPACES,
    Space,
    Structures,
    Template,
    load_structures,
    load_template,
    space_grid,
)

__all__ = ["SPACES", "Space", "Structures", "Template", "load_structures", "load_template", "space_grid"]
