"""Network weights shipped with the package, each with a model card and a ready graph for the CPU runtime."""
