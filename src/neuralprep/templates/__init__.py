"""Standard spaces and the template images that ship with the package."""

from neuralprep.templates.registry import SPACES, Space, Template, load_template, space_grid

__all__ = ["SPACES", "Space", "Template", "load_template", "space_grid"]
